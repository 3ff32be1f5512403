"""What a strategy learns from: batches of an experience, and which outputs are in play for each sample."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from clarena.contract.meter import Meter
from clarena.contract.outputs import OutputSpace
from clarena.contract.rows import Rows
from clarena.contract.views import Views
from clarena.errors import PluginError, SpentError
from clarena.protocol.protocol import AugmentationKind, Protocol
from clarena.toolbox import together
from clarena.toolbox.together import part

EXEMPLAR = -1
"""The index of a sample that comes from a buffer."""


@dataclass
class Batch:
    """Samples to train on in one step; those of the stream come first, exemplars after them.

    Attributes:
        x: inputs [batch, …].
        y: labels [batch, …], such as the target has them.
        task: task label of each sample [batch], in the task scenario only.
        index: position of each sample in its experience [batch]; -1 marks an exemplar.
        mask: outputs in play, bool [batch or 1, outputs]; None when all of them are.
        fresh: how many samples come from the stream; they are the first ones.
        scores: the step's own forward pass [batch, …, outputs], once it has been made.
        views: what `view` draws from; a batch that a strategy makes by itself has none.
    """

    x: Tensor
    y: Tensor
    task: Tensor | None
    index: Tensor
    mask: Tensor | None
    fresh: int
    scores: Tensor | None = None
    views: Views | None = field(default=None, repr=False)
    _rows: Callable[[], Any] | None = field(repr=False, default=None)  # of the stream's samples, when called

    def __len__(self) -> int:
        return len(self.y)

    @property
    def rows(self) -> Any:
        """The rows of samples of the stream [batch, …], as they are before conversion: what a buffer should keep.

        Raises:
            PluginError: for a batch with exemplars in it, whose rows are in the buffer: ask `stream()`.
        """
        if self._rows is None or self.fresh < len(self):
            raise PluginError("it asks for the rows of exemplars. Those of the stream are batch.stream().rows.")
        return self._rows()

    def view(self, policy: AugmentationKind | None = None) -> Any:
        """The inputs in augmented views that are newly drawn and counted [batch, …]; each call draws others.

        They are what a network is to see: pass them on under `clarena.as_given()`.

        Args:
            policy: of the strategy, where the protocol grants one (`context.granted_policy`); None: the protocol's.
                Where that is none, views are the inputs as they are.

        Raises:
            UsageError: for a policy that is not granted.
            SpentError: when the protocol's `views` are spent.
            PluginError: when the batch was not handed out by the host.
        """
        if self.views is None:
            raise PluginError(
                "A view was asked of a batch that a strategy has made by itself, where nobody would count it. Take "
                "exemplars by batch.join, or hand the views of a batch that was given on: Batch(…, views=batch.views)."
            )
        return self.views.take(self.x, policy)

    def stream(self) -> "Batch":
        """The samples of the stream alone."""
        return self._part(slice(0, self.fresh), self.fresh)

    def exemplars(self) -> "Batch":
        """The exemplars alone."""
        return self._part(slice(self.fresh, len(self)), 0)

    def join(self, x: Tensor, y: Tensor, task: Tensor | None, mask: Tensor | None) -> "Batch":
        """This batch with exemplars behind it: one batch, one forward pass."""
        if self.mask is None and mask is None:
            joined = None
        else:
            outputs = next(m.shape[1] for m in (self.mask, mask) if m is not None)
            joined = torch.cat([_full_mask(self.mask, len(self), outputs, y), _full_mask(mask, len(y), outputs, y)])
        if self.views is not None:
            self.views.samples += len(y)
        return Batch(
            x=together.joined([self.x, x]),
            y=torch.cat([self.y, y]),
            task=None if self.task is None or task is None else torch.cat([self.task, task]),
            index=torch.cat([self.index, self.index.new_full((len(y),), EXEMPLAR)]),
            mask=joined,
            fresh=self.fresh,
            views=self.views,
            _rows=self._rows,
        )

    def _part(self, rows: slice, fresh: int) -> "Batch":
        whole = self._rows
        return Batch(
            x=part(self.x, rows),
            y=self.y[rows],
            task=None if self.task is None else self.task[rows],
            index=self.index[rows],
            mask=self.mask if self.mask is None or len(self.mask) == 1 else self.mask[rows],
            fresh=fresh,
            scores=None if self.scores is None else self.scores[rows],
            views=self.views,
            _rows=None if whole is None or not fresh else lambda: part(whole(), rows),
        )


def _full_mask(mask: Tensor | None, rows: int, outputs: int, like: Tensor) -> Tensor:
    if mask is None:
        return torch.ones(rows, outputs, dtype=torch.bool, device=like.device)
    return mask.expand(rows, outputs)


@dataclass
class Experience:
    """One step of the stream: the data available at once, and the only source of training batches.

    Attributes:
        position: 0-based position in the stream.
        task: the task label in the task scenario; None elsewhere, and where several tasks are joined (`joint`).
        classes: the outputs that its labels show, ascending: of a target of classes, these.
        outputs: how many outputs a head needs from now on.
        meter: what has been spent.
        labels: `y` on the CPU, where the host looks for labels that are new; else it would wait for the device.
    """

    position: int
    task: int | None
    classes: tuple[int, ...]
    outputs: int
    space: OutputSpace = field(repr=False)
    rows: Rows = field(repr=False)
    y: Tensor = field(repr=False)
    tasks: Tensor | None = field(repr=False)
    protocol: Protocol = field(repr=False)
    generator: torch.Generator = field(repr=False)
    view_generator: torch.Generator = field(repr=False)
    on_step: Callable[[int], None] = field(repr=False, default=lambda step: None)
    meter: Meter = field(repr=False, default_factory=Meter)
    labels: Tensor | None = field(repr=False, default=None)
    _passes_begun: int = field(repr=False, default=0)

    def __post_init__(self) -> None:
        if self.labels is None:
            self.labels = self.y.cpu()

    def __len__(self) -> int:
        return len(self.y)

    @property
    def x(self) -> Any:
        """All inputs at once [n, …], past the meter: for the host, and for whoever looks on."""
        return self.rows.inputs()

    @x.setter
    def x(self, inputs: Any) -> None:
        self.rows = Rows.of(inputs)

    @property
    def passes_left(self) -> int:
        """Passes over the data that the budget still allows."""
        return self.protocol.epochs - self._passes_begun

    def batches(self, passes: int | None = None) -> Iterator[Batch]:
        """Shuffled batches for training; each pass over the data is taken from the protocol's budget.

        Args:
            passes: how many passes; None spends what is left.

        Raises:
            PluginError: when more passes are asked for than are left.
        """
        passes = self.passes_left if passes is None else passes
        for wanted in range(passes, 0, -1):
            if wanted > self.passes_left:  # asked before every pass: others may have begun in the meantime
                raise PluginError(
                    f"A strategy asked for {wanted} passes over experience {self.position + 1}, but "
                    f"{self.passes_left} of {self.protocol.epochs} are left. Ask for fewer, or for batches() to spend "
                    "what is left."
                )
            self._passes_begun += 1
            self._look()
            order = torch.randperm(len(self), generator=self.generator)
            for place, index, x, rows in self._read(order, self.protocol.batch_size):
                self.on_step(self.meter.steps)
                self.meter.steps += 1
                self.meter.samples += len(index)
                yield self._batch(place, index, x, rows)

    def scan(self, batch_size: int | None = None) -> Iterator[Batch]:
        """Every sample once, in order, without augmentation or chance: for importance, herding, targets.

        Raises `SpentError` when the protocol's `scans` are spent.
        """
        size = batch_size or self.protocol.eval_batch_size
        for place, index, x, rows in self._read(torch.arange(len(self)), size):
            self.meter.scanned += len(index)
            self._look()
            yield self._batch(place, index, x, rows)

    @property
    def looks(self) -> float:
        """Passes over the data outside training: `scan`, and `dataset` beyond what `batches` left of the budget."""
        beyond = max(0, self.meter.accesses - self.passes_left * len(self))
        return (self.meter.scanned + beyond) / len(self)

    def _look(self) -> None:
        """Raise `SpentError` where there were more looks than the protocol allows."""
        allowed = self.protocol.scans
        if allowed is not None and self.looks > allowed:
            raise SpentError(
                f"it looks at the data of experience {self.position + 1} outside training more often than the "
                f"{allowed} times of protocol.scans. Have it scan less, or open another track: "
                f"--set protocol.scans={math.ceil(self.looks)}, or none for any number."
            )

    def dataset(self) -> "ExperienceDataset":
        """The samples as a map-style data set, for adapters whose own loaders must iterate; accesses are counted."""
        return ExperienceDataset(self)

    def _read(self, order: Tensor, size: int) -> Iterator[tuple[Tensor, Tensor, Any, Callable[[], Any]]]:
        """Batch by batch: positions on the CPU and on the device, inputs, and what gives rows."""
        places, there = order.split(size), order.to(self.y.device, non_blocking=True).split(size)
        return ((*each, *read) for *each, read in zip(places, there, self.rows.batches(places, there)))

    def _batch(self, place: Tensor, index: Tensor, x: Any, rows: Callable[[], Any]) -> Batch:
        y = self.y.index_select(0, index)
        if not self.space.seen.issuperset(self.classes):  # boundaries are hidden: labels show as they come
            assert self.labels is not None
            self.space.reveal(self.labels[place])
        task = None if self.tasks is None else self.tasks.index_select(0, index)
        mask = self.space.mask(None if task is None else task[:1] if self.task is not None else task)
        views = Views(self.protocol, self.view_generator, self.meter, len(index))
        return Batch(x, y, task, index, mask, fresh=len(index), views=views, _rows=rows)


UNTOLD = "whose boundaries are hidden"


class HiddenStream:
    """The whole stream as one experience: what a strategy learns from, once, where boundaries are hidden.

    The batches are those of the experiences, one after another, each with its passes. Nothing tells where one ends:
    there is no position, no task, no list of classes, no size and no second look; asking for one raises.

    Attributes:
        meter: what has been spent on the stream so far.
    """

    def __init__(self, parts: Iterator[Experience], space: OutputSpace, protocol: Protocol) -> None:
        """`parts`: the experiences, made as they are reached; the host tests between them, unseen."""
        self._parts, self._space, self.protocol, self.meter = parts, space, protocol, Meter()
        self.begun = self.finished = False

    @property
    def outputs(self) -> int:
        """How many outputs a head needs by now."""
        return self._space.width

    def batches(self, passes: int | None = None) -> Iterator[Batch]:
        """All batches of the stream; `index` counts its samples from the beginning.

        Raises:
            PluginError: when a number of passes is asked for, or the stream once more.
        """
        if passes is not None or self.begun:
            raise PluginError(f"it asks for single passes over an experience, {UNTOLD}")
        self.begun, before = True, 0
        for experience in self._parts:
            experience.meter = self.meter
            for batch in experience.batches():
                batch.index = batch.index + before
                yield batch
            before += len(experience)
        self.finished = True

    def check_finished(self) -> None:
        """Raise `PluginError` where a strategy has not learned from all of it."""
        if not self.finished:
            raise PluginError("It stopped before the end of the stream. Learn from all of experience.batches().")

    def __len__(self) -> int:
        raise PluginError(f"it asks for the size of an experience, {UNTOLD}")

    def __getattr__(self, name: str) -> Any:
        if name in Experience.__dataclass_fields__ or hasattr(Experience, name):
            raise PluginError(f"it asks for {name!r} of an experience, {UNTOLD}")
        raise AttributeError(name)


class ExperienceDataset(Dataset[Any]):
    """Pairs (input, label) of one experience, each access counted by the meter."""

    def __init__(self, experience: Experience) -> None:
        self._experience = experience
        self.targets: list[int] = experience.y.tolist()

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        return part(self._read([index])[0], 0), self.targets[index]

    def inputs(self, index: Sequence[int]) -> Any:
        """The inputs of several samples at once, [len(index), …], without waiting for the device."""
        return self._read(index)[0]

    def rows(self, index: Sequence[int]) -> Any:
        """Their rows, as they are before conversion: what a buffer should keep."""
        return self._read(index)[1]()

    def _read(self, index: Sequence[int]) -> tuple[Any, Callable[[], Any]]:
        """Inputs, and what gives rows; counted."""
        experience = self._experience
        experience.meter.accesses += len(index)
        experience._look()
        place = torch.tensor(index)
        return experience.rows.at(place, place.to(experience.y.device, non_blocking=True))
