"""MLflow: what it is told, and that nothing is lost, half-logged or logged twice."""

import json
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from records_of_matrices import make_record
from tracked_runs import NAN, cells, keep, run, search

from clarena.errors import UsageError
from clarena.protocol.protocol import Protocol
from clarena.record.record import CurvePoint
from clarena.record.store import Store
from clarena.tracking import BackgroundTracker, Tracker, browse_hint, content, resolve_uri, sync

NOWHERE = "http://someone:secret@127.0.0.1:9"


@pytest.fixture(scope="module")
def fresh_database(tmp_path_factory):
    """An SQLite file with MLflow's tables, made once: that takes seconds."""
    folder = tmp_path_factory.mktemp("mlflow")
    store = Store(folder / "runs")
    tracker = Tracker(store, f"sqlite:///{folder}/mlflow.db")
    tracker.log(keep(store, run(1.0, strategy="other")))
    assert tracker.failures == []
    return folder / "mlflow.db"


@pytest.fixture
def uri(fresh_database, tmp_path):
    shutil.copy(fresh_database, tmp_path / "mlflow.db")
    return f"sqlite:///{tmp_path}/mlflow.db"


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "runs")


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")


# --- what MLflow is told ---------------------------------------------------------------------------------------


def test_a_cell_is_a_run_that_is_understood_without_its_parent(store, uri):
    from mlflow import MlflowClient

    curve = [
        CurvePoint(position=position, step=2, accuracy=[0.5, NAN if position == 1 else 0.25]) for position in (1, 2)
    ]
    record = keep(store, run(0.5, seed=3, command="clarena evaluate ewc", environment={"torch": "x"}, curve=curve))
    assert Tracker(store, uri).log(record) == "logged"
    client = MlflowClient(tracking_uri=uri)
    (row,), (logged,) = search(uri, "tags.`clarena.kind` = 'row'"), cells(uri)
    cell = record.cell

    experiment = client.get_experiment(logged.info.experiment_id)
    assert experiment.name == f"split-toy/class/mlp/standard [{cell.track.digest[:12]}]"
    assert json.loads(experiment.tags["clarena.track_json"]) == cell.track.model_dump(mode="json")

    assert logged.info.run_name == "ewc seed 3"
    assert logged.info.status == "FINISHED"
    assert logged.info.end_time - logged.info.start_time == 10_000
    expected_tags = {
        "clarena.kind": "cell",
        "clarena.cell": cell.id,
        "clarena.row": cell.row,
        "clarena.track": cell.track.digest,
        "clarena.label": "split-toy/class/mlp/standard",
        "clarena.strategy": "ewc",
        "clarena.plugin": "",
        "clarena.source_hash": "0" * 64,
        "clarena.reference": "false",
        "clarena.seed": "3",
        "clarena.status": "finished",
        "mlflow.parentRunId": row.info.run_id,
    }
    assert expected_tags.items() <= logged.data.tags.items()
    parameters = {"strategy": "ewc", "seed": "3", "strategy.strength": "10.0", "learning_rate": "0.05"}
    parameters |= {"protocol.epochs": "10", "protocol.limit": "null", "backbone.hidden": "[8]", "scenario": "class"}
    assert parameters.items() <= logged.data.params.items()
    assert row.data.params.items() <= logged.data.params.items()

    final = {"final_average_accuracy": 0.75, "forgetting": 0.5, "train_seconds": 1.5, "state_bytes": 20}
    assert final.items() <= logged.data.metrics.items()
    assert "forward_transfer" not in logged.data.metrics  # undefined is absent, not 0

    def history(key: str) -> list[tuple[int, float]]:
        return [(point.step, point.value) for point in client.get_metric_history(logged.info.run_id, key)]

    assert history("accuracy/exp_1") == [(1, 1.0), (2, 0.5)]
    assert history("accuracy/exp_2") == [(2, 1.0)]
    assert history("accuracy/average_seen") == [(1, 1.0), (2, 0.75)]
    assert history("experience/train_seconds") == [(1, 0.5), (2, 1.0)]
    assert history("experience/mean_loss") == [(1, 1.0), (2, 0.5)]
    assert history("within/exp_1") == [(2, 0.5), (7, 0.5)]
    assert history("within/exp_2") == [(7, 0.25)]
    assert history("within/average_seen") == [(2, 0.5), (7, 0.375)]

    (data_set,) = logged.inputs.dataset_inputs
    assert (data_set.dataset.name, data_set.dataset.digest) == ("split-toy", "f" * 36)

    files = {file.path for file in client.list_artifacts(logged.info.run_id)}
    pictures = {"accuracy_matrix.png", "accuracy_curves.png"}
    assert files == {"record.json", "predictions.npz", "environment.json", "command.txt", *pictures}
    copy = Path(client.download_artifacts(logged.info.run_id, "record.json"))
    assert copy.read_bytes() == (store.folder(cell) / "record.json").read_bytes()


