"""`clarena doctor`: finds what is wrong, says what to do, and changes nothing."""

import errno
import importlib
import sqlite3
import threading
from contextlib import closing
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest
from cli_command import clarena
from tracked_runs import keep, run

from clarena.record.store import Store
from clarena.tracking import sync

doctor_module = importlib.import_module("clarena.cli.doctor")
FAULTY = Path(__file__).parents[1] / "faulty_plugins"


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CLARENA_DATA", str(tmp_path / "data"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def findings(*arguments):
    outcome = clarena("doctor", "--json", *arguments)
    data = outcome.data
    assert outcome.code == int(any(each["state"] == "problem" for each in data))
    assert all(each["remedy"] for each in data if each["state"] != "ok")
    return {each["topic"]: each for each in data}


def test_a_sound_place_has_no_problem_and_nothing_is_written(tmp_path):
    found = findings("--no-plugins")
    assert {each["state"] for each in found.values()} == {"ok"}
    assert {"python", "clarena-bench", "packages", "extras", "cores", "store", "mlflow", "data"} <= set(found)
    assert "torch " in found["packages"]["text"]
    assert "are what they are registered as" in found["registrations"]["text"]
    assert list(tmp_path.iterdir()) == []


def test_the_unrelated_distribution_of_the_same_import_name_is_found(tmp_path, monkeypatch):
    info = tmp_path / "site" / "clarena-9.9.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: clarena\nVersion: 9.9\n")
    monkeypatch.syspath_prepend(info.parent)
    found = findings("--no-plugins")["import name"]
    assert found["state"] == "problem"
    assert "clarena 9.9" in found["text"]
    assert "pip uninstall" in found["remedy"]


