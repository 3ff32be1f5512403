"""Reading back from MLflow: which records it holds whole, and for the leaderboard its cells and the files of each."""

import sqlite3
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

from clarena.record.store import PREDICTIONS, RECORD
from clarena.tracking.connection import connect, import_mlflow
from clarena.tracking.database import MlflowError, connected
from clarena.tracking.uri import DATABASES, database_file, public

RUNS_PER_PAGE = 200

_HELD = """
SELECT tags.value FROM tags
JOIN runs ON runs.run_uuid = tags.run_uuid
JOIN experiments ON experiments.experiment_id = runs.experiment_id
WHERE tags.key = 'clarena.complete' AND experiments.name = ? AND experiments.lifecycle_stage = 'active'
GROUP BY tags.value HAVING SUM(runs.lifecycle_stage = 'active') <= 1
"""


@dataclass(frozen=True)
class LoggedCell:
    """A run of MLflow that is a cell.

    Attributes:
        run_id: of MLflow.
        sha256: of its record, or None where logging it was cut short.
        artifacts: the URI its files are under.
        metrics: the last value of each that MLflow has, of the whole run and by its name alone.
    """

    run_id: str
    sha256: str | None
    artifacts: str
    metrics: dict[str, float] = field(default_factory=dict)

    @property
    def folder(self) -> Path | None:
        """Where its files are, if they are files of this machine."""
        parsed = urlparse(self.artifacts)
        return Path(unquote(parsed.path)) if parsed.scheme == "file" else None


def logged_cells(uri: str) -> list[LoggedCell]:
    """The cells that MLflow holds and nobody deleted, in the order of their ids.

    A database is asked by SQL: MLflow's own search has no choice of columns and takes a hundred times as long.

    Args:
        uri: as `resolve_uri` gives it.

    Raises:
        MlflowError: where MLflow is out of reach, or is none.
    """
    file = database_file(uri)
    if file is not None and not file.is_file():
        raise MlflowError(
            f"There is no database {file}. Log a store to it (clarena sync), or give another tracking URI."
        )
    with _told(uri):
        cells = list(_from_database(uri) if uri.startswith(DATABASES) else _from_server(uri))
    return sorted(cells, key=lambda cell: cell.run_id)


def complete_in_file(database: Path, experiment: str) -> set[str]:
    """The SHA-256 of each record that an SQLite file holds whole and once in an experiment, runs in the bin included.

    One query, and MLflow is not imported; empty for what is no database of MLflow's.
    """
    if not database.is_file():
        return set()
    try:
        with closing(connected(database)) as connection:
            return {value for (value,) in connection.execute(_HELD, [experiment])}
    except sqlite3.Error:
        return set()  # whoever opens it next finds out what is the matter, and says it


def complete_on_server(client: Any, experiment: str) -> Iterator[set[str]]:
    """The same of the experiment with this id, page by page."""
    from mlflow.entities import ViewType

    active: Counter[str] = Counter()
    words, token = "tags.`clarena.kind` = 'cell'", None
    while True:
        page = client.search_runs([experiment], words, ViewType.ALL, RUNS_PER_PAGE, page_token=token)
        for run in page:
            if sha256 := run.data.tags.get("clarena.complete"):
                active[sha256] += run.info.lifecycle_stage == "active"
        token = page.token
        yield {sha256 for sha256, count in active.items() if count <= 1}
        if not token:
            return


def fetch(uri: str, cell: LoggedCell, folder: Path) -> Path:
    """The folder that holds record and predictions of a run, as far as it has them: its own, or the one given.

    Args:
        uri: as `resolve_uri` gives it.
        folder: where they are put if they are not files of this machine.

    Raises:
        MlflowError: where MLflow is out of reach.
    """
    if cell.folder is not None:
        return cell.folder
    with _told(uri):
        import_mlflow()
        from mlflow import artifacts

        held = artifacts.list_artifacts(artifact_uri=cell.artifacts, tracking_uri=uri)
        for name in {RECORD, PREDICTIONS} & {Path(entry.path).name for entry in held}:
            artifacts.download_artifacts(
                artifact_uri=f"{cell.artifacts}/{name}", dst_path=str(folder), tracking_uri=uri
            )
    return folder


def _from_database(uri: str) -> Iterator[LoggedCell]:
    from sqlalchemy import column, create_engine, select, table

    runs = table("runs", column("run_uuid"), column("artifact_uri"), column("lifecycle_stage"), column("experiment_id"))
    experiments = table("experiments", column("experiment_id"), column("lifecycle_stage"))
    tags = table("tags", column("run_uuid"), column("key"), column("value"))
    metrics = table("latest_metrics", column("run_uuid"), column("key"), column("value"), column("is_nan"))
    of_cells = select(tags.c.run_uuid).where(tags.c.key == "clarena.kind", tags.c.value == "cell")
    active = (
        select(runs.c.run_uuid, runs.c.artifact_uri)
        .join(experiments, experiments.c.experiment_id == runs.c.experiment_id)
        .where(runs.c.lifecycle_stage == "active", experiments.c.lifecycle_stage == "active")
        .where(runs.c.run_uuid.in_(of_cells))
    )
    complete = select(tags.c.run_uuid, tags.c.value).where(tags.c.key == "clarena.complete")
    values = select(metrics).where(metrics.c.key.not_like("%/%"))
    engine = create_engine(uri)
    try:
        with engine.connect() as connection:
            artifacts = {row.run_uuid: row.artifact_uri for row in connection.execute(active)}
            hashes = {row.run_uuid: row.value for row in connection.execute(complete)}
            logged: dict[str, dict[str, float]] = {run: {} for run in artifacts}
            for row in connection.execute(values):
                if row.run_uuid in logged:
                    logged[row.run_uuid][row.key] = float("nan") if row.is_nan else float(row.value)
    finally:
        engine.dispose()
    return (LoggedCell(run, hashes.get(run), place, logged[run]) for run, place in artifacts.items())


def _from_server(uri: str) -> Iterator[LoggedCell]:
    client = connect(uri)
    experiments, token = [], None
    while True:
        page = client.search_experiments(page_token=token)
        experiments += [experiment.experiment_id for experiment in page]
        token = page.token
        if not token:
            break
    while experiments:
        page = client.search_runs(
            experiments, "tags.`clarena.kind` = 'cell'", max_results=RUNS_PER_PAGE, page_token=token
        )
        for run in page:
            metrics = {name: value for name, value in run.data.metrics.items() if "/" not in name}
            yield LoggedCell(run.info.run_id, run.data.tags.get("clarena.complete"), run.info.artifact_uri, metrics)
        token = page.token
        if not token:
            return


@contextmanager
def _told(uri: str) -> Iterator[None]:
    """Whatever MLflow, databases and networks raise becomes one error that says which MLflow it was."""
    try:
        yield
    except MlflowError:
        raise
    except Exception as error:
        first_line = public(str(error).partition("\n")[0])[:300]
        raise MlflowError(
            f"MLflow at {public(uri)} cannot be read ({type(error).__name__}: {first_line}). "
            "Is this its address, and is it up? Nothing was changed."
        ) from error
