"""MLflow as a source: the same runs as the store they were logged from, and nothing that was deleted or cut short."""

import shutil
import sqlite3
from dataclasses import replace

import pytest
from clarena_leaderboard import sources
from clarena_leaderboard.board import load_board
from clarena_leaderboard.changes import manifest
from clarena_leaderboard.sources import MlflowSource, StoreSource, open_source
from made_up import board, keep, record

from clarena.errors import StoreError
from clarena.record.recomputation import matrices
from clarena.record.store import PREDICTIONS, RECORD, Store
from clarena.tracking import Tracker, reader
from clarena.tracking.reader import MlflowError

NOWHERE = "http://someone:secret@127.0.0.1:9"


@pytest.fixture(scope="module")
def logged(tmp_path_factory):
    """A store of three rows, and the database it was logged to: made once, for that takes seconds."""
    folder = tmp_path_factory.mktemp("mlflow")
    store = Store(folder / "runs")
    tracker = Tracker(store, f"sqlite:///{folder}/mlflow.db")
    for name, seed, right in (("finetune", 0, 2), ("finetune", 1, 3), ("ewc", 0, 5), ("ewc", 1, 6)):
        tracker.log(keep(store, name, seed, right))
    tracker.log(store.write(*record("er", 0, status="diverged")))
    assert tracker.failures == []
    return folder


@pytest.fixture
def folder(logged, tmp_path):
    """A copy whose runs keep their files where they are."""
    shutil.copy(logged / "mlflow.db", tmp_path / "mlflow.db")
    shutil.copytree(logged / "mlartifacts", tmp_path / "mlartifacts")
    with sqlite3.connect(tmp_path / "mlflow.db") as database:
        database.execute("update runs set artifact_uri = replace(artifact_uri, ?, ?)", (str(logged), str(tmp_path)))
    return tmp_path


@pytest.fixture
def source(folder):
    return MlflowSource(f"sqlite:///{folder}/mlflow.db")


@pytest.fixture
def client(folder):
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=f"sqlite:///{folder}/mlflow.db")


def run_of(source, name, seed):
    """A run as the source shows it."""
    return next(f.run for f in source.collect().found if (f.info.name, f.run.seed) == (name, seed))


def identifier(run):
    return run.origin.removeprefix("mlflow:")


def without_origin(found):
    return repr([replace(each, run=replace(each.run, origin="")) for each in found])


def artifacts(source, name, seed):
    run = run_of(source, name, seed)
    return next(cell.folder for cell in source._cells.values() if cell.run_id == identifier(run))


# --- what is there


def test_mlflow_gives_the_runs_of_the_store(logged, source):
    collection, store = source.collect(), StoreSource(logged / "runs").collect()
    assert collection.problems == ()
    assert without_origin(collection.found) == without_origin(store.found)
    assert len(collection.found) == 5
    assert source.name == "MLflow mlflow.db"
    (table,) = load_board(source).tables
    assert [(entry.label, entry.reason) for entry in table.entries] == [
        ("finetune", ""),
        ("ewc", ""),
        ("er", "no run for seed 1; seed 0 diverged"),
    ]


def test_a_database_is_read_as_mlflow_reads_it(folder, client):
    """SQL of ours and the search of MLflow's client, of which a server answers with the same."""
    uri = f"sqlite:///{folder}/mlflow.db"

    def facts(cells):
        return sorted((cell.run_id, cell.sha256, cell.artifacts, str(sorted(cell.metrics.items()))) for cell in cells)

    cells = reader.logged_cells(uri)
    assert facts(cells) == facts(reader._from_server(uri))
    assert len(cells) == 5
    client.delete_run(cells[0].run_id)
    client.log_metric(cells[1].run_id, "forgetting", float("nan"))
    changed = reader.logged_cells(uri)
    assert facts(changed) == facts(reader._from_server(uri)) != facts(cells)
    assert len(changed) == 4
    client.delete_experiment(client.get_run(cells[0].run_id).info.experiment_id)
    assert reader.logged_cells(uri) == list(reader._from_server(uri)) == []


def test_the_whole_record_of_a_run(source):
    loaded, predictions = source.load(run_of(source, "ewc", 1))
    assert loaded.cell.label == "ewc seed 1"
    assert matrices(loaded, predictions)["score"][2].tolist() == [0.6, 1.0]


def test_files_that_are_not_on_this_machine_are_fetched(source, monkeypatch):
    expected = source.collect()
    monkeypatch.setattr(reader.LoggedCell, "folder", None)
    assert repr(source.collect()) == repr(expected)
    loaded, predictions = source.load(run_of(source, "ewc", 1))
    assert (loaded.cell.seed, predictions.experiences) == (1, 2)


def test_what_was_read_is_not_read_again(source, tmp_path, monkeypatch):
    cache = tmp_path / "cache.json"
    first = source.collect(cache)
    monkeypatch.setattr(sources, "condense", lambda *_: pytest.fail("read again"))
    assert repr(source.collect(cache)) == repr(first)