def test_what_cannot_be_written_is_found(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("CLARENA_DATA", str(tmp_path / "file"))
    arguments = ("--store", tmp_path / "file" / "runs", "--tracking-uri", f"sqlite:///{tmp_path}/file/x/mlflow.db")
    found = findings("--no-plugins", *arguments)
    assert found["store"]["state"] == "problem"
    assert found["mlflow"]["state"] == "problem"
    assert found["data"]["state"] == "warning"  # the digits need no download


@pytest.mark.parametrize("uri", ["http://127.0.0.1:9", "file:./mlruns", "sqlite:///broken.db"])
def test_an_mlflow_that_cannot_be_used_is_found(uri, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    (tmp_path / "broken.db").write_text("this is no database, but long enough to be taken for one " * 9)
    assert findings("--no-plugins", "--tracking-uri", uri)["mlflow"]["state"] == "problem"


def test_broken_plugins_damaged_records_and_data_sets_are_told(tmp_path):
    record = tmp_path / "runs" / "track" / "cell" / "record.json"
    record.parent.mkdir(parents=True)
    record.write_text("{")
    (tmp_path / "data" / "MNIST" / "raw").mkdir(parents=True)
    found = findings("--plugins-dir", FAULTY)
    assert found["plugin syntax_error"]["state"] == "problem"
    assert "SyntaxError" in found["plugin syntax_error"]["text"]
    assert found["data"]["text"].endswith("MNIST")
    text = clarena("doctor", "--plugins-dir", FAULTY).out
    assert "1 of its records, folders or archives cannot be read or believed" in text
    assert "→ clarena results --store runs says why" in text


def test_a_registration_that_disagrees_with_its_class_is_a_warning(tmp_path):
    (tmp_path / "unlike.py").write_text(
        "from clarena import Strategy, hookimpl\n\n\n"
        "class Method(Strategy):\n    '''Says one thing.'''\n\n    name = 'method'\n\n\n"
        "@hookimpl\ndef clarena_register_strategies(register):\n"
        "    register(Method, summary='Says another')\n"
        "    register('no_such_package:Method', name='absent', summary='Is not there')\n"
    )
    found = findings("--plugin", "unlike.py")
    assert found["strategy method"]["state"] == "warning"
    assert found["strategy absent"]["state"] == "problem"
    assert "no_such_package" in found["strategy absent"]["text"]


# --- what it calls ok, it opened ---------------------------------------------------------------------------------


def database(path: Path) -> sqlite3.Connection:
    return closing(sqlite3.connect(path))


def spoil(path: Path, how: str) -> None:
    """Do to an MLflow database, which holds something, what a kill, a disk or another MLflow does."""
    if how == "empty":
        path.write_bytes(b"")
    elif how == "half-made":
        path.unlink()
        with database(path) as half:
            half.execute("CREATE TABLE _alembic_tmp_tags (key TEXT)")
    elif how == "upgrade cut short":
        with database(path) as held:
            held.execute("CREATE TABLE _alembic_tmp_tags (key TEXT)")
    elif how == "damaged inside":
        content = bytearray(path.read_bytes())
        content[40_960:81_920] = b"x" * 40_960
        path.write_bytes(content)
    elif how == "cut off":
        path.write_bytes(path.read_bytes()[:300_000])
    elif how == "no database":
        path.write_text("something else " * 99)


@pytest.fixture
def logged(tmp_path):
    """A store of two records, and an MLflow database that has both."""
    store = Store(tmp_path / "runs")
    for seed in (0, 1):
        keep(store, run(0.5, seed=seed))
    assert sync(store, f"sqlite:///{tmp_path}/mlflow.db").failed == []
    return tmp_path / "mlflow.db"


@pytest.mark.parametrize("how", ["empty", "half-made", "upgrade cut short", "damaged inside", "cut off", "no database"])
def test_a_ruined_database_is_a_problem_and_repair_mends_it(logged, how):
    assert mlflow_finding() == ("ok", f"sqlite:///{logged} has all 2 records of runs")
    spoil(logged, how)
    before = logged.read_bytes()
    state, _ = mlflow_finding()
    assert (state, logged.read_bytes()) == ("problem", before)
    assert "doctor --repair" in only("mlflow")["remedy"]
    outcome = clarena("doctor", "--no-plugins", "--repair")
    assert outcome.code == 0, outcome.out
    word = "half-made" if how in ("empty", "half-made") else "damaged"
    (aside,) = logged.parent.glob(f"mlflow.db.{word}-*")
    assert aside.read_bytes() == before
    assert aside.name in outcome.out
    assert "2 records of runs were logged to MLflow" in outcome.out
    assert mlflow_finding() == ("ok", f"sqlite:///{logged} has all 2 records of runs")


def test_a_database_of_another_version_is_told_and_left_alone(logged):
    with database(logged) as held:
        held.execute("UPDATE alembic_version SET version_num = 'bf29a5ff90ea'")
        held.commit()
    before = logged.read_bytes()
    found = findings("--no-plugins", "--repair")["mlflow"]
    assert found["state"] == "problem"
    assert "has the schema bf29a5ff90ea" in found["text"]
    assert "mlflow db upgrade" in found["remedy"]
    assert logged.read_bytes() == before


def test_records_that_mlflow_lacks_are_told_and_repair_logs_them(logged):
    keep(Store(logged.parent / "runs"), run(0.5, seed=2))
    assert mlflow_finding() == ("warning", f"sqlite:///{logged} lacks 1 of the 3 records of runs")
    assert only("mlflow")["remedy"] == "clarena sync --store runs"
    assert clarena("doctor", "--no-plugins", "--repair").code == 0
    assert mlflow_finding() == ("ok", f"sqlite:///{logged} has all 3 records of runs")


def test_a_database_that_is_held_by_another_process_is_no_problem_and_not_called_ok(logged, monkeypatch):
    monkeypatch.setattr("clarena.tracking.database.BUSY_SECONDS", 0)
    with database(logged) as other:
        other.execute("BEGIN IMMEDIATE")
        state, text = mlflow_finding()
    assert state == "warning"
    assert "another process" in text


def test_a_server_that_listens_and_is_no_mlflow_is_a_problem(monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as other:
        threading.Thread(target=other.serve_forever, daemon=True).start()
        found = only("mlflow", "--tracking-uri", f"http://127.0.0.1:{other.server_port}")
        other.shutdown()
    assert found["state"] == "problem"
    assert "does not answer as it should" in found["text"]


def test_a_full_disk_and_a_full_store_are_told(tmp_path, monkeypatch):
    monkeypatch.setattr(doctor_module.os, "fsync", lambda descriptor: no_space())
    found = findings("--no-plugins")
    assert found["store"]["state"] == "problem"
    assert "No space left on device" in found["store"]["text"]


def no_space() -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_little_space_is_told(monkeypatch):
    monkeypatch.setattr(doctor_module.shutil, "disk_usage", lambda place: SimpleNamespace(free=5e7))
    found = findings("--no-plugins")
    assert {found[f"disk of {topic}"]["state"] for topic in ("store", "this folder", "temporary files")} == {"warning"}


def test_records_without_their_predictions_are_told(tmp_path):
    store = Store(tmp_path / "runs")
    record = keep(store, run(0.5))
    (store.folder(record.cell) / "predictions.npz").unlink()
    text = clarena("doctor", "--no-plugins").out
    assert "1 of its records are without their predictions" in text


def test_a_device_that_cannot_compute_is_a_problem(monkeypatch):
    import torch

    def ones(*size: int, device: str) -> None:
        raise RuntimeError("CUDA error: an illegal memory access\nmore")

    monkeypatch.setattr(torch, "ones", ones)
    found = only("cpu")
    assert (found["state"], found["text"]) == ("problem", "cannot be used: CUDA error: an illegal memory access")


def only(topic: str, *arguments: object) -> dict[str, str]:
    return findings("--no-plugins", *arguments)[topic]


def mlflow_finding() -> tuple[str, str]:
    found = only("mlflow")
    return found["state"], found["text"]
