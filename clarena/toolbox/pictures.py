"""Pictures in files: what fits all of them, and their pixels as one array. Pillow decodes them."""

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clarena.errors import DataError
from clarena.toolbox.files import require_file

IMAGES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"}
"""How the names of files of pictures end."""

DEEP = ("I;16", "I;16L", "I;16B", "I", "F")
"""Modes of grey images with more than 8 bits."""


def is_picture(path: Path) -> bool:
    """Whether a file's name is that of a picture; raises `DataError` where it is no file."""
    return path.suffix.lower() in IMAGES and bool(require_file(path))


def picture_files(path: Path) -> list[tuple[Path, str, str]]:
    """The pictures of a folder, or one alone, with class and part, each empty where no folder says so.

    They lie in a folder for each class, also within `train` and `test`, or loose.

    Raises:
        DataError: where there are none.
    """

    def pictures(folder: Path) -> list[Path]:
        return sorted(filter(is_picture, folder.iterdir()))

    def folders(folder: Path) -> list[Path]:
        return sorted(child for child in folder.iterdir() if child.is_dir() and not child.name.startswith("."))

    if not path.is_dir():
        if not is_picture(path):
            raise DataError(f"{path} is neither an .npz with x, nor an image ({_known()}), nor a folder of images.")
        return [(path, "", "")]
    parts = [path / part for part in ("train", "test") if (path / part).is_dir()]
    if parts:
        found = [(file, kind.name, part.name) for part in parts for kind in folders(part) for file in pictures(kind)]
    else:
        found = [(file, "", "") for file in pictures(path)]
        found = found or [(file, kind.name, "") for kind in folders(path) for file in pictures(kind)]
    if not found:
        raise DataError(f"{path} holds no image ({_known()}), nor folders of them.")
    return found


def _known() -> str:
    return ", ".join(sorted(IMAGES))


@dataclass(frozen=True)
class Pictures:
    """What fits all of some pictures, and what is lost in bringing them to it.

    Attributes:
        height, width, channels: of the arrays that they become, uint8 [height, width, channels].
        sizes: how many sizes they have, and `resized` how many have another than these arrays.
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
    resized: int

    @classmethod
    def of(cls, files: Sequence[Path], size: tuple[int, int] | None = None) -> "Pictures":
        """What fits all of these; only their headers are read.

        Args:
            size: height and width that they are brought to; None asks for pictures of one size.

        Raises:
            DataError: for one that cannot be read, sizes that differ where none is given, or too many for the memory.
        """
        from PIL import Image

        sizes: dict[tuple[int, int], Path] = {}
        counts: Counter[tuple[int, int]] = Counter()
        channels, deep, transparent, moving = 1, 0, 0, 0
        for file in files:
            with readable_image(file, "read"), Image.open(file) as image:
                sizes.setdefault(image.size, file)
                counts[image.size] += 1
                if image.mode not in ("1", "L", "LA", *DEEP):
                    channels = 3
                deep += image.mode in DEEP
                transparent += image.mode in ("LA", "RGBA", "PA") or "transparency" in image.info
                moving += getattr(image, "n_frames", 1) > 1
        if size is None and len(sizes) > 1:
            (first, a), (second, b) = list(sizes.items())[:2]
            raise DataError(
                f"Images differ in size: {a} is {first[0]}×{first[1]}, {b} is {second[0]}×{second[1]}. "
                "Bring them to one size: --set benchmark.size=32."
            )
        width, height = next(iter(sizes)) if size is None else size[::-1]
        require_memory(len(files) * height * width * channels, f"{len(files)} images of {height}×{width}")
        resized = len(files) - counts[width, height]
        return cls(height, width, channels, len(sizes), deep, transparent, moving, resized)

    def notes(self, name: str, white: float | None = None) -> tuple[str, ...]:
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
        elif self.resized:
            notes.append(f"{name}: images of another size are brought to {self.height}×{self.width}.")
        return tuple(notes)

    def with_channels(self, channels: int) -> "Pictures":
        """The same in colour (3), or grey (1)."""
        return replace(self, channels=channels)

    def decoded(self, files: Sequence[Path], white: float | None = None) -> NDArray[np.uint8]:
        """The pixels of all, [n, height, width, channels].

        Args:
            white: the value of white in images of more than 8 bits; None takes 65,535, and 1 in floating point.

        Raises:
            DataError: for one that cannot be decoded, or has values beyond white.
        """
        from PIL import Image

        images = np.empty((len(files), self.height, self.width, self.channels), dtype=np.uint8)
        for row, file in enumerate(files):
            with readable_image(file, "decoded"), Image.open(file) as opened:
                image: Image.Image = _shallow(opened, file, white) if opened.mode in DEEP else opened
                decoded = image.convert("RGB" if self.channels == 3 else "L")
            if decoded.size != (self.width, self.height):
                decoded = decoded.resize((self.width, self.height), Image.Resampling.BILINEAR)
            images[row] = np.asarray(decoded).reshape(self.height, self.width, self.channels)
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
