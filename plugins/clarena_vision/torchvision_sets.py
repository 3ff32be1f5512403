"""The labelled images that torchvision knows, as benchmarks that deal their classes out.

MNIST and its like, CIFAR and Omniglot are read from their archives. All others are opened by torchvision, decoded once,
and kept as arrays under the data root. Archives are looked for where torchvision looks, in the data root; what is
downloaded goes to a folder of its own there and is used when all of it has been unpacked.
"""

import hashlib
import pickle
import tarfile
import zipfile
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache, partial
from http.client import HTTPException
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self

from clarena_data.own import warn_of_overlap
from clarena_native.benchmarks.families import Experiences, SplitClasses
from clarena_native.benchmarks.mnist import load as read_mnist
from clarena_native.torchvision_cpu import import_torchvision
from pydantic import Field

from clarena import Data, DataError, data_root, family_member, file_stamps, unknown_name

from .cifar import local_file, read_cifar
from .decoded import Chained, Labelled, Mode, Rows, cached, made_once, write_data
from .omniglot import write_omniglot
from .pixels import Images

UNREADABLE = (
    OSError, RuntimeError, ValueError, EOFError, HTTPException, zipfile.BadZipFile, tarfile.TarError, zlib.error,
    pickle.UnpicklingError,
)  # fmt: skip
"""What torchvision raises where a data set is absent, damaged, or not to be had."""

Keywords = dict[str, Any]


@dataclass(frozen=True)
class TorchvisionSet:
    """How torchvision's class of a data set is asked for its parts.

    Attributes:
        train, test: its keywords, for each part that makes up training and test; without test parts a share of each
            class is held out.
        dataset: the name of the class, where it is not that of the source.
        mode: grey or colour.
        downloads: whether torchvision can download it.
    """

    train: tuple[Keywords, ...]
    test: tuple[Keywords, ...] = ()
    dataset: str | None = None
    mode: Mode = "RGB"
    downloads: bool = True


def by_split(*train: str, test: str) -> TorchvisionSet:
    return TorchvisionSet(tuple({"split": split} for split in train), ({"split": test},))


def emnist(split: str) -> TorchvisionSet:
    return TorchvisionSet(({"split": split, "train": True},), ({"split": split, "train": False},), "EMNIST", "L")


IDX = ("MNIST", "FashionMNIST", "KMNIST")
CIFAR = ("CIFAR10", "CIFAR100")
SOURCES = {
    "CLEVRClassification": by_split("train", test="val"),
    "Caltech101": TorchvisionSet(({},)),
    "Caltech256": TorchvisionSet(({},)),
    "Country211": by_split("train", "valid", test="test"),
    "DTD": by_split("train", "val", test="test"),
    "EMNIST": emnist("balanced"),
    "EMNIST-byclass": emnist("byclass"),
    "EMNIST-bymerge": emnist("bymerge"),
    "EMNIST-digits": emnist("digits"),
    "EMNIST-letters": emnist("letters"),
    "EuroSAT": TorchvisionSet(({},)),
    "FER2013": TorchvisionSet(({"split": "train"},), ({"split": "test"},), mode="L", downloads=False),
    "FGVCAircraft": by_split("trainval", test="test"),
    "Flowers102": by_split("train", "val", test="test"),
    "Food101": by_split("train", test="test"),
    "GTSRB": by_split("train", test="test"),
    "INaturalist": TorchvisionSet(({"version": "2021_train"},), ({"version": "2021_valid"},)),
    "ImageNet": TorchvisionSet(({"split": "train"},), ({"split": "val"},), downloads=False),
    "Imagenette": by_split("train", test="val"),
    "OxfordIIITPet": by_split("trainval", test="test"),
    "PCAM": by_split("train", "val", test="test"),
    "Places365": by_split("train-standard", test="val"),
    "QMNIST": TorchvisionSet(({"what": "train"},), ({"what": "test"},), mode="L"),
    "RenderedSST2": by_split("train", "val", test="test"),
    "SEMEION": TorchvisionSet(({},), mode="L"),
    "STL10": by_split("train", test="test"),
    "SUN397": TorchvisionSet(({},)),
    "SVHN": by_split("train", test="test"),
    "StanfordCars": by_split("train", test="test"),
    "USPS": TorchvisionSet(({"train": True},), ({"train": False},), mode="L"),
}
"""What torchvision opens, and what is trained and tested on."""
NAMES = sorted({*IDX, *CIFAR, "Omniglot", *SOURCES}, key=str.lower)


