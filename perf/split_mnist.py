"""What the measurements share: Split MNIST as it is realised, in memory."""

from collections.abc import Sequence

import torch

from clarena import Benchmark, Data, DataError, Protocol, Strategy, Track
from clarena.plugins.host import Host, PluginSources
from clarena.plugins.parameters import parse
from clarena.protocol.protocol import NamedPart
from clarena.run.data import load
from clarena.run.realisation import CellClasses, Realisation

CPU = torch.device("cpu")


def realised(
    protocol: Protocol, seed: int = 0, strategy: str = "finetune", hidden: Sequence[int] = (400, 400)
) -> tuple[Realisation, type[Strategy]]:
    """Split MNIST with an MLP under this protocol, and the class of a strategy."""
    host = Host.discover(PluginSources(third_party=False))
    benchmark, backbone = host.benchmarks.load("split-mnist"), host.backbones.load("mlp")
    make_sure_of_data(benchmark)
    found = host.strategies.load(strategy)
    track = Track(
        benchmark=NamedPart(name="split-mnist", options=parse(benchmark, {}, "benchmark")),
        scenario="class",
        backbone=NamedPart(name="mlp", options=parse(backbone, {"hidden": list(hidden)}, "backbone")),
        protocol=protocol,
    )
    return Realisation(track, CellClasses(strategy=found, benchmark=benchmark, backbone=backbone), seed, CPU), found


def make_sure_of_data(benchmark: type[Benchmark]) -> None:
    """Load MNIST; where it cannot be had, say so and put noise of the same shape in its place."""
    try:
        load(benchmark, {})
    except DataError:
        print("MNIST is not here (set CLARENA_DATA): using noise of the same shape and types.")
        noise = random_digits()
        benchmark.data = lambda self: noise  # type: ignore[method-assign]


def random_digits() -> Data:
    """Noise in the shape of MNIST."""

    def part(samples: int) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.randint(0, 256, (samples, 1, 28, 28), dtype=torch.uint8), torch.randint(0, 10, (samples,))

    return Data(*part(60_000), *part(10_000), tuple("0123456789"))
