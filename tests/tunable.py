"""Strategies whose best hyper-parameters are known, and tunings of them on very little data."""

import math
from typing import Annotated, Any, Literal

import torch
import troublemakers as trouble
from pydantic import Field

from clarena import GradientStrategy, UsageError
from clarena.checks.tiny import TinyMlp
from clarena.plugins.host import Host, PluginSources
from clarena.tuning import Tuning

HOST = Host.discover(PluginSources(third_party=False))
TINY: dict[str, Any] = {"benchmark": trouble.Tiny, "scenario": "class", "backbone": TinyMlp, "preset": "smoke"}
TINY |= {"limit": None, "device": "cpu"}


class Peaked(GradientStrategy):
    """Knows the class means; the further `strength` is from 10, the more noise it adds to its scores."""

    name = "peaked"

    def __init__(
        self,
        *,
        strength: Annotated[float, Field(gt=0, description="Best at 10.")] = 1000.0,
        mode: Annotated[Literal["plain", "wild"], Field(description="How it is.")] = "plain",
        samples: Annotated[int, Field(ge=1, description="What it spends.")] = 3,
    ) -> None:
        super().__init__()
        self.strength, self.mode, self.samples = strength, mode, samples
        self.register_buffer("means", torch.zeros(0, 4))
        self.register_buffer("noise", torch.zeros(()))

    def learn(self, experience):
        x, y = (torch.cat(parts) for parts in zip(*((batch.x, batch.y) for batch in experience.scan())))
        self.model.head.grow(experience.outputs)
        self.means = torch.stack(
            [x[y == c].mean(0) if (y == c).any() else self.means[c] for c in range(experience.outputs)]
        )
        self.noise = torch.tensor(abs(math.log10(self.strength / 10)))

    def predict(self, x, task=None):
        if not len(self.means):
            return torch.zeros(len(x), self.context.space.width)
        scores = -torch.cdist(x, self.means)
        return scores + 4 * self.noise * torch.randn(scores.shape)


class Moody(Peaked):
    """Comes to grief in one way or another."""

    name = "moody"

    def __init__(
        self,
        *,
        mood: Annotated[Literal["good", "raises", "diverges", "refuses"], Field(description="What it does.")] = "good",
        strength: Annotated[float, Field(gt=0, description="Best at 10.")] = 100.0,
    ) -> None:
        if mood == "refuses" and strength != 100:
            raise UsageError("moody refuses\nthese two together.")
        super().__init__(strength=strength)
        self.mood = mood

    def predict(self, x, task=None):
        if self.mood == "raises":
            raise ZeroDivisionError("one over nothing")
        scores = super().predict(x, task)
        return scores * math.nan if self.mood == "diverges" else scores


class Hopeless(Moody):
    """Fails whatever its strength."""

    name = "hopeless"

    def __init__(self, *, strength: Annotated[float, Field(gt=0, description="Of no use.")] = 100.0) -> None:
        super().__init__(strength=strength)
        self.mood = "raises"


def tuning(store, strategy=Peaked, space=("strength=0.01..10000:log",), **changes):
    return Tuning(strategy, host=HOST, store=store, **{**TINY, "space": space, "seeds": 2, **changes})


def tuned(store, trials=6, strategy=Peaked, **changes):
    ours = tuning(store, strategy, **changes)
    return ours.run(trials, jobs=1), ours.path