class TorchvisionImages(Images):
    """Labelled images that torchvision knows.

    Attributes:
        dataset: one of `NAMES`.
    """

    dataset: ClassVar[str]

    def __init__(
        self,
        *,
        size: Annotated[
            int | None,
            Field(ge=8, description="Height and width that images are brought to; none asks for images of one size."),
        ] = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.size = size

    def source_files(self) -> Iterable[Path]:
        """The file of one's own that stands for an archive, where there is one."""
        return own_files(self.dataset)

    def data(self) -> Data:
        """Images as uint8, loaded once for each process.

        Raises:
            DataError: when they are missing or damaged and cannot be downloaded, or without torchvision.
        """
        return load(self.dataset, self.size, data_root(), file_stamps(own_files(self.dataset)))


def own_files(name: str) -> list[Path]:
    """The file of one's own that stands for the archive of a data set, whose digest would tell that it is right."""
    local = local_file(getattr(import_torchvision().datasets, name)) if name in CIFAR else None
    return [] if local is None else [local]


@lru_cache(maxsize=4)
def load(name: str, size: int | None, root: Path, stamps: tuple[Any, ...]) -> Data:
    """The data set of that name, images brought to `size` where one is given, kept for as long as it is the same.

    Args:
        root: the data root.
        stamps: of `own_files`.
    """
    if size is None and name in IDX + CIFAR:
        data = read_archive(name)
    else:
        own = "".join(f"-{hashlib.sha256(file.read_bytes()).hexdigest()[:12]}" for file in own_files(name))
        data = cached(f"{name}-{size or 'full'}{own}", partial(write, name, size))
    warn_of_overlap(data, name)
    return data


def read_archive(name: str) -> Data:
    """A data set of `IDX` or `CIFAR`."""
    source = getattr(import_torchvision().datasets, name)
    return read_cifar(source) if name in CIFAR else read_mnist(name, data_root(), tuple(source.classes))


def write(name: str, size: int | None, folder: Path) -> None:
    """Decode a data set into `folder`, see `store`."""
    if name == "Omniglot":
        write_omniglot(import_torchvision().datasets.Omniglot, folder, size)
    elif name in SOURCES:
        source = SOURCES[name]
        train, test = opened(name, source)
        names = getattr(train[0], "classes", None) or getattr(train[0], "categories", None)
        if names is not None:
            names = [", ".join(one) if isinstance(one, tuple) else one for one in names]  # ImageNet: all its synonyms
        write_data(folder, Chained(train), Chained(test) if test else None, names, source.mode, size)
    else:
        data = read_archive(name)
        parts = Rows(data.x_train, data.y_train), Rows(data.x_test, data.y_test)
        write_data(folder, *parts, data.class_names, "L" if name in IDX else "RGB", size)


def opened(name: str, source: TorchvisionSet) -> tuple[list[Labelled], list[Labelled]]:
    """The training and test parts of a data set that torchvision opens, from the data root or downloaded.

    Raises:
        DataError: with what torchvision says, when it is neither there nor to be had.
    """
    kind = getattr(import_torchvision().datasets, source.dataset or name)

    def parts(root: Path, download: bool) -> tuple[list[Labelled], list[Labelled]]:
        more = {"download": download} if source.downloads else {}
        train, test = ([kind(root, **words, **more) for words in part] for part in (source.train, source.test))
        return train, test

    try:
        return parts(data_root(), False)
    except UNREADABLE as error:
        if not source.downloads:
            raise DataError(f"{name} is not in {data_root()}: {error}") from error
        absent = error

    def download(folder: Path) -> None:
        try:
            parts(folder, True)
        except UNREADABLE as error:
            advice = "Run once online, or set CLARENA_DATA to a folder with torchvision's copy of it."
            raise DataError(
                f"{name} is not in {data_root()}: {absent}\nNor to be downloaded: {error}\n{advice}"
            ) from error

    return parts(made_once(f"torchvision/{kind.__name__}", download), False)


class SplitTorchvision(TorchvisionImages, SplitClasses):
    """A set of labelled images that torchvision knows, a few classes at a time; downloads it once.

    Where it has no test set, every fifth image of a class is tested on.
    """

    name = "torchvision:NAME"

    @classmethod
    def of(cls, argument: str) -> type[Self]:
        """The benchmark of one of torchvision's sets of labelled images, by the name of its class.

        Raises:
            UsageError: when torchvision has no such set, or its samples are not images of one class each.
        """
        if argument not in NAMES:
            if isinstance(getattr(import_torchvision().datasets, argument, None), type):
                raise unknown_name("torchvision data set of images with a class each", argument, NAMES)
            raise unknown_name("torchvision data set", argument, NAMES)
        return family_member(cls, argument, dataset=argument)


class SplitCifar10(TorchvisionImages, SplitClasses):
    """CIFAR-10, two classes at a time; downloads 170 MB once."""

    name = "split-cifar10"
    dataset = "CIFAR10"
    statistics = ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))


class SplitCifar100(TorchvisionImages, SplitClasses):
    """CIFAR-100 as 10 experiences of 10 classes; downloads 169 MB once."""

    name = "split-cifar100"
    dataset = "CIFAR100"
    statistics = ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762))

    def __init__(
        self,
        *,
        experiences: Experiences = 10,
        **options: Any,
    ) -> None:
        super().__init__(experiences=experiences, **options)


class SplitCifar100In20(SplitCifar100):
    """CIFAR-100 as 20 experiences of 5 classes; downloads 169 MB once."""

    name = "split-cifar100-20"

    def __init__(
        self,
        *,
        experiences: Experiences = 20,
        **options: Any,
    ) -> None:
        super().__init__(experiences=experiences, **options)
