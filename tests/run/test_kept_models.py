"""What is kept of a trained model, how it is found again, and what is refused."""

import hashlib
import io
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from clarena_native.benchmarks.digits import SplitDigits
from trained_models import evaluated, rows_of

import clarena
from clarena import ClarenaError, DataError, GradientStrategy, StoreError, UsageError, continue_run, load_model
from clarena.plugins.host import PluginSources
from clarena.record.record import Cell
from clarena.record.store import MODEL, RECORD, Store
from clarena.run.worker import run_work
from clarena.toolbox.saved import packed, unpacked
from clarena.toolbox.structure import STRUCTURE
from clarena.tracking import Tracker

# ---- The file ----


@pytest.fixture(scope="module")
def once(tmp_path_factory):
    """One run with its model, never altered."""
    folder = tmp_path_factory.mktemp("once")
    return folder / "runs", evaluated(folder, "er")


@pytest.fixture
def kept(once, tmp_path):
    """A copy of that store, and the folder of its run."""
    store = Store(shutil.copytree(once[0], tmp_path / "runs"))
    return store, store.folder(once[1].records[0].cell)


def rewritten(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    content = unpacked(path.read_bytes(), torch.device("cpu"))
    change(content)
    path.write_bytes(packed(content))


def other_cell(**changes: Any) -> Callable[[dict[str, Any]], object]:
    """The same content, of a cell in which parts are of another version."""

    def change(content: dict[str, Any]) -> None:
        cell = Cell.model_validate_json(content["cell"])
        strategy = cell.strategy.model_copy(update=changes.get("strategy", {}))
        parts = {
            name: getattr(cell.track, name).model_copy(update=changes.get(name, {}))
            for name in ("benchmark", "backbone", "protocol")
        }
        track = cell.track.model_copy(update=parts)
        content["cell"] = cell.model_copy(update={"strategy": strategy, "track": track}).model_dump_json()

    return change


def test_a_model_is_one_file_without_pickle_or_the_place_of_its_store(kept, once):
    content = (kept[1] / MODEL).read_bytes()
    assert hashlib.sha256(content[32:]).digest() == content[:32]
    torch.load(io.BytesIO(content[32:]), weights_only=True)
    assert str(once[0]).encode() not in content
    assert not list(kept[1].glob("*.tmp"))
    assert not (kept[1] / "checkpoint.pt").exists()


DAMAGE: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "later format": (lambda c: c.update(format=3), "is of format 3, and this version reads 2. Update CLArena"),
    "earlier format": (lambda c: c.update(format=1), "is of format 1, and this version reads 2. Run it again"),
    "another run": (lambda c: c.update(predictions="0" * 64), "not that of the record beside it"),
    "strategy": (other_cell(strategy={"identity": "0" * 64}), "another version of er"),
    "benchmark": (other_cell(benchmark={"revision": 7}), "another version of split-digits"),
    "backbone": (other_cell(backbone={"identity": "0" * 64}), "another version of mlp"),
    "protocol": (other_cell(protocol={"revision": 99}), "under revision 99 of the protocol"),
    "structure": (lambda c: c["strategy"].popitem(), "does not say how its module is built"),
    "unbuildable": (
        lambda c: c["strategy"][STRUCTURE]["modules"].update({"model.head": ["two"]}),
        r"cannot be used with what is installed now: Head at model.head cannot be built as \['two'\]",
    ),
    "state": (lambda c: c["strategy"].pop(next(iter(c["strategy"]))), "cannot be used with what is installed now"),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_a_state_of_another_version_is_refused(what, kept):
    change, message = DAMAGE[what]
    rewritten(kept[1] / MODEL, change)
    with pytest.raises(StoreError, match=message):
        load_model("er", kept[0].path)
    np.savez(kept[0].path.parent / "new.npz", x=np.zeros((9, 1, 8, 8), dtype=np.uint8), y=["ten"] * 9)
    before = {path: path.read_bytes() for path in sorted(kept[0].path.rglob("*")) if path.is_file()}
    with pytest.raises(StoreError, match=message):
        continue_run("er", kept[0].path.parent / "new.npz", store=kept[0].path, track=False)
    assert before == {path: path.read_bytes() for path in sorted(kept[0].path.rglob("*")) if path.is_file()}


def test_an_altered_byte_is_noticed(kept):
    path = kept[1] / MODEL
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(StoreError, match=r"cannot be read \(it is damaged"):
        load_model("er", kept[0].path)


# ---- Which run ----


def test_a_run_is_found_by_id_folder_file_and_name(kept):
    store, folder = kept
    (record,), _ = store.records()
    rows = np.zeros((1, 1, 8, 8), dtype=np.uint8)
    expected = load_model(record, store.path).scores(rows)
    moved = shutil.copytree(folder, store.path.parent / "taken away")
    for run in ("er", "er:0", record.cell.id, record.cell.id[:6], folder, folder / MODEL, moved, moved / MODEL):
        assert np.array_equal(load_model(run, store.path).scores(rows), expected)


def test_a_run_that_is_not_there_is_said(kept):
    store = kept[0]
    with pytest.raises(UsageError, match=r"There is no run in .* named 'er:1'.\nDid you mean 'er:0'"):
        load_model("er:1", store.path)
    with pytest.raises(UsageError, match="There is no store at"):
        load_model("er", store.path / "nowhere")


def test_of_several_runs_one_has_to_be_named(tmp_path):
    evaluated(tmp_path, "finetune", seeds=[0, 1])
    with pytest.raises(UsageError, match=r"finetune may be any of 2 runs of .*\n  [0-9a-f]{12}  .*finetune-seed0"):
        load_model("finetune", tmp_path / "runs")


def test_a_run_without_a_model_says_how_to_have_it(tmp_path):
    results = evaluated(tmp_path, "finetune", keep=False)
    with pytest.raises(UsageError, match=r"kept no model\. Evaluate it again with --keep model"):
        results.model("finetune")
    with pytest.raises(UsageError, match="There is no run among these results named 'er seed 0'"):
        results.model("er")


# ---- Kept afterwards ----


def test_a_finished_run_is_run_again_and_its_record_stays(tmp_path):
    before = evaluated(tmp_path, "er", keep=False)
    path, told = Store(tmp_path / "runs").folder(before.records[0].cell) / RECORD, []
    content = path.read_bytes()
    after = evaluated(tmp_path, "er", listener=lambda event: told.append(event.kind))
    assert told[0] == "started"
    assert path.read_bytes() == content
    (rows, places), *_ = rows_of(after.records[0])
    last = Store(tmp_path / "runs").predictions(after.records[0]).predicted[-1]
    assert after.model("er").predict(rows).tolist() == [after.records[0].output_names[i] for i in last[places]]
    told.clear()
    evaluated(tmp_path, "er", listener=lambda event: told.append(event.kind))
    assert told == []


class Moody(GradientStrategy):
    """Learns otherwise where the weather is bad."""

    name = "moody"

    def before_experience(self, experience):
        if os.environ.get("WEATHER") == "storm":
            raise ValueError("no mood")
        if os.environ.get("WEATHER") == "bad":
            with torch.no_grad():
                self.model.head.blocks[0].bias[0] += 100


@pytest.mark.parametrize(("weather", "message"), [("bad", "predicts otherwise than its record"), ("storm", "no mood")])
def test_a_model_that_is_not_that_of_the_record_is_not_kept(weather, message, tmp_path, monkeypatch):
    before = evaluated(tmp_path, Moody, keep=False)
    folder = Store(tmp_path / "runs").folder(before.records[0].cell)
    content = (folder / RECORD).read_bytes()
    monkeypatch.setenv("WEATHER", weather)
    after = evaluated(tmp_path, Moody)
    assert message in after.errors["moody seed 0"]
    assert (folder / RECORD).read_bytes() == content
    assert not (folder / MODEL).exists()


def test_a_run_that_is_killed_before_its_record_goes_on_and_keeps_its_model(tmp_path, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(Store, "write", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            evaluated(tmp_path, "er")
    after = evaluated(tmp_path, "er")
    assert after.records[0].resumed == [5]
    whole = evaluated(tmp_path / "whole", "er").model("er")
    rows = rows_of(after.records[0])[0][0]
    assert np.array_equal(after.model("er").scores(rows), whole.scores(rows))


def test_workers_keep_models_too(tmp_path):
    results = evaluated(tmp_path, "er", seeds=[0, 1], jobs=2)
    alone = evaluated(tmp_path / "alone", "er", seeds=[1]).model("er", seed=1)
    rows = rows_of(results.records[1])[0][0]
    assert np.array_equal(results.model("er", seed=1).scores(rows), alone.scores(rows))


def test_a_run_that_takes_too_long_the_second_time_keeps_its_record(tmp_path):
    before = evaluated(tmp_path, "finetune", keep=False)
    path = Store(tmp_path / "runs").folder(before.records[0].cell) / RECORD
    content = path.read_bytes()
    late = replace(before.works[0], keep=True, late=("the run took longer than 1 s", 1.0))
    with pytest.raises(ClarenaError, match="When it was run again to keep its model, the run took longer than 1 s"):
        run_work(late, lambda share: None)
    assert path.read_bytes() == content


def test_what_did_not_finish_has_no_model(tmp_path, monkeypatch):
    monkeypatch.setenv("WEATHER", "storm")
    results = evaluated(tmp_path, Moody)
    with pytest.raises(UsageError, match=r"has no model: it did not finish \(failed: ValueError: no mood"):
        results.model(Moody)


def test_a_class_in_place_of_a_name_has_a_model_too(tmp_path):
    results = evaluated(tmp_path, Moody)
    assert results.model("moody").predict(np.zeros((2, 1, 8, 8), dtype=np.uint8)).shape == (2,)


class Tilted(SplitDigits):
    """Digits seen through a function."""

    name = "tilted"

    def stream(self, data, scenario, generator):
        stream = super().stream(data, scenario, generator)
        return replace(stream, splits=tuple(replace(split, transform=lambda x: x + 1) for split in stream.splits))


def test_a_transform_that_cannot_be_kept_is_found_at_planning(tmp_path):
    with pytest.raises(UsageError, match=r"A model of tilted cannot be kept: .* a function"):
        evaluated(tmp_path, "finetune", benchmark=Tilted)
    assert not (tmp_path / "runs").exists()


def test_a_model_that_answers_with_no_classes_gives_scores(tmp_path):
    plugins = PluginSources(files=(Path(clarena.__file__).parents[1] / "plugins" / "examples" / "counts.py",))
    results = evaluated(tmp_path, "finetune", benchmark="visitors", plugins=plugins)
    assert not results.errors
    model = results.model("finetune")
    x = np.zeros((2, *model.form.shape), dtype=str(model.form.dtype).removeprefix("torch."))
    assert model.scores(x).shape == (2, len(model.class_names))
    for ask in (model.predict, model.probabilities):
        with pytest.raises(UsageError, match=r"answers for counts, and not with classes"):
            ask(x)
    np.savez(tmp_path / "new.npz", x=x, y=[0, 1])
    with pytest.raises(DataError, match=r"Labels are \[\] of int64; this model takes \[3\] of int32"):
        continue_run(results.records[0], tmp_path / "new.npz", store=tmp_path / "runs", plugins=plugins, track=False)
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    assert Tracker(Store(tmp_path / "runs"), uri).log(results.records[0]) == "logged"


# ---- Inputs that a model cannot take ----

FAULTY: list[tuple[Any, str]] = [
    (np.zeros((2, 1, 9, 9), dtype=np.uint8), r"Inputs are \[1, 9, 9\] of uint8; this model takes \[1, 8, 8\] of uint8"),
    (np.zeros((1, 8, 8), dtype=np.uint8), "this model takes"),
    (np.zeros((2, 1, 8, 8), dtype=np.float32), "give them as stored, before any scaling"),
    (np.full((2, 1, 8, 8), 300), "run from 300 to 300, which torch.uint8 cannot hold"),
    (np.full((2, 1, 8, 8), -1), "run from -1 to -1"),
    (["a", "b"], "Inputs must be numbers"),
    (7, "this model takes"),
]


@pytest.mark.parametrize(("x", "message"), FAULTY, ids=range(len(FAULTY)))
def test_inputs_that_a_model_cannot_take_are_refused(x, message, once):
    with pytest.raises(DataError, match=message):
        once[1].model("er").predict(x)


def test_whole_numbers_of_another_type_are_taken(once):
    rows, model = np.arange(128).reshape(2, 1, 8, 8) % 17, once[1].model("er")
    assert np.array_equal(model.scores(rows), model.scores(rows.astype(np.uint8)))


def test_tasks_and_experiences_are_asked_for_where_they_have_a_meaning(once, tmp_path):
    rows = np.zeros((1, 1, 8, 8), dtype=np.uint8)
    model = once[1].model("er")
    with pytest.raises(UsageError, match="A task label exists in the task scenario alone"):
        model.predict(rows, task=0)
    with pytest.raises(UsageError, match="see their inputs alike"):
        model.predict(rows, experience=0)
    told = evaluated(tmp_path, "finetune", scenario="task").model("finetune")
    with pytest.raises(UsageError, match=r"task is missing: .* Give one from 0 to 4"):
        told.predict(rows)
    with pytest.raises(UsageError, match="task = 5 does not exist"):
        told.predict(rows, task=5)
    turned = evaluated(tmp_path, "finetune", benchmark="rotated-digits", scenario="domain").model("finetune")
    with pytest.raises(UsageError, match="experience is missing: each experience of rotated-digits"):
        turned.predict(rows)