# --- what is not, or not as it should be


def test_a_deleted_run_goes_and_the_log_says_so(source, client, tmp_path):
    cache = tmp_path / "cache.json"
    before = load_board(source, cache=cache)
    for seed in (0, 1):
        client.delete_run(identifier(run_of(source, "ewc", seed)))
    after = load_board(source, cache=cache, previous=manifest(before))
    assert [entry.label for entry in after.tables[0].entries] == ["finetune", "er"]
    assert [(c.kind, c.label, c.why) for c in after.changes[:1]] == [("went", "ewc", "its runs are gone")]
    assert after.changes[1:] == before.changes


def test_a_run_without_its_record_or_cut_short_is_said(source, client):
    (artifacts(source, "ewc", 0) / RECORD).unlink()
    cut = identifier(run_of(source, "ewc", 1))
    client.delete_tag(cut, "clarena.complete")
    collection = source.collect()
    assert len(collection.found) == 3
    assert len(collection.problems) == 2
    text = "\n".join(collection.problems)
    assert "has no record.json" in text
    assert f"The run {cut} of MLflow was cut short" in text


def test_runs_of_another_project_are_not_ours(source, client):
    client.create_run(client.create_experiment("another"), tags={"clarena.kind": "something"})
    collection = source.collect()
    assert (len(collection.found), collection.problems) == (5, ())


def test_a_metric_that_was_changed_in_mlflow_is_a_flaw(source, client, tmp_path):
    cache = tmp_path / "cache.json"
    source.collect(cache)
    run = run_of(source, "ewc", 1)
    client.log_metric(identifier(run), "final_average_accuracy", 0.99, step=0)
    flawed = next(f.run for f in source.collect(cache).found if f.run.cell == run.cell)
    assert flawed.flaws == ("final_average_accuracy is 0.99 in MLflow, and 0.8 when it is recomputed",)
    assert [entry.label for entry in board(source.collect(cache).found).tables[0].apart] == ["ewc", "er"]


def test_files_that_were_changed_in_mlflow_are_seen(source, tmp_path):
    cache = tmp_path / "cache.json"
    source.collect(cache)
    path = artifacts(source, "ewc", 0) / RECORD
    path.write_bytes(path.read_bytes() + b" ")
    (artifacts(source, "ewc", 1) / PREDICTIONS).write_bytes(b"forged")
    collection = source.collect(cache)
    assert len(collection.problems) == 1
    assert "is not the one that was logged" in collection.problems[0]
    assert [f.info.name for f in collection.found if f.run.flaws] == ["ewc"]


def test_no_folder_of_this_machine_is_told(source, tmp_path):
    (artifacts(source, "ewc", 0) / RECORD).write_text("{}")
    (problem,) = source.collect().problems
    assert str(tmp_path) not in problem
    assert identifier(run_of(source, "ewc", 1)) not in problem


# --- what is out of reach


def test_no_database_is_an_error_and_makes_none(tmp_path):
    with pytest.raises(MlflowError, match="There is no database"):
        MlflowSource(f"sqlite:///{tmp_path}/mlflow.db").collect()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", [b"", b"this is no database at all, it is a text"])
def test_a_file_that_is_no_mlflow_is_an_error(tmp_path, content):
    (tmp_path / "mlflow.db").write_bytes(content)
    with pytest.raises(MlflowError, match="cannot be read"):
        MlflowSource(f"sqlite:///{tmp_path}/mlflow.db").collect()
    assert (tmp_path / "mlflow.db").read_bytes() == content


def test_a_server_that_is_not_there_is_an_error_without_its_password(monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(MlflowError, match=r"127\.0\.0\.1:9") as caught:
        open_source("runs", NOWHERE).collect()
    assert "secret" not in str(caught.value)


def test_a_server_that_goes_away_ends_the_build_and_what_was_read_is_kept(source, tmp_path, monkeypatch):
    cache = tmp_path / "cache.json"
    real, left = reader.fetch, [3]

    def fetch(uri, cell, folder):
        left[0] -= 1
        if left[0] < 0:
            raise MlflowError("gone")
        return real(uri, cell, folder)

    with monkeypatch.context() as patch:
        patch.setattr(sources, "fetch", fetch)
        with pytest.raises(MlflowError, match="gone"):
            load_board(source, cache=cache)
    read = []
    monkeypatch.setattr(sources, "fetch", lambda *args: (read.append(args[1]), real(*args))[1])
    assert len(load_board(source, cache=cache).tables[0].entries) == 3
    assert len(read) == 2


def test_a_run_that_is_gone_cannot_be_loaded(source, client):
    run = run_of(source, "ewc", 0)
    client.delete_run(identifier(run))
    with pytest.raises(StoreError, match="any more"):
        MlflowSource(source._uri).load(run)
