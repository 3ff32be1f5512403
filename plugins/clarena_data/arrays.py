"""Arrays in one `.npz`: `x_train`, `y_train`, `x_test`, `y_test`."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal
from zipfile import ZIP_STORED

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from clarena import (
    Benchmark,
    Data,
    DataError,
    RowForm,
    Samples,
    UsageError,
    mapped,
    npz_arrays,
    readable_name,
    require_file,
)

from .numbers import Standardise, Standardised
from .texts import require_repeated

KEYS = ("x_train", "y_train", "x_test", "y_test")


Deviations = tuple[Annotated[float, Field(gt=0)], ...]


class Pixels(Benchmark):
    """Model inputs from stored samples: uint8 images, channels first or last.

    Attributes:
        channels_last: whether images are stored as [height, width, channels].
    """

    pictures = 255
    channels_last: ClassVar[bool] = False

    def __init__(
        self,
        *,
        mean: Annotated[
            tuple[float, ...], Field(description="Subtracted from each channel, pixels being in 0 … 1.")
        ] = (0.5,),
        std: Annotated[Deviations, Field(description="What each channel is divided by.")] = (0.5,),
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.mean = mean
        self.std = std

    def inputs(self, x: Tensor) -> Tensor:
        """Images [n, channels, height, width], scaled to 0 … 1, then normalised."""
        x = x.float().div_(255)
        if x.ndim == 4 and self.channels_last:
            x = x.movedim(-1, 1)
        elif x.ndim == 3:
            x = x.unsqueeze(1)
        return normalised(x, self.mean, self.std)


def normalised(x: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Inputs [n, channels, …], the mean of each channel subtracted in place, and divided by its deviation.

    Raises:
        UsageError: where there are neither one number nor one for each channel.
    """
    for name, values in (("mean", mean), ("std", std)):
        if len(values) not in (1, x.shape[1]):
            raise UsageError(
                f"benchmark.{name} has {len(values)} numbers, and inputs {list(x.shape[1:])} have {x.shape[1]} "
                f"channels. Give one number, or {x.shape[1]}."
            )
    subtracted, divisor = (
        torch.tensor(values, device=x.device).view(-1, *[1] * (x.ndim - 2)) for values in (mean, std)
    )
    return x.sub_(subtracted).div_(divisor)


Channels = Literal["auto", "first", "last", "grey", "none"]
AS_STORED = ((0.5,), (0.5,))
"""Mean and deviation at their defaults: numbers that are no uint8 are left as they are stored."""


LARGE_FILE = 2**26
"""Bytes from which on images are mapped from an `.npz` that is not compressed, and not read."""

LARGE = 100.0
"""Numbers from here on are better scaled before a network sees them."""


