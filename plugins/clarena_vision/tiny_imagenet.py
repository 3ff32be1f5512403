"""Tiny ImageNet: 200 classes of ImageNet, 500 + 50 images of each, 64×64, in colour (Stanford, course CS231n, 2015).

The published test images have no labels, so the validation set is what is tested on.
"""

import zipfile
from functools import cache, partial
from pathlib import Path, PurePosixPath
from typing import Annotated, Any

from clarena_data.own import warn_of_overlap
from clarena_native.benchmarks.families import Experiences, SplitClasses
from pydantic import Field

from clarena import Data, data_root, fetch

from .decoded import Zipped, cached, write_data
from .pixels import Images

URL = "http://cs231n.stanford.edu/tiny-imagenet-200.zip"
MD5 = "90528d7ca1a48142e341f4ef8d21d0de"
"""As Avalanche and others have it; the authors publish none."""


class SplitTinyImageNet(Images, SplitClasses):
    """Tiny ImageNet, ten experiences of 20 classes; downloads 248 MB once."""

    name = "split-tiny-imagenet"
    statistics = ((0.4802, 0.4481, 0.3975), (0.2770, 0.2691, 0.2821))

    def __init__(
        self,
        *,
        experiences: Experiences = 10,
        size: Annotated[int, Field(ge=8, description="Height and width that images are brought to.")] = 64,
        **options: Any,
    ) -> None:
        super().__init__(experiences=experiences, **options)
        self.size = size

    def data(self) -> Data:
        """Images uint8 [n, size, size, 3], loaded once for each process.

        Raises:
            DataError: when the archive is missing or damaged and cannot be downloaded.
        """
        return load(self.size, data_root())


@cache
def load(size: int, root: Path) -> Data:
    """The images from `root`, which is the data root."""
    data = cached(f"tiny-imagenet-{size}", partial(write, size))
    warn_of_overlap(data, "Tiny ImageNet")
    return data


def write(size: int, folder: Path) -> None:
    """Decode the archive into `folder`, see `store`; classes are in the order of their WordNet ids.

    An image `train/<id>/images/<id>_<n>.JPEG` is of the class it lies in; `val/val_annotations.txt` has a line for each
    image of `val/images`: its name, its class, and a box.
    """
    with zipfile.ZipFile(fetch("tiny-imagenet-200.zip", URL, MD5)) as archive:
        top = PurePosixPath("tiny-imagenet-200")

        def lines(name: str) -> list[list[str]]:
            return [line.split("\t") for line in archive.read(str(top / name)).decode().splitlines()]

        ids = sorted(fields[0] for fields in lines("wnids.txt"))
        label = {wnid: number for number, wnid in enumerate(ids)}
        words = {fields[0]: fields[1] for fields in lines("words.txt")}
        files = [PurePosixPath(name) for name in sorted(archive.namelist()) if name.endswith(".JPEG")]
        train = [(str(file), label[file.parts[2]]) for file in files if file.parts[1] == "train"]
        test = [
            (str(top / "val" / "images" / name), label[wnid]) for name, wnid, *_ in lines("val/val_annotations.txt")
        ]
        names = [words[wnid] for wnid in ids]
        write_data(folder, Zipped(archive, train), Zipped(archive, test), names, "RGB", size)
