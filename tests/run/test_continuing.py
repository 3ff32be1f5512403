"""Going on from a kept model: bit for bit as if the stream had been longer, and nothing before is altered."""

import csv
import hashlib
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from trained_models import evaluated

from clarena import DataError, Record, StoreError, UsageError, continue_run, load_model
from clarena.plugins.host import PluginSources
from clarena.record.store import MODEL, PREDICTIONS, RECORD, Store
from clarena.toolbox.saved import packed, unpacked
from clarena.toolbox.states import differing

DIGITS = load_digits()
NATURAL = {"class_order": "natural"}


def digits(path: Path, *classes: int) -> Path:
    """The digits of these classes; every fifth of all digits is for testing."""
    mine = np.flatnonzero(np.isin(DIGITS.target, classes))
    x, y, out = DIGITS.images[mine].astype(np.uint8), DIGITS.target[mine], mine % 5 == 4
    np.savez(path, x_train=x[~out], y_train=y[~out], x_test=x[out], y_test=y[out])
    return path


def trained(folder: Path, strategy: Any, path: Path, experiences: int, **changes: Any) -> Record:
    settings = {"backbone": {"hidden": [8]}, "benchmark": {"experiences": experiences, **NATURAL}}
    settings |= changes.pop("settings", {})
    results = evaluated(folder, strategy, benchmark=f"split:{path}", settings=settings, **changes)
    assert not results.errors
    return results.records[0]


def went_on(run: Any, new: Path, folder: Path, **options: Any) -> Record:
    """Without a warning, where test data are said to be at hand."""
    with warnings.catch_warnings():
        if "benchmark" in options:
            warnings.simplefilter("error")
        return continue_run(run, new, store=folder / "runs", track=False, **options)


CASES = [(name, "class") for name in ("finetune", "er", "ewc", "si", "agem", "icarl", "scr", "ewc+lwf")]
CASES += [("er", "task"), ("pnn", "task")]


@pytest.mark.parametrize(("strategy", "scenario"), CASES)
def test_going_on_is_learning_a_longer_stream(strategy, scenario, tmp_path):
    whole = trained(tmp_path, strategy, digits(tmp_path / "all.npz", *range(10)), 5, scenario=scenario)
    first = digits(tmp_path / "first.npz", *range(6))
    record = trained(tmp_path, strategy, first, 3, scenario=scenario)
    for position, classes in ((3, (6, 7)), (4, (8, 9))):
        new, task = digits(tmp_path / f"new{position}.npz", *classes), position if scenario == "task" else None
        record = went_on(record, new, tmp_path, task=task, benchmark=f"split:{first}")
    assert record.status == "finished"
    assert record.output_names == whole.output_names == list("0123456789")
    assert np.array_equal(record.matrix, whole.matrix, equal_nan=True)
    assert record.metrics == pytest.approx(whole.metrics, nan_ok=True)
    assert [cost.steps for cost in record.costs] == [cost.steps for cost in whole.costs]
    assert record.experiences == whole.experiences
    states = [load_model(each, tmp_path / "runs").strategy.state_dict() for each in (record, whole)]
    assert differing(*states) == ""
    rows = torch.from_numpy(DIGITS.images[:50].astype(np.uint8))
    asked = {"task": 4} if scenario == "task" else {}
    scores = [load_model(each, tmp_path / "runs").scores(rows, **asked) for each in (record, whole)]
    assert np.array_equal(*scores)


@pytest.fixture(scope="module")
def parent(tmp_path_factory):
    """A run over six digits, its data, and four more digits."""
    folder = tmp_path_factory.mktemp("parent")
    record = trained(folder, "er", digits(folder / "first.npz", *range(6)), 3)
    digits(folder / "new.npz", 2, 8)
    return folder, record


def test_the_record_names_its_parent_which_stays(parent):
    folder, record = parent
    store = Store(folder / "runs")
    files = {name: (store.folder(record.cell) / name).read_bytes() for name in (RECORD, PREDICTIONS, MODEL)}
    went = went_on(record, folder / "new.npz", folder, benchmark=f"split:{folder / 'first.npz'}")
    came = went.cell.track.continues
    assert came.cell == record.cell.id
    assert came.record == hashlib.sha256(files[RECORD]).hexdigest()
    assert came.state == hashlib.sha256(files[MODEL][32:]).hexdigest()
    assert all((store.folder(record.cell) / name).read_bytes() == content for name, content in files.items())
    assert went.unranked == f"it goes on from the run {record.cell.id[:12]}, on data that no other has"
    assert went.track_digest != record.track_digest
    assert went.cell.track.label == "split:first then new.npz/class/mlp/custom"
    assert store.find(went.cell).cell_id == went.cell_id  # it is read and checked as any other
    assert went_on("er:0", folder / "new.npz", folder).started == went.started  # and nothing is learned twice


