"""Small runs with their models, and where the record has the answer to each test sample."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import clarena
from clarena import Record, Results
from clarena.contract.benchmark import limited
from clarena.plugins.host import Host
from clarena.run.data import load
from clarena.toolbox.seeding import Seeds


def evaluated(folder: Path, *strategies: Any, keep: bool = True, **changes: Any) -> Results:
    options: dict[str, Any] = {"benchmark": "split-digits", "protocol": "smoke", "limit": 16, "seeds": [0], "jobs": 1}
    settings = {"backbone": {"hidden": [8]}} | changes.pop("settings", {})
    options |= {"settings": settings, "store": folder / "runs", "track": False, "keep_models": keep}
    return clarena.evaluate(list(strategies), **(options | changes))


def rows_of(record: Record) -> list[tuple[Tensor, Tensor]]:
    """Test rows and where each has its answer in the record, by experience; worked out here from the stream alone."""
    track = record.cell.track
    cls = Host.discover().benchmarks.resolve(track.benchmark.name)
    benchmark, data = cls(**track.benchmark.options), load(cls, track.benchmark.options).data
    seeds = Seeds(record.cell.seed)
    stream = benchmark.stream(data, track.scenario, seeds.numpy("class_order"))
    stream = limited(stream, track.protocol.limit)
    order = torch.randperm(sum(len(split.test) for split in stream.splits), generator=seeds.torch("evaluation"))
    origin = torch.cat([torch.full_like(split.test, j) for j, split in enumerate(stream.splits)])[order]
    rows = torch.cat([split.test for split in stream.splits])[order]
    return [(data.x_test[rows[origin == j]], (origin == j).nonzero()[:, 0]) for j in range(len(stream.splits))]
