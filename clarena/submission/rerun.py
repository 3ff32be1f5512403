"""The runs of a verification, as plans: claimed seeds, hidden seeds, and canaries, all behind `confined`."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from clarena.errors import ClarenaError
from clarena.plugins.host import Host, PluginSources
from clarena.protocol.protocol import Track
from clarena.record.predictions import Arrays
from clarena.record.recomputation import same
from clarena.record.record import Cell, Record
from clarena.record.store import Store
from clarena.submission.child import Plugin
from clarena.submission.confined import confined
from clarena.submission.evidence import Evidence
from clarena.submission.manifest import BundleError, Claim, Manifest

if TYPE_CHECKING:
    from clarena.contract.benchmark import Benchmark, Stream
    from clarena.run.planning import Plan

REFERENCES = ("finetune", "joint")
"""The rows that a board scales by; they run on the hidden seeds as well."""


@dataclass(frozen=True)
class Bench:
    """Where runs are made.

    Attributes:
        host: with this installation's own plugins alone.
        store: of runs made here; what it holds is not run again.
    """

    host: Host
    store: Path
    device: str


def built_in_host() -> Host:
    """A host that knows no stranger: whose benchmarks and backbones a verifier has as well."""
    return Host.discover(PluginSources(third_party=False))


def reference_plan(claim: Claim, seeds: Sequence[int], bench: Bench) -> "Plan":
    """The references on a claimed track, which is built anew from the names and options in it.

    Raises:
        BundleError: the benchmark, backbone or revision is not known here, or the data are others.
    """
    from clarena.run.planning import make_plan

    track = claim.track
    try:
        plan = make_plan(
            REFERENCES,
            benchmark=track.benchmark.name,
            scenario=track.scenario,
            backbone=track.backbone.name,
            preset="standard",
            seeds=seeds,
            settings={
                "benchmark": track.benchmark.options,
                "stream": track.stream.model_dump(),
                "backbone": track.backbone.options,
                "protocol": track.protocol.model_dump(exclude={"revision", "tested_on"}),
            },
            limit=None,
            device=bench.device,
            store=bench.store,
            retry=True,
            host=bench.host,
        )
    except ClarenaError as error:
        raise BundleError(f"{track.label} cannot be made here: {error}") from error
    ours = plan.track
    if ours.benchmark.fingerprint != track.benchmark.fingerprint:
        raise BundleError(f"{track.label}: its data are not those of {track.benchmark.name} here (fingerprints differ)")
    if ours.digest != track.digest:
        raise BundleError(
            f"{track.label}: the same names and options make another track here: the revisions of protocol, benchmark "
            f"and backbone are {_revisions(ours)}, the claim has {_revisions(track)}"
        )
    return plan


def _revisions(track: Track) -> str:
    return f"{track.protocol.revision}, {track.benchmark.revision} and {track.backbone.revision}"


def wrong_labels(pieces: Sequence[Evidence], bench: Bench) -> list[str]:
    """Where predictions come with other labels than the benchmark's, whose streams are made anew; all of one claim."""
    import torch

    from clarena.contract.strategy import Strategy
    from clarena.run.realisation import CellClasses, Realisation

    problems = []
    for piece in pieces:
        track = piece.claim.track
        parts = CellClasses(
            Strategy,
            bench.host.benchmarks.load(track.benchmark.name),
            bench.host.backbones.load(track.backbone.name),
            bench.host.targets.load,
        )
        realised = Realisation(track, parts, piece.run.seed, torch.device("cpu"))
        where = f"{track.label} seed {piece.run.seed}"
        if realised.scoring.name != piece.record.target:
            problems.append(f"{where}: its target is {piece.record.target}, the benchmark's is {realised.scoring.name}")
        elif not _same_arrays(realised.test.truth, piece.predictions.truth):
            problems.append(f"{where}: the labels beside its predictions are not the benchmark's")
        elif not np.array_equal(realised.test.experience, piece.predictions.experience):
            problems.append(f"{where}: its test samples are not in the experiences where the benchmark has them")
        elif list(realised.stream.output_names) != piece.record.output_names:
            problems.append(f"{where}: its outputs are named otherwise than the benchmark's")
        elif realised.experiences() != piece.record.experiences:
            problems.append(f"{where}: its experiences are not those of the benchmark")
        elif piece.record.chance and not same(piece.record.chance, realised.chance(piece.predictions)):
            problems.append(f"{where}: what it says of chance is not what the benchmark's labels give")
    return problems


