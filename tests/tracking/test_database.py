"""MLflow's SQLite file: what is killed, full or damaged at any moment never ends in one that nobody can open."""

import multiprocessing
import os
import resource
import shutil
import sqlite3
import time
import warnings
from contextlib import closing, suppress
from pathlib import Path

import pytest
from tracked_runs import cells, keep, run

from clarena.errors import ClarenaWarning
from clarena.record.store import Store
from clarena.tracking import Tracker, database
from clarena.tracking.connection import configure, connect

FORK = multiprocessing.get_context("fork")
"""Children that need not import MLflow again."""


@pytest.fixture(autouse=True, scope="module")
def _mlflow_is_imported():
    configure()
    import mlflow.store.db.utils  # noqa: F401


@pytest.fixture
def no_kept_database(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "runs")


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "place" / "mlflow.db"
    path.parent.mkdir()
    return path


def uri(path: Path) -> str:
    return f"sqlite:///{path}"


def left(path: Path) -> set[str]:
    """What lies beside a database, but for its lock and artifacts."""
    return {each.name for each in path.parent.iterdir()} - {path.name, f"{path.name}.lock", "mlartifacts"}


def make_in_place(path: Path) -> None:
    """As MLflow does it, and as CLArena did."""
    from mlflow import MlflowClient

    MlflowClient(tracking_uri=uri(path)).search_experiments()


def kill_when(child, reached) -> bool:
    """Start a process and kill it as soon as something is reached; whether it was alive then."""
    child.start()
    while child.is_alive() and not reached():
        time.sleep(0.0002)
    alive = child.is_alive()
    child.kill()
    child.join()
    return alive


def size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return -1


def becomes_usable(path: Path, store: Store) -> None:
    """The next record that comes is logged, and all that was there before is kept beside it."""
    tracker = Tracker(store, uri(path))
    assert tracker.log(keep(store, run(0.5))) == "logged", tracker.failures
    assert database.look(path, thorough=True).holds
    assert len(cells(uri(path))) == 1


@pytest.mark.parametrize("share", [0, 0.2, 0.4, 0.6, 0.8, 0.95])
def test_a_database_of_mlflows_own_making_that_was_killed_half_way(store, file, share):
    whole = len(database.empty_database(database.expected_revision()))
    assert kill_when(FORK.Process(target=make_in_place, args=(file,)), lambda: size(file) >= share * whole)
    assert not database.look(file).holds
    with pytest.warns(ClarenaWarning, match=r"half-made and held nothing: it is now mlflow\.db\.half-made-"):
        becomes_usable(file, store)
    assert {name.split("-2")[0] for name in left(file)} == {"mlflow.db.half-made"}


@pytest.mark.slow
def test_killed_at_forty_moments(tmp_path):
    whole = len(database.empty_database(database.expected_revision()))
    for moment in range(40):
        file = tmp_path / str(moment) / "mlflow.db"
        file.parent.mkdir()
        reached = moment / 40 * whole
        kill_when(FORK.Process(target=make_in_place, args=(file,)), lambda file=file, n=reached: size(file) >= n)
        with warnings.catch_warnings(action="ignore"):
            becomes_usable(file, Store(tmp_path / str(moment) / "runs"))


@pytest.mark.usefixtures("no_kept_database")
def test_ours_is_never_half_made_whenever_it_is_killed(tmp_path, file):
    """Killed while the schema is made, when its file appears under another name, and right after it was moved."""

    def log_one(folder: Path) -> None:
        tracker = Tracker(Store(folder), uri(file))
        os._exit(0 if tracker.log(keep(Store(folder), run(0.5))) == "logged" else 3)

    began = time.monotonic()
    moments = [
        lambda: True,
        lambda: time.monotonic() - began > 0.3,
        lambda: any(file.parent.glob(".mlflow.db.*")),
        lambda: any(file.parent.glob(".mlflow.db.*")) or file.exists(),
        lambda: file.exists(),
    ]
    for number, reached in enumerate(moments):
        began = time.monotonic()
        child = FORK.Process(target=log_one, args=(tmp_path / f"runs{number}",))
        kill_when(child, reached)
        assert child.exitcode in (-9, 0)
        if file.exists():
            assert database.look(file, thorough=True).revision == database.expected_revision()
    with warnings.catch_warnings(action="error", category=ClarenaWarning):
        tracker = Tracker(Store(tmp_path / "last"), uri(file))
        assert tracker.log(keep(Store(tmp_path / "last"), run(0.5, seed=9))) == "logged", tracker.failures
    assert left(file) == set()


