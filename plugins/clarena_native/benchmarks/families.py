"""Three ways to make a stream of labelled images: split the classes, permute the pixels, rotate the images.

A benchmark is a source (`data` and `inputs`) combined with one of these families (the options and `stream`).
"""

import math
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import grid_sample

from clarena import (
    Benchmark,
    ClassOrder,
    ClassSizes,
    Data,
    Scenario,
    Stream,
    same_classes,
    split_by_class,
)

Order = Literal["seed", "natural"]
ClassOrderChoice = Annotated[
    ClassOrder,
    Field(
        description="Shuffle the classes by the seed, keep their natural order, or take an order for every seed: a "
        "published one by its name, or the classes one by one, by number from 0 or by name.",
    ),
]
Experiences = Annotated[
    ClassSizes, Field(description="How many experiences share the classes, or how many classes each has: 50,25,25.")
]
FirstExperience = Annotated[
    int | None,
    Field(ge=1, description="Classes of the first experience; the others share the rest equally. None: no difference."),
]


class SplitClasses(Benchmark):
    """Each experience brings classes of its own (Split MNIST: Zenke et al., 2017)."""

    scenarios: ClassVar[tuple[Scenario, ...]] = ("class", "task", "domain")
    added = frozenset({"first_experience"})

    def __init__(
        self,
        *,
        experiences: Experiences = 5,
        first_experience: FirstExperience = None,
        class_order: ClassOrderChoice = "seed",
    ) -> None:
        self.experiences = experiences
        self.first_experience = first_experience
        self.class_order = class_order

    def stream(self, data: Data, scenario: Scenario, generator: np.random.Generator) -> Stream:
        """The classes in their order, dealt out as evenly as they go or as the options say."""
        return split_by_class(
            data, scenario, self.experiences, self.class_order, generator, first=self.first_experience
        )


class PermutedInputs(Benchmark):
    """Every experience has all classes and permutes the inputs in its own way (Goodfellow et al., 2014).

    The first sees the images as they are. A longer stream of the same seed begins with the shorter one.
    """

    scenarios: ClassVar[tuple[Scenario, ...]] = ("domain", "task", "class")

    def __init__(
        self,
        *,
        experiences: Annotated[
            int, Field(ge=1, description="How many experiences; the first is left unpermuted.")
        ] = 10,
    ) -> None:
        self.experiences = experiences

    def stream(self, data: Data, scenario: Scenario, generator: np.random.Generator) -> Stream:
        """The whole data once for each experience, through permutations drawn from `generator`."""
        values = self.inputs(data.x_train[:1]).numel()
        permutations = [
            Permutation(torch.from_numpy(generator.permutation(values))) for _ in range(self.experiences - 1)
        ]
        return same_classes(data, scenario, [None, *permutations])


class RotatedImages(Benchmark):
    """Every experience has all classes and turns the images by its own angle (Lopez-Paz & Ranzato, 2017).

    The angles divide [0, max_angle) evenly, 0 included; theirs are drawn within such intervals.
    """

    scenarios: ClassVar[tuple[Scenario, ...]] = ("domain", "task")

    def __init__(
        self,
        *,
        experiences: Annotated[int, Field(ge=1, description="How many experiences, one for each angle.")] = 10,
        max_angle: Annotated[
            float, Field(gt=0, le=360, description="Degrees that the angles divide evenly; itself left out.")
        ] = 180.0,
        order: Annotated[Order, Field(description="Shuffle the angles by the seed, or let them rise from 0.")] = "seed",
    ) -> None:
        self.experiences = experiences
        self.max_angle = max_angle
        self.order = order

    def stream(self, data: Data, scenario: Scenario, generator: np.random.Generator) -> Stream:
        """The whole data once for each experience, turned anti-clockwise on the source's black background."""
        angles = np.arange(self.experiences) * self.max_angle / self.experiences
        if self.order == "seed":
            angles = generator.permutation(angles)
        blank = self.inputs(torch.zeros_like(data.x_train[:1]))  # [1, channels, height, width]
        height, width = blank.shape[-2:]
        black = float(blank[0, 0, 0, 0])
        rotations = [Rotation(rotation_grid(angle, height, width), black) if angle else None for angle in angles]
        return same_classes(data, scenario, rotations)


@dataclass(frozen=True, eq=False)
class Permutation:
    """Reorders the values of every input [batch, …] alike: value i of the result was value `index[i]`."""

    index: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        """The permuted inputs, shaped as they were."""
        return x.flatten(1).index_select(1, self.index.to(x.device, non_blocking=True)).view_as(x)


@dataclass(frozen=True, eq=False)
class Rotation:
    """Resamples images [batch, channels, height, width] bilinearly at the points of `grid`.

    Attributes:
        grid: where each pixel of the result lies in the image, [height, width, 2], see `rotation_grid`.
        background: the model input that fills the corners.
    """

    grid: Tensor
    background: float

    def __call__(self, x: Tensor) -> Tensor:
        """The turned images, of the same size."""
        grid = self.grid.to(x.device, x.dtype, non_blocking=True).expand(len(x), -1, -1, -1)
        # grid_sample fills with 0, so 0 must be the background while it works.
        return grid_sample(x - self.background, grid, align_corners=False) + self.background


def rotation_grid(degrees: float, height: int, width: int) -> Tensor:
    """Where each pixel of an image turned anti-clockwise about its centre comes from, [height, width, 2].

    In the coordinates of `grid_sample` (x, then y; −1 and 1 are the outer edges), computed on the CPU in
    double precision, so that every device samples at the same points.
    """
    sine, cosine = math.sin(math.radians(degrees)), math.cos(math.radians(degrees))
    y = torch.arange(height, dtype=torch.float64)[:, None] - (height - 1) / 2
    x = torch.arange(width, dtype=torch.float64) - (width - 1) / 2
    return torch.stack([(cosine * x - sine * y) * 2 / width, (sine * x + cosine * y) * 2 / height], dim=-1).float()
