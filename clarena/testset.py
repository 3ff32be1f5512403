"""Testing: the host asks for scores, decides which outputs count, and keeps the arg-max. A strategy never does."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from clarena.benchmark import Benchmark, Data, Stream
from clarena.errors import DivergedError, PluginError
from clarena.experience import OutputSpace
from clarena.protocol import Protocol, Scenario
from clarena.seeding import forked
from clarena.strategy import Strategy

UNDEFINED = -1


class TestSet:
    """The test samples of all experiences, on the device, in a fixed shuffled order.

    Where no task label is given, samples of all experiences arrive mixed: a batch of one experience only would give
    the task away.

    Attributes:
        labels: int [N].
        experience: int [N], 0-based.
    """

    __test__ = False  # not a test, whatever pytest thinks of the name

    def __init__(
        self,
        benchmark: Benchmark,
        data: Data,
        stream: Stream,
        scenario: Scenario,
        protocol: Protocol,
        generator: torch.Generator,
        device: torch.device,
    ) -> None:
        self.scenario, self.protocol, self.device, self.outputs = scenario, protocol, device, stream.outputs
        inputs, labels = [], []
        for split in stream.splits:
            x = benchmark.inputs(data.x_test[split.test].to(device))
            inputs.append(x if split.transform is None else split.transform(x))
            labels.append(split.y_test)
        sizes = torch.tensor([len(y) for y in labels])
        experience = torch.repeat_interleave(torch.arange(len(labels)), sizes)
        order = torch.randperm(len(experience), generator=generator)
        self.x = torch.cat(inputs)[order.to(device)]
        self.classes = [frozenset(split.classes) for split in stream.splits]
        self.labels: NDArray[np.int64] = torch.cat(labels)[order].numpy()
        self.experience: NDArray[np.int64] = experience[order].numpy()
        self.seed = generator.initial_seed()

    def predict(self, strategy: Strategy, space: OutputSpace) -> NDArray[np.int64]:
        """The class predicted for each test sample, int [N]; -1 where a prediction is undefined.

        Undefined are classes not yet seen (class scenario), and tasks whose outputs do not exist yet.

        Raises:
            DivergedError: when scores in play are not finite.
            PluginError: when they have another shape or device than the contract says.
        """
        predicted = np.full(len(self.labels), UNDEFINED)
        with forked(self.seed):
            for task, experiences, columns in self.questions(space):
                rows = np.flatnonzero(np.isin(self.experience, experiences))
                if len(rows):
                    predicted[rows] = self._ask(strategy, rows, task, columns)
        return predicted

    def questions(self, space: OutputSpace) -> list[tuple[int | None, list[int], list[int]]]:
        """(task, experiences tested in one call, outputs in play) for each kind of question that has an answer."""
        everything = list(range(len(self.classes)))
        if self.scenario == "domain":
            return [(None, everything, space.in_play())]
        if self.scenario == "class":
            known = [j for j in everything if self.classes[j] <= space.seen]
            return [(None, known, space.in_play())] if known else []
        exists = range(len(space.tasks)) if space.full is None else everything
        return [(j, [j], sorted(self.classes[j])) for j in exists]

    def _ask(
        self, strategy: Strategy, rows: NDArray[np.int64], task: int | None, columns: list[int]
    ) -> NDArray[np.int64]:
        index = torch.from_numpy(rows).to(self.device)
        in_play = torch.tensor(columns, device=self.device)
        answers, finite = [], torch.ones((), dtype=torch.bool, device=self.device)
        for part in index.split(self.protocol.eval_batch_size):
            scores = strategy.predict(self.x[part], task)
            self._check(scores, len(part), columns)
            scores = scores[:, in_play]
            finite &= torch.isfinite(scores).all()
            answers.append(in_play[scores.argmax(1)])
        if not finite:
            raise DivergedError("The scores are not finite.")
        return torch.cat(answers).cpu().numpy()

    def _check(self, scores: Tensor, samples: int, columns: list[int]) -> None:
        needed = columns[-1] + 1
        if not isinstance(scores, Tensor):
            raise PluginError(f"predict returned {type(scores).__name__}; it must return a tensor of scores.")
        if scores.ndim != 2 or scores.shape[0] != samples or not needed <= scores.shape[1] <= self.outputs:
            widths = f"{needed}" if needed == self.outputs else f"{needed} to {self.outputs}"
            raise PluginError(
                f"predict returned scores of shape {tuple(scores.shape)} for {samples} inputs; "
                f"it must return [{samples}, outputs] with {widths} outputs."
            )
        if scores.device != self.x.device:
            raise PluginError(f"predict returned scores on {scores.device}; inputs and model are on {self.x.device}.")
