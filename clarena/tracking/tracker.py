"""Logging records to one MLflow, so that nothing is lost, half-logged or logged twice."""

import hashlib
import json
import os
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import zip_longest
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import Any, Literal

import numpy as np
from filelock import FileLock

from clarena.protocol.protocol import Track
from clarena.record.likelihoods import ALL_METRICS
from clarena.record.record import Record, Status, now
from clarena.record.store import TRACKED, Damaged, Store, write_atomic
from clarena.tracking import content
from clarena.tracking.uri import DATABASES, database_file, public, resolve_uri

Outcome = Literal["logged", "already", "failed"]

GIVE_UP_AFTER = 2
"""So many times in a row MLflow may be out of reach before it is left alone."""
LOCK_SECONDS = 60
METRICS_PER_CALL, PARAMETERS_PER_CALL, RUNS_PER_PAGE = 900, 100, 200

ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    # MLflow's own values wait for minutes on a server that is gone; `clarena sync` is the better retry.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
}
"""What MLflow is told before it is imported, unless the user said otherwise."""

RUN_STATUS: dict[Status, str] = {
    "finished": "FINISHED",
    "diverged": "FAILED",
    "out_of_memory": "FAILED",
    "failed": "FAILED",
    "interrupted": "KILLED",
}


@dataclass(frozen=True)
class TrackingFailure:
    """A record that MLflow did not take: the label of its cell, and why."""

    cell: str
    reason: str


@dataclass(frozen=True)
class SyncReport:
    """What `sync` did: how many records it logged, how many MLflow already had, and what went wrong."""

    logged: int
    already: int
    failed: list[TrackingFailure]
    damaged: list[Damaged]


def sync(store: Store, uri: str | None = None) -> SyncReport:
    """Log every record of a store that MLflow misses, or holds in part or in an older version."""
    tracker = Tracker(store, uri)
    records, damaged = store.records()
    outcomes = Counter(tracker.log(record) for record in records)
    return SyncReport(outcomes["logged"], outcomes["already"], tracker.failures, damaged)


