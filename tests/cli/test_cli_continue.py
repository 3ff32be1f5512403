"""`clarena continue`: train today, predict tomorrow, go on next week."""

import csv
import io

import numpy as np
from cli_command import clarena, smoke

from clarena.record.store import Store


def test_a_model_goes_on_from_week_to_week(tmp_path):
    rng, store = np.random.default_rng(0), tmp_path / "runs"
    x = rng.integers(0, 17, (30, 1, 8, 8)).astype(np.uint8)
    np.savez(tmp_path / "monday.npz", x=x, y=["0", "cat", "dog"] * 10)
    np.savez(tmp_path / "sunday.npz", x_train=x[:9], y_train=["cow"] * 9, x_test=x[9:12], y_test=["cow"] * 3)
    assert smoke(store, "finetune", "--seeds", 1, "--keep", "model").code == 0

    told = clarena("continue", "finetune:0", "--with", tmp_path / "monday.npz", "--store", store, "--no-tracking")
    assert told.code == 0, told.err
    assert "finetune seed 0 on split-digits then monday.npz/class/mlp/custom: finished" in told.out
    assert "  experience   6" in told.out
    cell = told.out.split("clarena predict ")[1].split()[0]
    (went,) = [record for record in Store(store).records()[0] if record.cell_id.startswith(cell)]
    assert f"{100 * went.accuracy_matrix[-1][5]:5.1f} %" in told.out
    assert went.command.startswith("clarena continue finetune:0 --with")

    again = clarena("continue", cell, "--with", tmp_path / "sunday.npz", "--store", store, "--no-tracking", "--json")
    assert again.code == 0, again.err
    assert (again.data["parent"], again.data["status"]) == (went.cell_id, "finished")
    assert len(again.data["final_accuracy_by_experience"]) == 7
    assert None not in again.data["final_accuracy_by_experience"]

    predicted = clarena("predict", again.data["folder"], tmp_path / "sunday.npz", "--store", store)
    (line, *_) = csv.DictReader(io.StringIO(predicted.out))
    assert {"p(0)", "p(9)", "p(cat)", "p(dog)", "p(cow)"} <= set(line)
    assert clarena("predict", "finetune:0", tmp_path / "sunday.npz", "--store", store).code == 0  # the one of today

    tables = clarena("results", "--store", store).out
    assert tables.count("Not ranked: it goes on from the run") == 2


def test_what_cannot_go_on_is_one_message(tmp_path):
    np.savez(tmp_path / "new.npz", x=np.zeros((9, 1, 8, 8), dtype=np.uint8), y=["cat"] * 9)
    assert smoke(tmp_path / "runs", "joint", "--seeds", 1, "--keep", "model").code == 0
    told = clarena("continue", "joint", "--with", tmp_path / "new.npz", "--store", tmp_path / "runs", "--no-tracking")
    assert (told.code, told.out) == (2, "")
    assert told.err.startswith("Error: joint cannot go on: it sees the data of the whole stream at once")
