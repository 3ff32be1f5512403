"""Run what a plan says is missing, log it beside that, and hand back the records: `clarena.evaluate`."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from clarena.contract.backbone import Backbone
from clarena.contract.benchmark import Benchmark
from clarena.contract.strategy import Strategy
from clarena.errors import UsageError, unknown_name
from clarena.plugins.host import Host, PluginSources
from clarena.record.record import Record
from clarena.record.store import Store
from clarena.run.deadline import Limits
from clarena.run.executors import Event, Listener, default_jobs, execute
from clarena.run.notebook import notebook_listener
from clarena.run.output import harmless
from clarena.run.planning import Plan, Settings, make_plan
from clarena.run.trained import TrainedModel, model_of
from clarena.run.worker import Work

if TYPE_CHECKING:
    import pandas as pd

MANY = 5
"""So many records that are still to be logged when the runs are over take long enough to be told of."""


@dataclass(frozen=True)
class Results:
    """The records of an evaluation, in the order of the request.

    Attributes:
        records: one for each cell that has one.
        errors: what kept a cell from being recorded, by cell label.
        untracked: what MLflow missed, one line each; `clarena sync` pushes it.
        works: what was asked for.
    """

    records: list[Record]
    errors: dict[str, str] = field(default_factory=dict)
    untracked: list[str] = field(default_factory=list)
    works: list[Work] = field(default_factory=list, repr=False)

    def __repr__(self) -> str:
        became = Counter(record.status.replace("_", " ") for record in self.records)
        became.update({"not recorded": len(self.errors)} if self.errors else {})
        told = ", ".join(f"{count} {status}" for status, count in became.items()) or "none"
        return f"Results({len(self.records) + len(self.errors)} runs: {told})"

    def _repr_html_(self) -> str:
        from clarena.record.notebook import results_html

        return results_html(self.records, self.errors)

    def __iter__(self) -> Iterator[Record]:
        return iter(self.records)

    def __len__(self) -> int:
        return len(self.records)

    def model(self, strategy: str | type[Strategy], seed: int = 0, *, device: str = "cpu") -> TrainedModel:
        """The trained model of a run, where `keep_models` asked for it.

        Raises:
            UsageError: for a run that is not among these, or kept no model.
            StoreError: for a state that cannot be used; see `clarena.load_model`.
        """
        name = strategy if isinstance(strategy, str) else strategy.name
        work = next((w for w in self.works if (w.cell.strategy.name, w.cell.seed) == (name, seed)), None)
        if work is None:
            raise unknown_name("run among these results", f"{name} seed {seed}", [w.cell.label for w in self.works])
        record = Store(work.store).find(work.cell)
        if record is None:
            raise UsageError(f"{work.cell.label} has no record: {self.errors.get(work.cell.label, 'it was not run')}")
        given = {part: cls for part, cls in work.parts.items() if isinstance(cls, type)}
        folder = Store(work.store).folder(record.cell)
        return model_of(record, folder, Host.discover(work.sources), device=device, given=given)

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
                "metering": r.metering,
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
    timeout: float | None = None,
    experience_timeout: float | None = None,
    keep_models: bool = False,
    references: bool = False,
    plugins: PluginSources | None = None,
    listener: Listener | None = None,
) -> Results:
    """Run strategies on one track and return their records; what the store holds already is not run again.

    Args:
        strategies: names or classes.
        benchmark: a name or a class.
        backbone: a name or a class.
        scenario: `class`, `domain` or `task`; None takes the benchmark's first.
        protocol: a preset.
        seeds: how many (0, 1, …), or which.
        settings: by owner, as in `{"ewc": {"strength": 10}, "protocol": {"epochs": 1}, "stream": {"blur": 0.1}}`;
            `learning_rate` can be set for every strategy.
        limit: use only so many samples of each experience; never ranked.
        device: `cpu`, `mps`, `cuda`, `cuda:N`, or several among which cells are dealt out: `cuda:0,1,2`.
        jobs: runs at a time, each in a process of its own; 1 runs them in this one, unless it is on CUDA or its time
            is limited. None takes one per core.
        store: the directory of records.
        tracking_uri: of MLflow; None takes MLFLOW_TRACKING_URI, or an SQLite file in the working directory.
        track: whether to log to MLflow at all.
        retry: run failed, timed-out, interrupted and out-of-memory cells again.
        timeout: seconds after which a run is ended; its record says `timed_out`, with what it had finished.
        experience_timeout: the same for each experience of it.
        keep_models: keep each trained model beside its record: `results.model("er", seed=0)` gives it back. A run that
            finished without is run again, and its record stays; where it then predicts otherwise, nothing is kept.
        references: where the backbone starts from weights, also run `ncm` and `ridge`, unless they are named or cannot
            run there. `clarena evaluate` does so by itself; here what runs is what is named.
        plugins: where to look for plugins besides the installed ones.
        listener: told of every event as it happens. One that raises is told no more, and the runs go on;
            KeyboardInterrupt stops them. Without one, a notebook shows the progress, and elsewhere nothing does.

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
        limits=Limits(timeout, experience_timeout),
        keep=keep_models,
        references=references,
        host=Host.discover(plugins),
    )
    listener = listener or notebook_listener(plan)
    return carry_out(plan, store, jobs=jobs, tracking_uri=tracking_uri, track=track, listener=listener)


def carry_out(
    plan: Plan,
    store: str | Path,
    *,
    jobs: int | None = None,
    tracking_uri: str | None = None,
    track: bool = True,
    listener: Listener | None = None,
) -> Results:
    """Run what is missing, log to MLflow beside that what it lacks of the plan, and collect the records."""
    if jobs is not None and jobs < 1:
        raise UsageError(f"jobs = {jobs} is not valid: give how many runs at a time, 1 or more.")
    place = Store(store)
    if plan.missing:
        place.prepare()
        if plan.loaded:
            place.keep_report(plan.track, plan.loaded.report)
    records = dict(plan.done)
    kept = [work for work in plan.works if work.cell.id in records and place.holds(work.cell)]
    errors = {work.cell.label: plan.damaged[work.cell.id] for work in plan.works if work.cell.id in plan.damaged}
    tracker = None
    if track and plan.works:
        from clarena.tracking import BackgroundTracker

        tracker = BackgroundTracker(place, tracking_uri)
        tracker.submit(*plan.done.values())  # whoever ran them may have been killed before they were logged

    listener = harmless(listener) if listener else None
    submit = harmless(tracker.submit) if tracker else None

    def on_event(event: Event) -> None:
        cell = event.work.cell
        if event.kind == "done" and event.record:
            records[cell.id] = event.record
            if submit:
                submit(event.record)
        elif event.kind == "error":
            errors[cell.label] = event.message
        if listener:
            listener(event)

    missing = plan.missing
    failures, ended = [], False
    try:
        execute(missing, jobs or default_jobs(missing[0].device, len(missing)) if missing else 1, on_event)
        ended = True
    finally:
        if tracker:
            if ended and listener and tracker.waiting >= MANY:
                listener(Event("logging", plan.works[-1], message=f"Logging {tracker.waiting} records to MLflow …"))
            failures = tracker.close(patient=ended)
    for work in (*kept, *missing):
        if work.cell.id in records and not place.holds(work.cell):
            errors[work.cell.label] = f"Its record is gone: {store} was removed while this ran. Run it again."
    return Results(
        [records[work.cell.id] for work in plan.works if work.cell.id in records],
        errors,
        [f"{failure.cell}: {failure.reason}" for failure in failures],
        plan.works,
    )
