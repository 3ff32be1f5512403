"""Images that are decoded once: arrays in a folder under the data root, whole or not at all, and mapped into memory."""

import hashlib
import math
import os
import shutil
import zipfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO, Literal, Protocol

import numpy as np
from clarena_data.arrays import channels_last
from filelock import FileLock
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from clarena import Data, DataError, data_root, held_out_rows, mapped, require_memory

Mode = Literal["L", "RGB"]
HELD_OUT = 0.2
"""Share of each class held out for testing, where a data set has no test set of its own."""
CHUNK = 256
"""Images that one thread decodes before they are written."""


class Labelled(Protocol):
    """Images and the class of each; decoded when they are asked for, from several threads at once."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> tuple[Image.Image, int]: ...


class Zipped:
    """Images in a zip archive.

    Args:
        archive: an open one.
        members: the name of each image in it, and its class.
    """

    def __init__(self, archive: zipfile.ZipFile, members: Sequence[tuple[str, int]]) -> None:
        self.archive = archive
        self.members = members

    def __len__(self) -> int:
        return len(self.members)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        name, label = self.members[index]
        with self.archive.open(name) as file, Image.open(file) as image:
            image.load()
        return image, label


class Chained:
    """Several sets of images, one after another."""

    def __init__(self, parts: Sequence[Labelled]) -> None:
        self.parts = parts
        self.ends = np.cumsum([len(part) for part in parts])

    def __len__(self) -> int:
        return int(self.ends[-1])

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        part = int(np.searchsorted(self.ends, index, side="right"))
        return self.parts[part][index - int(self.ends[part]) + len(self.parts[part])]


class Rows:
    """Images that are arrays already, uint8 [n, 1 or 3, height, width] or channels last."""

    def __init__(self, x: Tensor, y: Tensor) -> None:
        self.x = x if channels_last(x) else x.movedim(1, -1)
        self.y = y

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        return Image.fromarray(self.x[index].squeeze(-1).numpy()), int(self.y[index])


def made_once(name: str, make: Callable[[Path], None]) -> Path:
    """The folder `name` under the data root, filled by `make` where it is not there yet.

    It is filled under another name and moved to its place when it is complete, so that a half-filled one is never
    used. Processes that start together wait for one another.

    Raises:
        DataError: when it cannot be written; otherwise what `make` raises.
    """
    folder = data_root() / name
    if folder.is_dir():
        return folder
    part = folder.with_name(f".{folder.name}.part")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_name(f".{folder.name}.lock")):
            if not folder.is_dir():
                shutil.rmtree(part, ignore_errors=True)
                part.mkdir()
                try:
                    make(part)
                    part.rename(folder)
                finally:
                    shutil.rmtree(part, ignore_errors=True)
    except OSError as error:
        raise DataError(
            f"{folder} cannot be written: {error}.\nSet CLARENA_DATA to a folder with enough space for it."
        ) from error
    return folder


def cached(name: str, write: Callable[[Path], None]) -> Data:
    """The data set that `write` put into a folder by `write_images` or `write_data`, mapped rather than read.

    Processes that use it at the same time share one copy in memory.

    Raises:
        DataError: when the folder is damaged; otherwise as `made_once`.
    """
    folder = made_once(f"decoded/{name}", write)
    try:
        files = {file.stem: file for file in folder.glob("*.npy")}
        lists = [files.pop(key, None) for key in ("class_names", "domain_names")]
        names = [() if file is None else tuple(map(str, np.load(file))) for file in lists]
        tensors: dict[str, Any] = {key: mapped(file) for key, file in files.items()}
        return Data(**tensors, class_names=names[0], domain_names=names[1])
    except (OSError, ValueError, EOFError, TypeError, DataError) as error:
        raise DataError(f"{folder} is damaged: {error}. Remove it, and it is made again.") from error


def write_arrays(folder: Path, **arrays: Any) -> None:
    """Put arrays (or lists of names) into a folder for `cached`, by the names of `Data`."""
    for key, array in arrays.items():
        np.save(folder / f"{key}.npy", np.asarray(array))


def write_data(
    folder: Path,
    train: Labelled,
    test: Labelled | None,
    class_names: Sequence[str] | None,
    mode: Mode,
    size: int | None,
) -> None:
    """Decode a data set for `cached`; classes without an image are dropped.

    Args:
        test: None holds out a share of each class for testing, and puts the images of a class into an order that
            depends on their pixels alone: some libraries list files in the order of the file system.
        class_names: None takes numbers.
        mode, size: as in `write_images`.

    Raises:
        DataError: as `write_images`.
    """
    labels = [write_images(folder / "x_train.npy", train, mode, size)]
    if test is not None:
        shape = np.load(folder / "x_train.npy", mmap_mode="r").shape[1:3]
        labels.append(write_images(folder / "x_test.npy", test, mode, size, shape))
    else:
        x, y = np.load(folder / "x_train.npy"), labels[0]
        (folder / "x_train.npy").unlink()
        digests = [hashlib.sha256(row).digest() for row in x]
        order = np.array(sorted(range(len(y)), key=lambda row: (y[row], digests[row])))
        _, counts = np.unique(y, return_counts=True)
        held_out = np.concatenate([held_out_rows(count, HELD_OUT) for count in counts.tolist()])
        rows = [order[~held_out], order[held_out]]
        write_arrays(folder, x_train=x[rows[0]], x_test=x[rows[1]])
        labels = [y[part] for part in rows]
    used, renumbered = np.unique(np.concatenate(labels), return_inverse=True)
    y_train, y_test = np.split(renumbered.astype(np.int64), [len(labels[0])])
    names = [str(label) if class_names is None else str(class_names[label]) for label in used.tolist()]
    write_arrays(folder, y_train=y_train, y_test=y_test, class_names=names)


def write_images(
    file: Path, images: Labelled, mode: Mode, size: int | None, shape: tuple[int, ...] | None = None
) -> NDArray[np.int64]:
    """Decode images into one `.npy`, uint8 [n, height, width] (grey) or [n, height, width, 3]; their classes return.

    No more than a few hundred at a time are in memory for each thread.

    Args:
        mode: grey or colour, which every image is brought to.
        size: height and width that every image is brought to; None asks for images of one size.
        shape: height and width that they must have where no size is given; None takes those of the first.

    Raises:
        DataError: for images that cannot be decoded, or sizes that differ where no size is given.
    """
    if not len(images):
        raise DataError("The data set holds no image.")
    if size is not None:
        shape = (size, size)
    elif shape is None:
        width, height = _opened(images, 0)[0].size
        shape = (height, width)
    height, width = shape
    together = min(CHUNK, len(images)) * height * width * (3 if mode == "RGB" else 1)
    require_memory(together * (os.cpu_count() or 1), f"{CHUNK} images of {height}×{width} for each processor")

    def chunk(start: int) -> tuple[NDArray[np.uint8], list[int]]:
        stop = min(start + CHUNK, len(images))
        pixels = np.empty((stop - start, height, width, *([3] * (mode == "RGB"))), np.uint8)
        labels = []
        for row in range(start, stop):
            image, label = _opened(images, row)
            if image.size != (width, height):
                if size is None:
                    raise DataError(
                        f"Images differ in size: the first is {width}×{height}, image {row} is "
                        f"{image.width}×{image.height}. Bring them to one size: --set benchmark.size=32."
                    )
                image = image.convert(mode).resize((width, height), Image.Resampling.BILINEAR)
            pixels[row - start] = np.asarray(image.convert(mode))
            labels.append(int(label))
        return pixels, labels

    def written() -> Iterator[int]:
        with ThreadPoolExecutor(os.cpu_count()) as pool:  # Pillow decodes without holding the interpreter's lock
            for pixels, labels in pool.map(chunk, range(0, len(images), CHUNK)):
                out.write(pixels.data)
                yield from labels

    with open_images(file, (len(images), height, width, *([3] * (mode == "RGB")))) as out:
        return np.fromiter(written(), np.int64, len(images))


def open_images(file: Path, shape: tuple[int, ...]) -> BinaryIO:
    """A new `.npy` of bytes, open for the values of an array of that shape to be written one after another.

    Raises:
        DataError: where the disk has no room for them.
    """
    size, free = math.prod(shape), shutil.disk_usage(file.parent).free
    if size > free:
        raise DataError(
            f"{shape[0]} images of {shape[1]}×{shape[2]} take {size / 2**30:.1f} GiB, and the disk of {file.parent} "
            f"has {free / 2**30:.1f} left. Set a smaller benchmark.size, or CLARENA_DATA to another disk."
        )
    out = file.open("wb")
    np.lib.format.write_array_header_1_0(out, {"descr": "|u1", "fortran_order": False, "shape": shape})
    return out


def resized(x: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Images [n, height, width] (grey) or [n, height, width, 3], brought to one height and width."""
    if x.shape[1:3] == (size, size):
        return x
    out = np.empty((len(x), size, size, *x.shape[3:]), np.uint8)
    for row, image in enumerate(x):
        out[row] = np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.BILINEAR))
    return out


def _opened(images: Labelled, row: int) -> tuple[Image.Image, int]:
    try:
        return images[row]
    except DataError:
        raise
    except Exception as error:  # what is damaged breaks zip, Pillow and its codecs in any way
        raise DataError(f"Image {row} of {len(images)} cannot be decoded: {error}.") from error