def test_runs_are_sorted_by_accuracy_and_filtered_by_strategy_seed_and_status(store, uri):
    failed = run(0.0, seed=2, status="failed", reason="ValueError: no", traceback="Traceback …", accuracy_matrix=[],
                 metrics={})  # fmt: skip
    for record in (run(0.2, 0), run(0.8, 1), run(0.4, 0, strategy="er"), failed):
        keep(store, record)
    assert sync(store, uri).logged == 4
    by_accuracy = search(uri, "tags.`clarena.status` = 'finished'", "metrics.final_average_accuracy DESC")
    assert [run.info.run_name for run in by_accuracy] == ["ewc seed 1", "er seed 0", "ewc seed 0"]
    assert {run.info.run_name for run in cells(uri, "tags.`clarena.strategy` = 'er'")} == {"er seed 0"}
    assert {run.info.run_name for run in cells(uri, "params.seed = '0'")} == {"ewc seed 0", "er seed 0"}
    (failure,) = cells(uri, "attributes.status = 'FAILED'")
    assert failure.data.tags["clarena.status"] == "failed"
    assert failure.data.tags["clarena.reason"] == "ValueError: no"
    assert "final_average_accuracy" not in failure.data.metrics

    rows = search(uri, "tags.`clarena.kind` = 'row'", "metrics.final_average_accuracy DESC")
    assert [row.info.run_name for row in rows] == ["ewc strength=10.0", "er strength=10.0"]
    assert [row.data.metrics["seeds_finished"] for row in rows] == [2, 1]
    assert [row.data.metrics["final_average_accuracy"] for row in rows] == [0.75, 0.7]  # (0.6 + 0.9) / 2


@pytest.mark.parametrize(
    ("status", "shown"),
    [
        ("finished", "FINISHED"),
        ("diverged", "FAILED"),
        ("out_of_memory", "FAILED"),
        ("timed_out", "KILLED"),
        ("interrupted", "KILLED"),
    ],
)
def test_every_status_is_shown(store, uri, status, shown):
    Tracker(store, uri).log(keep(store, run(0.5, status=status)))
    (logged,) = cells(uri)
    assert (logged.info.status, logged.data.tags["clarena.status"]) == (shown, status)


def test_values_that_mlflow_would_cut_or_refuse():
    record = run(0.5)
    info = record.cell.strategy.model_copy(update={"hyperparameters": {"long": "x" * 7000, "a[0]": 1, "b": None}})
    cell = record.cell.model_copy(update={"strategy": info})
    parameters = content.parameters(cell)
    assert len(parameters["strategy.long"]) <= 6000
    assert parameters["strategy.long"].endswith("(7000 characters: see record.json)")
    assert parameters["strategy.a_0_"] == "1"
    assert parameters["strategy.b"] == "null"
    infinite = record.model_copy(update={"metrics": {"good": 1.0, "bad": float("inf"), "undefined": NAN}})
    assert {"good"} == {name for name, *_ in content.metrics(infinite)} & {"good", "bad", "undefined"}
    many = make_record([[0.5] * 10] * 11)
    assert ("accuracy/exp_02", 0.5, 0) in content.metrics(many)  # so that MLflow sorts 2 before 10


def test_more_metrics_than_one_call_takes(store, uri):
    record = keep(store, make_record([[0.5] * 40] * 41))
    assert len(content.metrics(record)) > 1000
    tracker = Tracker(store, uri)
    assert tracker.log(record) == "logged", tracker.failures


# --- nothing twice, nothing in part ----------------------------------------------------------------------------


def test_a_cell_is_logged_once(store, uri):
    record = keep(store, run(0.5))
    assert Tracker(store, uri).log(record) == "logged"
    assert Tracker(store, uri).log(record) == "already"
    assert len(search(uri)) == 2


def test_a_cell_that_was_run_again_replaces_its_run(store, uri):
    from mlflow import MlflowClient

    Tracker(store, uri).log(keep(store, run(0.5, status="interrupted", reason="stopped by the user")))
    (old,) = cells(uri)
    Tracker(store, uri).log(keep(store, run(0.5)))
    (new,) = cells(uri)
    assert (new.info.status, new.info.run_id != old.info.run_id) == ("FINISHED", True)
    deleted = MlflowClient(tracking_uri=uri).get_run(old.info.run_id)
    assert deleted.info.lifecycle_stage == "deleted"
    assert deleted.data.tags["clarena.superseded"] == new.info.run_id
    (row,) = search(uri, "tags.`clarena.kind` = 'row'")
    assert row.data.metrics["seeds_finished"] == 1


