"""Avalanche's classic benchmarks: its class orders, permutations and angles, over the host's copies of the data.

What Avalanche draws under a seed is drawn here by the same rule (the tests compare), and the data come from the same
files, as arrays: Avalanche, which opens them sample by sample, is not needed. Every seed of the host gives a stream of
its own, unless `avalanche_seed` names one. Inputs are normalised as there; the random crops and flips of CIFAR are left
out.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from clarena_native.benchmarks.families import ClassOrderChoice, Experiences, FirstExperience, Permutation
from clarena_native.benchmarks.mnist import FashionMnist, Mnist
from clarena_vision.torchvision_sets import load, own_files
from pydantic import Field
from torch import Tensor

from clarena import (
    Benchmark,
    Data,
    Scenario,
    Stream,
    UsageError,
    class_order,
    class_sizes,
    data_root,
    file_stamps,
    same_classes,
    split_by_groups,
)

Seed = Annotated[
    int | None,
    Field(ge=0, lt=2**31, description="The seed given to Avalanche, for every seed of the host; none draws one."),
]


def drawn(avalanche_seed: int | None, generator: np.random.Generator) -> int:
    """The seed that Avalanche would be given."""
    return int(generator.integers(2**31)) if avalanche_seed is None else avalanche_seed


class NewClasses(Benchmark):
    """Each experience brings new classes, as many as the others or as are set, in an order drawn by torch or given."""

    scenarios: ClassVar[tuple[Scenario, ...]] = ("class", "task", "domain")
    added = frozenset({"first_experience", "class_order"})

    def __init__(
        self,
        *,
        experiences: Experiences = 5,
        first_experience: FirstExperience = None,
        class_order: ClassOrderChoice = "seed",
        avalanche_seed: Seed = None,
    ) -> None:
        self.experiences = experiences
        self.first_experience = first_experience
        self.class_order = class_order
        self.avalanche_seed = avalanche_seed

    def stream(self, data: Data, scenario: Scenario, generator: np.random.Generator) -> Stream:
        """The classes in the order of `torch.randperm` under the seed, or in the one that is set."""
        sizes = class_sizes(data.classes, self.experiences, self.first_experience)
        if isinstance(self.experiences, int) and self.first_experience is None and sizes[0] != sizes[-1]:
            raise UsageError(
                f"{self.name} gives every experience as many classes: {data.classes} cannot be shared by "
                f"{self.experiences}. Choose a divisor, --set benchmark.experiences=N, or give the size of each: "
                f"--set benchmark.experiences={','.join(map(str, sizes))}."
            )
        if self.class_order == "seed":
            chance = torch.Generator().manual_seed(drawn(self.avalanche_seed, generator))
            order = torch.randperm(data.classes, generator=chance).numpy()
        elif self.avalanche_seed is None:
            order = class_order(data.class_names, self.class_order, generator)
        else:
            raise UsageError(
                "benchmark.avalanche_seed draws the order of classes, and benchmark.class_order gives it. "
                "Set one of them."
            )
        return split_by_groups(data, scenario, np.split(order, np.cumsum(sizes)[:-1]))


class NewInstances(Benchmark):
    """Each experience has all classes, seen through a transform that numpy draws; the first one's, too."""

    scenarios: ClassVar[tuple[Scenario, ...]] = ("domain", "task", "class")

    def __init__(
        self,
        *,
        experiences: Annotated[int, Field(ge=1, description="How many experiences, each with its transform.")] = 5,
        avalanche_seed: Seed = None,
    ) -> None:
        self.experiences = experiences
        self.avalanche_seed = avalanche_seed

    def stream(self, data: Data, scenario: Scenario, generator: np.random.Generator) -> Stream:
        """The whole data once for each experience."""
        chance = np.random.RandomState(drawn(self.avalanche_seed, generator))
        return same_classes(data, scenario, [self.transform(data, chance) for _ in range(self.experiences)])

    def transform(self, data: Data, chance: np.random.RandomState) -> Any:
        """The transform of the next experience."""
        raise NotImplementedError


class SplitMnist(Mnist, NewClasses):
    """Avalanche's SplitMNIST: two new digits an experience; downloads 12 MB once."""

    name = "avalanche/split-mnist"


class SplitFmnist(FashionMnist, NewClasses):
    """Avalanche's SplitFMNIST: two new articles of clothing an experience; downloads 31 MB once."""

    name = "avalanche/split-fmnist"


class PermutedMnist(Mnist, NewInstances):
    """Avalanche's PermutedMNIST: a pixel permutation for every experience, the first included; downloads 12 MB once."""

    name = "avalanche/permuted-mnist"

    def transform(self, data: Data, chance: np.random.RandomState) -> Permutation:
        """All pixels in an order of numpy's."""
        pixels = self.inputs(data.x_train[:1]).numel()
        return Permutation(torch.from_numpy(chance.permutation(pixels)))


@dataclass(frozen=True)
class Turn:
    """Turns images [batch, channels, height, width] anti-clockwise, by the nearest pixel.

    Attributes:
        degrees: the angle.
        background: the model input that fills the corners.
    """

    degrees: int
    background: float

    def __call__(self, x: Tensor) -> Tensor:
        """The turned images, of the same size."""
        from torchvision.transforms.functional import rotate

        return rotate(x, self.degrees, fill=[self.background])  # type: ignore[no-any-return]


class RotatedMnist(Mnist, NewInstances):
    """Avalanche's RotatedMNIST: an angle between −180 and 180 degrees for every experience; downloads 12 MB once."""

    name = "avalanche/rotated-mnist"

    def transform(self, data: Data, chance: np.random.RandomState) -> Turn:
        """A whole number of degrees."""
        black = float(self.inputs(torch.zeros_like(data.x_train[:1])).flatten()[0])
        return Turn(int(chance.randint(-180, 181)), black)


class Cifar(NewClasses):
    """Colour images of 32×32, normalised as Avalanche does.

    Attributes:
        dataset: what torchvision calls the source.
        statistics: mean and standard deviation of each channel.
    """

    pictures = 255
    dataset: ClassVar[str]
    statistics: ClassVar[tuple[tuple[float, ...], tuple[float, ...]]]

    def source_files(self) -> Iterable[Path]:
        """The file of one's own that stands for the archive, where there is one."""
        return own_files(self.dataset)

    def data(self) -> Data:
        """Images uint8 [n, 3, 32, 32], loaded once for each process.

        Raises:
            DataError: when the archive is missing or damaged and cannot be downloaded.
        """
        return load(self.dataset, None, data_root(), file_stamps(self.source_files()))

    def inputs(self, x: Tensor) -> Tensor:
        """Normalised pixels."""
        mean, std = (torch.tensor(values, device=x.device).view(-1, 1, 1) for values in self.statistics)
        return (x.float() / 255 - mean) / std


class SplitCifar10(Cifar):
    """Avalanche's SplitCIFAR10: two new classes an experience; downloads 170 MB once."""

    name = "avalanche/split-cifar10"
    dataset = "CIFAR10"
    statistics = ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))


class SplitCifar100(Cifar):
    """Avalanche's SplitCIFAR100: twenty new classes an experience, or as are set; downloads 169 MB once."""

    name = "avalanche/split-cifar100"
    dataset = "CIFAR100"
    statistics = ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762))
