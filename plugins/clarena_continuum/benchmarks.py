"""Continuum's scenarios over arrays: the sets of samples and the transforms are Continuum's, drawn once for a stream.

Continuum is given the positions of the samples in place of the samples, so its task sets name the rows of the source;
its transforms are applied to whole batches of model inputs. Task labels are the host's: a strategy sees them in the
task scenario alone.
"""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Annotated, Any, ClassVar, Literal, Self, TypeVar

import numpy as np
import torch
from clarena_data.own import Own, made_for
from clarena_native.benchmarks.digits import Digits
from clarena_native.benchmarks.families import ClassOrderChoice, Order, Permutation
from clarena_native.benchmarks.families import Experiences as SplitExperiences
from clarena_native.torchvision_cpu import import_torchvision
from pydantic import Field
from torch import Tensor, nn

from clarena import Data, Scenario, Split, Stream, UsageError, class_order, class_sizes, family_member

if find_spec("continuum") is None:  # the host then says how to install it; importing it takes seconds and waits
    raise ModuleNotFoundError("No module named 'continuum'", name="continuum")

DIGITS = "digits"
"""What stands for scikit-learn's digits in place of a path."""

Experiences = Annotated[int, Field(ge=1, description="How many experiences.")]
_Family = TypeVar("_Family", bound="Continuum")


class Continuum(Own):
    """PATH is a folder of images, an `.npz` or a table of text, as in `split:PATH`; or `digits`, with no file."""

    @classmethod
    def of(cls, argument: str) -> type[Self]:
        """The benchmark of a path, or of scikit-learn's digits."""
        return family_member(cls, DIGITS, Digits) if argument == DIGITS else made_for(cls, (argument,))


