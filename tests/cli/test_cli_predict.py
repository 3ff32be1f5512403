"""`clarena predict`, from the command that keeps the model to the table of predictions."""

import csv
import io

import numpy as np
import pytest
from cli_command import clarena, smoke

from clarena import load_model


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    folder = tmp_path_factory.mktemp("predict")
    assert smoke(folder / "runs", "finetune", "--seeds", 1, "--keep", "model").code == 0
    return folder / "runs"


@pytest.fixture
def data(tmp_path):
    np.savez(tmp_path / "new.npz", x=np.arange(192, dtype=np.uint8).reshape(3, 1, 8, 8) % 17, y=[0, 1, 2])
    return tmp_path / "new.npz"


def test_a_line_for_each_sample_with_class_and_probabilities(store, data, tmp_path):
    told = clarena("predict", "finetune:0", data, "--store", store)
    assert told.code == 0
    lines = list(csv.DictReader(io.StringIO(told.out)))
    model = load_model("finetune", store)
    samples = model.read(data)
    chances = model.probabilities(samples.x)
    assert [line["sample"] for line in lines] == ["0", "1", "2"]
    assert [line["label"] for line in lines] == ["0", "1", "2"]
    assert [line["prediction"] for line in lines] == model.predict(samples.x).tolist()
    for line, row in zip(lines, chances):
        assert [float(line[f"p({name})"]) for name in model.class_names] == pytest.approx(row, rel=1e-4, abs=1e-30)
        assert float(line["probability"]) == pytest.approx(row.max(), rel=1e-4)
    right = 100 * np.mean([line["label"] == line["prediction"] for line in lines])
    assert f"{right:.1f} % of 3 labels are predicted." in told.err

    written = clarena("predict", "finetune", data, "--store", store, "--out", tmp_path / "p.csv")
    assert (written.code, written.out) == (0, "")
    assert (tmp_path / "p.csv").read_text() == told.out


def test_what_cannot_be_predicted_is_one_message(store, data, tmp_path):
    def complaint(*arguments):
        outcome = clarena("predict", *arguments)
        assert outcome.out == ""
        assert outcome.code in (1, 2)
        return outcome.err

    assert "There is no run" in complaint("er", data, "--store", store)
    assert "There is no store" in complaint("er", data, "--store", tmp_path / "none")
    assert "There is nothing at" in complaint("finetune", tmp_path / "none.npz", "--store", store)
    assert "must be a .csv" in complaint("finetune", data, "--store", store, "--out", tmp_path / "p.txt")
    np.savez(tmp_path / "odd.npz", x=np.zeros((2, 3, 3), dtype=np.uint8))
    assert "this model takes [1, 8, 8]" in complaint("finetune", tmp_path / "odd.npz", "--store", store)
    assert smoke(tmp_path / "runs", "finetune", "--seeds", 1).code == 0
    message = complaint("finetune", data, "--store", tmp_path / "runs")
    assert "kept no model. Run it again, and keep it; the record stays:\nclarena evaluate finetune" in message
    assert message.rstrip().endswith("--keep model")


def test_the_task_is_asked_for(data, tmp_path):
    assert smoke(tmp_path / "runs", "finetune", "--seeds", 1, "--scenario", "task", "--keep", "model").code == 0
    refused = clarena("predict", "finetune", data, "--store", tmp_path / "runs")
    assert "task is missing: this model learned in the task scenario" in refused.err
    told = clarena("predict", "finetune", data, "--store", tmp_path / "runs", "--task", 1)
    assert told.code == 0
    zeros = [[line[f"p({n})"] for n in "0123456789"].count("0") for line in csv.DictReader(io.StringIO(told.out))]
    assert zeros == [8, 8, 8]


def test_only_a_model_can_be_kept(tmp_path):
    refused = smoke(tmp_path / "runs", "finetune", "--keep", "optimiser")
    assert refused.code == 2
    assert not (tmp_path / "runs").exists()