def _same_arrays(one: Arrays, other: Arrays) -> bool:
    return one.keys() == other.keys() and all(np.array_equal(one[n], other[n], equal_nan=True) for n in one)


def claim_plan(manifest: Manifest, claim: Claim, seeds: Sequence[int], plugin: Plugin, bench: Bench) -> "Plan":
    """The claimed row on these seeds, its strategy confined."""
    return _plan([manifest.cell(claim, seed) for seed in seeds], claim.track.benchmark.name, plugin, bench)


def canary_plan(manifest: Manifest, claim: Claim, runs: int, plugin: Plugin, bench: Bench) -> "Plan":
    """The claimed row on shuffled training labels: a track of its own, so that no record of it is taken for more."""
    benchmark = shuffled(bench.host.benchmarks.load(claim.track.benchmark.name))
    part = claim.track.benchmark.model_copy(update={"name": benchmark.name})
    changed = claim.model_copy(update={"track": claim.track.model_copy(update={"benchmark": part})})
    return _plan([manifest.cell(changed, seed) for seed in range(runs)], benchmark, plugin, bench)


def _plan(cells: Sequence[Cell], benchmark: "str | type[Any]", plugin: Plugin, bench: Bench) -> "Plan":
    from clarena.run.planning import Plan
    from clarena.run.worker import Work

    track, store = cells[0].track, Store(bench.store)
    strategy = confined(plugin, track, benchmark, bench.device)
    works = [
        Work(
            cell=cell,
            sources=bench.host.sources,
            parts={"strategy": strategy, "benchmark": benchmark, "backbone": track.backbone.name},
            device=bench.device,
            store=str(bench.store.absolute()),
            command="clarena verify",
            retry=True,
        )
        for cell in cells
    ]
    found: dict[str, Record | None] = {cell.id: store.find(cell) for cell in cells}
    done = {key: record for key, record in found.items() if record and record.status in ("finished", "diverged")}
    return Plan(track, works, done, {})


def shuffled(benchmark: "type[Benchmark]") -> "type[Benchmark]":
    """The benchmark with the training inputs of the whole stream dealt out anew by chance, labels left in place.

    Each experience keeps its sizes and classes, so that a strategy runs as always; what a label looks like, and
    which experience an input is from, cannot be learned. Test data stay as they are.
    """
    import torch

    class Shuffled(benchmark):  # type: ignore[misc, valid-type]
        name = f"shuffled-{benchmark.name}"

        def stream(self, data: Any, scenario: Any, generator: Any) -> "Stream":
            stream: Stream = super().stream(data, scenario, generator)
            rows = torch.cat([split.train for split in stream.splits])
            mixed = rows[torch.from_numpy(generator.permutation(len(rows)))]
            parts = mixed.split([len(split.train) for split in stream.splits])
            splits = tuple(replace(split, train=part) for split, part in zip(stream.splits, parts))
            return replace(stream, splits=splits)

    return Shuffled


def tells_experience(claim: Claim, bench: Bench) -> bool:
    """Whether a test sample's experience can be known: by a task label, or by a transform seen in the input."""
    from clarena.contract.benchmark import Stream
    from clarena.plugins.parameters import parse
    from clarena.toolbox.seeding import Seeds

    if claim.track.scenario == "task":
        return True
    part = claim.track.benchmark
    cls = bench.host.benchmarks.load(part.name)
    benchmark = cls(**parse(cls, part.options, part.name))
    stream: Stream = benchmark.stream(benchmark.data(), claim.track.scenario, Seeds(0).numpy("class_order"))
    return any(split.transform is not None for split in stream.splits)
