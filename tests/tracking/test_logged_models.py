"""Kept models in MLflow: logged once, loaded and served without CLArena being asked for anything but its name."""

import json
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
from trained_models import evaluated, rows_of

from clarena.record.store import MODEL, Store
from clarena.tracking import Tracker


def logged(uri):
    """All models that are not deleted, oldest first."""
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=uri)
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    return client, sorted(client.search_logged_models(experiments), key=lambda model: model.creation_timestamp)


@pytest.fixture(scope="module")
def tracked(tmp_path_factory):
    """Three runs with models and one without, logged once."""
    folder = tmp_path_factory.mktemp("models")
    options = {"scenario": "task", "settings": {"benchmark": {"experiences": 5}}}
    results = {"class": evaluated(folder, "er"), "task": evaluated(folder, "er", **options)}
    columns = {"a": np.arange(20.0), "b": np.arange(20.0)[::-1]}
    lines = [f"{a},{b},{'ant' if a < 10 else 'bee'}" for a, b in zip(*columns.values())]
    (folder / "mine.csv").write_text("\n".join(["a,b,label", *lines]))
    own = {"benchmark": f"split:{folder / 'mine.csv'}", "settings": {"benchmark": {"experiences": 2}}}
    results["table"] = evaluated(folder, "er", **own)
    evaluated(folder, "finetune", keep=False)
    uri, store = f"sqlite:///{folder}/mlflow.db", Store(folder / "runs")
    tracker = Tracker(store, uri)
    for record in store.records()[0]:
        assert tracker.log(record) == "logged"
    assert tracker.failures == []
    return folder, uri, results


@pytest.fixture(autouse=True)
def _mlflow_as_it_was(monkeypatch):
    """What a test tells this process's MLflow is no other test's affair."""
    import mlflow

    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")  # so that it is put back as it was
    yield
    mlflow.set_tracking_uri("")


def loaded(tracked, which):
    import mlflow

    _, uri, results = tracked
    mlflow.set_tracking_uri(uri)
    (record,) = results[which].records
    (model,) = [model for model in logged(uri)[1] if model.tags["clarena.cell"] == record.cell.id]
    return mlflow.pyfunc.load_model(f"models:/{model.model_id}"), record, results[which].model("er")


def test_each_kept_model_is_logged_once_for_its_run(tracked):
    folder, uri, results = tracked
    client, models = logged(uri)
    assert [(model.name, model.status) for model in models] == [("er-seed-0", "READY")] * 3
    for model in models:
        run = client.get_run(model.source_run_id)
        state = next(Path(folder / "runs").glob(f"*/*-{run.data.tags['clarena.cell'][:12]}/{MODEL}"))
        assert run.data.tags["clarena.model"] == state.read_bytes()[:32].hex()
        assert [output.model_id for output in run.outputs.model_outputs] == [model.model_id]
    again = Tracker(Store(folder / "runs"), uri)
    assert {again.log(record) for each in results.values() for record in each} == {"already"}
    assert len(logged(uri)[1]) == 3


def test_a_logged_model_answers_as_the_run_did(tracked):
    model, record, ours = loaded(tracked, "class")
    rows, _ = rows_of(record)[0]
    answers = model.predict(rows.numpy())
    assert answers["prediction"].tolist() == ours.predict(rows).tolist()
    assert np.array_equal(answers[[f"p({name})" for name in ours.class_names]], ours.probabilities(rows).astype(float))
    assert str(model.metadata.signature.inputs) == "[Tensor('uint8', (-1, 1, 8, 8))]"
    assert model.input_example[0].tolist() in rows_of(record)[-1][0].tolist()


def test_the_task_is_a_parameter(tracked):
    model, record, ours = loaded(tracked, "task")
    rows, _ = rows_of(record)[2]
    assert model.predict(rows.numpy(), params={"task": 2})["prediction"].tolist() == ours.predict(rows, task=2).tolist()
    with pytest.raises(Exception, match="task is missing"):
        model.predict(rows.numpy())


def test_a_table_has_columns_by_name(tracked):
    import pandas as pd

    model, _, ours = loaded(tracked, "table")
    frame = pd.DataFrame({"b": [18.0, 0.5], "a": [1.0, 17.5]})
    assert model.predict(frame)["prediction"].tolist() == ours.predict(frame[["a", "b"]].to_numpy()).tolist()


def test_a_logged_model_is_served(tracked):
    from mlflow.pyfunc.scoring_server import init
    from starlette.testclient import TestClient

    model, record, ours = loaded(tracked, "class")
    rows, _ = rows_of(record)[0]
    with TestClient(init(model)) as server:
        answer = server.post("/invocations", json={"inputs": rows.tolist()})
    assert answer.status_code == 200
    served = [line["prediction"] for line in json.loads(answer.text)["predictions"]]
    assert served == ours.predict(rows).tolist()


def test_no_file_of_a_logged_model_is_a_pickle(tracked):
    _, uri, _ = tracked
    for model in logged(uri)[1]:
        place = Path(model.artifact_location.removeprefix("file://"))
        names = {path.name for path in place.rglob("*") if path.is_file()}
        assert {"MLmodel", "model.py", "model.pt"} <= names
        assert not {name for name in names if name.endswith((".pkl", ".pickle"))}


def test_a_logged_model_can_be_carried_elsewhere(tracked, tmp_path):
    import mlflow
    import pandas as pd

    folder, uri, results = tracked
    (record,) = results["table"].records
    (model,) = [model for model in logged(uri)[1] if model.tags["clarena.cell"] == record.cell.id]
    moved = shutil.copytree(model.artifact_location.removeprefix("file://"), tmp_path / "moved")
    for path in moved.rglob("*"):
        held = path.read_bytes() if path.is_file() else b""
        assert not [place for place in (folder, Path.cwd(), tempfile.gettempdir()) if str(place).encode() in held], path
    frame, ours = pd.DataFrame({"a": [1.0, 17.5], "b": [18.0, 0.5]}), results["table"].model("er")
    answers = mlflow.pyfunc.load_model(str(moved)).predict(frame)
    assert list(answers) == ours.columns == ["prediction", "probability", *(f"p({name})" for name in ours.class_names)]
    assert answers["prediction"].tolist() == ours.predict(frame.to_numpy()).tolist()


def test_a_model_that_is_kept_later_or_anew_is_logged_then(tracked, tmp_path):
    shutil.copy(tracked[0] / "mlflow.db", tmp_path / "mlflow.db")
    uri, store = f"sqlite:///{tmp_path}/mlflow.db", Store(tmp_path / "runs")
    before = evaluated(tmp_path, "er", seeds=[7], keep=False).records[0]
    assert Tracker(store, uri).log(before) == "logged"

    def mine():
        return [model for model in logged(uri)[1] if model.tags["clarena.cell"] == before.cell.id]

    assert mine() == []
    evaluated(tmp_path, "er", seeds=[7])
    assert Tracker(store, uri).log(before) == "already"
    (first,) = mine()
    path = store.folder(before.cell) / MODEL
    path.write_bytes(b"\0" * 32 + path.read_bytes()[32:])
    damaged = Tracker(store, uri)
    assert damaged.log(before) == "failed"
    assert "damaged" in damaged.failures[0].reason
    path.unlink()
    evaluated(tmp_path, "er", seeds=[7])
    assert Tracker(store, uri).log(before) == "already"
    (second,) = mine()
    assert second.tags["clarena.model"] == path.read_bytes()[:32].hex()
    assert (second.model_id != first.model_id) == (second.tags["clarena.model"] != first.tags["clarena.model"])
