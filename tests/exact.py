"""Tools for oracles: double precision, a linear model, one experience by hand, and all that may not change."""

import random
from copy import deepcopy
from math import prod
from typing import Any

import numpy as np
import torch
from tiny import Walk
from torch import Tensor, nn

from clarena import Backbone, Experience
from clarena.checks.tiny import TinyStream

STREAMS = ("class_order", "init", "data", "buffer", "strategy")


class DoubleStream(TinyStream):
    """The tiny stream in double precision; the default type of torch has to be float64, too."""

    name = "double-stream"

    def inputs(self, x: Tensor) -> Tensor:
        return x.double()


class Flat(Backbone):
    """The inputs themselves: with a head on top, a linear model."""

    name = "flat"

    def __init__(self, input_shape: tuple[int, ...]) -> None:
        super().__init__()
        self.features = prod(input_shape)

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1)


class Smooth(Backbone):
    """One layer of 8 tanh units, differentiable everywhere."""

    name = "smooth"

    def __init__(self, input_shape: tuple[int, ...]) -> None:
        super().__init__()
        self.features = 8
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(prod(input_shape), 8), nn.Tanh())

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


def begin(ours: Walk, position: int) -> Experience:
    """What `learn` does before the first step; the caller then makes the steps."""
    ours.realised.begin(ours.realised.steps[position])
    experience = ours.realised.experience(ours.realised.steps[position])
    strategy = ours.strategy
    strategy.experience = experience
    strategy.context.grow(strategy.model)
    strategy.before_experience(experience)
    strategy.updater = strategy._next_updater()
    strategy.train()
    return experience


def end(ours: Walk, experience: Experience) -> None:
    """What `learn` does after the last step."""
    ours.strategy.after_experience(experience)
    ours.strategy.experience = None


def gradients(ours: Walk, loss: Tensor) -> list[Tensor]:
    """The gradient of a loss by every parameter of the model; zero where it does not depend on one."""
    return list(torch.autograd.grad(loss, list(ours.strategy.model.parameters()), materialize_grads=True))


def surroundings(ours: Walk) -> dict[str, Any]:
    """A copy of all that estimating an importance may not change."""
    model, seeds = ours.strategy.model, ours.realised.seeds
    streams = {name: seeds.torch(name).get_state() for name in STREAMS}
    return deepcopy(
        {
            "model": dict(model.state_dict()),
            "gradients": [p.grad for p in model.parameters()],
            "trained": [p.requires_grad for p in model.parameters()],
            "modes": [module.training for module in ours.strategy.modules()],
            "optimizer": ours.strategy.optimizer.state_dict(),
            "torch": torch.get_rng_state(),
            "numpy": np.random.get_state(),
            "random": random.getstate(),
            **streams,
        }
    )