def test_known_classes_go_on_under_their_outputs(parent):
    folder, record = parent
    went = went_on(record, folder / "new.npz", folder, benchmark=f"split:{folder / 'first.npz'}")
    assert went.output_names == [*"012345", "8"]
    assert went.experiences[-1].classes == ["2", "8"]
    assert np.isfinite(went.matrix[-1]).all()
    model = load_model(went, folder / "runs")
    assert model.class_names == (*"012345", "8")
    assert model.strategy.model.head.outputs == 7


def test_without_their_test_data_earlier_experiences_are_undefined_and_that_is_said(parent):
    folder, record = parent
    digits(folder / "only.npz", 9)
    with pytest.warns(match=r"not tested again: split:first does not say where its data lie. Say where: --benchmark"):
        went = went_on(record, folder / "only.npz", folder)
    assert np.isnan(went.matrix[-1][:3]).all()
    assert np.isfinite(went.matrix[-1][3])
    assert np.array_equal(went.matrix[:-1, :3], record.matrix, equal_nan=True)
    assert np.isnan(went.matrix[:-1, 3]).all()
    assert went.outcome == "finished, not tested on every experience in the end"


def test_a_benchmark_with_its_data_is_tested_again_by_itself(tmp_path):
    record = evaluated(tmp_path, "er").records[0]
    np.savez(tmp_path / "new.npz", x=DIGITS.images[:200, None].astype(np.uint8), y=DIGITS.target[:200])
    went = went_on(record, tmp_path / "new.npz", tmp_path, benchmark="split-digits")
    assert np.isfinite(went.matrix[-1]).all()
    assert went.output_names == record.output_names
    # About a fifth of each class is held out; the protocol takes sixteen of either.
    assert (went.experiences[-1].train_samples, went.experiences[-1].test_samples) == (16, 16)


def write_table(path: Path, rows: list[tuple[Any, ...]]) -> Path:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([("a", "b", "label"), *rows])
    return path


def test_domains_go_on_with_the_same_classes_and_no_other(tmp_path):
    rng = np.random.default_rng(0)

    def rows(names: str, count: int = 20) -> list[tuple[Any, ...]]:
        return [(*rng.normal(len(names), 1, 2), names[i % len(names)]) for i in range(count)]

    paths = [write_table(tmp_path / f"{name}.csv", rows("xy")) for name in ("day", "night")]
    benchmark = f"domain:{paths[0]},{paths[1]}"
    record = evaluated(tmp_path, "er", benchmark=benchmark).records[0]
    went = went_on(record, write_table(tmp_path / "fog.csv", rows("xy")), tmp_path, benchmark=benchmark)
    assert (went.status, went.output_names, len(went.experiences)) == ("finished", ["x", "y"], 3)
    assert np.isfinite(went.matrix[-1]).all()
    assert (went.experiences[-1].train_samples, went.experiences[-1].test_samples) == (16, 4)
    with pytest.raises(UsageError, match=r"has the new class 'z', and in the domain scenario .* Known: x, y"):
        went_on(record, write_table(tmp_path / "odd.csv", rows("xyz")), tmp_path)


def test_what_fails_is_recorded_and_can_be_tried_again(tmp_path, monkeypatch):
    (tmp_path / "moody.py").write_text(
        "import os\nfrom clarena import GradientStrategy, hookimpl\n\n\nclass Moody(GradientStrategy):\n"
        '    """Cannot learn in a storm."""\n\n    name = "moody"\n\n    def before_experience(self, experience):\n'
        '        if os.environ.get("WEATHER") == "storm":\n            raise ValueError("no mood")\n\n\n'
        "@hookimpl\ndef clarena_register_strategies(register):\n    register(Moody)\n"
    )
    plugins = PluginSources(files=(tmp_path / "moody.py",))
    first = digits(tmp_path / "first.npz", *range(6))
    record = trained(tmp_path, "moody", first, 3, plugins=plugins)
    content = (Store(tmp_path / "runs").folder(record.cell) / RECORD).read_bytes()
    options = {"benchmark": f"split:{first}", "plugins": plugins}
    new = digits(tmp_path / "new.npz", 7)
    monkeypatch.setenv("WEATHER", "storm")
    failed = went_on(record, new, tmp_path, **options)
    assert (failed.status, failed.reason) == ("failed", "ValueError: no mood")
    assert np.array_equal(failed.matrix[:4, :3], record.matrix, equal_nan=True)
    assert (Store(tmp_path / "runs").folder(record.cell) / RECORD).read_bytes() == content
    monkeypatch.setenv("WEATHER", "fine")
    assert went_on(record, new, tmp_path, **options).status == "finished"


