"""How many times faster than Avalanche's do our strategies learn a stream? (targets: in `MATCHES`)

Split MNIST, 12,000 samples in five experiences, MLP 784-256-10, plain SGD, batch 32, one pass, one thread. Both sides
get the same tensors and first weights. Ours is timed in `learn`, as for a record's `train_seconds`, Avalanche's in
`train`, with no logger and no metric; tests are left out. They take turns at each experience, and the median of the
ratios of whole streams is printed: by the clock, and by the processor, which holds on a busy machine too.

Ours estimates importances sample by sample (EWC's Fisher exactly, over all ten labels); Avalanche's takes the square
or absolute value of the mean gradient of a batch. Needs avalanche-lib 0.6 and quadprog. Without MNIST it takes noise
of the same shape, and says so. Run: `python perf/avalanche_speed.py [pairs] [match ...]`.
"""

import sys
import warnings
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from time import perf_counter, process_time
from types import SimpleNamespace
from typing import Any

import numpy as np
import split_mnist
import torch
from clarena_native.torchvision_cpu import import_torchvision
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import Dataset

from clarena import Model, Protocol
from clarena.run.environment import configured

Seconds = NDArray[np.float64]
"""[2]: of the clock, of the processor."""

BUFFER = 500
PATTERNS = 256  # of each experience, for GEM
PROTOCOL = Protocol(
    epochs=1,
    batch_size=32,
    optimizer="sgd",
    learning_rate=0.05,
    heads="full",  # all ten outputs from the start, and a softmax over them: as Avalanche's plain model has it
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


def now() -> Seconds:
    """Both clocks."""
    return np.array([perf_counter(), process_time()])


def identity(x: Tensor) -> Tensor:
    """No augmentation."""
    return x


MATCHES = {
    "finetune": Match("finetune", {}, "Naive", {}, 1.5),
    "er": Match("er", {"buffer_size": BUFFER}, "Replay", {"mem_size": BUFFER}, 1.7),
    "er-between": Match(  # filled at the end of each experience, as Avalanche's: nothing to replay in the first
        "er", {"buffer_size": BUFFER, "policy": "balanced_random"}, "Replay", {"mem_size": BUFFER}, 1.7
    ),
    "ewc": Match("ewc", {"strength": 2.0}, "EWC", {"ewc_lambda": 1.0}, 2.2),  # theirs has no ½
    "ewc-online": Match(
        "ewc",
        {"strength": 2.0, "mode": "online"},
        "EWC",
        {"ewc_lambda": 1.0, "mode": "online", "decay_factor": 1.0},
        2.2,
    ),
    "mas": Match("mas", {"strength": 0.01}, "MAS", {"lambda_reg": 0.01}, 2.2),
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
        {"memory_size": BUFFER, "fixed_memory": True, "buffer_transform": identity},
        2.0,
    ),
}


class Samples(Dataset[tuple[Tensor, int]]):
    """Tensors in memory, in the form that every strategy of Avalanche takes."""

    def __init__(self, x: Tensor, y: Tensor) -> None:
        self.x, self.targets = x, y.tolist()

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.x[index], self.targets[index]


def rival(match: Match, model: Model, data: list[tuple[Tensor, Tensor]]) -> Callable[[int], None]:
    """What trains Avalanche's strategy on the experience at a position; it starts from our model's weights."""
    import_torchvision()  # which Avalanche imports, and which does not load beside every build of torch
    from avalanche.benchmarks import benchmark_from_datasets, with_classes_timeline, with_task_labels
    from avalanche.benchmarks.utils import _make_taskaware_classification_dataset as with_labels
    from avalanche.training import supervised
    from avalanche.training.plugins import EvaluationPlugin

    datasets = [with_labels(Samples(x, y), task_labels=0) for x, y in data]
    bench = with_classes_timeline(with_task_labels(benchmark_from_datasets(train=datasets, test=datasets)))
    stream = list(bench.train_stream)
    classes = [y.unique().tolist() for _, y in data]
    asked_for_by_icarl = SimpleNamespace(
        n_classes_per_exp=[len(labels) for labels in classes],
        classes_order=[label for labels in classes for label in labels],
    )
    for experience in stream:
        experience.benchmark = asked_for_by_icarl

    features, head = deepcopy(model.backbone), deepcopy(model.head.blocks[0])
    network = nn.Sequential(features, head)
    parts: dict[str, Any] = {"model": network, "criterion": nn.CrossEntropyLoss()}
    if match.theirs == "ICaRL":
        parts = {"feature_extractor": features, "classifier": head}
    strategy = getattr(supervised, match.theirs)(
        **parts,
        **match.arguments,
        optimizer=torch.optim.SGD(network.parameters(), lr=PROTOCOL.learning_rate),
        train_mb_size=PROTOCOL.batch_size,
        train_epochs=PROTOCOL.epochs,
        eval_mb_size=PROTOCOL.eval_batch_size,
        evaluator=EvaluationPlugin(loggers=[]),
    )

    def train(position: int) -> None:
        strategy.train(stream[position])

    return train


def race(match: Match, seed: int) -> Seconds:
    """Seconds of learning the whole stream [side, clock]: ours first, then Avalanche's."""
    realised, strategy = split_mnist.realised(PROTOCOL, seed, match.ours, hidden=[256])
    ours = realised.set_up(strategy(**match.options))
    experiences = [realised.experience(positions) for positions in realised.steps]
    train = rival(match, ours.model, [(experience.x, experience.y) for experience in experiences])
    seconds = np.zeros((2, 2))
    for position, positions in enumerate(realised.steps):
        realised.begin(positions)
        experience = realised.experience(positions)
        for side in (0, 1) if (seed + position) % 2 else (1, 0):
            start = now()
            if side == 0:
                with configured(PROTOCOL):
                    ours.learn(experience)
            else:
                train(position)
            seconds[side] += now() - start
    return seconds


def main(pairs: str = "7", *names: str) -> None:
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", module="avalanche")  # of its own deprecated parts
    ratios: dict[str, list[Seconds]] = {name: [] for name in names or MATCHES}
    for seed in range(int(pairs) + 1):
        for name, found in ratios.items():
            ours, theirs = race(MATCHES[name], seed)
            if seed:  # the first warms up
                found.append(theirs / ours)
                clock, processor = found[-1]
                print(
                    f"{name:<10} ours {ours[0]:.2f} s, Avalanche {theirs[0]:.2f} s: {clock:.2f} x by the clock, "
                    f"{processor:.2f} x by the processor",
                    flush=True,
                )
    for name, found in ratios.items():
        rows = (np.median(found, axis=0), np.min(found, axis=0), np.max(found, axis=0))
        clock, processor = (f"{median:.2f} x ({low:.2f} to {high:.2f})" for median, low, high in zip(*rows))
        print(f"{name:<10} clock {clock}, processor {processor}, target {MATCHES[name].target} x")


if __name__ == "__main__":
    main(*sys.argv[1:])