class ClassIncremental(Continuum):
    """Continuum's ClassIncremental: new classes in each experience, the first of which may have more."""

    name = "continuum/class-incremental:PATH"
    scenarios: ClassVar[tuple[Scenario, ...]] = ("class", "task")

    def __init__(
        self,
        *,
        experiences: SplitExperiences = 5,
        first: Annotated[
            int | None,
            Field(
                ge=1, description="Classes of the first experience; the others share the rest. None shares all equally."
            ),
        ] = None,
        class_order: ClassOrderChoice = "seed",
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.experiences = experiences
        self.first = first
        self.class_order = class_order

    def stream(self, data: Data, scenario: Scenario, generator: np.random.Generator) -> Stream:
        """The classes in their order, the same number in every experience (but perhaps the first)."""
        sizes = class_sizes(data.classes, self.experiences, self.first)
        if isinstance(self.experiences, int) and self.first is None and sizes[0] != sizes[-1]:
            raise UsageError(
                f"Continuum gives every experience as many classes: {data.classes} cannot be shared by "
                f"{self.experiences}. Change --set benchmark.experiences=N, or give the size of each: "
                f"--set benchmark.experiences={','.join(map(str, sizes))}."
            )
        order = class_order(data.class_names, self.class_order, generator)
        made = scenarios().ClassIncremental(dataset(everything(data)), increment=sizes, class_order=order)
        return divided(data, tasks(made), [data.class_names[source] for source in order])


class InstanceIncremental(Continuum):
    """Continuum's InstanceIncremental: the same classes in each experience, other samples.

    Every class is divided evenly, in the order of the samples; what is left over goes to the first experience. The
    test samples are divided in the same way.
    """

    name = "continuum/instance-incremental:PATH"
    scenarios: ClassVar[tuple[Scenario, ...]] = ("domain",)

    def __init__(
        self,
        *,
        experiences: Experiences = 5,
        order: Annotated[
            Order, Field(description="Shuffle the samples by the seed before they are divided, or keep their order.")
        ] = "seed",
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.experiences = experiences
        self.order = order

    def stream(self, data: Data, scenario: Scenario, generator: np.random.Generator) -> Stream:
        """A share of the samples of each class for every experience."""
        parts = []
        for part, y in (("training", data.y_train), ("test", data.y_test)):
            for label, count in enumerate(y.bincount().tolist()):
                if 0 < count < self.experiences:
                    raise UsageError(
                        f"The class {data.class_names[label]} has {count} {part} samples, too few for "
                        f"{self.experiences} experiences. Choose fewer: --set benchmark.experiences=N."
                    )
            rows = np.arange(len(y)) if self.order == "natural" else generator.permutation(len(y))
            source = dataset(y.numpy()[rows], rows)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # it warns of missing classes where each has just enough samples
                made = scenarios().InstanceIncremental(source, nb_tasks=self.experiences)
            parts.append(tasks(made))
        splits = tuple(Split(*train, *test) for train, test in zip(*parts))
        return Stream(splits, data.class_names)


class Transformed(Continuum):
    """The same samples in each experience, seen through another transform."""

    scenarios: ClassVar[tuple[Scenario, ...]] = ("domain", "task", "class")

    def stream(self, data: Data, scenario: Scenario, generator: np.random.Generator) -> Stream:
        """The whole data once for each experience; in the class and task scenarios, with labels of its own."""
        made, transforms = self.transformed(data, dataset(everything(data)), scenario == "domain", generator)
        names = list(data.class_names)
        if scenario != "domain":
            names = [f"{name} ({number + 1})" for number in range(len(transforms)) for name in names]
        return divided(data, tasks(made), names, transforms)

    def transformed(
        self, data: Data, source: Any, shared: bool, generator: np.random.Generator
    ) -> tuple[Any, list[Callable[[Tensor], Tensor] | None]]:
        """Continuum's scenario over `source`, its labels shared or not, and the transform of each experience."""
        raise NotImplementedError

    def black(self, data: Data) -> float:
        """The model input that a pixel of 0 becomes; raises `UsageError` where there are no images."""
        blank = self.inputs(torch.zeros_like(data.x_train[:1]))
        if blank.ndim != 4:
            raise UsageError(f"{self.name} needs images; its inputs have the shape {tuple(blank.shape[1:])}.")
        return float(blank.flatten()[0])


class TransformationIncremental(Transformed):
    """Continuum's TransformationIncremental: the same samples in each experience, seen through another transform."""

    name = "continuum/transformation-incremental:PATH"

    def __init__(
        self,
        *,
        transforms: Annotated[
            tuple[Literal["identity", "mirror", "flip", "blur"], ...],
            Field(
                min_length=1,
                description="The transform of each experience: none, left for right, top for bottom, or a blur over "
                "3×3 pixels.",
            ),
        ] = ("identity", "mirror", "flip", "blur"),
        order: Annotated[Order, Field(description="Shuffle the transforms by the seed, or keep their order.")] = "seed",
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.transforms = transforms
        self.order = order

    def transformed(
        self, data: Data, source: Any, shared: bool, generator: np.random.Generator
    ) -> tuple[Any, list[Callable[[Tensor], Tensor] | None]]:
        self.black(data)
        import_torchvision()
        functional = import_module("torchvision.transforms.functional")
        known: dict[str, Callable[[Tensor], Tensor]] = {
            "identity": nn.Identity(),
            "mirror": functional.hflip,
            "flip": functional.vflip,
            "blur": lambda x: functional.gaussian_blur(x, 3),
        }
        chosen = [[known[name]] for name in ordered(self.transforms, self.order, generator)]
        made = scenarios().TransformationIncremental(
            source, chosen, base_transformations=[nn.Identity()], shared_label_space=shared
        )
        return made, [made.get_task_transformation(position) for position in range(len(made))]


class Rotations(Transformed):
    """Continuum's Rotations: the same images in each experience, turned by its angle.

    Clockwise, by the nearest pixel, on a black background. Angles are whole degrees; ranges, from which Continuum draws
    one for each sample and pass, are left out.
    """

    name = "continuum/rotations:PATH"

    def __init__(
        self,
        *,
        degrees: Annotated[
            tuple[Annotated[int, Field(ge=-180, le=180)], ...],
            Field(min_length=1, description="The angle of each experience, in whole degrees."),
        ] = (0, 45, 90, 135, 180),
        order: Annotated[Order, Field(description="Shuffle the angles by the seed, or keep their order.")] = "seed",
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.degrees = degrees
        self.order = order

    def transformed(
        self, data: Data, source: Any, shared: bool, generator: np.random.Generator
    ) -> tuple[Any, list[Callable[[Tensor], Tensor] | None]]:
        background = self.black(data)
        angles = ordered(self.degrees, self.order, generator)
        made = scenarios().Rotations(source, angles, base_transformations=[nn.Identity()], shared_label_space=shared)
        return made, [Turned(made.get_task_transformation(position), background) for position in range(len(made))]


class Permutations(Transformed):
    """Continuum's Permutations: the same samples in each experience, their values permuted in its way.

    The first experience is left unpermuted.
    """

    name = "continuum/permutations:PATH"

    def __init__(
        self,
        *,
        experiences: Experiences = 5,
        continuum_seed: Annotated[
            int | None,
            Field(
                ge=0, lt=2**31, description="The seed given to Continuum, for every seed of the host; none draws one."
            ),
        ] = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.experiences = experiences
        self.continuum_seed = continuum_seed

    def transformed(
        self, data: Data, source: Any, shared: bool, generator: np.random.Generator
    ) -> tuple[Any, list[Callable[[Tensor], Tensor] | None]]:
        seed = int(generator.integers(2**31)) if self.continuum_seed is None else self.continuum_seed
        made = scenarios().Permutations(source, nb_tasks=self.experiences, seed=seed, shared_label_space=shared)
        places = torch.arange(self.inputs(data.x_train[:1]).numel())
        return made, [None, *(Permutation(permute(places)) for permute in made.inc_trsf[1:])]


@dataclass(frozen=True)
class Turned:
    """Applies a transform that fills with 0 to model inputs whose black is another number.

    Attributes:
        transform: torchvision's, which draws its angle, the only one there is, from the global generator.
        background: the model input that fills the corners.
    """

    transform: Callable[[Tensor], Tensor]
    background: float

    def __call__(self, x: Tensor) -> Tensor:
        """The turned images, of the same size; the global generator stays as it was."""
        with torch.random.fork_rng(devices=[]):
            return self.transform(x - self.background) + self.background


# ---- What is Continuum's ----


def scenarios() -> Any:
    """Its module of scenarios, also where torchvision was built for CUDA and torch was not."""
    import_torchvision()
    return import_module("continuum.scenarios")


def dataset(y: np.ndarray[Any, Any], rows: np.ndarray[Any, Any] | None = None) -> Any:
    """A data set of Continuum's: labels `y`, and in place of samples their rows (by default, in order)."""
    import_torchvision()
    kinds, sets = import_module("continuum.tasks"), import_module("continuum.datasets")
    return sets.InMemoryDataset(np.arange(len(y)) if rows is None else rows, y, data_type=kinds.TaskType.TENSOR)


def tasks(made: Any) -> list[tuple[Tensor, Tensor]]:
    """The rows and the labels of each of its task sets; its task ids are not looked at."""
    samples = [made[position].get_raw_samples() for position in range(len(made))]
    return [(torch.from_numpy(rows).long(), torch.from_numpy(y).long()) for rows, y, _ in samples]


def everything(data: Data) -> np.ndarray[Any, Any]:
    """The labels of training and, behind them, of test samples: what belongs together is dealt out together."""
    return torch.cat([data.y_train, data.y_test]).numpy()


def divided(
    data: Data,
    found: Sequence[tuple[Tensor, Tensor]],
    names: Sequence[str],
    transforms: Sequence[Callable[[Tensor], Tensor] | None] | None = None,
) -> Stream:
    """The stream of task sets over `everything`."""
    size = len(data.y_train)
    splits = []
    for (rows, y), transform in zip(found, transforms or [None] * len(found)):
        train = rows < size
        splits.append(Split(rows[train], y[train], rows[~train] - size, y[~train], transform))
    return Stream(tuple(splits), tuple(names))


def ordered(values: Sequence[Any], order: Order, generator: np.random.Generator) -> list[Any]:
    """The values, shuffled where the order is the seed's."""
    return list(values) if order == "natural" else [values[i] for i in generator.permutation(len(values))]
