"""What has newly arrived, as the next experience of a run that is over: its labels, its division, its test samples."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from clarena.contract.benchmark import Split, Stream, limited
from clarena.contract.data import Data
from clarena.contract.outputs import OutputSpace
from clarena.contract.samples import Samples, held_out_rows, in_order
from clarena.contract.strategy import Strategy
from clarena.contract.target import Classes, Target
from clarena.errors import DataError, UsageError
from clarena.protocol.protocol import Protocol, Scenario
from clarena.record.predictions import Arrays, Predictions
from clarena.record.record import Cell, ExperienceInfo
from clarena.run.realisation import CellClasses, Realisation
from clarena.run.testset import Answers, TestSet, unasked
from clarena.run.trained import TrainedModel
from clarena.toolbox.schedule import Budget
from clarena.toolbox.seeding import Seeds

CLASSES = Classes()


@dataclass(frozen=True, eq=False)
class Arrived:
    """New data under the outputs of a model, and what names they have now.

    Attributes:
        names: of all outputs: known classes keep theirs, new ones come after them.
        x, y: training rows and their labels; `x_test`, `y_test` those that are held out.
    """

    names: tuple[str, ...]
    x: Tensor
    y: Tensor
    x_test: Tensor
    y_test: Tensor

    def data(self, model: TrainedModel) -> Data:
        """The same as the data of a benchmark."""
        content = model.content
        known = {"target": content["target"], "class_bytes": tuple(content["outputs"].get("bytes", ()))}
        return Data(self.x, self.y, self.x_test, self.y_test, self.names, encoding=model.form.encoding, **known)


def arrived(
    samples: Samples,
    what: str,
    names: Sequence[str],
    test_share: float,
    protocol: Protocol,
    target: Target = CLASSES,
) -> Arrived:
    """New samples, divided as they say, or with a share of each class held out, the same every time.

    Args:
        what: what messages call them.
        names: of the outputs that exist.
        target: what is asked of an input. Where labels are no classes, no output is ever added, and a share of all
            samples is held out, evenly as they come.

    Raises:
        DataError: without labels, or with other ones than the target's; without a training sample of a class, or
            without any test sample.
    """
    if samples.labels is None and samples.y is None:
        raise DataError(f"{what} has no labels: there is nothing to learn from it. To predict them: clarena predict.")
    if samples.labels is not None:
        known, y = _numbered(samples.labels, names)
        groups = [y == output for output in y.unique()]
    else:
        known, y = tuple(names), cast(Tensor, samples.y)
        groups = [torch.ones(len(y), dtype=torch.bool)] * bool(len(y))
        if groups:
            target.check(y, len(names), f"The labels in {what}")
    testing = torch.tensor([part == "test" for part in samples.parts or [""] * len(y)], dtype=torch.bool)
    if not testing.any():
        for mine in groups:
            testing[mine] = torch.from_numpy(held_out_rows(int(mine.sum()), test_share))
    untrained = [known[int(y[mine][0])] for mine in groups if samples.labels is not None and testing[mine].all()]
    if untrained or not testing.any() or testing.all():
        lacks = "too few samples to hold any out"
        if untrained:
            lacks = f"no training sample of the class {min(untrained)!r}"
        raise DataError(f"{what} has {lacks}. Give it more, divide it by a column split, or set another --test-share.")
    rows = torch.arange(len(y))
    train, test = rows[~testing], rows[testing]
    stream = Stream((Split(train, y[train], test, y[test]),), known)
    split = limited(stream, protocol.limit, target.labels_are_classes).splits[0]
    return Arrived(known, samples.x[split.train], split.y_train, samples.x[split.test], split.y_test)


def _numbered(labels: Sequence[str], names: Sequence[str]) -> tuple[tuple[str, ...], Tensor]:
    """The names of all classes, those that are new after those that are known; and of each label its output."""
    known = (*names, *in_order(set(labels) - set(names)))
    number = {name: output for output, name in reversed([*enumerate(known)])}
    return known, torch.tensor([number[label] for label in labels], dtype=torch.int64)


class NextExperience(Realisation):
    """The stream of a run that is over and, behind it, one more experience, whose data alone are there."""

    def __init__(
        self, cell: Cell, parts: CellClasses, model: TrainedModel, new: Arrived, past: "Past", device: torch.device
    ) -> None:
        content = model.content
        self.track, self.parts, self.device, self.protocol = cell.track, parts, device, cell.track.protocol
        self.benchmark = parts.benchmark(**model.benchmark_options)
        self.source = new.data(model)
        self.data = _in_features(self.source, model)
        self.target = parts.targets(self.data.target)()
        self.seeds = Seeds(cell.seed)
        none, no_labels = torch.zeros(0, dtype=torch.int64), new.y[:0]
        before = tuple(
            Split(none, no_labels, none, no_labels, model.transforms[0], group=tuple(asked))
            for asked in content["outputs"]["asked"]
        )
        self._tasks = [frozenset(task) for task in content["outputs"]["tasks"]]
        rows, tested = torch.arange(len(new.y)), torch.arange(len(new.y_test))
        split = Split(rows, new.y, tested, new.y_test, model.transforms[0])
        self.stream = Stream((*before, split), new.names)
        self.steps = [[position] for position in range(len(self.stream.splits))]
        self.source_splits = self.stream.splits
        if self.track.frozen:
            self.stream = replace(self.stream, splits=tuple(replace(s, transform=None) for s in self.source_splits))
        self._transforms = [split.transform for split in self.stream.splits]
        self.conversion = model.conversion
        self._features = partial(_in_features, model=model)
        self._evaluation = self.seeds.torch("evaluation")
        self.space, self.budget = self._fresh_space(), Budget()
        self._past = past
        mine = {"position": len(before), "x": new.x_test, "y": new.y_test}
        self.carried: Mapping[str, Any] = {"root": past.root.model_dump_json(), "tests": [*past.tests, mine]}

    def _shown(self, position: int) -> frozenset[int]:
        """What the training labels of an experience have shown, which are there for the new one alone."""
        return self._tasks[position] if position < len(self._tasks) else super()._shown(position)

    @cached_property
    def test(self) -> Any:
        """The test samples of the run that is gone on from, as far as they are at hand, and the new ones."""
        columns = [_column(self, each["position"], each["x"], each["y"]) for each in self.carried["tests"]]
        return Tested(self._past, columns, self.stream.outputs)

    def chance(self, predictions: Predictions) -> list[float]:
        """Nothing: the training labels of earlier experiences are not known any more."""
        return []

    def experiences(self) -> list[ExperienceInfo]:
        """What each experience held; of earlier ones, as the record says that is gone on from."""
        return [*self._past.experiences, super().experiences()[-1]]


def _column(realised: NextExperience, position: int, x: Tensor, y: Tensor) -> TestSet:
    """The test samples of one experience."""
    none = torch.zeros(0, dtype=torch.int64)
    splits = tuple(
        Split(none, y[:0], *((torch.arange(len(y)), y) if place == position else (none, y[:0])),
              split.transform, group=split.group or tuple(sorted(realised._shown(place))))
        for place, split in enumerate(realised.stream.splits)
    )  # fmt: skip
    names = realised.stream.output_names
    data = realised._features(replace(realised.source, x_train=x[:0], y_train=y[:0], x_test=x, y_test=y))
    target = realised.target
    generator = realised.seeds.apart("evaluation", position)
    scenario: Scenario = realised.track.scenario
    return TestSet(
        realised.conversion,
        data,
        target,
        Stream(splits, names),
        scenario,
        realised.protocol,
        generator,
        realised.device,
    )


def _in_features(data: Data, model: TrainedModel) -> Data:
    """The same data, in features where the model's backbone is frozen."""
    transform = model.transforms[0]
    test = model.features(data.x_test, transform)
    train = model.features(data.x_train, transform) if len(data.x_train) else test[:0]
    return replace(data, x_train=train, x_test=test)


