"""One run of a strategy on the tiny stream, in the open: step by step, with state and scores to look at."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from clarena.checks.tiny import Subject, TinyStream
from clarena.contract.experience import Experience
from clarena.contract.strategy import Strategy
from clarena.contract.training import GradientStrategy
from clarena.protocol.protocol import Protocol
from clarena.run.environment import configured
from clarena.run.realisation import CellClasses, Realisation
from clarena.toolbox.seeding import forked


@dataclass(frozen=True)
class Question:
    """Test inputs that the host may ask about in one call of `predict`.

    Attributes:
        task: the task label; None outside the task scenario.
        x: inputs [n, *input_shape].
        labels: the right answers [n].
        experience: where each input comes from [n], 0-based.
        columns: the outputs in play, ascending.
    """

    task: int | None
    x: Tensor
    labels: Tensor
    experience: Tensor
    columns: list[int]


class Trial:
    """A strategy that was set up for one seed of the tiny stream, and how far it has come.

    Attributes:
        subject, seed: what is tried, and on which realisation.
        steps: which experiences are learned together, one after another.
        done: how many steps are.
    """

    def __init__(
        self,
        subject: Subject,
        *,
        seed: int = 0,
        strategy: Strategy | None = None,
        learning_rate: float | None = None,
        protocol: Mapping[str, Any] | None = None,
        **hyperparameters: Any,
    ) -> None:
        """Set up `strategy`, or a new object with these hyper-parameters; `learning_rate` replaces the protocol's.

        Args:
            protocol: fields of the protocol that are otherwise than in `Subject.track`.
        """
        self.subject, self.seed = subject, seed
        track = subject.track(**protocol or {})
        parts = CellClasses(subject.strategy, TinyStream, subject.backbone)
        self.realised = Realisation(track, parts, seed, torch.device("cpu"))
        self.strategy = self.realised.set_up(strategy or subject.strategy(**hyperparameters), learning_rate)
        self.steps = self.realised.steps
        self.done = 0

    def finetune(self) -> "Trial":
        """Fine-tuning in this strategy's place: with its seed, backbone, needs (hence optimiser) and learning rate."""
        plain = type("Plain", (GradientStrategy,), {"name": "plain", "needs": self.subject.strategy.needs})
        rate = self.strategy.context.learning_rate
        return Trial(replace(self.subject, strategy=plain), seed=self.seed, learning_rate=rate)

    def begin(self) -> Experience:
        """The next step's experience, its outputs revealed."""
        self.realised.begin(self.steps[self.done])
        return self.realised.experience(self.steps[self.done])

    def learn(self, experience: Experience) -> None:
        """Learn what `begin` returned."""
        self.strategy.learn(experience)
        self.done += 1

    def step(self, on_step: Callable[[int], None] = lambda step: None) -> Experience:
        """Begin and learn the next step, `on_step` being called before each batch; return what was learned."""
        experience = self.begin()
        experience.on_step = on_step
        self.learn(experience)
        return experience

    def finish(self) -> "Trial":
        """Learn all that is left."""
        while self.done < len(self.steps):
            self.step()
        return self

    def resume(self, state: dict[str, Any], done: int) -> "Trial":
        """Continue after `done` steps from a saved state, as the runner does."""
        for positions in self.steps[:done]:
            self.realised.begin(positions)
        self.strategy.load_state_dict(state)
        self.done = done
        return self

    def questions(self) -> Iterator[Question]:
        """All that the host may ask at this moment."""
        test, x = self.realised.test, self.realised.test.x
        for task, experiences, columns in test.questions(self.realised.space):
            rows = np.flatnonzero(np.isin(test.experience, experiences))
            if len(rows):
                yield Question(
                    task,
                    x[torch.from_numpy(rows)],
                    torch.from_numpy(test.labels[rows]),
                    torch.from_numpy(test.experience[rows]),
                    columns,
                )

    def ask(self, question: Question, rows: Tensor | None = None) -> Tensor:
        """Scores of the outputs in play [n, in play], of all inputs of a question or some rows of them."""
        x = question.x.clone() if rows is None else question.x[rows]
        return self.strategy.predict(x, question.task)[:, question.columns]

    def scores(self) -> list[Tensor]:
        """Scores of the outputs in play, for every question."""
        return [self.ask(question) for question in self.questions()]

    def state(self) -> dict[str, Any]:
        """A copy of everything the strategy would save."""
        return deepcopy(dict(self.strategy.state_dict()))


@contextmanager
def laboratory() -> Iterator[None]:
    """Deterministic settings as in a run; the caller's settings and random numbers come back afterwards."""
    with forked(0), configured(Protocol()):
        yield
