"""Testing: the host asks for scores, decides which outputs count, and keeps the arg-max. A strategy never does."""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from clarena.contract.benchmark import Benchmark, Stream
from clarena.contract.data import Data
from clarena.contract.experience import OutputSpace
from clarena.contract.strategy import Strategy
from clarena.errors import DivergedError, PluginError
from clarena.protocol.protocol import Protocol, Scenario
from clarena.toolbox.gradients import IGNORED
from clarena.toolbox.seeding import forked

UNDEFINED = -1


class Answers(NamedTuple):
    """What is kept of the scores of all test samples.

    Attributes:
        predicted: the class predicted for each label, int [N]; -1 where a prediction is undefined.
        log_probability: ln of the probability given to each label, float32 [N], NaN where undefined; None where the
            classes are not tokens of text.
    """

    predicted: NDArray[np.int64]
    log_probability: NDArray[np.float32] | None


class TestSet:
    """The test samples of all experiences, on the device, in a fixed shuffled order.

    Where no task label is given, samples of all experiences arrive mixed: a batch of one experience only would give
    the task away. N counts labels: of samples or, where every token has one, of tokens, sequence by sequence.

    Attributes:
        labels: int [N].
        experience: int [N], 0-based.
        text_bytes: how many bytes of text each label stands for, int [N], where classes are tokens of text.
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
        self.classes = [frozenset(split.tested) for split in stream.splits]
        self._y = torch.cat(labels)[order]  # [samples], or [samples, time]
        self._origin: NDArray[np.int64] = experience[order].numpy()  # [samples]
        self._counted: NDArray[np.bool_] = (self._y != IGNORED).numpy()
        self.labels: NDArray[np.int64] = self._y.numpy()[self._counted]
        per_sample = self._counted.reshape(len(order), -1).sum(1)
        self.experience: NDArray[np.int64] = np.repeat(self._origin, per_sample)
        self.text_bytes = np.array(data.class_bytes)[self.labels] if data.class_bytes else None
        self.seed = generator.initial_seed()

    def predict(self, strategy: Strategy, space: OutputSpace) -> NDArray[np.int64]:
        """The class predicted for each label, as in `answers`."""
        return self.answers(strategy, space).predicted

    def answers(self, strategy: Strategy, space: OutputSpace) -> Answers:
        """What the strategy predicts for each label, and with what probability where classes are tokens of text.

        Undefined are classes not yet seen (class scenario), and tasks whose outputs do not exist yet. Scores are
        looked at a batch at a time, and none are kept.

        Raises:
            DivergedError: when scores in play are not finite.
            PluginError: when they have another shape or device than the contract says.
        """
        predicted = np.full(self._y.shape, UNDEFINED)
        likely = None if self.text_bytes is None else np.full(self._y.shape, np.nan, dtype=np.float32)
        with forked(self.seed):
            for task, experiences, columns in self.questions(space):
                rows = np.flatnonzero(np.isin(self._origin, experiences))
                if len(rows):
                    self._ask(strategy, rows, task, columns, predicted, likely)
        return Answers(predicted[self._counted], None if likely is None else likely[self._counted])

    def questions(self, space: OutputSpace) -> list[tuple[int | None, list[int], list[int]]]:
        """(task, experiences tested in one call, outputs in play) for each kind of question that has an answer."""
        everything = list(range(len(self.classes)))
        if self.scenario == "domain":
            return [(None, everything, space.in_play())]
        if self.scenario == "class":
            known = [j for j in everything if self.classes[j] <= space.seen]
            return [(None, known, space.in_play())] if known else []
        exists = everything[: len(space.tasks)] if space.full is None else everything
        return [(j, [j], sorted(self.classes[j])) for j in exists]

    def _ask(
        self,
        strategy: Strategy,
        rows: NDArray[np.int64],
        task: int | None,
        columns: list[int],
        predicted: NDArray[np.int64],
        likely: NDArray[np.float32] | None,
    ) -> None:
        """Fill in the rows of `predicted` and `likely`."""
        index = torch.from_numpy(rows).to(self.device)
        in_play = torch.tensor(columns, device=self.device)
        answers, probabilities, finite = [], [], torch.ones((), dtype=torch.bool, device=self.device)
        for part in index.split(self.protocol.eval_batch_size):
            scores = strategy.predict(self.x[part], task)
            self._check(scores, len(part), columns)
            if len(columns) < scores.shape[-1]:
                scores = scores[..., in_play]
            finite &= torch.isfinite(scores).all()
            answers.append(in_play[scores.argmax(-1)])
            if likely is not None:
                probabilities.append(_log_probability(scores, self._y[part.cpu()].to(self.device)))
        if not finite:
            raise DivergedError("The scores are not finite.")
        predicted[rows] = torch.cat(answers).cpu().numpy()
        if likely is not None:
            likely[rows] = torch.cat(probabilities).cpu().numpy()

    def _check(self, scores: Tensor, samples: int, columns: list[int]) -> None:
        needed = columns[-1] + 1
        if not isinstance(scores, Tensor):
            raise PluginError(f"predict returned {type(scores).__name__}; it must return a tensor of scores.")
        wanted = (samples, *self._y.shape[1:])
        fits = scores.ndim == len(wanted) + 1 and scores.shape[:-1] == wanted
        if not fits or not needed <= scores.shape[-1] <= self.outputs:
            widths = f"{needed}" if needed == self.outputs else f"{needed} to {self.outputs}"
            raise PluginError(
                f"predict returned scores of shape {tuple(scores.shape)} for {samples} inputs; "
                f"it must return [{', '.join(map(str, wanted))}, outputs] with {widths} outputs."
            )
        if scores.device != self.x.device:
            raise PluginError(f"predict returned scores on {scores.device}; inputs and model are on {self.x.device}.")


def _log_probability(scores: Tensor, y: Tensor) -> Tensor:
    """ln p of each label, float32 [batch, time]; scores [batch, time, outputs], where all outputs are in play."""
    target = y.where(y != IGNORED, 0)[..., None]
    likely = scores.gather(-1, target)[..., 0].float() - scores.float().logsumexp(-1)
    return likely.clamp(max=0)  # what rounding makes of p = 1