@pytest.mark.usefixtures("no_kept_database")
def test_a_full_disk_leaves_nothing_and_ruins_nothing(store, file):
    def log_one() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
        tracker = Tracker(store, uri(file))
        outcome = tracker.log(keep(store, run(0.5)))
        (store.path / "reason").write_text("; ".join(failure.reason for failure in tracker.failures))
        os._exit(0 if outcome == "failed" else 3)

    child = FORK.Process(target=log_one)
    child.start()
    child.join()
    assert child.exitcode == 0
    assert "Cannot write" in (store.path / "reason").read_text()
    assert not file.exists()
    assert left(file) == set()
    with warnings.catch_warnings(action="error", category=ClarenaWarning):
        becomes_usable(file, store)


def test_a_journal_without_its_database_is_not_played_into_the_next(store, file):
    other = file.with_name("other.db")
    with closing(sqlite3.connect(other)) as connection:
        connection.execute("CREATE TABLE t (x)")
        connection.execute("INSERT INTO t VALUES (zeroblob(400000))")
        connection.commit()
        connection.execute("PRAGMA cache_size = 2")
        connection.execute("UPDATE t SET x = randomblob(400000)")
        assert size(other.with_name("other.db-journal")) > 0
        shutil.copy(other.with_name("other.db-journal"), file.with_name("mlflow.db-journal"))
    other.unlink()
    with pytest.warns(ClarenaWarning, match="half-made"):
        becomes_usable(file, store)
    (name,) = left(file)
    assert name.startswith("mlflow.db.half-made-")
    assert name.endswith("-journal")


def test_a_database_that_holds_something_is_never_set_aside_unasked(store, file):
    tracker = Tracker(store, uri(file))
    tracker.log(keep(store, run(0.5)))
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("CREATE TABLE _alembic_tmp_tags (key TEXT)")
    before = file.read_bytes()
    tracker = Tracker(store, uri(file))
    assert tracker.log(keep(store, run(0.5, seed=1))) == "failed"
    (failure,) = tracker.failures
    assert "an upgrade of its schema was cut short" in failure.reason
    assert "clarena doctor --repair" in failure.reason
    assert file.read_bytes() == before
    assert left(file) == set()


def test_the_tables_of_another_program_stay(store, file):
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("CREATE TABLE notes (text)")
        connection.execute("INSERT INTO notes VALUES ('mine')")
        connection.commit()
    becomes_usable(file, store)
    with closing(sqlite3.connect(file)) as connection:
        assert connection.execute("SELECT text FROM notes").fetchall() == [("mine",)]
    assert left(file) == set()


@pytest.mark.usefixtures("no_kept_database")
def test_the_empty_database_is_kept_for_its_version_and_made_again_where_it_is_damaged(monkeypatch):
    made = []
    make = database._make
    monkeypatch.setattr(database, "_make", lambda: made.append(1) or make())
    revision = database.expected_revision()
    content = database.empty_database(revision)
    assert database.empty_database(revision) == content
    assert len(made) == 1
    kept = database.kept_database(revision)
    assert kept.read_bytes() == content
    altered = bytearray(content)
    altered[len(content) // 2 : len(content) // 2 + 4096] = b"x" * 4096
    for damage in (b"", content[: len(content) // 2], bytes(altered)):
        kept.write_bytes(damage)
        assert database._is_empty_database(database.empty_database(revision), revision)
        assert kept.read_bytes() != damage
    assert len(made) == 4
    monkeypatch.setattr(database, "version", lambda name: "3.99")  # another MLflow has one of its own
    assert not database.kept_database(revision).exists()


def test_a_user_without_a_home_keeps_none(monkeypatch, store, file):
    def no_home(path: Path) -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "expanduser", no_home)
    assert database.kept_database("abc") is None
    becomes_usable(file, store)


def test_a_database_removed_or_replaced_while_the_process_lives_is_made_and_filled_anew(store, file):
    """MLflow would go on writing to the file that is no more, and nobody would ever see it."""
    tracker = Tracker(store, uri(file))
    first, second = keep(store, run(0.5)), keep(store, run(0.5, seed=1))
    assert tracker.log(first) == "logged"
    for again in (tracker, Tracker(store, uri(file))):
        file.unlink()
        assert [again.log(first), again.log(second), again.log(first)] == ["logged", "logged", "already"]
        with closing(sqlite3.connect(file)) as connection:
            (count,) = connection.execute("SELECT COUNT(*) FROM tags WHERE key = 'clarena.complete'").fetchone()
        assert count == 2


def test_a_client_makes_the_default_experiment_where_the_database_is(file):
    """The kept database knows no folder of the machine and moment at which it was made."""
    with suppress(FileNotFoundError):
        assert b"mlruns" not in database.empty_database(database.expected_revision())
    (default,) = connect(uri(file)).search_experiments()
    assert default.name == "Default"
