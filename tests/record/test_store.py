"""The store: damaged things are said and left alone, and no failing write alters what was finished."""

import errno
import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import troublemakers as trouble

from clarena import Store, StoreError, evaluate
from clarena.record.predictions import Predictions
from clarena.record.reader import read_record
from clarena.record.writing import write_atomic


def run(store, strategies=trouble.Plain, **options):
    chosen = {"benchmark": trouble.Tiny, "seeds": 1, "jobs": 1, "track": False, "protocol": "smoke"} | options
    return evaluate(strategies, store=store, **chosen)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The files of a finished run, by their path within the store."""
    path = tmp_path_factory.mktemp("finished")
    assert run(path).records[0].status == "finished"
    return files(path)


@pytest.fixture
def store(tmp_path, finished):
    """A store of its own for each test, with one finished run in it."""
    for name, content in finished.items():
        (tmp_path / "runs" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "runs" / name).write_bytes(content)
    return Store(tmp_path / "runs")


def files(path: Path) -> dict[str, bytes]:
    return {str(file.relative_to(path)): file.read_bytes() for file in path.rglob("*") if file.is_file()}


def only_record(store: Store) -> Path:
    (path,) = store.path.glob("*/*/record.json")
    return path


def edited(content: bytes, **changes: object) -> bytes:
    return json.dumps(json.loads(content) | changes).encode()


DAMAGE = {
    "cut short": (lambda content: content[: len(content) // 2], "cannot be read"),
    "empty": (lambda content: b"", "cannot be read"),
    "no text": (lambda content: b"\xff\x00" * 50, "cannot be read"),
    "another project's": (lambda content: b'{"epochs": 3}', "is not valid"),
    "no object": (lambda content: b"[1, 2]", "is not valid"),
    "another seed's": (lambda content: content.replace(b'"seed": 0', b'"seed": 7', 1), "was altered"),
    "another track's": (lambda content: edited(content, track_digest="0" * 64), "was altered"),
    "another status": (lambda content: edited(content, status="splendid"), "is not valid (status:"),
    "without time zone": (lambda content: edited(content, started="2026-01-01T00:00:00"), "is not valid (started:"),
    "of the future": (lambda content: edited(content, schema_version=3), "has schema 3; this CLArena reads up to 2"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_record_is_said_and_left_alone_and_harms_no_other(store, damage):
    change, message = DAMAGE[damage]
    path = only_record(store)
    path.write_bytes(change(path.read_bytes()))
    before = files(store.path)
    results = run(store.path, seeds=2)
    assert list(results.errors) == ["plain seed 0"]
    assert message in results.errors["plain seed 0"]
    assert str(path) in results.errors["plain seed 0"]
    assert [(record.cell.seed, record.status) for record in results] == [(1, "finished")]
    assert before.items() <= files(store.path).items()
    records, damaged = store.records()
    assert [record.cell.seed for record in records] == [1]
    assert [found.path for found in damaged] == [path]
    path.parent.rename(store.path / "aside")  # as the message says
    assert [record.status for record in run(store.path, seeds=2)] == ["finished", "finished"]


def test_a_record_that_is_a_folder_is_damaged_too(store):
    path = only_record(store)
    path.unlink()
    path.mkdir()
    with pytest.raises(StoreError, match="cannot be read"):
        read_record(path)


def test_altered_or_lost_predictions_are_noticed(store):
    (record,), _ = store.records()
    path = store.folder(record.cell) / "predictions.npz"
    assert store.predictions(record).experiences == 3
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(StoreError, match="not those of their record"):
        store.predictions(record)
    path.unlink()
    with pytest.raises(StoreError, match="cannot be read: No such file"):
        store.predictions(record)


@pytest.mark.parametrize("highest", [5, 127, 128, 40_000])
def test_predictions_come_back_as_they_went_in_the_smallest_integers(store, highest):
    (record,), _ = store.records()
    given = Predictions.of_classes(
        predicted=np.array([[-1, -1], [0, highest]]), labels=np.array([0, highest]), experience=np.array([0, 0])
    )
    record = store.write(record, given)
    back = store.predictions(record)
    np.testing.assert_array_equal(back.predicted, given.predicted)
    np.testing.assert_array_equal(back.labels, given.labels)
    with np.load(store.folder(record.cell) / "predictions.npz") as arrays:
        assert arrays["predicted"].dtype == (np.int8 if highest < 128 else np.int16 if highest < 2**15 else np.int32)


def test_a_cell_is_held_by_one_and_a_killed_writers_leavings_are_swept(store):
    (record,), _ = store.records()
    folder = store.folder(record.cell)
    left = [folder / f".{name}.99.tmp" for name in ("record.json", "checkpoint.pt", "predictions.npz")]
    for path in left:
        path.write_bytes(b"half")
    with store.locked(record.cell) as mine, Store(store.path).locked(record.cell) as also:
        assert (mine, also) == (True, False)
    assert not any(path.exists() for path in left)
    with store.locked(record.cell) as mine:
        assert mine


@pytest.mark.parametrize("blocker", ["runs", "runs/deeper"])
def test_a_store_that_cannot_be_written_is_said_before_anything_runs(tmp_path, blocker):
    (tmp_path / "runs").write_text("a file")
    heard = []
    with pytest.raises(StoreError, match=r"(?s)Cannot write to the store .*Choose another with --store"):
        run(tmp_path / blocker, listener=heard.append)
    assert heard == []


def test_what_is_all_there_needs_no_writable_store(store, monkeypatch):
    monkeypatch.setattr(Store, "prepare", lambda self: pytest.fail("nothing is to be written"))
    assert len(run(store.path)) == 1


@pytest.mark.parametrize("what", ["checkpoint.pt", "predictions.npz", "record.json", ".lock"])
def test_on_a_full_disk_nothing_finished_is_lost_and_nothing_half_is_left(store, monkeypatch, what):
    before = files(store.path)
    full = OSError(errno.ENOSPC, "No space left on device")
    opened, real_open = [], Path.open

    def scarce(path, mode="r", *args, **kwargs):
        opened.append(path.name)
        file = real_open(path, mode, *args, **kwargs)
        if path.name.startswith(f".{what}."):
            file.write(b"half")
            file.close()
            raise full
        return file

    def no_lock(self, *args, **kwargs):
        raise full

    if what == ".lock":
        monkeypatch.setattr("clarena.record.store.FileLock.acquire", no_lock)
    else:
        monkeypatch.setattr(Path, "open", scarce)
    results = run(store.path, seeds=3)
    assert [record.cell.seed for record in results] == [0]
    assert list(results.errors) == ["plain seed 1", "plain seed 2"]
    assert all("No space left on device" in message for message in results.errors.values())
    assert all("\n" not in message for message in results.errors.values())
    assert before.items() <= files(store.path).items()
    assert not list(store.path.rglob("*.tmp"))
    monkeypatch.undo()
    again = run(store.path, seeds=3)
    assert [record.status for record in again] == ["finished"] * 3
    assert before.items() <= files(store.path).items()


def test_an_interrupted_write_leaves_the_old_content_alone(tmp_path, monkeypatch):
    path = tmp_path / "record.json"
    write_atomic(path, b"old")

    def interrupt(descriptor):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_atomic(path, b"new")
    assert files(tmp_path) == {"record.json": b"old"}


def test_a_limit_of_the_system_on_files_is_one_message_on_the_command_line(store):
    """The limit lets 4 kB through: less than a checkpoint, which real `write` calls refuse."""
    before = files(store.path)
    command = [sys.executable, "-c", "from clarena.cli import main; main()", "evaluate", "finetune", "--seeds", "2"]
    options = ["--protocol", "smoke", "--jobs", "1", "--no-tracking", "--no-plugins", "--store", str(store.path)]
    done = subprocess.run(
        [*command, *options],
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096)),
        # What measures coverage would meet the limit as well.
        env={name: value for name, value in os.environ.items() if not name.startswith("COV")},
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "File too large. What was finished before is safe." in done.stderr
    assert before.items() <= files(store.path).items()
    assert not list(store.path.rglob("*.tmp"))


def test_the_entries_of_new_files_and_folders_are_synced_after_them(tmp_path, monkeypatch):
    """A file that is on disk under no name is lost when the power fails."""
    done = []
    fsync, replace = os.fsync, Path.replace
    monkeypatch.setattr(os, "fsync", lambda fd: done.append(os.readlink(f"/proc/self/fd/{fd}")) or fsync(fd))
    monkeypatch.setattr(Path, "replace", lambda self, to: done.append("move") or replace(self, to))
    write_atomic(tmp_path / "a" / "b" / "file", b"content")
    names = [name if name == "move" else Path(name).name.partition(".tmp")[0].rpartition(".")[0] or Path(name).name
             for name in done]  # fmt: skip
    assert names == [tmp_path.name, "a", ".file", "move", "b"]
    done.clear()
    write_atomic(tmp_path / "a" / "b" / "file", b"other")
    assert [Path(name).name for name in done][1:] == ["move", "b"]
