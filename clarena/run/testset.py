"""Testing: the host asks for scores, decides which outputs count, and keeps the answer. A strategy never does."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from clarena.contract.benchmark import Stream
from clarena.contract.data import Data
from clarena.contract.outputs import OutputSpace
from clarena.contract.rows import Conversion, Part, Rows
from clarena.contract.strategy import Strategy
from clarena.contract.target import Target
from clarena.errors import DivergedError, PluginError
from clarena.protocol.protocol import Protocol, Scenario
from clarena.record.predictions import Arrays
from clarena.toolbox.seeding import forked

UNDEFINED = -1


Answers = dict[str, NDArray[Any]]
"""What is kept of the scores of all test samples: arrays [N, …] by name, −1 or NaN where nothing was asked."""


class TestSet:
    """The test samples of all experiences, in a fixed shuffled order.

    Where no task label is given, samples of all experiences arrive mixed: a batch of one experience only would give
    the task away. N counts samples or, where these are asked at several positions, the positions that count, sample by
    sample.

    Attributes:
        truth: what answers are scored by, arrays [N, …] by name: `labels`, and what else the target says.
        experience: int [N], 0-based.
    """

    __test__ = False  # not a test, whatever pytest thinks of the name

    def __init__(
        self,
        conversion: Conversion,
        data: Data,
        target: Target,
        stream: Stream,
        scenario: Scenario,
        protocol: Protocol,
        generator: torch.Generator,
        device: torch.device,
        by_output: bool = False,
    ) -> None:
        """`by_output`: whether a cell is scored over all samples, by its outputs: then all are asked in each row."""
        self.by_output = by_output
        self.scenario, self.protocol, self.device, self.outputs = scenario, protocol, device, stream.outputs
        self.target = target
        parts = [Part(data.x_test, split.test, split.transform) for split in stream.splits]
        self._rows, labels = Rows(parts, conversion, device).ready(), [split.y_test for split in stream.splits]
        sizes = torch.tensor([len(y) for y in labels])
        experience = torch.repeat_interleave(torch.arange(len(labels)), sizes)
        order = torch.randperm(len(experience), generator=generator)
        self._order, self._order_there = order, order.to(device)
        shown = (split.group or target.shown(split.y_train, stream.outputs) for split in stream.splits)
        self.classes = [frozenset(outputs) for outputs in shown]
        self._y = torch.cat(labels)[order]  # [samples, …]
        self._y_there = self._y.to(device)
        self._origin: NDArray[np.int64] = experience[order].numpy()  # [samples]
        counted = target.counted(self._y)
        self._counted: NDArray[np.bool_] = np.ones(len(order), bool) if counted is None else counted.numpy()
        per_sample = self._counted.reshape(len(order), -1).sum(1)
        self.experience: NDArray[np.int64] = np.repeat(self._origin, per_sample)
        self.truth = target.truth(self._y.numpy()[self._counted], data)
        self.seed = generator.initial_seed()

    @property
    def x(self) -> Any:
        """All inputs at once, in the order in which they are asked about."""
        return self._rows.at(self._order, self._order_there)[0]

    @property
    def labels(self) -> NDArray[Any]:
        """The right answers [N, …]."""
        return self.truth["labels"]

    def answers(self, strategy: Strategy, space: OutputSpace) -> Answers:
        """What the host keeps of the strategy's scores, as the target says.

        Undefined are classes not yet seen (class scenario), and tasks whose outputs do not exist yet. Where cells are
        by output, every sample is asked as soon as there is any output. Scores are looked at a batch at a time, and
        none are kept.

        Raises:
            DivergedError: when scores in play are not finite.
            PluginError: when they have another shape or device than the contract says.
        """
        blank = torch.zeros(0, *self.target.positions(self._y), self.outputs)
        kinds = self.target.answers(blank, self._y[:0], torch.arange(self.outputs))
        found = unasked({name: kind.numpy() for name, kind in kinds.items()}, len(self._y))
        with forked(self.seed):
            for task, experiences, columns in self.questions(space):
                rows = np.flatnonzero(np.isin(self._origin, experiences))
                if len(rows):
                    for name, kept in self._ask(strategy, rows, task, columns).items():
                        found[name][rows] = kept
        return {name: kept[self._counted] for name, kept in found.items()}

    def questions(self, space: OutputSpace) -> list[tuple[int | None, list[int], list[int]]]:
        """(task, experiences tested in one call, outputs in play) for each kind of question that has an answer."""
        everything = list(range(len(self.classes)))
        if self.scenario == "domain":
            return [(None, everything, space.in_play())]
        if self.scenario == "class":
            ask_all = self.by_output and bool(space.seen)
            known = [j for j in everything if ask_all or self.classes[j] <= space.seen]
            return [(None, known, space.in_play())] if known else []
        exists = everything[: len(space.tasks)] if space.full is None else everything
        return [(j, [j], sorted(self.classes[j])) for j in exists]

    def _ask(self, strategy: Strategy, rows: NDArray[np.int64], task: int | None, columns: list[int]) -> Answers:
        """What is kept of the scores of some samples, [rows, …positions, …]."""
        size, found = self.protocol.eval_batch_size, torch.from_numpy(rows)
        index = found.to(self.device).split(size)
        read = self._rows.batches(self._order[found].split(size), [self._order_there[part] for part in index])
        in_play = torch.tensor(columns, device=self.device)
        kept, finite = [], torch.ones((), dtype=torch.bool, device=self.device)
        for part, (x, _) in zip(index, read):
            scores = strategy.predict(x, task)
            self._check(scores, len(part), columns)
            if len(columns) < scores.shape[-1]:
                scores = scores[..., in_play]
            finite &= torch.isfinite(scores).all()
            kept.append(self.target.answers(scores, self._y_there[part], in_play))
        if not finite:
            raise DivergedError("The scores are not finite.")
        return {name: torch.cat([each[name] for each in kept]).cpu().numpy() for name in kept[0]}

    def _check(self, scores: Tensor, samples: int, columns: list[int]) -> None:
        needed = columns[-1] + 1
        if not isinstance(scores, Tensor):
            raise PluginError(f"predict returned {type(scores).__name__}; it must return a tensor of scores.")
        wanted = (samples, *self.target.positions(self._y))
        fits = scores.ndim == len(wanted) + 1 and scores.shape[:-1] == wanted
        if not fits or not needed <= scores.shape[-1] <= self.outputs:
            widths = f"{needed}" if needed == self.outputs else f"{needed} to {self.outputs}"
            raise PluginError(
                f"predict returned scores of shape {tuple(scores.shape)} for {samples} inputs; "
                f"it must return [{', '.join(map(str, wanted))}, outputs] with {widths} outputs."
            )
        here = self._y_there.device
        if scores.device != here:
            raise PluginError(f"predict returned scores on {scores.device}; inputs and model are on {here}.")


def unasked(like: Arrays, size: int | None = None) -> Answers:
    """Answers of the same kinds, of which nothing was asked; to as many samples, where no other size is given."""
    return {
        name: np.full(
            (len(kept) if size is None else size, *kept.shape[1:]),
            np.nan if kept.dtype.kind == "f" else UNDEFINED,
            kept.dtype,
        )
        for name, kept in like.items()
    }