class Tracker:
    """Logs the records of a store to one MLflow, which is opened when the first record comes.

    Attributes:
        uri: of that MLflow.
        failures: records that it did not take.
    """

    def __init__(self, store: Store, uri: str | None = None) -> None:
        self.store, self.uri = store, resolve_uri(uri)
        self.failures: list[TrackingFailure] = []
        self._client: Any = None
        self._experiments: dict[str, Any] = {}
        self._unanswered = 0
        # Several processes at once ruin a fresh database, and would each create a parent run.
        database = database_file(self.uri)
        lock = f"{database}.lock" if database else store.path / ".mlflow.lock"
        self._lock = FileLock(lock, timeout=LOCK_SECONDS)

    def log(self, record: Record) -> Outcome:
        """Log one record of the store unless MLflow has it; never raises, but notes the failure in `failures`."""
        if self._unanswered >= GIVE_UP_AFTER:
            reason = f"not tried, after {GIVE_UP_AFTER} failures to reach {public(self.uri)}"
            return self._failed(record, reason)
        try:
            return self._log(record)
        except Exception as error:
            # MLflow, databases and networks raise anything, and the record is safe on disk.
            # Forget what was opened: the next record begins by finding out whether MLflow is there.
            self._client = None
            self._experiments.clear()
            first_line = str(error).partition("\n")[0]
            return self._failed(record, public(f"{type(error).__name__}: {first_line}")[:500])

    def _failed(self, record: Record, reason: str) -> Outcome:
        self.failures.append(TrackingFailure(record.cell.label, reason))
        return "failed"

    def _log(self, record: Record) -> Outcome:
        folder = self.store.folder(record.cell)
        exact, predictions = self.store.files(record.cell)
        sha256 = hashlib.sha256(exact).hexdigest()
        self._unanswered += 1  # until it answers, in the next lines
        if database := database_file(self.uri):
            database.parent.mkdir(parents=True, exist_ok=True)
        with self._lock:
            experiment = self._experiment(record.cell.track)
        self._unanswered = 0
        # An experiment that was deleted for good and made anew is another one, whatever its number.
        identity = f"{experiment.experiment_id}@{experiment.creation_time}"
        tracked = _read_tracked(folder / TRACKED)
        entry = tracked.get(public(self.uri), {})
        if (entry.get("experiment"), entry.get("record_sha256")) == (identity, sha256):
            return "already"
        with tempfile.TemporaryDirectory() as artifacts:
            content.write_artifacts(record, exact, predictions, Path(artifacts))
            with self._lock:
                run_id, outcome = self._place(record, sha256, experiment.experiment_id, artifacts)
        tracked[public(self.uri)] = {"experiment": identity, "run_id": run_id, "record_sha256": sha256}
        if folder.is_dir():  # a row's archive tells of its runs, not of who was told of them
            write_atomic(folder / TRACKED, json.dumps(tracked, indent=1).encode())
        return outcome

    def _experiment(self, track: Track) -> Any:
        """The experiment of a track, made where there is none yet."""
        if track.digest not in self._experiments:
            self._client = self._client or _connect(self.uri)
            name = f"{track.label} [{track.digest[:12]}]"
            found = self._client.get_experiment_by_name(name)
            if found is None:
                self._create_experiment(name, track)
                found = self._client.get_experiment_by_name(name)
            elif found.lifecycle_stage == "deleted":
                self._client.restore_experiment(found.experiment_id)
            self._experiments[track.digest] = found
        return self._experiments[track.digest]

    def _create_experiment(self, name: str, track: Track) -> None:
        from mlflow.exceptions import MlflowException

        database = database_file(self.uri)
        try:
            self._client.create_experiment(
                name,
                # A server knows where its artifacts go; for a file, the default would depend on who asks.
                artifact_location=(database.parent / "mlartifacts").as_uri() if database else None,
                tags={
                    "clarena.track": track.digest,
                    "clarena.label": track.label,
                    "clarena.track_json": track.model_dump_json(),
                },
            )
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":  # another machine was quicker
                raise

    def _place(self, record: Record, sha256: str, experiment: str, artifacts: str) -> tuple[str, Outcome]:
        """Make the record's run the only one of its cell, under its row; its id, and whether it is new."""
        client, cell = self._client, record.cell
        runs = self._runs(experiment, cell.row)
        rows = [run for run in runs if run.data.tags["clarena.kind"] == "row"]
        cells = [run for run in runs if run.data.tags["clarena.kind"] == "cell"]
        mine = [run for run in cells if run.data.tags["clarena.cell"] == cell.id]
        row = rows[0].info.run_id if rows else self._create_row(record, experiment)
        for run in rows[1:]:  # machines that share no lock may have made one each
            client.delete_run(run.info.run_id)
        for run in cells:
            if run.data.tags["mlflow.parentRunId"] != row:
                client.set_tag(run.info.run_id, "mlflow.parentRunId", row)
        same = [run.info.run_id for run in mine if run.data.tags.get("clarena.complete") == sha256]
        run_id = same[0] if same else self._create_cell(record, sha256, experiment, row, artifacts)
        for run in mine:
            if run.info.run_id != run_id:
                client.set_tag(run.info.run_id, "clarena.superseded", run_id)
                client.delete_run(run.info.run_id)
        others = [run for run in cells if run.data.tags["clarena.cell"] != cell.id]
        finished = [run.data.metrics for run in others if _is_finished(run)]
        self._summarise_row(row, finished + [record.metrics] * (record.status == "finished"))
        return run_id, "already" if same else "logged"

    def _runs(self, experiment: str, row: str) -> list[Any]:
        """The runs of a row, oldest first."""
        runs, token = [], None
        while True:
            page = self._client.search_runs(
                [experiment],
                f"tags.`clarena.row` = '{row}'",
                max_results=RUNS_PER_PAGE,
                order_by=["attributes.start_time ASC"],
                page_token=token,
            )
            runs += page
            token = page.token
            if not token:
                return runs

    def _create_row(self, record: Record, experiment: str) -> str:
        info = record.cell.strategy
        values = " ".join(f"{name}={value}" for name, value in info.hyperparameters.items())
        run = self._client.create_run(
            experiment,
            start_time=_milliseconds(record.started),
            run_name=f"{info.name} {values}".strip()[:200],
            tags=content.tags(record.cell) | {"clarena.kind": "row"},
        )
        parameters = content.parameters(record.cell)
        del parameters["seed"]
        self._log_batch(run.info.run_id, parameters, [])
        return str(run.info.run_id)

    def _create_cell(self, record: Record, sha256: str, experiment: str, row: str, artifacts: str) -> str:
        client, cell = self._client, record.cell
        tags = content.tags(cell) | {
            "clarena.kind": "cell",
            "clarena.cell": cell.id,
            "clarena.seed": str(cell.seed),
            "clarena.status": record.status,
            "mlflow.parentRunId": row,
        }
        if record.reason:
            tags["clarena.reason"] = content.shortened(record.reason, content.LONGEST_TAG)
        run = client.create_run(experiment, start_time=_milliseconds(record.started), run_name=cell.label, tags=tags)
        run_id = str(run.info.run_id)
        ended = _milliseconds(record.ended)
        self._log_batch(run_id, content.parameters(cell), content.metrics(record), ended)
        client.log_inputs(run_id, [content.data_set(record)])
        client.log_artifacts(run_id, artifacts)
        client.set_terminated(run_id, RUN_STATUS[record.status], ended)
        # Last: a run without this tag was cut short, and is made anew.
        client.set_tag(run_id, "clarena.complete", sha256)
        return run_id

    def _summarise_row(self, row: str, finished: Sequence[Mapping[str, float]]) -> None:
        """Give a row the means over its finished seeds, and their number."""
        means = [
            (name, float(np.mean([metrics[name] for metrics in finished])), len(finished))
            for name in ALL_METRICS
            if finished and all(np.isfinite(metrics.get(name, np.nan)) for metrics in finished)
        ]
        moment = _milliseconds(now())
        self._log_batch(row, {}, [*means, ("seeds_finished", len(finished), len(finished))], moment)
        self._client.set_terminated(row, "FINISHED" if finished else "FAILED", moment)

    def _log_batch(
        self, run_id: str, parameters: dict[str, str], metrics: list[content.Point], moment: int = 0
    ) -> None:
        from mlflow.entities import Metric, Param

        points = [Metric(key, value, moment, step) for key, value, step in metrics]
        entries = [Param(key, value) for key, value in parameters.items()]
        metric_parts, entry_parts = _parts(points, METRICS_PER_CALL), _parts(entries, PARAMETERS_PER_CALL)
        for some_points, some_entries in zip_longest(metric_parts, entry_parts, fillvalue=()):
            self._client.log_batch(run_id, some_points, some_entries, synchronous=True)


