"""Plan which cells a request means, run those that are missing, and hand back the records: `clarena.evaluate`."""

import json
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from clarena.arena import load_data
from clarena.backbone import Backbone
from clarena.benchmark import Benchmark
from clarena.environment import device_named
from clarena.errors import ClarenaError, UsageError, unknown_name
from clarena.executors import Event, Listener, default_jobs, execute
from clarena.host import Host, PluginSources
from clarena.parameters import defaults, parse
from clarena.protocol import SCENARIOS, Part, Scenario, Track, protocol
from clarena.records import RETRIED, Cell, Record, StrategyInfo
from clarena.registry import first_sentence
from clarena.sources import source_hash
from clarena.store import Store
from clarena.strategy import NEEDS, Strategy, is_reference
from clarena.worker import Work

if TYPE_CHECKING:
    import pandas as pd

Settings = Mapping[str, Mapping[str, Any]]
"""Values by owner: `{"ewc": {"strength": 10}, "benchmark": {"experiences": 2}, "protocol": {"epochs": 1}}`."""

OWNERS = ("benchmark", "backbone", "protocol")


@dataclass(frozen=True)
class Plan:
    """The cells of a request, and what the store holds of them.

    Attributes:
        works: all cells, strategy by strategy.
        done: records that are there already, by cell id.
        damaged: why a record cannot be read, by cell id; such a cell is not run.
    """

    track: Track
    works: list[Work]
    done: dict[str, Record]
    damaged: dict[str, str]

    @property
    def missing(self) -> list[Work]:
        """The cells to be run."""
        return [work for work in self.works if work.cell.id not in self.done and work.cell.id not in self.damaged]


@dataclass(frozen=True)
class Results:
    """The records of an evaluation, in the order of the request.

    Attributes:
        records: one for each cell that has one.
        errors: what kept a cell from being recorded, by cell label.
        untracked: what MLflow missed, one line each; `clarena sync` pushes it.
    """

    records: list[Record]
    errors: dict[str, str] = field(default_factory=dict)
    untracked: list[str] = field(default_factory=list)

    def __iter__(self) -> Iterator[Record]:
        return iter(self.records)

    def __len__(self) -> int:
        return len(self.records)

    def dataframe(self) -> "pd.DataFrame":
        """One line per record: strategy, seed, status, every hyper-parameter and metric, and costs."""
        import pandas as pd

        return pd.DataFrame(
            {
                "strategy": r.cell.strategy.name,
                "seed": r.cell.seed,
                "status": r.status,
                "track": r.cell.track.label,
                **{f"{r.cell.strategy.name}.{key}": value for key, value in r.cell.strategy.hyperparameters.items()},
                **r.metrics,
                "train_seconds": r.train_seconds,
                "predict_seconds": r.predict_seconds,
                "peak_memory_bytes": r.peak_memory_bytes,
                "state_bytes": r.state_bytes,
                "parameters": r.parameters,
                "reason": r.reason,
            }
            for r in self.records
        )


def evaluate(
    strategies: str | type[Strategy] | Sequence[str | type[Strategy]],
    *,
    benchmark: str | type[Benchmark] = "split-digits",
    scenario: str | None = None,
    backbone: str | type[Backbone] = "mlp",
    protocol: str = "standard",
    seeds: int | Sequence[int] = 5,
    settings: Settings | None = None,
    limit: int | None = None,
    device: str = "cpu",
    jobs: int | None = None,
    store: str | Path = "runs",
    tracking_uri: str | None = None,
    track: bool = True,
    retry: bool = False,
    plugins: PluginSources | None = None,
    listener: Listener | None = None,
) -> Results:
    """Run strategies on one track and return their records; what the store holds already is not run again.

    Args:
        strategies: names or classes.
        benchmark, backbone: a name or a class.
        scenario: `class`, `domain` or `task`; None takes the benchmark's first.
        protocol: a preset.
        seeds: how many (0, 1, …), or which.
        settings: values by owner, as in `{"ewc": {"strength": 10}, "protocol": {"epochs": 1}}`; `learning_rate`
            can be set for every strategy.
        limit: use only so many samples of each experience; never ranked.
        device: `cpu`, `cuda`, `cuda:N`.
        jobs: runs at a time, each in a process of its own; 1 runs them in this one. None takes one per core.
        store: the directory of records.
        tracking_uri: of MLflow; None takes MLFLOW_TRACKING_URI, or an SQLite file in the working directory.
        track: whether to log to MLflow at all.
        retry: run failed, interrupted and out-of-memory cells again.
        plugins: where to look for plugins besides the installed ones.
        listener: told of every event as it happens.

    Raises:
        UsageError: when the request itself is wrong.
        ClarenaError: when data or the store cannot be used.
    """
    plan = make_plan(
        [strategies] if isinstance(strategies, str | type) else strategies,
        benchmark=benchmark,
        scenario=scenario,
        backbone=backbone,
        preset=protocol,
        seeds=range(seeds) if isinstance(seeds, int) else seeds,
        settings=settings or {},
        limit=limit,
        device=device,
        store=store,
        retry=retry,
        host=Host.discover(plugins),
    )
    return carry_out(plan, store, jobs=jobs, tracking_uri=tracking_uri, track=track, listener=listener)


