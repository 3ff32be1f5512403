"""Small NORB: toys of five categories under changing light and from all sides (LeCun, Huang & Bottou, 2004).

24,300 pairs of images to learn from and as many to be tested on, of other toys: five toys of each category under 6
lightings, from 9 elevations and 18 azimuths; 96×96, grey, one image from each of two cameras.

The files are gzipped matrices: a magic number that names the type, the number of axes, at least three sizes (all int32,
little-endian), and the values.
"""

import gzip
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from clarena_data.own import warn_of_overlap
from clarena_native.benchmarks.families import Order, SplitClasses
from numpy.typing import NDArray
from pydantic import Field

from clarena import Data, Scenario, Stream, data_root, fetch, split_by_domain

from .decoded import cached, resized, write_arrays
from .pixels import Images

URL = "https://cs.nyu.edu/~ylclab/data/norb-v1.0-small"
PARTS = {"train": "smallnorb-5x46789x9x18x6x2x96x96-training", "test": "smallnorb-5x01235x9x18x6x2x96x96-testing"}
SHA256 = {
    ("train", "dat"): "5ffd6272a07d32695ee1082a26a41a93a37aab8c28da047f8c34ed348d214873",
    ("train", "cat"): "2784e542c1922060691090952b6cd6278879a216c90f81476f0f00256d42cdaa",
    ("train", "info"): "de7eb932ebe7a4ee16217fead60660d0eb3d23632c2f4d1c51f88c501c17bf32",
    ("test", "dat"): "cf7104eed3e51174d2f65b66d1e5878b9da233b886f161b0d88f4510ba2c7474",
    ("test", "cat"): "ecaf6d5bb8c3bc5eab9cf0258f6d2198dd474e016e374836fc097f2e5ff509ff",
    ("test", "info"): "16adf314226327ee006d1a44db8cfef52773c06c829951d5653a9f6f310248a2",
}
"""As the checksums of TensorFlow Datasets have them; the authors publish none."""

TYPES = {0x1E3D4C55: "<u1", 0x1E3D4C54: "<i4"}
CATEGORIES = ("animal", "human", "airplane", "truck", "car")
Factor = Literal["lighting", "azimuth"]
FACTORS = {"lighting": (3, 1), "azimuth": (2, 2)}
"""The column of the info file, and the step of its values: azimuths are 0, 2, … 34, in tens of degrees."""


class Norb(Images):
    """Small NORB, at the size and from the cameras that are asked for."""

    def __init__(
        self,
        *,
        size: Annotated[int, Field(ge=8, le=96, description="Height and width that images are brought to.")] = 32,
        cameras: Annotated[
            Literal["first", "both"], Field(description="The images of one camera, or of both as two channels.")
        ] = "first",
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.size = size
        self.cameras = cameras

    def data(self) -> Data:
        """Images uint8 [n, size, size], or [n, 2, size, size] of both cameras, loaded once for each process.

        Raises:
            DataError: when archives are missing or damaged and cannot be downloaded.
        """
        data = load(self.size, data_root())
        if self.cameras == "both":
            return data
        return replace(data, x_train=data.x_train[:, 0], x_test=data.x_test[:, 0])


@cache
def load(size: int, root: Path) -> Data:
    """Both cameras' images from `root`, which is the data root: uint8 [n, 2, size, size]."""
    data = cached(f"small-norb-{size}", partial(write, size))
    warn_of_overlap(data, "small NORB")
    return data


def write(size: int, folder: Path) -> None:
    """Bring the images to size and put them into `folder`, see `store`."""
    for part in PARTS:
        x, y = matrix(part, "dat"), matrix(part, "cat")
        x = resized(x.reshape(-1, *x.shape[2:]), size).reshape(*x.shape[:2], size, size)
        write_arrays(folder, **{f"x_{part}": x, f"y_{part}": y.astype(np.int64)})
    write_arrays(folder, class_names=CATEGORIES)


def matrix(part: str, kind: str) -> NDArray[Any]:
    """The matrix of a part: images (`dat`) [n, 2, 96, 96], categories (`cat`) [n], or factors (`info`) [n, 4].

    Raises:
        DataError: when its archive is damaged, or absent and not to be had.
    """
    name = f"{PARTS[part]}-{kind}.mat.gz"
    content = gzip.decompress(fetch(f"small-norb/{name}", f"{URL}/{name}", SHA256[part, kind]).read_bytes())
    magic, axes = np.frombuffer(content, "<i4", 2)
    sizes = np.frombuffer(content, "<i4", axes, offset=8)
    return np.frombuffer(content, TYPES[int(magic)], offset=8 + 4 * max(3, int(axes))).reshape(sizes)


class SmallNorb(Norb):
    """Small NORB: toys of five categories, one lighting after another, or one azimuth; downloads 263 MB once."""

    name = "small-norb"
    scenarios: ClassVar[tuple[Scenario, ...]] = ("domain", "task", "class")

    def __init__(
        self,
        *,
        by: Annotated[
            Factor, Field(description="What each experience has one of: 6 lightings, or 18 azimuths.")
        ] = "lighting",
        order: Annotated[
            Order, Field(description="Shuffle the experiences by the seed, or keep their natural order.")
        ] = "seed",
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.by = by
        self.order = order

    def data(self) -> Data:
        """Images whose domain is their lighting or azimuth."""
        column, step = FACTORS[self.by]
        train, test = (torch.from_numpy(matrix(part, "info")[:, column] // step).long() for part in PARTS)
        values = range(int(train.max()) + 1)
        names = tuple(f"lighting {value}" if self.by == "lighting" else f"{20 * value}°" for value in values)
        return replace(super().data(), domain_train=train, domain_test=test, domain_names=names)

    def stream(self, data: Data, scenario: Scenario, generator: np.random.Generator) -> Stream:
        """Each lighting or azimuth is an experience, tested on other toys under the same."""
        return split_by_domain(data, scenario, self.order, generator)


class SplitSmallNorb(Norb, SplitClasses):
    """Small NORB, one category of toys at a time; downloads 263 MB once."""

    name = "split-small-norb"
