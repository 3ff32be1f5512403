"""An MLflow database in an SQLite file: made whole or not at all, and looked at before it is trusted.

MLflow makes its schema in some sixty steps, in place, and what is killed half-way is never opened again. Here the
schema is made in memory, kept for the next folder, and reaches its place in one move.
"""

import glob
import sqlite3
from contextlib import closing, suppress
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import version
from pathlib import Path

from clarena.errors import ClarenaError, StoreError
from clarena.record.writing import write_atomic

BUSY_SECONDS = 10
"""So long a database may be held by another process before it counts as out of reach."""

TEMPORARY = "_alembic_tmp_"
"""What the name of a table begins with that only exists while a schema is being changed."""

BROUGHT_ALONG = {"alembic_version": "0", "experiments": "experiment_id <> 0", "workspaces": "name <> 'default'"}
"""Tables that MLflow fills by itself, and which of their rows it did not."""


class MlflowError(ClarenaError):
    """MLflow is out of reach, or what is there is no MLflow."""


class DamagedDatabaseError(MlflowError):
    """A file that nothing can be logged to any more; `clarena doctor --repair` replaces it."""


@dataclass(frozen=True)
class Contents:
    """What a database says of itself.

    Attributes:
        revision: of its schema; None where it has none.
        unfinished: whether a change of the schema was cut short.
        holds: whether anything was ever logged to it.
    """

    revision: str | None
    unfinished: bool
    holds: bool


def look(path: Path, *, thorough: bool = False) -> Contents:
    """What an SQLite file holds; `thorough` reads all of it.

    Raises:
        DamagedDatabaseError: for a file that is none, or damaged.
        MlflowError: where it cannot be opened.
    """
    try:
        with closing(connected(path)) as connection:
            if thorough:
                (found,) = connection.execute("PRAGMA quick_check(1)").fetchone()
                if found != "ok":
                    raise DamagedDatabaseError(_damaged(path, found))
            return _contents(connection)
    except sqlite3.Error as error:
        if error.sqlite_errorname.startswith(("SQLITE_NOTADB", "SQLITE_CORRUPT")):
            raise DamagedDatabaseError(_damaged(path, str(error))) from error
        raise MlflowError(f"The MLflow database {path} cannot be opened: {error}.") from error


def connected(path: Path) -> sqlite3.Connection:
    """A connection to a file that is there; what a killed process left in its journal is rolled back."""
    return sqlite3.connect(f"{path.absolute().as_uri()}?mode=rw", uri=True, timeout=BUSY_SECONDS)


def prepare(path: Path) -> Path | None:
    """Have a whole database at this place; the caller holds its lock.

    What holds nothing and has not the schema that MLflow expects is half-made, or empty and of another version: it
    is set aside, and the name it then has is returned.

    Raises:
        DamagedDatabaseError: for a database that holds something and cannot be used.
        MlflowError: where it cannot be opened.
        StoreError: where it cannot be written; there is none then.
    """
    found = look(path) if path.exists() else None
    if found and found.holds:
        if found.unfinished:
            raise DamagedDatabaseError(_damaged(path, "an upgrade of its schema was cut short"))
        return None  # MLflow compares its schema by itself, and says how to upgrade it
    expected = expected_revision()
    if found and (found.revision, found.unfinished) == (expected, False):
        return None
    aside = set_aside(path, "half-made")
    for left in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):  # by a process that was killed while it wrote
        left.unlink(missing_ok=True)
    write_atomic(path, empty_database(expected))
    return aside


def set_aside(path: Path, word: str) -> Path | None:
    """Rename a database and its journals, so that the name says what became of it; its name then, if it was there.

    A journal that stayed behind would be played into the database that is made next.
    """
    aside = path.with_name(f"{path.name}.{word}-{datetime.now():%Y%m%d-%H%M%S-%f}")
    moved = None
    for tail in ("", "-journal", "-wal", "-shm"):
        part = path.with_name(path.name + tail)
        if part.exists():
            moved = part.rename(aside.with_name(aside.name + tail))
    return aside if moved else None


def expected_revision() -> str:
    """The revision of the schema that the installed MLflow works with."""
    from mlflow.store.db.utils import _get_latest_schema_revision

    return str(_get_latest_schema_revision())


def empty_database(revision: str) -> bytes:
    """A database of this revision, the installed MLflow's, that holds nothing; made once for every version of it."""
    place = kept_database(revision)
    if place:
        with suppress(OSError):
            content = place.read_bytes()
            if _is_empty_database(content, revision):
                return content
    content = _make()
    if place:
        with suppress(StoreError):  # it saves time, no more
            write_atomic(place, content)
    return content


def kept_database(revision: str) -> Path | None:
    """Where the empty database of the installed MLflow is kept; None for a user without a home."""
    try:
        return Path("~/.cache/clarena/.mlflow").expanduser() / f"{version('mlflow')}-{revision}.db"
    except RuntimeError:
        return None


def _make() -> bytes:
    from mlflow.store.db.utils import _initialize_tables
    from sqlalchemy import create_engine
    from sqlalchemy.pool import StaticPool

    engine = create_engine("sqlite://", poolclass=StaticPool)
    try:
        _initialize_tables(engine)
        with engine.connect() as connection:
            held = connection.connection.dbapi_connection
            assert isinstance(held, sqlite3.Connection)
            return held.serialize()
    finally:
        engine.dispose()


def _is_empty_database(content: bytes, revision: str) -> bool:
    if not content.startswith(b"SQLite format 3\0"):
        return False
    with closing(sqlite3.connect(":memory:")) as connection:
        try:
            connection.deserialize(content)
            whole = connection.execute("PRAGMA quick_check(1)").fetchone() == ("ok",)
            return whole and _contents(connection) == Contents(revision, unfinished=False, holds=False)
        except sqlite3.Error:
            return False


def _contents(connection: sqlite3.Connection) -> Contents:
    names = "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'"
    tables = [name for (name,) in connection.execute(names)]
    found = connection.execute("SELECT version_num FROM alembic_version") if "alembic_version" in tables else []
    revisions = [revision for (revision,) in found]
    return Contents(
        revision=revisions[0] if revisions else None,
        unfinished=any(name.startswith(TEMPORARY) for name in tables),
        holds=any(_has_rows(connection, name) for name in tables),
    )


def _has_rows(connection: sqlite3.Connection, table: str) -> bool:
    quoted = table.replace('"', '""')
    query = f'SELECT 1 FROM "{quoted}" WHERE {{}} LIMIT 1'
    try:
        found = connection.execute(query.format(BROUGHT_ALONG.get(table, "1")))
    except sqlite3.OperationalError:  # another program's table of that name, without that column
        found = connection.execute(query.format("1"))
    return found.fetchone() is not None


def _damaged(path: Path, what: str) -> str:
    return (
        f"The MLflow database {path} cannot be used: {what}. clarena doctor --repair sets it aside and makes a new one "
        "from the store; or choose another with --tracking-uri."
    )
