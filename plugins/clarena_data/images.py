"""Folders of images: one folder for each class, within `train` and `test` or with a share held out for testing."""

from pathlib import Path

import torch

from clarena import IMAGES, Data, DataError, Pictures, held_out_rows, is_picture, readable_name


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
    form = Pictures.of(paths[0] + paths[1], None if size is None else (size, size))
    arrays = [form.decoded(part, white) for part in paths]
    return Data(
        torch.from_numpy(arrays[0]),
        torch.tensor(labels[0]),
        torch.from_numpy(arrays[1]),
        torch.tensor(labels[1]),
        tuple(map(readable_name, names)),
        notes=form.notes(path.name, white),
    )


def classes(folder: Path) -> dict[str, list[Path]]:
    """The images in each folder of `folder`, both in the order of names."""
    found = {
        child.name: sorted(filter(is_picture, child.iterdir()))
        for child in sorted(folder.iterdir())
        if child.is_dir() and not child.name.startswith(".")
    }
    if len(found) < 2:
        held = f"one, {next(iter(found))!r}" if found else "none"
        raise DataError(f"{folder} must hold a folder of images for each class, two or more; it holds {held}.")
    for name, files in found.items():
        if not files:
            raise DataError(f"{folder / name} holds no image ({', '.join(sorted(IMAGES))}).")
    return found
