"""Logging records to one MLflow, so that nothing is lost, half-logged or logged twice."""

import hashlib
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from itertools import zip_longest
from pathlib import Path
from typing import Any, Literal

import numpy as np
from filelock import FileLock

from clarena.errors import ClarenaError
from clarena.protocol.protocol import Track
from clarena.record.record import Record, Status, now
from clarena.record.scoring import metrics_of
from clarena.record.store import MODEL, Store
from clarena.record.writing import state_sha256
from clarena.tracking import content
from clarena.tracking.connection import connect
from clarena.tracking.models import STATE_TAG, log_model
from clarena.tracking.reader import RUNS_PER_PAGE, complete_in_file, complete_on_server
from clarena.tracking.uri import database_file, public, resolve_uri

Outcome = Literal["logged", "already", "failed"]

LOCK_SECONDS = 60
METRICS_PER_CALL, PARAMETERS_PER_CALL = 900, 100

RUN_STATUS: dict[Status, str] = {
    "finished": "FINISHED",
    "diverged": "FAILED",
    "out_of_memory": "FAILED",
    "failed": "FAILED",
    "timed_out": "KILLED",
    "interrupted": "KILLED",
}


@dataclass(frozen=True)
class TrackingFailure:
    """A record that MLflow did not take: the label of its cell, and why."""

    cell: str
    reason: str


