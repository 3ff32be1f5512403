"""What the measurements share: Split MNIST as an arena, in memory."""

import json

import torch

from clarena import Benchmark, Data, DataError, Protocol, Strategy, Track
from clarena.arena import Arena, Parts, load_data
from clarena.host import Host, PluginSources
from clarena.parameters import parse
from clarena.protocol import Part

CPU = torch.device("cpu")


def arena(protocol: Protocol, seed: int = 0) -> tuple[Arena, type[Strategy]]:
    """Split MNIST with an MLP 400-400 under this protocol, and finetune."""
    host = Host.discover(PluginSources(third_party=False))
    benchmark, backbone = host.benchmarks.load("split-mnist"), host.backbones.load("mlp")
    make_sure_of_data(benchmark)
    strategy = host.strategies.load("finetune")
    track = Track(
        benchmark=Part(name="split-mnist", options=parse(benchmark, {}, "benchmark")),
        scenario="class",
        backbone=Part(name="mlp", options=parse(backbone, {}, "backbone")),
        protocol=protocol,
    )
    return Arena(track, Parts(strategy=strategy, benchmark=benchmark, backbone=backbone), seed, CPU), strategy


def make_sure_of_data(benchmark: type[Benchmark]) -> None:
    """Load MNIST; where it cannot be had, say so and put noise of the same shape in its place."""
    try:
        load_data(benchmark, json.dumps(parse(benchmark, {}, "benchmark"), sort_keys=True))
    except DataError:
        print("MNIST is not here (set CLARENA_DATA): using noise of the same shape and types.")
        noise = random_digits()
        benchmark.data = lambda self: noise  # type: ignore[method-assign]


def random_digits() -> Data:
    """Noise in the shape of MNIST."""

    def part(samples: int) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.randint(0, 256, (samples, 1, 28, 28), dtype=torch.uint8), torch.randint(0, 10, (samples,))

    return Data(*part(60_000), *part(10_000), tuple("0123456789"))