@pytest.mark.parametrize("step", ["log_batch", "log_inputs", "log_artifacts", "set_terminated", "set_tag"])
def test_a_run_cut_short_is_made_anew(store, uri, monkeypatch, step):
    from mlflow import MlflowClient

    record = keep(store, run(0.5))
    Tracker(store, uri).log(keep(store, run(0.1, seed=1)))

    def no_space(*args: object, **kwargs: object) -> None:
        raise OSError("No space left on device")

    with monkeypatch.context() as broken:
        broken.setattr(MlflowClient, step, no_space)
        tracker = Tracker(store, uri)
        assert tracker.log(record) == "failed"
    assert [(failure.cell, failure.reason) for failure in tracker.failures] == [
        ("ewc seed 0", "OSError: No space left on device")
    ]
    report = sync(store, uri)
    assert (report.logged, report.already, report.failed) == (1, 1, [])
    (whole,) = cells(uri, "tags.`clarena.seed` = '0'")
    assert "clarena.complete" in whole.data.tags
    (row,) = search(uri, "tags.`clarena.kind` = 'row'")
    assert row.data.metrics["seeds_finished"] == 2


def test_an_experiment_that_is_gone_is_filled_again(store, uri):
    from mlflow import MlflowClient

    record = keep(store, run(0.5))
    Tracker(store, uri).log(record)
    experiment = cells(uri)[0].info.experiment_id
    MlflowClient(tracking_uri=uri).rename_experiment(experiment, "away")
    assert Tracker(store, uri).log(record) == "logged"
    assert len(cells(uri)) == 2


def test_a_lost_row_and_a_double_one_are_put_right(store, uri):
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=uri)
    Tracker(store, uri).log(keep(store, run(0.2, 0)))
    (row,) = search(uri, "tags.`clarena.kind` = 'row'")
    client.delete_run(row.info.run_id)
    Tracker(store, uri).log(keep(store, run(0.4, 1)))
    (row,) = search(uri, "tags.`clarena.kind` = 'row'")
    client.create_run(row.info.experiment_id, tags=row.data.tags | {"clarena.kind": "row"})  # another machine's
    Tracker(store, uri).log(keep(store, run(0.6, 2)))
    (row,) = search(uri, "tags.`clarena.kind` = 'row'")
    assert {cell.data.tags["mlflow.parentRunId"] for cell in cells(uri)} == {row.info.run_id}
    assert row.data.metrics["final_average_accuracy"] == pytest.approx(0.7)


# --- failures lose nothing -------------------------------------------------------------------------------------


@pytest.mark.usefixtures("impatient")
def test_a_server_that_is_gone_loses_nothing(store, uri):
    for seed in range(4):
        keep(store, run(0.5, seed))
    report = sync(store, NOWHERE)
    assert (report.logged, report.already) == (0, 0)
    assert sorted(failure.cell for failure in report.failed) == [f"ewc seed {seed}" for seed in range(4)]
    assert "127.0.0.1" in report.failed[0].reason
    assert "not tried" not in report.failed[0].reason
    assert {failure.reason for failure in report.failed[1:]} == {"not tried: http://127.0.0.1:9 is out of reach"}
    assert not any("secret" in failure.reason for failure in report.failed)
    report = sync(store, uri)
    assert (report.logged, report.failed) == (4, [])


@pytest.mark.parametrize("spoil", ["not a database", "a directory", "a folder that cannot be made"])
def test_a_database_that_cannot_be_opened_fails_at_once(store, tmp_path, spoil):
    database = tmp_path / "folder" / "mlflow.db"
    if spoil == "a directory":
        database.mkdir(parents=True)
    elif spoil == "not a database":
        database.parent.mkdir()
        database.write_text("something else entirely, and longer than a header of a hundred bytes" * 9)
    else:
        database.parent.write_text("a file")
    tracker = Tracker(store, f"sqlite:///{database}")
    assert tracker.log(keep(store, run(0.5))) == "failed"
    (failure,) = tracker.failures
    assert failure.reason


def test_a_trouble_with_one_record_does_not_stop_the_others(store, uri):
    for seed in range(4):
        keep(store, run(0.5, seed))
    records, _ = store.records()
    tracker = Tracker(store, uri)
    gone = [record.model_copy(update={"cell": run(0.5, seed + 100).cell}) for seed, record in enumerate(records)]
    outcomes = [tracker.log(record) for record in gone + records]  # the first four are not in the store
    assert outcomes == ["failed"] * 4 + ["logged"] * 4


