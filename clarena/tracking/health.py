"""What `clarena doctor` says of MLflow: it opens what it vouches for, changes nothing, and repairs when asked to."""

import importlib.metadata
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock

from clarena.record.record import Record
from clarena.record.store import Store
from clarena.tracking.connection import configure, connect, import_mlflow
from clarena.tracking.database import (
    DamagedDatabaseError,
    MlflowError,
    connected,
    expected_revision,
    look,
    prepare,
    set_aside,
)
from clarena.tracking.outbox import sync
from clarena.tracking.reader import complete_in_file, complete_on_server
from clarena.tracking.tracker import LOCK_SECONDS, content_hash, experiment_name
from clarena.tracking.uri import DATABASES, database_file, public

REPAIR = "clarena doctor --repair"
OTHERWISE = "choose another with --tracking-uri, or run with --no-tracking"


@dataclass(frozen=True)
class Health:
    """How an MLflow is, and where it is not well, what to do."""

    state: Literal["ok", "warning", "problem"]
    text: str
    remedy: str = ""


def examine(uri: str, store: Store) -> Health:
    """Whether this MLflow answers and takes records, and whether it has all those of the store.

    Args:
        uri: as `resolve_uri` gives it.
        store: whose records it is asked for; it may not be there yet.
    """
    try:
        import_mlflow()  # nothing is logged without
    except Exception as error:  # a broken package of any kind
        text = f"MLflow cannot be imported: {type(error).__name__}: {error}"
        return Health("problem", text, "pip install --force-reinstall mlflow")
    file = database_file(uri)
    if file and not file.exists():
        return Health("ok", f"{public(uri)} (will be made by the first run)")
    try:
        client = None
        if file:
            problem = _trouble(file, uri)
        elif uri.startswith(DATABASES):
            problem = _wrong_schema(uri, _revision(uri))
        else:
            problem, client = None, connect(uri)
            client.search_experiments(max_results=1)
        return problem or _completeness(uri, store, client)
    except DamagedDatabaseError as error:
        return Health("problem", str(error), REPAIR)
    except MlflowError as error:
        return Health("problem", str(error), OTHERWISE)
    except Exception as error:  # MLflow, databases and networks raise anything
        first_line = public(str(error).partition("\n")[0])[:300]
        text = f"MLflow at {public(uri)} does not answer as it should: {type(error).__name__}: {first_line}"
        return Health("problem", text, f"is this its address, and is it up? Else {OTHERWISE}")


def repair(uri: str, store: Store) -> Iterator[Health]:
    """Set a database aside that nothing can be logged to, make a new one, and log what MLflow lacks; says what it did.

    Raises:
        ClarenaError: where the database cannot be opened, or no new one be written.
    """
    configure()
    file = database_file(uri)
    if file and file.exists():
        with FileLock(f"{file}.lock", timeout=LOCK_SECONDS):
            if word := _beyond_use(file):
                aside = set_aside(file, word)
                prepare(file)
                name = aside.name if aside else "gone"
                yield Health("ok", f"{file} was {word}: it is now {name}, and a new one was made")
    if store.path.is_dir():
        report = sync(store, uri)
        text = f"{report.logged} records of {store.path} were logged to MLflow, {report.already} were there already"
        yield Health("ok", text)
        if report.failed:
            first = report.failed[0]
            text = f"{len(report.failed)} records were not logged; the first, {first.cell}: {first.reason}"
            yield Health("problem", text, f"mend that, then: clarena sync --store {store.path}")


def _beyond_use(file: Path) -> str:
    try:
        found = look(file, thorough=True)
    except DamagedDatabaseError:
        return "damaged"
    if found.holds:
        return "damaged" if found.unfinished else ""
    return "half-made" if found.unfinished or found.revision != expected_revision() else ""


def _trouble(file: Path, uri: str) -> Health | None:
    """What is wrong with a database in a file."""
    found = look(file, thorough=True)
    if not found.holds and (found.unfinished or found.revision != expected_revision()):
        return Health("problem", f"{file} is half-made and holds nothing", REPAIR)
    if found.unfinished:
        return Health("problem", f"{file}: an upgrade of its schema was cut short", REPAIR)
    if problem := _wrong_schema(uri, found.revision):
        return problem
    try:
        with closing(connected(file)) as connection:
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("UPDATE alembic_version SET version_num = version_num")
            connection.rollback()
    except sqlite3.Error as error:
        if "locked" in str(error):
            return Health("warning", f"{file} is being written to by another process", "look again when it has ended")
        return Health("problem", f"{file} cannot be written to: {error}", OTHERWISE)
    return None


def _wrong_schema(uri: str, revision: str | None) -> Health | None:
    expected = expected_revision()
    if revision == expected:
        return None
    held = importlib.metadata.version("mlflow")
    text = f"{public(uri)} has the schema {revision}; MLflow {held}, which is installed, works with {expected}"
    return Health("problem", text, f"make a copy of it, then: mlflow db upgrade {public(uri)}; or {OTHERWISE}")


def _revision(uri: str) -> str | None:
    """That of a database on a server of its own; one without tables gets them from the first run."""
    from sqlalchemy import create_engine, inspect, text

    engine = create_engine(uri)
    try:
        with engine.connect() as connection:
            if not inspect(connection).get_table_names():
                return expected_revision()
            return connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
    finally:
        engine.dispose()


def _completeness(uri: str, store: Store, client: Any) -> Health:
    """Whether all records of the store are in an MLflow that is well."""
    records, _ = store.records()
    file = database_file(uri)
    if not records:
        return Health("ok", public(uri))
    if not file and client is None:
        return Health("ok", f"{public(uri)} (not checked: whether it has all records of {store.path})")
    held: dict[str, set[str]] = {}
    missing = 0
    for record in records:
        digest = record.cell.track.digest
        if digest not in held:
            held[digest] = _held(file, client, record)
        missing += content_hash(store, record) not in held[digest]
    if missing:
        text = f"{public(uri)} lacks {missing} of the {len(records)} records of {store.path}"
        return Health("warning", text, f"clarena sync --store {store.path}")
    return Health("ok", f"{public(uri)} has all {len(records)} records of {store.path}")


def _held(file: Path | None, client: Any, record: Record) -> set[str]:
    name = experiment_name(record.cell.track)
    if file:
        return complete_in_file(file, name)
    found = client.get_experiment_by_name(name)
    pages = list(complete_on_server(client, found.experiment_id)) if found else [set()]
    return pages[-1]