class Arrays(Pixels, Standardised):
    """Arrays in an `.npz`: images, or plain numbers.

    What is stored as uint8 is in 0 … 255, and scaled to 0 … 1; other numbers stay as they are.
    """

    added = frozenset({"channels", "standardise"})

    def __init__(
        self,
        *,
        channels: Annotated[
            Channels,
            Field(
                description="Where images have their channels: [n, channels, height, width] or [n, height, width, "
                "channels]; auto tells by their numbers, and asks where both may be. grey: arrays [n, height, width] "
                "are images, as auto takes those of uint8 to be. none: arrays are no images."
            ),
        ] = "auto",
        mean: Annotated[
            tuple[float, ...],
            Field(
                description="Subtracted from each channel, pixels being in 0 … 1. Numbers that are not stored as uint8 "
                "are left as they are while both mean and std are at their defaults, and normalised by both otherwise."
            ),
        ] = AS_STORED[0],
        std: Annotated[Deviations, Field(description="What each channel is divided by; see mean.")] = AS_STORED[1],
        standardise: Standardise = False,
        **options: Any,
    ) -> None:
        super().__init__(mean=mean, std=std, **options)
        self.channels = channels
        self.standardise = standardise

    def inputs(self, x: Tensor) -> Tensor:
        """Images [n, channels, height, width], or numbers as they are shaped; only uint8 is not yet `laid_out`."""
        if x.dtype != torch.uint8:
            return x.float()
        last = self.channels == "last" or (self.channels == "auto" and channels_last(x))
        x = x.float().div_(255)
        if x.ndim == 4 and last:
            x = x.movedim(-1, 1)
        elif x.ndim == 3 and self.channels != "none":
            x = x.unsqueeze(1)
        return normalised(x, self.mean, self.std)

    def laid_out(self, data: Data) -> Data:
        """Data as they are kept: uint8 as stored, other numbers as a model is given them.

        Where uint8 images used to be read with their channels first, and have them last, they are kept channels first.

        Raises:
            UsageError: where channels may be first or last, or mean or std do not fit their number.
        """
        x = data.x_train
        if x.dtype != torch.uint8:
            move = x.ndim == 4 and (self.channels == "last" or (self.channels == "auto" and channels_last(x)))
        else:
            certain = x.shape[-1] in (1, 3, 4) and x.shape[1] not in (1, 3, 4)
            move = self.channels == "auto" and channels_last(x) and not certain
        return replace(data, x_train=self._laid_out(x, move), x_test=self._laid_out(data.x_test, move))

    def _laid_out(self, x: Tensor, move: bool) -> Tensor:
        if move:
            x = x.movedim(-1, 1).contiguous()
        if x.dtype == torch.uint8:
            if move and channels_last(x):
                raise UsageError(_ambiguous(x.movedim(1, -1)))
            return x
        if x.ndim == 3 and self.channels == "grey":
            x = x.unsqueeze(1)
        return x if (self.mean, self.std) == AS_STORED else normalised(x.clone(), self.mean, self.std)

    def read_new(self, path: Path, form: RowForm) -> Samples:
        """New samples of an `.npz`, in the layout that the data had in their file; or files of images."""
        if path.suffix.lower() != ".npz":
            return super().read_new(path, form)
        x, labels, parts, notes = npz_arrays(path)
        _require_numbers(f"x in {path}", x)
        tensor, note = _tensor(f"x in {path}", x)
        none = torch.zeros(0, dtype=torch.int64)
        rows = form.rows(self.laid_out(Data(tensor, none, tensor[:0], none, ())).x_train)
        return Samples(rows, tuple(map(str, range(len(rows)))), labels, parts, (*notes, *([note] if note else [])))

    def form(self, data: Data) -> list[str]:
        """Whether arrays [n, a, b] are taken for images, where it may be otherwise, and whether numbers are large."""
        shape, images = list(data.x_train.shape[1:]), self.inputs(data.x_train[:1]).ndim == 4
        notes = []
        if len(shape) == 2 and not images and self.channels == "auto":
            notes.append(
                f"Inputs {shape} are read as numbers, not as images. For images: --set benchmark.channels=grey."
            )
        elif len(shape) == 2 and self.channels == "auto" and shape[0] != shape[1]:
            notes.append(f"Inputs {shape} are read as grey images. For series: --set benchmark.channels=none.")
        high = float(data.x_train.abs().max()) if data.x_train.is_floating_point() else 0.0
        if high > LARGE and not self.standardise and (self.mean, self.std) == AS_STORED:
            notes.append(
                f"Inputs as large as {high:g} are given to the model as they are. To scale them: "
                "--set benchmark.standardise=true, or mean and std."
            )
        return notes