class BackgroundTracker:
    """A `Tracker` on its own thread, so that no run waits for MLflow; it starts with the first record."""

    def __init__(self, store: Store, uri: str | None = None) -> None:
        self._tracker = Tracker(store, uri)
        self._queue: SimpleQueue[Record | None] = SimpleQueue()
        # A daemon: whoever leaves without `close` is not held up; `sync` makes anew what is cut short.
        self._thread = Thread(target=self._work, name="clarena-tracking", daemon=True)

    def submit(self, record: Record) -> None:
        """Have a record of the store logged; returns at once."""
        self._queue.put(record)
        if self._thread.ident is None:
            self._thread.start()

    def close(self) -> list[TrackingFailure]:
        """Wait until all is logged; the failures."""
        if self._thread.ident is not None:
            self._queue.put(None)
            self._thread.join()
        return self._tracker.failures

    def _work(self) -> None:
        while (record := self._queue.get()) is not None:
            self._tracker.log(record)


def _connect(uri: str) -> Any:
    """A client beside whatever MLflow the process uses otherwise; creates the tables of a fresh database."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    from mlflow import MlflowClient

    if uri.startswith(DATABASES):
        from sqlalchemy import create_engine, inspect

        engine = create_engine(uri)  # MLflow would retry for two minutes what fails at once here
        inspect(engine).get_table_names()
        engine.dispose()
    return MlflowClient(tracking_uri=uri)


def _is_finished(run: Any) -> bool:
    return run.data.tags["clarena.status"] == "finished" and "clarena.complete" in run.data.tags


def _read_tracked(path: Path) -> dict[str, Any]:
    """Where a cell was logged, by tracking URI; empty where no file says so, for MLflow then is searched."""
    try:
        tracked = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return tracked if isinstance(tracked, dict) else {}


def _milliseconds(moment: datetime) -> int:
    return round(1000 * moment.timestamp())


def _parts(entries: Sequence[Any], size: int) -> Iterable[Sequence[Any]]:
    return (entries[start : start + size] for start in range(0, len(entries), size))