class Tracker:
    """Logs the records of a store to one MLflow, which is opened when the first record comes that it may lack.

    Attributes:
        uri: of that MLflow.
        failed: the records that it did not take, or not yet, by the id of their cell.
        answers: whether MLflow was there when it was last needed.
        steps: counts up with everything that gets done; where it stands still, MLflow does.
    """

    def __init__(self, store: Store, uri: str | None = None) -> None:
        self.store, self.uri = store, resolve_uri(uri)
        self.answers, self.steps = True, 0
        self.failed: dict[str, TrackingFailure] = {}
        self._client: Any = None
        self._experiments: dict[str, Any] = {}
        self._complete: dict[str, set[str]] = {}
        self._database = database_file(self.uri)
        self._file: tuple[int, int] | None = None
        # Several processes at once would each make the database, and a parent run.
        lock = f"{self._database}.lock" if self._database else store.path / ".mlflow.lock"
        self._lock = FileLock(lock, timeout=LOCK_SECONDS)

    @property
    def failures(self) -> list[TrackingFailure]:
        """What `failed` holds, in order."""
        return list(self.failed.values())

    def log(self, record: Record) -> Outcome:
        """Log one record of the store unless MLflow has it; never raises, but notes the failure in `failures`."""
        try:
            outcome = self._log(record)
        except Exception as error:
            # MLflow, databases and networks raise anything, and the record is safe on disk.
            # Forget what was opened: the next record begins by finding out whether MLflow is there.
            self._forget()
            first_line = str(error).partition("\n")[0]
            reason = first_line if isinstance(error, ClarenaError) else f"{type(error).__name__}: {first_line}"
            self.failed[record.cell.id] = TrackingFailure(record.cell.label, public(reason)[:500])
            return "failed"
        self.failed.pop(record.cell.id, None)
        self.steps += 1
        return outcome

    def _forget(self) -> None:
        self._client = None
        self._experiments.clear()
        self._complete.clear()

    def _log(self, record: Record) -> Outcome:
        exact, predictions = self.store.files(record.cell)
        sha256 = hashlib.sha256(exact).hexdigest()
        if self._database and self._file != _identity(self._database):
            self._forget()  # it was removed or replaced: what was opened is not what others see
            self._file = _identity(self._database)
        track = record.cell.track
        if sha256 in self._held(track):
            self._log_model(record, sha256)
            return "already"
        with tempfile.TemporaryDirectory() as artifacts:
            content.write_artifacts(record, exact, predictions, Path(artifacts))
            with self._opened():
                experiment = self._experiment(track).experiment_id
                outcome = self._place(record, sha256, experiment, artifacts)
        self._held(track).add(sha256)
        self._log_model(record, sha256)
        return outcome

    def _log_model(self, record: Record, sha256: str) -> None:
        """Log the model that the run of a record has kept, if any, unless MLflow has it."""
        path = self.store.folder(record.cell) / MODEL
        if not path.exists():
            return
        with self._opened():
            experiment = self._experiment(record.cell.track).experiment_id
            (run, *_) = self._client.search_runs([experiment], f"tags.`clarena.complete` = '{sha256}'")
            if run.data.tags.get(STATE_TAG) != state_sha256(path):
                log_model(self._client, experiment, run, path, record.cell.label.replace(" ", "-"))
                self.steps += 1

    @contextmanager
    def _opened(self) -> Iterator[None]:
        """Hold the lock of an MLflow that is there; `answers` is False where it is not."""
        self.answers = False
        if self._database:
            self._database.parent.mkdir(parents=True, exist_ok=True)
        with self._lock:
            if self._client is None:
                self._client = connect(self.uri)
                self._file = _identity(self._database) if self._database else None
            self.steps += 1
            yield

    def _held(self, track: Track) -> set[str]:
        """The SHA-256 of the track's records that MLflow holds whole: asked once, and kept up by `log`."""
        if track.digest not in self._complete:
            if self._database:
                self._complete[track.digest] = complete_in_file(self._database, experiment_name(track))
            else:
                with self._opened():
                    experiment = self._experiment(track).experiment_id
                for found in complete_on_server(self._client, experiment):
                    self._complete[track.digest] = found
                    self.steps += 1
        return self._complete[track.digest]

    def _experiment(self, track: Track) -> Any:
        """The experiment of a track, made where there is none yet."""
        if track.digest not in self._experiments:
            name = experiment_name(track)
            found = self._client.get_experiment_by_name(name)
            if found is None:
                self._create_experiment(name, track)
                found = self._client.get_experiment_by_name(name)
            elif found.lifecycle_stage == "deleted":
                self._client.restore_experiment(found.experiment_id)
            self._experiments[track.digest] = found
            self.answers = True
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

    def _place(self, record: Record, sha256: str, experiment: str, artifacts: str) -> Outcome:
        """Make the record's run the only one of its cell, under its row; says whether it is new."""
        client, cell = self._client, record.cell
        runs = self._runs(experiment, cell.row)
        self.answers = True
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
        self._summarise_row(
            row,
            metrics_of(record.target, record.score),
            finished + [record.metrics] * (record.status == "finished"),
        )
        return "already" if same else "logged"

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
            tags=content.tags(record) | {"clarena.kind": "row"},
        )
        parameters = content.parameters(record.cell)
        del parameters["seed"]
        self._log_batch(run.info.run_id, parameters, [])
        return str(run.info.run_id)

    def _create_cell(self, record: Record, sha256: str, experiment: str, row: str, artifacts: str) -> str:
        client, cell = self._client, record.cell
        tags = content.tags(record) | {
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

    def _summarise_row(self, row: str, names: Iterable[str], finished: Sequence[Mapping[str, float]]) -> None:
        """Give a row the means over its finished seeds, and their number."""
        means = [
            (name, float(np.mean([metrics[name] for metrics in finished])), len(finished))
            for name in names
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


def content_hash(store: Store, record: Record) -> str:
    """The SHA-256 by which MLflow knows a record of the store."""
    return hashlib.sha256(store.files(record.cell)[0]).hexdigest()


def experiment_name(track: Track) -> str:
    """What the experiment of a track is called: it must say which, and be no other's."""
    return f"{track.label} [{track.digest[:12]}]"


def _is_finished(run: Any) -> bool:
    return run.data.tags["clarena.status"] == "finished" and "clarena.complete" in run.data.tags


def _identity(file: Path) -> tuple[int, int] | None:
    """Which file of which device it is; None where there is none."""
    try:
        status = file.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _milliseconds(moment: datetime) -> int:
    return round(1000 * moment.timestamp())


def _parts(entries: Sequence[Any], size: int) -> Iterable[Sequence[Any]]:
    return (entries[start : start + size] for start in range(0, len(entries), size))