def read_arrays(path: Path) -> Data:
    """Read an `.npz`; arrays stay of the type they were stored in.

    Raises:
        DataError: for a file that is damaged, lacks an array, or holds what no benchmark can use.
    """
    content, names = _content(path)
    x_train, y_train, x_test, y_test = (content[key] for key in KEYS)
    for part, y in (("y_train", y_train), ("y_test", y_test)):
        _require_labels(f"{part} in {path}", y)
    for part, x in (("x_train", x_train), ("x_test", x_test)):
        _require_numbers(f"{part} in {path}", x)
    if x_train.dtype != x_test.dtype and {np.dtype(np.uint8), np.dtype(np.bool_)} & {x_train.dtype, x_test.dtype}:
        raise DataError(
            f"x_train in {path} is {x_train.dtype} and x_test {x_test.dtype}: pixels of uint8 are scaled to 0 … 1, and "
            "other numbers are not. Save both in one type."
        )
    y_train, y_test = (_text(y) if y.dtype.kind == "S" else y for y in (y_train, y_test))
    labels, indices = np.unique(np.concatenate([y_train, y_test]), return_inverse=True)
    known = np.unique(y_train)
    if len(known) < len(labels):
        strange = ", ".join(map(str, np.setdiff1d(labels, known)[:5]))
        raise DataError(
            f"{path} tests classes that it never trains on: {strange}. Give training samples of each, or take them out "
            "of the test set. Labels must be classes; numbers to be predicted (regression) are none."
        )
    require_repeated(len(labels), len(y_train) + len(y_test), str(path))
    class_names, notes = _class_names(path, labels, names)
    tensors = []
    for part, x in (("x_train", x_train), ("x_test", x_test)):
        tensor, note = _tensor(f"{part} in {path}", x)
        tensors.append(tensor)
        notes += [note] if note else []
    return Data(
        tensors[0],
        torch.from_numpy(indices[: len(y_train)].astype(np.int64)),
        tensors[1],
        torch.from_numpy(indices[len(y_train) :].astype(np.int64)),
        class_names,
        notes=tuple(notes),
    )


def _content(path: Path) -> tuple[dict[str, NDArray[Any]], NDArray[Any] | None]:
    """The arrays in a file, and `class_names` where it has them."""
    try:
        with np.load(require_file(path), allow_pickle=False) as file:
            missing = [key for key in KEYS if key not in file.files]
            if missing:
                raise DataError(
                    f"{path} has no {', '.join(missing)}; it has: {', '.join(file.files) or 'nothing'}. "
                    f"Save it with numpy.savez(path, {', '.join(f'{key}=…' for key in KEYS)})."
                )
            content = {}
            for key in (*KEYS, "class_names"):
                if key in file.files:
                    content[key] = _array(file, key, path)
    except DataError:
        raise
    except MemoryError as error:
        raise DataError(f"{path} does not fit into memory: {error}. Save fewer or smaller samples.") from error
    except Exception as error:  # what is damaged breaks zip, zlib and numpy in any way
        raise DataError(
            f"{path} cannot be read as an .npz of arrays: {error}. It is damaged; save it again."
        ) from error
    return content, content.pop("class_names", None)


def _array(file: Any, key: str, path: Path) -> NDArray[Any]:
    entry = file.zip.getinfo(f"{key}.npy")
    if (
        entry.file_size >= LARGE_FILE
        and entry.compress_type == ZIP_STORED
        and (x := mapped(path, key)).dtype == torch.uint8
    ):
        return x.numpy()  # of floats the values are looked at, and changed
    try:
        array: NDArray[Any] = file[key]
    except ValueError as error:
        if "Object arrays" not in str(error):
            raise
        raise DataError(
            f"{path} cannot be read as an .npz of arrays: {key} is one of Python objects, and reading it could run any "
            f"code. Save names as text, {key}=np.array({key}, dtype=str), and numbers as numbers."
        ) from error
    return array


def _require_numbers(what: str, x: NDArray[Any]) -> None:
    if x.dtype.kind not in "iufb" or x.ndim < 2:
        raise DataError(f"{what} must be numbers with one row per sample, not {x.dtype} {x.shape}.")