def make_plan(
    strategies: Sequence[str | type[Strategy]],
    *,
    benchmark: str | type[Benchmark],
    scenario: str | None,
    backbone: str | type[Backbone],
    preset: str,
    seeds: Sequence[int],
    settings: Settings,
    limit: int | None,
    device: str,
    store: str | Path,
    retry: bool,
    host: Host,
) -> Plan:
    """Check the request, and name its cells; see `evaluate`."""
    if not strategies:
        raise UsageError(f"Name at least one strategy. Known: {', '.join(host.strategies.names())}.")
    _check_seeds(seeds)
    device_named(device)
    changes = dict(settings.get("protocol", {})) | ({"limit": limit} if limit is not None else {})
    held_equal = protocol(preset, changes)
    benchmark_class: type[Benchmark] = host.benchmarks.resolve(benchmark)
    backbone_class: type[Backbone] = host.backbones.resolve(backbone)
    realm = _scenario(scenario, benchmark_class)
    options = parse(benchmark_class, settings.get("benchmark", {}), "benchmark")
    data = load_data(benchmark_class, json.dumps(options, sort_keys=True))
    track = Track(
        benchmark=Part(
            name=benchmark_class.name,
            options=options,
            revision=benchmark_class.revision,
            fingerprint=data.fingerprint(),
        ),
        scenario=realm,
        backbone=Part(
            name=backbone_class.name,
            options=parse(backbone_class, settings.get("backbone", {}), "backbone"),
            revision=backbone_class.revision,
        ),
        protocol=held_equal,
    )
    rows = [(given, host.strategies.resolve(given)) for given in strategies]
    _check_owners(settings, [cls.name for _, cls in rows])
    command = shlex.join(["clarena", *sys.argv[1:]]) if Path(sys.argv[0]).name == "clarena" else "clarena.evaluate(...)"
    works = []
    for given, cls in rows:
        info = _strategy_info(cls, settings.get(cls.name, {}), track, _plugin(host, given))
        for seed in seeds:
            work = Work(
                cell=Cell(track=track, strategy=info, seed=seed),
                sources=host.sources,
                parts={"strategy": given, "benchmark": benchmark, "backbone": backbone},
                device=device,
                store=str(Path(store).absolute()),
                command=command,
                retry=retry,
            )
            works.append(work)
    if len({work.cell.id for work in works}) < len(works):
        raise UsageError("A strategy is named twice. Name each once; --set changes its hyper-parameters.")
    done, damaged = {}, {}
    for work in works:
        try:
            record = Store(store).find(work.cell)
        except ClarenaError as error:
            damaged[work.cell.id] = str(error)
            continue
        if record and not (retry and record.status in RETRIED):
            done[work.cell.id] = record
    return Plan(track, works, done, damaged)


