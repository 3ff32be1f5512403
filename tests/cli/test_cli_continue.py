"""`clarena continue`: train today, predict tomorrow, go on next week."""

import csv
import io
from pathlib import Path

import numpy as np
import pytest
from cli_command import clarena, smoke

from clarena import load_model
from clarena.plugins.host import PluginSources
from clarena.record.store import Store

ROOT = Path(__file__).parents[2]


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


def test_a_language_model_reads_on_and_says_what_comes_next(tmp_path):
    paths, store = [], tmp_path / "runs"
    for name, text in {"ab.txt": "abab" * 40, "xyz.txt": "xyz " * 40, "no.txt": "no-no-" * 30}.items():
        (tmp_path / name).write_text(text)
        paths.append(tmp_path / name)
    options = ["--benchmark", f"language:{paths[0]},{paths[1]}", "--backbone", "text-transformer", "--keep", "model"]
    small = ["--set", "backbone.width=8", "--set", "backbone.depth=1", "--set", "backbone.heads=2"]
    small += ["--set", "benchmark.context=8"]
    assert clarena(
        "evaluate", "er", *options, *small, "--protocol", "smoke", "--seeds", 1, "--store", store, "--no-tracking"
    ).code == 0  # fmt: skip
    with pytest.warns(match="not tested again: language:ab,xyz does not say where its data lie.*language:PATH"):
        told = clarena("continue", "er", "--with", paths[2], "--store", store, "--no-tracking", "--timeout", 300)
    assert told.code == 0, told.err
    assert told.out.count("not tested again") == 2
    cell = told.out.split("clarena predict ")[1].split()[0]
    (tmp_path / "new.txt").write_text("no-no-no")
    predicted = clarena("predict", cell, tmp_path / "new.txt", "--store", store)
    assert predicted.code == 0, predicted.err
    lines = list(csv.DictReader(io.StringIO(predicted.out)))
    assert [(line["sample"], line["token"], line["label"]) for line in lines] == [
        ("train 1", str(place), letter) for place, letter in enumerate("o-no-no", 1)
    ]
    right = 100 * np.mean([line["label"] == line["prediction"] for line in lines])
    assert f"{right:.1f} % of 7 tokens are predicted." in predicted.err


def test_of_a_target_without_classes_scores_are_told(tmp_path):
    counts, store = ROOT / "plugins" / "examples" / "counts.py", tmp_path / "runs"
    options = ["--store", store, "--no-tracking", "--plugin", counts]
    assert clarena("evaluate", "er", "--benchmark", "visitors", "--protocol", "smoke", "--seeds", 1, "--keep", "model",
                   *options).code == 0  # fmt: skip
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(30, 10)).astype(np.float32), rng.poisson(2, (30, 3))
    np.savez(tmp_path / "new.npz", x=x, y=y)
    told = clarena("continue", "er", "--with", tmp_path / "new.npz", *options)
    assert told.code == 0, told.err
    assert "closeness by experience:\n  experience   1" in told.out
    again = clarena("continue", "er", "--with", tmp_path / "new.npz", *options, "--json")
    assert (again.data["score"], len(again.data["final_score_by_experience"])) == ("closeness", 5)
    predicted = clarena("predict", "er", tmp_path / "new.npz", "--store", store, "--plugin", counts)
    lines = list(csv.DictReader(io.StringIO(predicted.out)))
    assert list(lines[0]) == ["sample", "score(front door)", "score(side door)", "score(cellar)"]
    expected = load_model("er", store, plugins=PluginSources(files=(counts,))).scores(x)
    assert [float(line["score(cellar)"]) for line in lines] == pytest.approx(expected[:, 2], rel=1e-4, abs=1e-5)