def _require_labels(what: str, y: NDArray[Any]) -> None:
    """Raise `DataError` where labels are not one whole number or name for each sample, with what they may be."""
    if y.ndim == 1 and y.dtype.kind in "iuUS":
        return
    advice = ""
    if y.ndim == 2 and y.shape[1] == 1:
        advice = " Save one number for each sample: y.ravel()."
    elif y.ndim == 2 and y.dtype.kind in "iufb" and bool(((y != 0).sum(1) == 1).all() and (y.sum(1) == 1).all()):
        advice = " Each row has a single 1: save the number of the class in its place, y.argmax(1)."
    elif y.ndim == 2:
        advice = " Several labels for one sample are not supported."
    elif y.dtype.kind == "f" and not np.isfinite(y).all():
        advice = " There are NaN or infinity among them: remove samples without a label."
    elif y.dtype.kind == "f" and (y == np.round(y)).all() and 2 * len(np.unique(y)) <= len(y):
        advice = " They are whole: save them as y.astype(int)."
    elif y.dtype.kind == "f":
        advice = " Numbers to be predicted (regression) are no classes."
    elif y.dtype.kind == "b":
        advice = " Save them as y.astype(int)."
    raise DataError(f"{what} must be a list of whole numbers or names, not {y.dtype} {y.shape}.{advice}")


def _text(y: NDArray[Any]) -> NDArray[Any]:
    """Names stored as bytes, as text."""
    return np.array([name.decode("utf-8", "backslashreplace") for name in y.tolist()])


def _class_names(path: Path, labels: NDArray[Any], names: NDArray[Any] | None) -> tuple[tuple[str, ...], list[str]]:
    """A name for each label: those in the file where labels are their places, and a note where they are not taken."""
    own = tuple(readable_name(str(label)) for label in labels)
    if names is None:
        return own, []
    if labels.dtype.kind in "iu" and names.ndim == 1 and len(labels) and 0 <= labels.min() <= labels.max() < len(names):
        named = _text(names) if names.dtype.kind == "S" else names
        return tuple(readable_name(str(named[label])) for label in labels), []
    return own, [f"class_names in {path.name} are left out: labels are not their places, 0 … {names.size - 1}."]


def channels_last(x: Tensor) -> bool:
    """Whether images [n, a, b, c] have their channels last, whatever their type.

    They are where there are 1, 3 or 4 of them, and only there. Where that is so of both ends or of neither, it is told
    by which of the two readings has square images; where it is so of neither, also by which has the fewer channels than
    height and width. What has no height or no width in either reading is left as it is.

    Raises:
        UsageError: where both may be meant.
    """
    if x.ndim != 4:
        return False
    first, middle, last = x.shape[1:]
    if max(min(middle, last), min(first, middle)) < 2:
        return False
    likely = [count in (1, 3, 4) for count in (first, last)]
    told = [likely, [middle == last, first == middle]]
    if not any(likely):
        told.append([first < min(middle, last), last < min(first, middle)])
    for here, there in told:
        if here != there:
            return there
    raise UsageError(_ambiguous(x))


def _ambiguous(x: Tensor) -> str:
    return (
        f"Images {list(x.shape[1:])} may have their channels first or last. Say which: --set benchmark.channels=first "
        "or --set benchmark.channels=last; where they are no images: --set benchmark.channels=none."
    )


def _tensor(what: str, x: NDArray[Any]) -> tuple[Tensor, str | None]:
    """The numbers as a benchmark keeps them, uint8 or float32, and a note where that rounds them.

    Raises:
        DataError: for numbers that float32 cannot hold.
    """
    if x.dtype == np.uint8:
        return torch.from_numpy(x), None
    if x.dtype.kind == "b":
        return torch.from_numpy(
            x.view(np.uint8) * np.uint8(255)
        ), f"{what}: truth values are read as 0 and 255, black and white."
    with np.errstate(over="ignore"):
        numbers = x.astype(np.float32, copy=False)
    if x.dtype.kind == "f":
        large = np.isfinite(x) & ~np.isfinite(numbers)
        if large.any():
            raise DataError(f"{what} has numbers above 3e38, which float32 cannot hold. Scale them.")
        return torch.from_numpy(numbers), None
    rounded = int((numbers.astype(np.float64) != x.astype(np.float64)).sum())
    return torch.from_numpy(numbers), f"{what}: {rounded} whole numbers are rounded to float32." if rounded else None
