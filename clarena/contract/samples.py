"""New samples: data that did not exist when a model was trained, as rows of the form that its benchmark stores."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from clarena.errors import DataError
from clarena.toolbox.files import readable_name, require_file
from clarena.toolbox.pictures import Pictures, picture_files


@dataclass(frozen=True)
class RowForm:
    """How a benchmark stores a sample.

    Attributes:
        shape: of one row.
        dtype: of its numbers.
        encoding: `Data.encoding` of the data that a model was trained on.
        labels: how it stores the labels of a sample, where these are not the names of classes.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype
    encoding: Mapping[str, Any]
    labels: "RowForm | None" = None

    def __str__(self) -> str:
        return f"{list(self.shape)} of {str(self.dtype).removeprefix('torch.')}"

    def rows(self, x: Any, what: str = "Inputs") -> Tensor:
        """Numbers [n, …] as rows of this form, on the CPU; no value changes but by rounding to a shorter float.

        Args:
            x: a tensor, an array, or what NumPy makes one of.
            what: what messages call them.

        Raises:
            DataError: for another shape, another kind of number, or one that is not finite.
        """
        if not isinstance(x, Tensor):
            try:
                array = np.ascontiguousarray(x)
                if not array.flags.writeable or min(array.strides) < 0:  # torch takes neither as it is
                    array = array.copy()
                x = torch.from_numpy(array)
            except (TypeError, ValueError) as error:
                raise DataError(f"{what} must be numbers [n, {_sizes(self.shape)}], as stored: {error}.") from error
        found = RowForm(tuple(x.shape[1:]), x.dtype, {})
        if x.ndim == 0 or found.shape != self.shape:
            raise DataError(f"{what} are {found}; this model takes {self}, as the data it was trained on are stored.")
        if not self.dtype.is_floating_point and (x.is_floating_point() or x.is_complex()):
            raise DataError(f"{what} are {found}; this model takes {self}: give them as stored, before any scaling.")
        rows: Tensor = x.detach().cpu().to(self.dtype)
        if not self.dtype.is_floating_point and not torch.equal(rows, x.cpu()):
            raise DataError(f"{what} run from {int(x.min())} to {int(x.max())}, which {self.dtype} cannot hold.")
        require_finite(rows, f"{what} hold")
        return rows


def require_finite(x: Tensor, whatever_holds: str) -> None:
    """Raise `DataError` where numbers [n, …] are not finite: `The training set holds` NaN or infinity."""
    if x.is_floating_point() and not bool(torch.isfinite(x).all()):
        bad = int((~torch.isfinite(x.reshape(len(x), -1))).any(1).nonzero()[0])
        raise DataError(f"{whatever_holds} NaN or infinity, first in sample {bad}. Clean the data.")


@dataclass(frozen=True, eq=False)
class Samples:
    """New samples, in the order of their file.

    Attributes:
        x: rows [n, …], as they are stored.
        names: by which a person finds each: its line, its file, its number.
        labels: the name of the class of each, where the data say.
        parts: `train`, `test` or nothing for each, where the data say.
        notes: what reading left out, a sentence each.
        y: the labels [n, …] in the form of `RowForm.labels`, where the data say and they are no names of classes.
    """

    x: Tensor
    names: tuple[str, ...]
    labels: tuple[str, ...] | None = None
    parts: tuple[str, ...] | None = None
    notes: tuple[str, ...] = ()
    y: Tensor | None = None

    def __len__(self) -> int:
        return len(self.names)


def read_npz(path: Path, form: RowForm) -> Samples:
    """Rows of an `.npz` and, where they are there, their labels."""
    x, y, names, parts, notes = _arrays(path)
    numbers = tuple(map(str, range(len(x))))
    if form.labels is None:
        return Samples(form.rows(x), numbers, _class_names(path, len(x), y, names), parts, notes)
    labels = None if y is None else form.labels.rows(y, "Labels")
    if labels is not None and len(labels) != len(x):
        raise DataError(f"{path} has {len(x)} inputs and {len(labels)} labels. Give one label per input.")
    return Samples(form.rows(x), numbers, None, parts, notes, labels)


def read_pictures(
    path: Path, form: RowForm, *, resize: bool = True, white: float | None = None, top: int = 255
) -> Samples:
    """The images of a folder, or one alone, as rows of a benchmark that stores images as uint8.

    They lie in a folder for each class, also within `train` and `test`, or loose.

    Args:
        resize: bring them to the size of the rows; otherwise they have to have it.
        white: the value of white in images of more than 8 bits; see `Pictures.decoded`.
        top: what rows have for white.

    Raises:
        DataError: for no images, ones that cannot be decoded, or of another size; for rows that are no images.
    """
    found = picture_files(path)
    files = [file for file, _, _ in found]
    height, width, channels, first = _layout(form, path)
    here = Pictures.of(files, (height, width) if resize else None)
    if (here.height, here.width) != (height, width):
        raise DataError(f"The images in {path} are {here.height}×{here.width}; this model takes {height}×{width}.")
    notes = here.notes(path.name, white)
    if here.channels > channels:
        notes = (*notes, f"{path.name}: colours are left out: this model takes grey images.")
    pixels = here.with_channels(channels).decoded(files, white)
    if top != 255:
        pixels = np.round(pixels * (top / 255)).astype(np.uint8)
    rows = (np.moveaxis(pixels, -1, 1) if first else pixels).reshape(len(pixels), *form.shape)
    labels, parts = [label for _, label, _ in found], [part for _, _, part in found]
    return Samples(
        form.rows(rows),
        tuple(readable_name(file.relative_to(path).as_posix() if path.is_dir() else file.name) for file in files),
        tuple(map(readable_name, labels)) if all(labels) else None,
        tuple(parts) if all(parts) else None,
        notes,
    )


