"""What do rows cost: memory for images that are larger than it, and time for reading them batch by batch?

`memory`: joint learns 20,000 made-up images of 224 × 224 (3 GB as bytes, mapped from a file); the highest anonymous
memory of its process (RssAnon) above what it has once all is imported. Target: under 1.5 GB.
`prefetch`: an epoch of a ResNet-18 over mapped bytes, converted batch by batch, beside the same from inputs that are
kept in memory; interleaved pairs, clock and processor. Target: within 3 %.
`buffer`: bytes of er's state for 200 images of CIFAR's shape, stored as bytes, and rotated. Target: 0.65 MB.

Run: `python perf/rows.py memory|prefetch|buffer [pairs]`.
"""

import sys
import tempfile
import threading
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from split_mnist import CPU
from torch import Tensor, nn

from clarena import Backbone, Benchmark, Data, Protocol, Track, mapped, split_by_class
from clarena.contract import rows
from clarena.contract.benchmark import Stream, same_classes
from clarena.plugins.host import Host, PluginSources
from clarena.protocol.protocol import NamedPart
from clarena.run.environment import configured
from clarena.run.realisation import CellClasses, Realisation
from clarena.run.warmup import warm_up
from clarena.toolbox.modules import state_bytes

HOST = Host.discover(PluginSources(third_party=False))


class Made(Benchmark):
    """Noise, mapped from files; each class a little brighter than the one before."""

    name = "made-up"
    scenarios = ("class",)
    shape = (3, 32, 32)
    train, test, classes = 2_000, 100, 10
    folder = Path()

    def data(self) -> Data:
        """Written once, a chunk at a time, and mapped."""
        tensors: dict[str, Any] = {}
        for part, count in (("train", self.train), ("test", self.test)):
            file = self.folder / f"x_{part}.npy"
            y = np.arange(count) % self.classes
            if not file.exists():
                out = np.lib.format.open_memmap(file, "w+", np.uint8, (count, *self.shape))
                chance = np.random.default_rng(0)
                for start in range(0, count, 200):
                    noise = chance.integers(0, 200, (len(out[start : start + 200]), *self.shape), np.uint8)
                    out[start : start + 200] = noise + 5 * y[start : start + 200, None, None, None].astype(np.uint8)
                out.flush()
            tensors |= {f"x_{part}": mapped(file), f"y_{part}": torch.from_numpy(y)}
        return Data(**tensors, class_names=tuple(map(str, range(self.classes))))

    def inputs(self, x: Tensor) -> Tensor:
        """Normalised pixels."""
        return (x.float() / 255 - 0.5) / 0.25

    def stream(self, data: Data, scenario: Any, generator: np.random.Generator) -> Stream:
        """Two experiences of five classes."""
        return split_by_class(data, scenario, 2, "natural", generator)


class Turned(Made):
    """The same, turned by a quarter and brightened: no longer what is stored."""

    name = "turned"

    def stream(self, data: Data, scenario: Any, generator: np.random.Generator) -> Stream:
        """One experience."""
        return same_classes(data, scenario, [lambda x: x.rot90(dims=(2, 3)) * 1.01])


class Pooled(Backbone):
    """Cheap: the mean colours of 8 × 8 squares."""

    name = "pooled"

    def __init__(self, input_shape: tuple[int, ...]) -> None:
        super().__init__()
        self.features = 192
        self.pool = nn.AdaptiveAvgPool2d(8)

    def forward(self, x: Tensor) -> Tensor:
        """Features [batch, 192]."""
        return self.pool(x).flatten(1)  # type: ignore[no-any-return]


def realised(strategy: str, benchmark: type[Benchmark], backbone: type[Backbone], **protocol: Any) -> Realisation:
    """One seed of a track, in memory."""
    track = Track(
        benchmark=NamedPart(name=benchmark.name),
        scenario="class",
        backbone=NamedPart(name=backbone.name),
        protocol=Protocol(**{"epochs": 1} | protocol),
    )
    return Realisation(track, CellClasses(HOST.strategies.load(strategy), benchmark, backbone), 0, CPU)


def learned(made: Realisation) -> Any:
    """The strategy after its stream, and after a test."""
    strategy = made.set_up(made.parts.strategy())
    for positions in made.steps:
        made.begin(positions)
        strategy.learn(made.experience(positions))
    made.test.answers(strategy, made.space)
    return strategy


def anonymous() -> int:
    """Anonymous memory of this process in bytes."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon"))
    return int(line.split()[1]) * 1024


def memory() -> None:
    """Sample while joint learns."""
    Made.shape, Made.train, Made.test = (3, 224, 224), 20_000, 1_000
    warm_up(CPU)
    before, highest, over = anonymous(), 0, threading.Event()

    def watch() -> None:
        nonlocal highest
        while not over.wait(0.005):
            highest = max(highest, anonymous())

    watcher = threading.Thread(target=watch)
    watcher.start()
    start = time.process_time()
    learned(realised("joint", Made, Pooled))
    over.set()
    watcher.join()
    stored = Made.train * int(np.prod(Made.shape))
    print(f"{stored / 1e9:.2f} GB stored, {4 * stored / 1e9:.2f} GB as inputs; {time.process_time() - start:.0f} s")
    print(f"RssAnon: {before / 1e9:.2f} GB before, at most {(highest - before) / 1e9:.2f} GB above it")


def prefetch(pairs: int) -> None:
    """An epoch each in turn."""
    warm_up(CPU)
    resnet = HOST.backbones.load("resnet18")
    ratios = []
    for pair in range(pairs):
        spent = {}
        for kept in (2**40, 0) if pair % 2 else (0, 2**40):
            rows.KEPT = kept
            made = realised("joint", Made, resnet, batch_size=32)
            strategy = made.set_up(made.parts.strategy())
            made.begin(made.steps[0])
            experience = made.experience(made.steps[0])
            start = np.array([time.perf_counter(), time.process_time()])
            strategy.learn(experience)
            spent[kept] = np.array([time.perf_counter(), time.process_time()]) - start
        ratios.append(spent[0] / spent[2**40])
        print(
            f"{spent[0][1]:.1f} s read, {spent[2**40][1]:.1f} s kept: {ratios[-1][1]:.3f} of the processor", flush=True
        )
    clock, processor = (median(column) for column in zip(*ratios))
    print(f"median of {pairs}: {clock:.3f} of the clock, {processor:.3f} of the processor")


def buffer() -> None:
    """What er carries besides its model."""
    for benchmark in (Made, Turned):
        strategy = learned(realised("er", benchmark, Pooled, buffer_size=200))
        print(f"{benchmark.name}: {state_bytes(strategy.buffer) / 1e6:.3f} MB for {len(strategy.buffer)} images")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch, configured(Protocol()):
        Made.folder = Path(scratch)
        match sys.argv[1:]:
            case ["memory"]:
                memory()
            case ["prefetch", *pairs]:
                prefetch(int(pairs[0]) if pairs else 5)
            case ["buffer"]:
                buffer()
            case _:
                sys.exit(__doc__)
