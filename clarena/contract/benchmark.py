"""Data, how it is split, and in which order: the train and test streams of a run.

A benchmark answers two questions: `data()` — which arrays, the same for every seed; and `stream()` — which of them
make up each experience, under a scenario and a seed. Everything else (batches, masks, budgets, devices) is the host's.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from clarena.contract.classes import ClassOrder, class_order, class_sizes
from clarena.contract.data import Data
from clarena.contract.samples import RowForm, Samples, read_npz, read_pictures
from clarena.contract.target import Target, built_in
from clarena.errors import DataError, UsageError
from clarena.protocol.protocol import Scenario
from clarena.toolbox.categorical import IGNORED

Order = Literal["seed", "natural"]
Transform = Callable[[Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class Split:
    """One experience: which rows of the source arrays, under which labels, seen through which transform.

    Attributes:
        train, test: rows of the source arrays, int64 [n].
        y_train, y_test: the labels in the stream [n, …], such as the target has them; classes are int64 [n].
        transform: applied to whole batches of model inputs, on the device; None leaves them as they are.
        origin: the experience that each training row has its transform from, ascending, int64 [n]; None: this one.
        group: the outputs its test samples stand for, where other labels occur in training as well; None: those that
            its training labels show.
        noisy: how many training labels are wrong on purpose.
        domain: what the data calls the domain that all of it comes from; empty where there is none.
    """

    train: Tensor
    y_train: Tensor
    test: Tensor
    y_test: Tensor
    transform: Transform | None = None
    origin: Tensor | None = None
    group: tuple[int, ...] | None = None
    noisy: int = 0
    domain: str = ""

    def __repr__(self) -> str:
        return f"Split({len(self.train)} + {len(self.test)} samples, {len(self.classes)} classes)"

    @property
    def classes(self) -> tuple[int, ...]:
        """The labels that occur in training, in ascending order, where they are classes."""
        return tuple(label for label in self.y_train.unique().tolist() if label != IGNORED)

    @property
    def tested(self) -> tuple[int, ...]:
        """The labels that must have been seen before its test samples can be asked for."""
        return self.classes if self.group is None else self.group


@dataclass(frozen=True, eq=False)
class Stream:
    """The ordered experiences of one run.

    Labels are numbered in order of first appearance in the stream; in the domain scenario they are those within
    the experience.

    Attributes:
        splits: one entry per experience.
        output_names: the name of each output (label), so that a report can speak of classes.
    """

    splits: tuple[Split, ...]
    output_names: tuple[str, ...]

    def __repr__(self) -> str:
        return f"Stream({len(self.splits)} experiences, {self.outputs} outputs)"

    @property
    def outputs(self) -> int:
        """The number of outputs a full head has."""
        return len(self.output_names)

    def validate(self, data: Data, name: str, target: Target | None = None) -> None:
        """Raise `DataError` where the experiences do not fit the data they are made of, or what is asked of them.

        Args:
            data: the source.
            name: the benchmark's.
            target: what is asked of an input, where it is not built in.
        """
        asked = target or built_in(data.target)()
        if not self.splits:
            raise DataError(f"The benchmark {name} makes a stream without experiences.")
        for number, split in enumerate(self.splits, 1):
            parts = (
                ("training", split.train, split.y_train, len(data.y_train)),
                ("test", split.test, split.y_test, len(data.y_test)),
            )
            for part, rows, labels, size in parts:
                where = f"Experience {number} of the benchmark {name}"
                if not len(rows):
                    raise DataError(f"{where} has no {part} samples. Give at least one.")
                if len(rows) != len(labels):
                    raise DataError(f"{where} has {len(rows)} {part} samples but {len(labels)} labels.")
                if int(rows.min()) < 0 or int(rows.max()) >= size:
                    raise DataError(f"{where} names {part} samples outside 0 … {size - 1}.")
                asked.check(labels, self.outputs, f"{where}: its {part} labels")


def limited(stream: Stream, limit: int | None, by_class: bool = True) -> Stream:
    """The stream with at most `limit` training and test samples in each experience, every class in its proportion.

    `by_class`: whether labels are classes. Where they are not, samples are taken evenly as they come.
    """
    if limit is None:
        return stream

    def some(y: Tensor) -> Tensor:
        order = y.argsort(stable=True) if by_class else torch.arange(len(y))
        count = min(limit, len(y))
        evenly = (2 * torch.arange(count) + 1) * len(y) // (2 * count)  # the middles of `count` equal stretches
        return order[evenly].sort().values

    splits = []
    for split in stream.splits:
        train, test = some(split.y_train), some(split.y_test)
        splits.append(
            replace(
                split,
                train=split.train[train],
                y_train=split.y_train[train],
                test=split.test[test],
                y_test=split.y_test[test],
            )
        )
    return replace(stream, splits=tuple(splits))


def with_validation(
    stream: Stream,
    experiences: int,
    fraction: float,
    rows: int,
    generator: np.random.Generator,
    by_class: bool = True,
) -> Stream:
    """The stream of a tuning run: the first experiences, tested on training data that is held out of all of them.

    Every source row gets one random rank, and each class of each experience gives up the rows that rank lowest:
    the share `fraction`, rounded, at least one row and never all. So where experiences share rows (permuted,
    rotated), they give up the same ones, and no row is trained on that is tested in any experience.

    Args:
        rows: of the source's training arrays.
        by_class: whether labels are classes; where they are not, samples are held out as if they were of one class.

    Raises:
        DataError: when an experience has one sample of each class and so can hold none out.
    """
    rank = torch.from_numpy(generator.permutation(rows))
    chosen = []
    for number, split in enumerate(stream.splits[:experiences], 1):
        held = torch.zeros(len(split.train), dtype=torch.bool)
        groups = [split.y_train == c for c in split.classes] if by_class else [torch.ones_like(held)]
        for members in (group.nonzero().flatten() for group in groups):
            count = min(max(1, round(fraction * len(members))), len(members) - 1)
            held[members[rank[split.train[members]].argsort()[:count]]] = True
        if not held.any():
            raise DataError(f"Experience {number} has one training sample of each class: none to hold out for tuning.")
        chosen.append((split, held))
    tested = torch.cat([split.train[held] for split, held in chosen])
    splits = []
    for split, held in chosen:
        kept = ~torch.isin(split.train, tested)
        splits.append(
            replace(
                split,
                train=split.train[kept],
                y_train=split.y_train[kept],
                test=split.train[held],
                y_test=split.y_train[held],
            )
        )
    return replace(stream, splits=tuple(splits))


class Benchmark(ABC):
    """Data + split + class order.

    A subclass takes typed keyword options (documented by `pydantic.Field`), stores them verbatim, and answers
    `data()` and `stream()`.

    Attributes:
        name: what the command line calls it.
        scenarios: the scenarios in which it makes sense; the first is the default.
        revision: raised by the author when the same options and seed give another stream; part of a track's digest.
        vocabulary: how many tokens there are, where inputs are tokens (int64 [n, time]); None where they are numbers.
        added: options that came after the benchmark, whose default is what was done before: a track names them only
            where they are set to something else, so that its digest is what it was. Those of its bases count too.
        pictures: what rows have for white, where they are images as uint8: files of images can be read as new samples.
    """

    name: ClassVar[str]
    scenarios: ClassVar[tuple[Scenario, ...]]
    revision: ClassVar[int] = 1
    added: ClassVar[frozenset[str]] = frozenset()
    pictures: ClassVar[int | None] = None
    vocabulary: int | None = None

    @classmethod
    def of(cls, argument: str) -> type[Self]:
        """The class for an argument, for one registered as `family:PLACEHOLDER`; the same one every time."""
        raise UsageError(f"The benchmark {cls.name} takes no argument.")

    def source_files(self) -> Iterable[Path]:
        """The files and folders that `data` reads, for these options, where what they hold may change.

        Data are read once in a process, and again when one of these has changed. None, the default, is right for what
        is computed, and for archives whose digest is checked.
        """
        return ()

    @abstractmethod
    def data(self) -> Data:
        """The source arrays; raises `DataError` when they are absent or damaged."""

    @abstractmethod
    def stream(self, data: Data, scenario: Scenario, generator: np.random.Generator) -> Stream:
        """The experiences for this scenario; all chance comes from `generator`."""

    def inputs(self, x: Tensor) -> Tensor:
        """Turn source rows [n, …] into model inputs, batched, on the device; the default is float32 as stored."""
        return x.float()

    def read_new(self, path: Path, form: RowForm) -> Samples:
        """New samples of a file or folder, encoded as `data` encodes its own; for a model that was trained on those.

        Nothing is measured on the new samples: what is, such as names of columns, comes with `form`. The default reads
        an `.npz` of rows as they are stored and, where there are `pictures`, a folder of images or one alone.

        Raises:
            DataError: where the path holds no such samples.
        """
        if self.pictures is None or path.suffix.lower() == ".npz":
            return read_npz(path, form)
        return read_pictures(path, form, top=self.pictures)


def split_by_class(
    data: Data,
    scenario: Scenario,
    experiences: int | Sequence[int],
    order: ClassOrder,
    generator: np.random.Generator,
    first: int | None = None,
) -> Stream:
    """Deal the classes out to experiences, by `class_sizes` in the order of `class_order`.

    Args:
        experiences: how many, or the number of classes of each.
        order: `seed`, `natural`, the name of a published order, or the classes in their order.
        first: how many classes the first experience has; None: as many as the others.

    Raises:
        UsageError: for sizes or an order that do not fit the classes.
    """
    sizes = class_sizes(data.classes, experiences, first)
    classes = class_order(data.class_names, order, generator)
    return split_by_groups(data, scenario, np.split(classes, np.cumsum(sizes)[:-1]))


def split_by_groups(data: Data, scenario: Scenario, groups: Sequence[NDArray[np.int64]]) -> Stream:
    """Make each group of classes an experience; every class is in exactly one."""
    classes = np.concatenate(groups)
    label = {int(source): position for position, source in enumerate(classes)}
    names = tuple(data.class_names[int(source)] for source in classes)
    if scenario == "domain":
        label = {int(source): position for group in groups for position, source in enumerate(group)}
        names = tuple(f"position {position}" for position in range(max(map(len, groups))))
    table = torch.tensor([label[source] for source in range(data.classes)])
    splits = []
    for group in groups:
        members = torch.from_numpy(group)
        train = torch.isin(data.y_train, members).nonzero().flatten()
        test = torch.isin(data.y_test, members).nonzero().flatten()
        splits.append(Split(train, table[data.y_train[train]], test, table[data.y_test[test]]))
    return Stream(tuple(splits), names)


def split_by_domain(data: Data, scenario: Scenario, order: Order, generator: np.random.Generator) -> Stream:
    """Make each domain of the data an experience, with the classes that occur in it.

    In the class and task scenarios each experience has labels of its own, as in `same_classes`.

    Raises:
        DataError: when the data knows no domains.
    """
    if data.domain_train is None or data.domain_test is None:
        raise DataError("The data does not say which domain each sample comes from.")
    domains = np.arange(len(data.domain_names))
    if order == "seed":
        domains = generator.permutation(domains)
    own = scenario != "domain"
    splits = []
    for position, domain in enumerate(domains.tolist()):
        train = (data.domain_train == domain).nonzero().flatten()
        test = (data.domain_test == domain).nonzero().flatten()
        shift = position * data.classes if own else 0
        name = data.domain_names[domain]
        splits.append(Split(train, data.y_train[train] + shift, test, data.y_test[test] + shift, domain=name))
    if not own:
        return Stream(tuple(splits), data.class_names)
    names = (f"{name} ({data.domain_names[domain]})" for domain in domains for name in data.class_names)
    return Stream(tuple(splits), tuple(names))


def same_classes(data: Data, scenario: Scenario, transforms: Sequence[Transform | None]) -> Stream:
    """Every experience has all classes and sees them through its own transform (permuted and rotated benchmarks).

    In the class and task scenarios each experience has labels of its own: class c of experience e is e·C + c.
    """
    train, test = torch.arange(len(data.y_train)), torch.arange(len(data.y_test))
    own = scenario != "domain"
    splits = tuple(
        Split(
            train,
            data.y_train + (position * data.classes if own else 0),
            test,
            data.y_test + (position * data.classes if own else 0),
            transform,
        )
        for position, transform in enumerate(transforms)
    )
    if not own:
        return Stream(splits, data.class_names)
    return Stream(splits, tuple(f"{name} ({e + 1})" for e in range(len(splits)) for name in data.class_names))