# ---- Refused ----


def test_what_cannot_be_learned_is_refused_before_anything_runs(parent, tmp_path):
    folder, record = parent
    before = sorted((folder / "runs").rglob("*"))

    def refused(error: type[Exception], message: str, new: Path, **options: Any) -> None:
        with pytest.raises(error, match=message):
            went_on(record, new, folder, **options)

    x = DIGITS.images[:4].astype(np.uint8)
    np.savez(tmp_path / "bare.npz", x=x)
    refused(DataError, r"bare\.npz has no labels", tmp_path / "bare.npz")
    np.savez(tmp_path / "one.npz", x=x[:1], y=[9])
    refused(DataError, r"one\.npz has too few samples to hold any out", tmp_path / "one.npz")
    np.savez(tmp_path / "test.npz", x_train=x, y_train=[1] * 4, x_test=x, y_test=[9] * 4)
    refused(DataError, r"test\.npz has no training sample of the class '9'", tmp_path / "test.npz")
    np.savez(tmp_path / "odd.npz", x=x[:, :7], y=[1] * 4)
    refused(DataError, r"this model takes \[8, 8\] of uint8", tmp_path / "odd.npz")
    refused(DataError, "There is nothing at", tmp_path / "none.npz")
    new = folder / "new.npz"
    refused(UsageError, "A task label exists in the task scenario alone", new, task=3)
    refused(UsageError, "test_share = 0 is not valid", new, test_share=0)
    refused(UsageError, "are not those of the run", digits(tmp_path / "nine.npz", 9), benchmark=f"split:{new}")
    assert sorted(path for path in (folder / "runs").rglob("*") if path.name != ".lock" and path.suffix) == [
        path for path in before if path.suffix
    ]


CANNOT: dict[str, tuple[str, dict[str, Any], str]] = {
    "joint": ("joint", {}, "joint cannot go on: it sees the data of the whole stream at once"),
    "hidden": ("er", {"settings": {"protocol": {"boundaries": "hidden"}}}, "with hidden boundaries"),
    "rotated": ("er", {"benchmark": "rotated-digits", "scenario": "domain"}, "through its own transform"),
    "no task": ("er", {"scenario": "task"}, "task is missing: .* the next is 5: --task 5"),
    "full": (
        "er",
        {"settings": {"protocol": {"heads": "full", "stream_length": "known"}}},
        "has the new class 'ten', and this model's head was made full, for 10",
    ),
}


@pytest.mark.parametrize("what", CANNOT)
def test_a_run_that_cannot_go_on_says_why(what, tmp_path):
    strategy, changes, message = CANNOT[what]
    record = evaluated(tmp_path, strategy, **changes).records[0]
    np.savez(tmp_path / "new.npz", x=DIGITS.images[:20, None].astype(np.uint8), y=["ten"] * 20)
    with pytest.raises(UsageError, match=message):
        went_on(record, tmp_path / "new.npz", tmp_path)
    if what == "no task":
        with pytest.raises(UsageError, match="task = 2 is not the next"):
            went_on(record, tmp_path / "new.npz", tmp_path, task=2)


def test_a_run_without_a_model_or_of_another_version_is_refused(tmp_path):
    record = evaluated(tmp_path, "er", keep=False).records[0]
    with pytest.raises(UsageError, match="kept no model"):
        went_on(record, tmp_path / "new.npz", tmp_path)
    evaluated(tmp_path, "er")
    path = Store(tmp_path / "runs").folder(record.cell) / MODEL
    content = unpacked(path.read_bytes(), torch.device("cpu"))
    content["cell"] = content["cell"].replace(record.cell.strategy.identity, "0" * 64)
    path.write_bytes(packed(content))
    with pytest.raises(StoreError, match="trained with another version of er"):
        went_on(record, tmp_path / "new.npz", tmp_path)