def carry_out(
    plan: Plan,
    store: str | Path,
    *,
    jobs: int | None = None,
    tracking_uri: str | None = None,
    track: bool = True,
    listener: Listener | None = None,
) -> Results:
    """Run what is missing, log it to MLflow beside that, and collect the records."""
    place = Store(store)
    place.prepare()
    records = dict(plan.done)
    errors = {work.cell.label: plan.damaged[work.cell.id] for work in plan.works if work.cell.id in plan.damaged}
    tracker = None
    if track and plan.missing:
        from clarena.tracking import BackgroundTracker

        tracker = BackgroundTracker(place, tracking_uri)

    def on_event(event: Event) -> None:
        cell = event.work.cell
        if event.kind == "done" and event.record:
            records[cell.id] = event.record
            if tracker:
                tracker.submit(event.record)
        elif event.kind == "error":
            errors[cell.label] = event.message
        if listener:
            listener(event)

    missing = plan.missing
    failures = []
    try:
        execute(missing, jobs or default_jobs(missing[0].device, len(missing)) if missing else 1, on_event)
    finally:
        if tracker:
            failures = tracker.close()
    return Results(
        [records[work.cell.id] for work in plan.works if work.cell.id in records],
        errors,
        [f"{failure.cell}: {failure.reason}" for failure in failures],
    )


def _strategy_info(cls: type[Strategy], values: Mapping[str, Any], track: Track, plugin: str) -> StrategyInfo:
    if track.scenario not in cls.scenarios:
        raise UsageError(
            f"{cls.name} does not run in the {track.scenario} scenario; it runs in: {_in_order(cls.scenarios)}."
        )
    if "known_stream_length" in cls.needs and track.protocol.stream_length == "unknown":
        raise UsageError(f"{cls.name} {NEEDS['known_stream_length']}. Grant it: --set protocol.stream_length=known.")
    values = dict(values)
    rate = track.protocol.learning_rate
    if "learning_rate" in values and "learning_rate" not in defaults(cls):
        rate = parse(_LearningRate, {"learning_rate": values.pop("learning_rate")}, cls.name)["learning_rate"]
    return StrategyInfo(
        name=cls.name,
        plugin=plugin,
        source_hash=source_hash(cls),
        hyperparameters=parse(cls, values, cls.name),
        learning_rate=rate,
        reference=is_reference(cls),
        summary=first_sentence(cls.__doc__),
        paper=cls.reference,
        carries=cls.carries,
    )


class _LearningRate:
    """The one hyper-parameter that the host owns: every strategy's row may set its own."""

    def __init__(
        self, *, learning_rate: Annotated[float, Field(gt=0, description="Learning rate of the optimiser.")]
    ) -> None:
        self.learning_rate = learning_rate


def _scenario(wanted: str | None, benchmark: type[Benchmark]) -> Scenario:
    if wanted is None:
        return benchmark.scenarios[0]
    if wanted not in SCENARIOS:
        raise unknown_name("scenario", wanted, SCENARIOS)
    if wanted not in benchmark.scenarios:
        raise UsageError(
            f"{benchmark.name} makes no sense in the {wanted} scenario; it has: {', '.join(benchmark.scenarios)}."
        )
    return wanted


def _check_seeds(seeds: Sequence[int]) -> None:
    if not seeds:
        raise UsageError("Give at least one seed: --seeds 5 runs seeds 0 to 4, --seeds 0,3,7 those three.")
    negative = [seed for seed in seeds if seed < 0]
    if negative:
        raise UsageError(f"Seeds must not be negative: {negative[0]}.")
    repeated = sorted({seed for seed in seeds if list(seeds).count(seed) > 1})
    if repeated:
        raise UsageError(f"Seeds must not repeat: {', '.join(map(str, repeated))}.")


def _check_owners(settings: Settings, names: list[str]) -> None:
    for owner in settings:
        if owner not in (*OWNERS, *names):
            raise unknown_name("owner of a --set value in this evaluation", owner, [*OWNERS, *names])


def _plugin(host: Host, given: str | type[Any]) -> str:
    """The plugin that offers a strategy, with its origin; a class given from Python has none."""
    if not isinstance(given, str):
        return f"class {given.__module__}.{given.__qualname__}"
    entry = host.strategies.entry(given)
    return f"{entry.plugin} ({entry.origin})"


def _in_order(scenarios: frozenset[str]) -> str:
    return ", ".join(scenario for scenario in SCENARIOS if scenario in scenarios)