def _layout(form: RowForm, path: Path) -> tuple[int, int, int, bool]:
    """Height, width, channels, and whether these stand first, of rows that are images."""
    shape = form.shape
    if form.dtype == torch.uint8 and len(shape) == 2:
        return *shape, 1, False
    if form.dtype == torch.uint8 and len(shape) == 3 and shape[-1] in (1, 3):
        return *shape, False
    if form.dtype == torch.uint8 and len(shape) == 3 and shape[0] in (1, 3):
        return *shape[1:], shape[0], True
    raise DataError(f"{path} holds images, and this model takes {form}: give an .npz with x as it is stored.")


def held_out_rows(count: int, share: float) -> NDArray[np.bool_]:
    """Which of `count` samples are held out for testing: about `share` of them, evenly spaced, the same every time."""
    reached = np.floor(np.arange(1, count + 1) * share + 0.5)
    held_out: NDArray[np.bool_] = np.diff(reached, prepend=0.0) > 0
    return held_out


def in_order(names: Iterable[str]) -> list[str]:
    """Names of classes in the order that they are numbered in: of whole numbers theirs, else that of letters."""
    found = list(names)
    whole = all(name.removeprefix("-").isdecimal() for name in found)
    return sorted(found, key=int) if whole else sorted(found)


NpzArrays = tuple[NDArray[Any], tuple[str, ...] | None, tuple[str, ...] | None, tuple[str, ...]]


def npz_arrays(path: Path) -> NpzArrays:
    """`x` and `y` of an `.npz`, or all of `x_train`, `y_train`, `x_test` and `y_test`, as `Samples` has them.

    Labels `y` may be missing. Where they are whole numbers and `class_names` is there, they are places in it.

    Raises:
        DataError: for a file that is damaged or holds nothing of the kind.
    """
    x, y, names, parts, notes = _arrays(path)
    return x, _class_names(path, len(x), y, names), parts, notes


def _arrays(
    path: Path,
) -> tuple[NDArray[Any], NDArray[Any] | None, NDArray[Any] | None, tuple[str, ...] | None, tuple[str, ...]]:
    """Inputs, labels as they are stored, names of classes, parts and notes; see `npz_arrays`."""
    if path.suffix.lower() != ".npz":
        raise DataError(f"{path} is no .npz. Save new samples with numpy.savez(path, x=…) or, with labels, x=…, y=….")
    try:
        with np.load(require_file(path), allow_pickle=False) as file:
            content = {key: file[key] for key in file.files}
    except DataError:
        raise
    except Exception as error:  # what is damaged breaks zip, zlib and numpy in any way
        raise DataError(f"{path} cannot be read as an .npz of arrays: {error}. Save it again.") from error
    known = {"x": ("x", "y"), "x_train": ("x_train", "y_train"), "x_test": ("x_test", "y_test")}
    pairs = [known["x"]] if "x" in content else [known[key] for key in ("x_train", "x_test") if key in content]
    if not pairs:
        raise DataError(
            f"{path} has no x; it has: {', '.join(content) or 'nothing'}. Save it with numpy.savez(path, x=…)."
        )
    left = sorted(set(content) - {key for pair in pairs for key in pair} - {"class_names"})
    notes = (f"{path.name}: ignored arrays: {', '.join(left)}.",) if left else ()
    xs = [np.atleast_1d(content[x]) for x, _ in pairs]
    ys = [np.atleast_1d(content[y]) for _, y in pairs if y in content]
    if len({(x.shape[1:], x.dtype) for x in xs}) > 1:
        raise DataError(f"x_train and x_test in {path} differ in shape or type. They must be alike.")
    x = np.concatenate(xs)
    parts = None
    if "x" not in content:
        parts = tuple(key.removeprefix("x_") for (key, _), part in zip(pairs, xs) for _ in part)
    if len({y.shape[1:] for y in ys}) > 1:
        raise DataError(f"y_train and y_test in {path} differ in shape. They must be alike.")
    return x, np.concatenate(ys) if len(ys) == len(pairs) else None, content.get("class_names"), parts, notes


def _class_names(path: Path, count: int, y: NDArray[Any] | None, names: NDArray[Any] | None) -> tuple[str, ...] | None:
    """The name of the class of each of `count` samples, where there are labels."""
    if y is None:
        return None
    if y.ndim != 1 or len(y) != count:
        raise DataError(f"The labels in {path} must be one for each of its {count} samples, y [n].")
    places = names is not None and y.dtype.kind in "iu" and len(y) and 0 <= y.min() <= y.max() < len(names)
    return tuple(_text(names[label] if places else label) for label in y)  # type: ignore[index]


def _text(name: Any) -> str:
    return (name.decode("utf-8", "backslashreplace") if isinstance(name, bytes) else str(name)).strip()


def _sizes(shape: tuple[int, ...]) -> str:
    return ", ".join(map(str, shape))
