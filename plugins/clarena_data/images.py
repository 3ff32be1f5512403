"""Folders of images: one folder for each class, within `train` and `test` or with a share held out for testing."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from clarena import Data, DataError, RowForm, Samples, held_out_rows, require_file

from .names import readable_name

SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"}


def read_images(path: Path, size: int | None, test_share: float, white: float | None = None) -> Data:
    """Decode a folder of images into two arrays, uint8 [n, height, width, channels]; no other copy is kept.

    Args:
        path: holds a folder for each class, or `train` and `test` that do.
        size: height and width that every image is brought to; None asks for images of one size.
        test_share: where there is no `test`, the share of each class held out: every k-th in the order of names.
        white: the value of white in images of more than 8 bits; None takes 65,535 where they have 16, and 1 where they
            are of floating point. All images of the folder are on this one scale.

    Raises:
        DataError: for fewer than two classes, a class without images, images that cannot be decoded or lie off the
            scale, sizes that differ where no size is given, or more pixels than there is memory.
    """
    if (path / "train").is_dir() and (path / "test").is_dir():
        train, test = classes(path / "train"), classes(path / "test")
        strange = sorted(set(test) - set(train))
        if strange:
            raise DataError(f"{path}/test has classes that {path}/train has not: {', '.join(strange[:5])}.")
    else:
        train, test = {}, {}
        for name, files in classes(path).items():
            held_out = held_out_rows(len(files), test_share)
            test[name] = [file for file, out in zip(files, held_out) if out]
            train[name] = [file for file, out in zip(files, held_out) if not out]
            if not train[name] or not test[name]:
                raise DataError(
                    f"{path / name} has {len(files)} images: too few to hold out a share for testing. Add some, remove "
                    "the folder, or set another benchmark.test_share."
                )
    names = tuple(train)
    paths = [[file for name in names for file in part.get(name, [])] for part in (train, test)]
    labels = [[label for label, name in enumerate(names) for _ in part.get(name, [])] for part in (train, test)]
    form = _form(paths[0] + paths[1], size)
    arrays = [_decode(part, form, white) for part in paths]
    return Data(
        torch.from_numpy(arrays[0]),
        torch.tensor(labels[0]),
        torch.from_numpy(arrays[1]),
        torch.tensor(labels[1]),
        tuple(map(readable_name, names)),
        notes=form.notes(path.name, white),
    )


def read_new_images(path: Path, size: int | None, white: float | None, form: RowForm) -> Samples:
    """New images as the rows that a model takes: in a folder for each class, also within `train` and `test`, or loose.

    Raises:
        DataError: for no images, and as `read_images`; for another size than training's where none was set.
    """
    if not path.is_dir():
        raise DataError(f"{path} is no folder of images, and this model was trained on one.")
    found = _new_files(path)
    if not found:
        raise DataError(f"{path} holds no image ({', '.join(sorted(SUFFIXES))}), nor folders of them.")
    files = [file for file, _, _ in found]
    height, width, channels = form.shape
    here = _form(files, size)
    if (here.height, here.width) != (height, width):
        raise DataError(f"The images in {path} are {here.height}×{here.width}; this model takes {height}×{width}.")
    notes = here.notes(path.name, white)
    if here.channels > channels:
        notes = (*notes, f"{path.name}: colours are left out: this model takes grey images.")
    arrays = _decode(files, replace(here, channels=channels), white)
    names = tuple(readable_name(file.relative_to(path).as_posix()) for file in files)
    labels, parts = [label for _, label, _ in found], [part for _, _, part in found]
    return Samples(
        form.rows(arrays),
        names,
        tuple(map(readable_name, labels)) if all(labels) else None,
        tuple(parts) if all(parts) else None,
        notes,
    )


def _new_files(path: Path) -> list[tuple[Path, str, str]]:
    """Images with class and part, each empty where no folder says so."""

    def images(folder: Path) -> list[Path]:
        return sorted(file for file in folder.iterdir() if file.suffix.lower() in SUFFIXES and require_file(file))

    def folders(folder: Path) -> list[Path]:
        return sorted(child for child in folder.iterdir() if child.is_dir() and not child.name.startswith("."))

    parts = [path / part for part in ("train", "test") if (path / part).is_dir()]
    if parts:
        return [(file, kind.name, part.name) for part in parts for kind in folders(part) for file in images(kind)]
    loose = [(file, "", "") for file in images(path)]
    return loose or [(file, kind.name, "") for kind in folders(path) for file in images(kind)]


def classes(folder: Path) -> dict[str, list[Path]]:
    """The images in each folder of `folder`, both in the order of names."""
    found = {
        child.name: sorted(file for file in child.iterdir() if file.suffix.lower() in SUFFIXES and require_file(file))
        for child in sorted(folder.iterdir())
        if child.is_dir() and not child.name.startswith(".")
    }
    if len(found) < 2:
        held = f"one, {next(iter(found))!r}" if found else "none"
        raise DataError(f"{folder} must hold a folder of images for each class, two or more; it holds {held}.")
    for name, files in found.items():
        if not files:
            raise DataError(f"{folder / name} holds no image ({', '.join(sorted(SUFFIXES))}).")
    return found


@dataclass(frozen=True)
class Form:
    """What fits all images of a folder, and what is lost in bringing them to it.

    Attributes:
        sizes: how many sizes they have.
        deep: how many have more than 8 bits.
        transparent, moving: how many have transparency, or more pictures than the first; neither is read.
    """

    height: int
    width: int
    channels: int
    sizes: int
    deep: int
    transparent: int
    moving: int

    def notes(self, name: str, white: float | None) -> tuple[str, ...]:
        """What is lost, a sentence each."""
        notes = []
        if self.deep:
            shown = "65535 (1 in floating point)" if white is None else f"{white:g}"
            notes.append(
                f"{name}: {self.deep} images of more than 8 bits are read with 8, where white is {shown}. Set another "
                "white with benchmark.white."
            )
        if self.transparent:
            notes.append(f"{name}: the transparency of {self.transparent} images is left out.")
        if self.moving:
            notes.append(f"{name}: {self.moving} images hold several pictures, of which the first is read.")
        if self.sizes > 1:
            notes.append(f"{name}: images of {self.sizes} sizes are brought to {self.height}×{self.width}.")
        return tuple(notes)


DEEP = ("I;16", "I;16L", "I;16B", "I", "F")
"""Modes of grey images with more than 8 bits."""


def _form(files: list[Path], size: int | None) -> Form:
    """What fits all images; only their headers are read."""
    from PIL import Image

    sizes: dict[tuple[int, int], Path] = {}
    channels, deep, transparent, moving = 1, 0, 0, 0
    for file in files:
        with readable_image(file, "read"), Image.open(file) as image:
            sizes.setdefault(image.size, file)
            if image.mode not in ("1", "L", "LA", *DEEP):
                channels = 3
            deep += image.mode in DEEP
            transparent += image.mode in ("LA", "RGBA", "PA") or "transparency" in image.info
            moving += getattr(image, "n_frames", 1) > 1
    height = width = size
    if height is None or width is None:
        if len(sizes) > 1:
            (first, a), (second, b) = list(sizes.items())[:2]
            raise DataError(
                f"Images differ in size: {a} is {first[0]}×{first[1]}, {b} is {second[0]}×{second[1]}. "
                "Bring them to one size: --set benchmark.size=32."
            )
        width, height = next(iter(sizes))
    require_memory(len(files) * height * width * channels, f"{len(files)} images of {height}×{width}")
    return Form(height, width, channels, len(sizes), deep, transparent, moving)


def _decode(files: list[Path], form: Form, white: float | None) -> NDArray[np.uint8]:
    from PIL import Image

    images = np.empty((len(files), form.height, form.width, form.channels), dtype=np.uint8)
    for row, file in enumerate(files):
        with readable_image(file, "decoded"), Image.open(file) as opened:
            image: Image.Image = _shallow(opened, file, white) if opened.mode in DEEP else opened
            decoded = image.convert("RGB" if form.channels == 3 else "L")
        if decoded.size != (form.width, form.height):
            decoded = decoded.resize((form.width, form.height), Image.Resampling.BILINEAR)
        images[row] = np.asarray(decoded).reshape(form.height, form.width, form.channels)
    return images


def _shallow(image: Any, file: Path, white: float | None) -> Any:
    """An image of more than 8 bits with 8 (Pillow would clip, not scale), black being 0, and white the same in all."""
    from PIL import Image

    values = np.asarray(image, dtype=np.float64)
    top = white if white is not None else 1.0 if image.mode == "F" else 65535.0
    low, high = float(values.min()), float(values.max())
    if not 0 <= low <= high <= top:
        raise DataError(
            f"The image {file} has values from {low:g} to {high:g}, outside 0 … {top:g}. Say what white is, in all "
            f"images alike, --set benchmark.white={max(high, 1):g}, and bring negative values to 0 or more."
        )
    return Image.fromarray((values * (255 / top)).astype(np.uint8))


@contextmanager
def readable_image(file: Path, doing: str) -> Iterator[None]:
    """Turn whatever goes wrong with an image into one message."""
    try:
        yield
    except DataError:
        raise
    except Exception as error:  # what is damaged breaks Pillow and its codecs in any way
        raise DataError(f"The image {file} cannot be {doing}: {error}. Mend or remove it.") from error


def require_memory(size: int, what: str, remedy: str = "benchmark.size=32") -> None:
    """Raise `DataError` where that many bytes are more than the machine's memory; `remedy` is what to set."""
    try:
        held = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # not told on this system
        return
    if size > held:
        raise DataError(
            f"{what} take {size / 2**30:.0f} GiB, and this machine has {held / 2**30:.0f}. Ask for less: "
            f"--set {remedy}."
        )
