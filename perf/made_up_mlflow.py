"""Put the records of a store into an MLflow database as `clarena sync` would, by SQL: 5,000 in a minute, not an hour.

What tables hold was copied from runs that `Tracker` logged; plots are left out.
"""

import hashlib
import shutil
import sqlite3
import uuid
from pathlib import Path

from clarena.record.record import Record
from clarena.record.store import PREDICTIONS, RECORD, Store
from clarena.tracking import Tracker, content

TABLES = {
    "runs": "run_uuid, name, status, start_time, end_time, lifecycle_stage, artifact_uri, experiment_id, source_type, "
    "user_id",
    "tags": "key, value, run_uuid",
    "params": "key, value, run_uuid",
    "metrics": "key, value, timestamp, run_uuid, step, is_nan",
    "latest_metrics": "key, value, timestamp, step, is_nan, run_uuid",
}


def log(store: Store, database: Path) -> None:
    """Log every record: the first of each row by `Tracker`, which makes experiments and parents, the rest by SQL."""
    tracker = Tracker(store, f"sqlite:///{database}")
    records, _ = store.records()
    firsts = {record.cell.track.digest: record for record in reversed(records)}
    for record in firsts.values():
        tracker.log(record)
    assert not tracker.failures, tracker.failures
    with sqlite3.connect(database) as connection:
        experiments = dict(
            connection.execute("select value, experiment_id from experiment_tags where key = 'clarena.track'")
        )
        parents: dict[str, str] = {}
        rows: dict[str, list[tuple[object, ...]]] = {name: [] for name in TABLES}
        for record in records:
            if record is firsts[record.track_digest]:
                continue
            experiment, row = experiments[record.track_digest], record.cell.row
            if row not in parents:
                parents[row] = _add(rows, record, experiment, database.parent, {"clarena.kind": "row"})
            run = _add(rows, record, experiment, database.parent, _cell_tags(store, record, parents[row]))
            artifacts = database.parent / "mlartifacts" / run / "artifacts"
            artifacts.mkdir(parents=True)
            for name in (RECORD, PREDICTIONS):
                shutil.copy(store.folder(record.cell) / name, artifacts)
        for name, columns in TABLES.items():
            marks = ", ".join("?" * (columns.count(",") + 1))
            connection.executemany(f"insert into {name} ({columns}) values ({marks})", rows[name])


def _cell_tags(store: Store, record: Record, parent: str) -> dict[str, str]:
    exact = (store.folder(record.cell) / RECORD).read_bytes()
    return {
        "clarena.kind": "cell",
        "clarena.cell": record.cell_id,
        "clarena.seed": str(record.cell.seed),
        "clarena.status": record.status,
        "mlflow.parentRunId": parent,
        "clarena.complete": hashlib.sha256(exact).hexdigest(),
    }


def _add(
    rows: dict[str, list[tuple[object, ...]]], record: Record, experiment: int, folder: Path, tags: dict[str, str]
) -> str:
    """One run's rows in every table; its id."""
    run = uuid.uuid4().hex
    start, end = (round(1000 * moment.timestamp()) for moment in (record.started, record.ended))
    uri = (folder / "mlartifacts" / run / "artifacts").as_uri()
    rows["runs"].append(
        (run, record.cell.label, "FINISHED", start, end, "active", uri, experiment, "UNKNOWN", "unknown")
    )
    rows["tags"] += [(key, value, run) for key, value in (content.tags(record.cell) | tags).items()]
    rows["params"] += [(key, value, run) for key, value in content.parameters(record.cell).items()]
    points = content.metrics(record)
    rows["metrics"] += [(key, value, end, run, step, False) for key, value, step in points]
    rows["latest_metrics"] += [
        (key, value, end, step, False, run) for key, value, step in {point[0]: point for point in points}.values()
    ]
    return run
