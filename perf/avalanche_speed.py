"""How many times faster do our strategies learn a stream than Avalanche's? (targets: below)

Split MNIST, 12,000 samples in five experiences, MLP 784-256-10, plain SGD, batch 32, one pass, one thread. Both sides
get the same tensors, first weights, optimiser and strengths, and are timed over the whole stream, tests left out:
ours in `learn`, as in a record's `train_seconds`; Avalanche's in `train`, with an empty evaluator. They run in turn,
and what counts is the median of the ratios of each pair. Ours computes the exact Fisher and the per-sample
importances, where Avalanche squares or takes the absolute value of a batch's mean gradient.

It needs `avalanche-lib` and `quadprog`. Run: `python perf/avalanche_speed.py [pairs] [match …]`.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from time import perf_counter
from types import SimpleNamespace
from typing import Any

import split_mnist
import torch
from clarena_native.torchvision_cpu import import_torchvision
from torch import Tensor, nn
from torch.utils.data import Dataset

from clarena import Experience, Model, Protocol
from clarena.environment import configured

import_torchvision()  # Avalanche imports it, and would fail where it does not fit torch

from avalanche.benchmarks import benchmark_from_datasets, with_classes_timeline, with_task_labels  # noqa: E402
from avalanche.benchmarks.utils import _make_taskaware_classification_dataset as taskaware  # noqa: E402
from avalanche.training import supervised  # noqa: E402
from avalanche.training.plugins import EvaluationPlugin  # noqa: E402

BUFFER = 500
PATTERNS = 256  # of each experience, for GEM
PROTOCOL = Protocol(
    epochs=1,
    batch_size=32,
    optimizer="sgd",
    learning_rate=0.05,
    heads="full",  # Avalanche's model has all ten outputs at once, and its softmax runs over them
    loss_over="all",
    stream_length="known",
    buffer_size=5 * PATTERNS,
    limit=2400,
)


@dataclass(frozen=True)
class Match:
    """One of our strategies, with its options, against one of Avalanche's, with its arguments."""

    ours: str
    options: dict[str, Any]
    theirs: str
    arguments: dict[str, Any]
    target: float


MATCHES = {
    "finetune": Match("finetune", {}, "Naive", {}, 1.5),
    "er": Match("er", {"buffer_size": BUFFER}, "Replay", {"mem_size": BUFFER}, 1.7),
    "er, filled between experiences": Match(  # as Avalanche's is: no exemplars in the first experience
        "er", {"buffer_size": BUFFER, "policy": "balanced_random", "draw": "pass"}, "Replay", {"mem_size": BUFFER}, 1.7
    ),
    "ewc": Match("ewc", {"strength": 1.0}, "EWC", {"ewc_lambda": 0.5}, 2.2),  # theirs has no ½
    "ewc, online": Match(
        "ewc", {"strength": 1.0, "mode": "online"}, "EWC", {"ewc_lambda": 0.5, "mode": "online", "decay_factor": 1.0}, 2.2
    ),
    "mas": Match("mas", {"strength": 0.01}, "MAS", {"lambda_reg": 0.01, "alpha": 0.5}, 2.2),
    "gem": Match(
        "gem",
        {"buffer_size": 5 * PATTERNS, "margin": 0.5, "margin_as": "bound"},
        "GEM",
        {"patterns_per_exp": PATTERNS, "memory_strength": 0.5},
        1.3,
    ),
    "icarl": Match(
        "icarl",
        {"buffer_size": BUFFER},
        "ICaRL",
        {"memory_size": BUFFER, "fixed_memory": True, "buffer_transform": lambda x: x},
        2.0,
    ),
}


class Samples(Dataset[tuple[Tensor, int]]):
    """Tensors in memory, as Avalanche takes them."""

    def __init__(self, x: Tensor, y: Tensor) -> None:
        self.x, self.targets = x, y.tolist()

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.x[index], self.targets[index]


def learn(match: Match, seed: int) -> tuple[float, Callable[[], float]]:
    """Seconds of ours over the whole stream, and what trains Avalanche's on the same and gives its seconds."""
    arena, strategy = split_mnist.arena(PROTOCOL, seed, match.ours, hidden=[256])
    ours = arena.set_up(strategy(**match.options))
    rival, experiences, seconds = Rival(match, ours.model), [], 0.0
    ...


def main(pairs: int = 7, *names: str) -> None:
    ...


if __name__ == "__main__":
    main(*map(int, sys.argv[1:2]), *sys.argv[2:])
