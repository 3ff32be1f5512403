"""Benchmarks of MNIST and Fashion-MNIST, from the archives as published.

Torchvision knows the mirrors and the MD5 of every archive, and downloads what is missing. Only archives
whose MD5 is right are ever read, and they are read directly: nothing is unpacked, and a full folder may be
read-only.
"""

import gzip
from dataclasses import replace
from functools import cache
from http.client import HTTPException
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from filelock import FileLock
from pydantic import Field
from torch import Tensor

from clarena import Benchmark, Data, DataError, data_root

from ..torchvision_cpu import import_torchvision
from .families import PermutedInputs, RotatedImages, SplitClasses


class Mnist(Benchmark):
    """MNIST: 60,000 + 10,000 handwritten digits, 28×28, grey (LeCun et al., 1998).

    Attributes:
        dataset: what torchvision calls the source, and the folder under the data root that holds it.
        class_names: a name for each class.
        statistics: mean and standard deviation of all training pixels, as fractions of white.
    """

    pictures = 255
    dataset: ClassVar[str] = "MNIST"
    class_names: ClassVar[tuple[str, ...]] = tuple("0123456789")
    statistics: ClassVar[tuple[float, float]] = (0.1307, 0.3081)

    def __init__(
        self,
        *,
        pad: Annotated[int, Field(ge=0, description="Black pixels added on every side of an image.")] = 0,
        mean: Annotated[
            float | None, Field(description="Subtracted from pixels in 0 … 1; none takes that of the training set.")
        ] = None,
        std: Annotated[
            float | None, Field(gt=0, description="What they are divided by; none takes that of the training set.")
        ] = None,
        train_samples: Annotated[
            int | None, Field(ge=1, description="Use only the first so many training images; none uses all.")
        ] = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.pad = pad
        self.mean = mean
        self.std = std
        self.train_samples = train_samples

    def data(self) -> Data:
        """Images uint8 [n, 1, 28, 28] and the published test set, loaded once for each process.

        Raises:
            DataError: when archives are missing or damaged and cannot be downloaded, or without torchvision.
        """
        data = load(self.dataset, data_root(), self.class_names)
        if self.train_samples is None:
            return data
        kept = slice(self.train_samples)
        return replace(data, x_train=data.x_train[kept], y_train=data.y_train[kept])

    def inputs(self, x: Tensor) -> Tensor:
        """Padded pixels, normalised to mean 0 and standard deviation 1 over the training set, or as the options say."""
        mean, std = self.statistics
        mean, std = (mean if self.mean is None else self.mean), (std if self.std is None else self.std)
        return (F.pad(x.float() / 255, [self.pad] * 4) - mean) / std


class FashionMnist(Mnist):
    """Fashion-MNIST: 60,000 + 10,000 articles of clothing, 28×28, grey (Xiao et al., 2017)."""

    dataset = "FashionMNIST"
    class_names = (
        *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
        *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
    )
    statistics = (0.2860, 0.3530)


@cache
def load(dataset: str, root: Path, class_names: tuple[str, ...]) -> Data:
    """Read a data set in MNIST's layout from `root`, after completing it from the network where need be."""
    source = getattr(import_torchvision().datasets, dataset)
    folder = root / dataset / "raw"
    complete(source, folder)
    x_train, y_train, x_test, y_test = (read_idx(folder / name) for name, _ in source.resources)
    return Data(x_train.unsqueeze(1), y_train.long(), x_test.unsqueeze(1), y_test.long(), class_names)


def complete(source: Any, folder: Path) -> None:
    """Make sure that `folder` holds every archive of a torchvision data set, MD5-checked.

    Processes that start together wait for one another here, so that each archive is downloaded once.

    Raises:
        DataError: naming the first archive that is neither intact nor to be had.
    """
    from torchvision.datasets.utils import check_integrity

    if all(check_integrity(folder / name, md5) for name, md5 in source.resources):
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / ".lock"):
            for name, md5 in source.resources:
                download(source, folder, name, md5)
    except OSError as error:
        raise DataError(
            f"{source.__name__} is not complete in {folder}, and nothing can be written there: {error}.\n"
            "Set CLARENA_DATA to a folder you can write to."
        ) from error


def download(source: Any, folder: Path, name: str, md5: str) -> None:
    """Download one archive from the first mirror that has it; does nothing where it is intact already."""
    from torchvision.datasets.utils import download_url

    state = "damaged (its MD5 is wrong)" if (folder / name).exists() else "missing"
    attempts = []
    for mirror in source.mirrors:
        try:
            return download_url(mirror + name, folder, name, md5)  # type: ignore[no-any-return]
        except (OSError, RuntimeError, HTTPException) as error:
            attempts.append(f"  {mirror}{name}: {error}")
    archives = ", ".join(name for name, _ in source.resources)
    raise DataError(
        "\n".join(
            (
                f"{folder / name} is {state}, and could not be downloaded:",
                *attempts,
                "Run once online, or set CLARENA_DATA to a folder with these archives under "
                f"{source.__name__}/raw: {archives}.",
                "Without any download: --benchmark split-digits, permuted-digits or rotated-digits.",
            )
        )
    )


def read_idx(archive: Path) -> Tensor:
    """The uint8 array of a gzipped IDX file: type (3 bytes), axes, sizes (big-endian int32), values."""
    content = gzip.decompress(archive.read_bytes())
    axes = content[3]
    shape = np.frombuffer(content, ">i4", count=axes, offset=4)
    values = np.frombuffer(content, np.uint8, offset=4 + 4 * axes)
    return torch.from_numpy(values.reshape(shape).copy())


class SplitMnist(Mnist, SplitClasses):
    """MNIST, a few classes at a time; downloads 12 MB once."""

    name = "split-mnist"


class PermutedMnist(Mnist, PermutedInputs):
    """MNIST under one pixel permutation after another; downloads 12 MB once."""

    name = "permuted-mnist"


class RotatedMnist(Mnist, RotatedImages):
    """MNIST, turned by one angle after another; downloads 12 MB once."""

    name = "rotated-mnist"


class SplitFashionMnist(FashionMnist, SplitClasses):
    """Fashion-MNIST, a few classes at a time; downloads 31 MB once."""

    name = "split-fashion-mnist"


class PermutedFashionMnist(FashionMnist, PermutedInputs):
    """Fashion-MNIST under one pixel permutation after another; downloads 31 MB once."""

    name = "permuted-fashion-mnist"


class RotatedFashionMnist(FashionMnist, RotatedImages):
    """Fashion-MNIST, turned by one angle after another; downloads 31 MB once."""

    name = "rotated-fashion-mnist"
