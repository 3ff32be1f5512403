"""Folders of images: one folder for each class, within `train` and `test` or with a share held out for testing."""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from clarena import Data, DataError

SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"}


def read_images(path: Path, size: int | None, test_share: float) -> Data:
    """Decode a folder of images into two arrays, uint8 [n, height, width, channels]; no other copy is kept.

    Args:
        path: holds a folder for each class, or `train` and `test` that do.
        size: height and width that every image is brought to; None asks for images of one size.
        test_share: where there is no `test`, the share of each class held out: every k-th in the order of names.

    Raises:
        DataError: for fewer than two classes, a class without images, images that cannot be decoded, or sizes that
            differ where no size is given.
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
                raise DataError(f"{path / name} has {len(files)} images: too few to hold out a share for testing.")
    names = tuple(train)
    paths = [[file for name in names for file in part.get(name, [])] for part in (train, test)]
    labels = [[label for label, name in enumerate(names) for _ in part.get(name, [])] for part in (train, test)]
    height, width, channels = _form(paths[0] + paths[1], size)
    arrays = [_decode(part, height, width, channels) for part in paths]
    return Data(
        torch.from_numpy(arrays[0]),
        torch.tensor(labels[0]),
        torch.from_numpy(arrays[1]),
        torch.tensor(labels[1]),
        names,
    )


def classes(folder: Path) -> dict[str, list[Path]]:
    """The images in each folder of `folder`, both in the order of names."""
    found = {
        child.name: sorted(file for file in child.iterdir() if file.suffix.lower() in SUFFIXES)
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


def held_out_rows(count: int, share: float) -> NDArray[np.bool_]:
    """Which of `count` samples are held out for testing: about `share` of them, evenly spaced, the same every time."""
    reached = np.floor(np.arange(1, count + 1) * share + 0.5)
    held_out: NDArray[np.bool_] = np.diff(reached, prepend=0.0) > 0
    return held_out


def _form(files: list[Path], size: int | None) -> tuple[int, int, int]:
    """Height, width and channels that fit all images; only their headers are read."""
    from PIL import Image, UnidentifiedImageError

    sizes: dict[tuple[int, int], Path] = {}
    channels = 1
    for file in files:
        try:
            with Image.open(file) as image:
                sizes.setdefault(image.size, file)
                if image.mode not in ("1", "L", "I;16", "I", "F", "LA"):
                    channels = 3
        except (OSError, UnidentifiedImageError) as error:
            raise DataError(f"The image {file} cannot be read: {error}. Mend or remove it.") from error
    if size is not None:
        return size, size, channels
    if len(sizes) > 1:
        (first, a), (second, b) = list(sizes.items())[:2]
        raise DataError(
            f"Images differ in size: {a} is {first[0]}×{first[1]}, {b} is {second[0]}×{second[1]}. "
            "Bring them to one size: --set benchmark.size=32."
        )
    width, height = next(iter(sizes))
    return height, width, channels


def _decode(files: list[Path], height: int, width: int, channels: int) -> NDArray[np.uint8]:
    from PIL import Image

    images = np.empty((len(files), height, width, channels), dtype=np.uint8)
    for row, file in enumerate(files):
        try:
            with Image.open(file) as opened:
                image: Image.Image = opened
                if image.mode in ("I;16", "I", "F"):  # 16 bits or more: Pillow would clip, not scale
                    values = np.asarray(image, dtype=np.float64)
                    image = Image.fromarray((values * (255 / max(values.max(), 1))).astype(np.uint8))
                decoded = image.convert("RGB" if channels == 3 else "L")
        except OSError as error:
            raise DataError(f"The image {file} cannot be decoded: {error}. Mend or remove it.") from error
        if decoded.size != (width, height):
            decoded = decoded.resize((width, height), Image.Resampling.BILINEAR)
        images[row] = np.asarray(decoded).reshape(height, width, channels)
    return images