def test_sync_names_damaged_records_and_pushes_the_rest(store, uri):
    keep(store, run(0.5))
    damaged = keep(store, run(0.5, 1))
    (store.folder(damaged.cell) / "record.json").write_text("{")
    report = sync(store, uri)
    assert (report.logged, report.failed) == (1, [])
    assert [problem.path.parent for problem in report.damaged] == [store.folder(damaged.cell)]


def test_the_background_tracker_logs_all_that_was_submitted(store, uri):
    background = BackgroundTracker(store, uri)
    for seed in range(3):
        background.submit(keep(store, run(0.5, seed)))
    assert background.close() == []
    assert len(cells(uri)) == 3


@pytest.mark.usefixtures("impatient")
def test_the_background_tracker_returns_failures(store):
    background = BackgroundTracker(store, NOWHERE)
    background.submit(keep(store, run(0.5)))
    assert [failure.cell for failure in background.close()] == ["ewc seed 0"]
    assert BackgroundTracker(store, NOWHERE).close() == []  # nothing came, nothing started


@pytest.mark.parametrize("found", ["nothing", "half of a database"])
def test_two_processes_at_once_on_a_fresh_database(tmp_path, found):
    """MLflow alone ruins the database here; and each row must have one parent."""
    uri = f"sqlite:///{tmp_path}/fresh/mlflow.db"
    (tmp_path / "fresh").mkdir()
    if found != "nothing":
        with closing(sqlite3.connect(tmp_path / "fresh" / "mlflow.db")) as half:
            half.execute("CREATE TABLE _alembic_tmp_tags (key TEXT)")
    code = """
import sys
from clarena.record.store import Store
from clarena.tracking import Tracker
store = Store(sys.argv[1])
tracker = Tracker(store, sys.argv[2])
for record in store.records()[0]:
    tracker.log(record)
print([failure.reason for failure in tracker.failures])
"""
    processes = []
    for number in range(2):
        store = Store(tmp_path / f"runs{number}")
        for seed in (0, 1):
            keep(store, run(0.5, 2 * seed + number))
        command = [sys.executable, "-c", code, str(store.path), uri]
        processes.append(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
    for process in processes:
        out, err = process.communicate(timeout=120)
        assert (out, process.returncode) == ("[]\n", 0), err
    assert sorted(cell.data.tags["clarena.seed"] for cell in cells(uri)) == ["0", "1", "2", "3"]
    (row,) = search(uri, "tags.`clarena.kind` = 'row'")
    assert row.data.metrics["seeds_finished"] == 4
    assert len(list((tmp_path / "fresh").glob("mlflow.db.half-made-*"))) == (found != "nothing")


# --- where MLflow is -------------------------------------------------------------------------------------------


def test_the_option_comes_before_the_environment_and_that_before_the_working_directory(monkeypatch, tmp_path):
    odd = tmp_path / "100% of a?b"
    odd.mkdir()
    monkeypatch.chdir(odd)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    default = resolve_uri()
    assert default == f"sqlite:///{tmp_path}/100%25 of a%3Fb/mlflow.db"
    assert resolve_uri(default) == default
    assert browse_hint(default) == f"mlflow ui --backend-store-uri '{default}'"
    monkeypatch.chdir(tmp_path)
    assert resolve_uri("sqlite:///other.db?timeout=5") == f"sqlite:///{tmp_path}/other.db?timeout=5"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://host:5000")
    assert resolve_uri() == "http://host:5000"
    assert browse_hint(resolve_uri()) == "http://host:5000"
    assert resolve_uri("https://name:word@other") == "https://name:word@other"
    assert browse_hint("https://name:word@other") == "https://other"


@pytest.mark.parametrize("uri", ["mlruns", "./mlruns", "file:///tmp/mlruns", "C:\\mlruns", "sqlite://"])
def test_what_mlflow_no_longer_takes_is_refused_before_anything_runs(store, uri):
    with pytest.raises(UsageError, match="Give a database file"):
        Tracker(store, uri)


def test_a_database_under_an_odd_path_keeps_its_files_beside_it(store, fresh_database, tmp_path):
    folder = tmp_path / "a b#c?d"
    folder.mkdir()
    shutil.copy(fresh_database, folder / "mlflow.db")
    tracker = Tracker(store, resolve_uri(f"sqlite:///{tmp_path}/a b#c%3Fd/mlflow.db"))
    record = keep(store, run(0.5, held_equal=Protocol(epochs=2)))
    assert tracker.log(record) == "logged", tracker.failures
    assert len(list((folder / "mlartifacts").rglob("record.json"))) == 1


def test_neither_mlflow_nor_matplotlib_is_imported_before_the_first_record():
    code = "import sys, clarena.tracking; print({'mlflow', 'matplotlib', 'torch'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
