"""CIFAR-10 and CIFAR-100, straight from the archives as published: nothing is unpacked, and nothing held twice."""

import io
import pickle
import tarfile
from pathlib import Path, PurePosixPath
from typing import IO, Any

import numpy as np
import torch
from clarena_data.arrays import read_arrays
from torch import Tensor

from clarena import Data, DataError, data_root, fetch

NO_PICKLE = (".html", ".txt~")
STEP = 1 << 20
"""Bytes taken out of an archive at a time."""


class Steps(io.RawIOBase):
    """A member of an archive, read in steps: `tarfile` by itself holds what is asked for several times over.

    Args:
        file: what `tarfile` gives.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill the beginning of `buffer`."""
        step = self.file.read(min(len(buffer), STEP))
        buffer[: len(step)] = step
        return len(step)


def read_cifar(source: Any) -> Data:
    """A CIFAR of torchvision's, uint8 [n, 3, 32, 32], from its archive, whose MD5 torchvision knows.

    Where the archive is not there, but `cifar10.npz` or `cifar100.npz` in the data root is, that is taken: arrays
    `x_train`, `y_train`, `x_test`, `y_test`.

    Args:
        source: torchvision's class.

    Raises:
        DataError: when the archive is damaged, or absent and not to be had.
    """
    local = local_file(source)
    if local is not None:
        return read_local(local, source.__name__)
    contents = unpickled(fetch(source.filename, source.url, source.tgz_md5))
    x_train, y_train, x_test, y_test = (
        tensor for files in (source.train_list, source.test_list) for tensor in joined([contents[f] for f, _ in files])
    )
    names = contents[source.meta["filename"]][source.meta["key"].encode()]
    return Data(x_train, y_train, x_test, y_test, tuple(name.decode() for name in names))


def local_file(source: Any) -> Path | None:
    """The `.npz` that stands for the archive, where it does."""
    local = data_root() / f"{source.__name__.lower()}.npz"
    return local if local.exists() and not (data_root() / source.filename).exists() else None


def unpickled(archive: Path) -> dict[str, dict[bytes, Any]]:
    """What the pickles in an archive hold, by their names; its digest must have been checked.

    Python's own unpickler hands an array the very bytes that it read, where the one in C copies them.
    """
    contents = {}
    with tarfile.open(archive, "r|gz") as tar:
        for member in tar:
            file = tar.extractfile(member)
            name = PurePosixPath(member.name).name
            if file is not None and not name.endswith(NO_PICKLE):
                contents[name] = pickle._Unpickler(io.BufferedReader(Steps(file)), encoding="bytes").load()
    return contents


def joined(batches: list[dict[bytes, Any]]) -> tuple[Tensor, Tensor]:
    """Images and labels of several batches, each with rows of 3,072 bytes: red, then green, then blue."""
    pixels = [batch[b"data"] for batch in batches]
    x = pixels[0] if len(pixels) == 1 else np.concatenate(pixels)
    labels = [label for batch in batches for label in batch[b"fine_labels" if b"fine_labels" in batch else b"labels"]]
    return torch.from_numpy(x.reshape(-1, 3, 32, 32)), torch.tensor(labels)


def read_local(path: Path, name: str) -> Data:
    """CIFAR as one `.npz`; raises `DataError` where it holds something else."""
    data = read_arrays(path)
    classes = int(name.removeprefix("CIFAR"))
    if sorted(data.x_train.shape[1:]) != [3, 32, 32] or data.x_train.dtype != torch.uint8 or data.classes != classes:
        raise DataError(
            f"{path} is not {name}: it holds {data.classes} classes of {data.x_train.dtype} "
            f"{tuple(data.x_train.shape[1:])}. Move it away, or use it as --benchmark split:{path}."
        )
    return data
