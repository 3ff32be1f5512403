"""Arenas on the tiny stream of the conformance kit, under any protocol, and how to walk through them by hand."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from clarena.checks.tiny import TinyStream, tiny_backbone
from clarena.contract.backbone import Backbone
from clarena.contract.benchmark import Benchmark
from clarena.contract.strategy import Strategy
from clarena.protocol.protocol import NamedPart, Protocol, Scenario, Track, Variation
from clarena.run.realisation import CellClasses, Realisation

CPU = torch.device("cpu")
SCENARIOS: tuple[Scenario, ...] = ("class", "domain", "task")


class Walk(NamedTuple):
    """A strategy that was set up, in the realisation of one seed."""

    realised: Realisation
    strategy: Any

    def step(self, position: int) -> Any:
        """Learn the step at this position; return its experience."""
        self.realised.begin(self.realised.steps[position])
        experience = self.realised.experience(self.realised.steps[position])
        self.strategy.learn(experience)
        return experience

    def finish(self, start: int = 0) -> "Walk":
        """Learn every step from `start` on."""
        for position in range(start, len(self.realised.steps)):
            self.step(position)
        return self

    def predict(self) -> list[int]:
        """What the host makes of the strategy's scores."""
        return self.realised.test.answers(self.strategy, self.realised.space)["predicted"].tolist()

    def parameters(self) -> list[Tensor]:
        """Copies of the model's parameters."""
        return [p.detach().clone() for p in self.strategy.model.parameters()]


def walk(
    strategy: type[Strategy] | Strategy,
    scenario: Scenario = "class",
    *,
    seed: int = 0,
    backbone: type[Backbone] | None = None,
    options: Mapping[str, Any] | None = None,
    benchmark: type[Benchmark] = TinyStream,
    benchmark_options: Mapping[str, Any] | None = None,
    stream: Mapping[str, float] | None = None,
    **protocol: Any,
) -> Walk:
    """A strategy (a class takes its defaults) set up on a tiny track; `protocol` changes fields of a short one."""
    if isinstance(strategy, type):
        strategy = strategy()
    backbone = backbone or tiny_backbone(type(strategy))
    settings = {"epochs": 2, "batch_size": 8, "learning_rate": 0.01, "buffer_size": 12} | protocol
    track = Track(
        benchmark=NamedPart(name=benchmark.name, options=dict(benchmark_options or {})),
        scenario=scenario,
        backbone=NamedPart(name=backbone.name, options=dict(options or {})),
        protocol=Protocol(**settings),
        stream=Variation(**stream or {}),
    )
    realised = Realisation(track, CellClasses(type(strategy), benchmark, backbone), seed, CPU)
    return Walk(realised, realised.set_up(strategy))


def same(left: list[Tensor], right: list[Tensor]) -> bool:
    """Whether two lists hold equal tensors, bit for bit."""
    return len(left) == len(right) and all(
        a.shape == b.shape and a.dtype == b.dtype and torch.equal(a, b) for a, b in zip(left, right)
    )