@dataclass(frozen=True, eq=False)
class Past:
    """What is known of the run that is gone on from.

    Attributes:
        root: the cell that the chain began with.
        test: its test samples, where they are at hand; `missing` says why they are not.
        tests: those of the experiences that came after it, as models carry them.
        experiences: what each has held.
        truth, experience: of all its test samples, by name, [N, …], and int [N].
    """

    root: Cell
    test: TestSet | None
    missing: str
    tests: Sequence[Mapping[str, Any]]
    experiences: Sequence[ExperienceInfo]
    truth: Arrays
    experience: NDArray[np.int64]


class Tested:
    """Test samples of several test sets, one after another; those of the first may be gone, and are undefined then.

    Attributes:
        truth, experience, classes: as of a `TestSet`.
    """

    def __init__(self, past: Past, columns: Sequence[TestSet], outputs: int) -> None:
        self._first, self._rest = past.test, columns
        for test in (past.test, *columns):
            if test is not None:
                test.outputs = outputs  # as many as there are now
        self.truth = {name: np.concatenate([known, columns[-1].truth[name]]) for name, known in past.truth.items()}
        self.experience = np.concatenate([past.experience, columns[-1].experience])
        self._size = len(self.experience) - sum(len(test.experience) for test in columns)
        self.classes = columns[-1].classes

    def answers(self, strategy: Strategy, space: OutputSpace) -> Answers:
        """As of a `TestSet`."""
        found = [test.answers(strategy, space) for test in self._rest]
        first = unasked(found[0], self._size) if self._first is None else self._first.answers(strategy, space)
        return {name: np.concatenate([each[name] for each in (first, *found)]) for name in first}


def require_fit(new: Arrived, names: Sequence[str], scenario: Scenario, protocol: Protocol, what: str) -> None:
    """Raise `UsageError` where new classes come to a model whose outputs are fixed."""
    added = ", ".join(map(repr, new.names[len(names) :][:5]))
    if not added:
        return
    if scenario == "domain":
        shown = ", ".join(names[:12]) + (", …" if len(names) > 12 else "")
        raise UsageError(
            f"{what} has the new class {added}, and in the domain scenario no class is ever added. Known: {shown}."
        )
    if protocol.heads == "full":
        raise UsageError(f"{what} has the new class {added}, and this model's head was made full, for {len(names)}.")
