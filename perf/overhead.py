"""What share of a standard Split MNIST run goes to protocol, records, metrics, checkpoints and MLflow? (target: 5 %)

In turn, in one process: the run as `clarena.evaluate` makes it, with its store and MLflow in a fresh folder, and bare
calls of `learn` and of the test passes on the same experiences. The share is what the first takes beyond the second,
of a run without its test passes. Each is given in seconds of the clock and of the processor: the latter counts every
thread, and holds on a busy machine too. `first` imports MLflow and makes its database as well, `next` adds a seed to
it. MNIST is in memory for both. Run: `python perf/overhead.py [pairs] [epochs]`.
"""

import sys
import tempfile
from pathlib import Path
from time import perf_counter, process_time

import numpy as np
import split_mnist
from numpy.typing import NDArray

from clarena import Protocol, evaluate
from clarena.run.environment import configured

Seconds = NDArray[np.float64]
"""[2]: of the clock, of the processor."""


def now() -> Seconds:
    """Both clocks."""
    return np.array([perf_counter(), process_time()])


def bare(seed: int, epochs: int) -> tuple[Seconds, Seconds]:
    """Seconds inside `learn` over the whole stream, and those of the test passes."""
    realised, finetune = split_mnist.realised(Protocol(epochs=epochs), seed)
    strategy = realised.set_up(finetune())
    learning, testing = np.zeros(2), np.zeros(2)
    for positions in realised.steps:
        realised.begin(positions)
        experience = realised.experience(positions)
        start = now()
        strategy.learn(experience)
        middle = now()
        realised.test.answers(strategy, realised.space)
        learning, testing = learning + middle - start, testing + now() - middle
    return learning, testing


def whole(seed: int, epochs: int, folder: Path) -> Seconds:
    """Seconds of an evaluation."""
    start = now()
    (record,) = evaluate(
        "finetune",
        benchmark="split-mnist",
        seeds=[seed],
        settings={"protocol": {"epochs": epochs}},
        jobs=1,
        store=folder / "runs",
        tracking_uri=f"sqlite:///{folder}/mlflow.db",
    )
    assert record.status == "finished", record.reason
    return now() - start


def main(pairs: int = 3, epochs: int = 10) -> None:
    bare(0, 1)  # warm, and loads MNIST
    shares: dict[str, list[Seconds]] = {"first": [], "next": []}
    for pair in range(pairs):
        with tempfile.TemporaryDirectory() as folder:
            for seed, kind in enumerate(shares):
                learning, testing = bare(2 * pair + seed, epochs)
                total = whole(2 * pair + seed, epochs, Path(folder)) - testing
                shares[kind].append(1 - learning / total)
                for name, one, other, share in zip(("clock", "processor"), total, learning, shares[kind][-1]):
                    print(f"{kind:<6}{name:<10} run {one:.2f} s, bare {other:.2f} s, share {share:.1%}", flush=True)
    for kind, values in shares.items():
        clock, processor = np.median(values, axis=0)
        print(f"{kind}: median share {clock:.1%} of the clock, {processor:.1%} of the processor")


if __name__ == "__main__":
    with configured(Protocol()):
        main(*map(int, sys.argv[1:]))
