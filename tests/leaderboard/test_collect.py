"""Reading a store: every number is recomputed, what does not agree is said, and nothing is read twice."""

import hashlib
import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from clarena_leaderboard import sources
from clarena_leaderboard.board import load_board
from clarena_leaderboard.cache import Cache
from clarena_leaderboard.sources import StoreSource, open_source
from made_up import found, keep, record, row, track
from records_with_predictions import changed

from clarena.errors import StoreError, UsageError
from clarena.record.metrics import METRICS
from clarena.record.pooled import POOLED_METRICS
from clarena.record.predictions import Predictions
from clarena.record.recomputation import matrices
from clarena.record.store import PREDICTIONS, RECORD, Store


@pytest.fixture
def store(tmp_path):
    (tmp_path / "runs").mkdir()
    return Store(tmp_path / "runs")


def collect(store, cache=None):
    return StoreSource(store.path).collect(cache)


def only(store):
    """The one run of a store."""
    collection = collect(store)
    assert collection.problems == ()
    (one,) = collection.found
    return one.run


def change(store, made, **fields):
    """Overwrite fields of a record on disk, as a forger would who knows of its hash."""
    changed(store.folder(made.cell) / RECORD, **fields)


SPY = """
import sys
from pathlib import Path
from clarena_leaderboard.board import load_board
from clarena_leaderboard.sources import StoreSource
board = load_board(StoreSource(Path(sys.argv[1])))
heavy = {"torch", "mlflow", "sklearn", "pandas", "matplotlib", "sqlalchemy"}
print(len(board.across.aggregates), sorted(heavy & set(sys.modules)))
"""


def test_a_board_of_a_store_needs_nothing_heavy(store):
    for at in (track("a"), track("b")):
        for name, right in (("finetune", 1), ("joint", 9), ("ewc", 5)):
            keep(store, name, 0, right, at=at)
    done = subprocess.run([sys.executable, "-c", SPY, store.path], capture_output=True, text=True, check=True)
    assert done.stdout == "1 []\n"


# --- metrics


def test_metrics_follow_from_predictions(store):
    """5 of 10 right at the end of experience 1, which was perfect before; all right in experience 2."""
    made = keep(store, right=5, seed=3)
    run = only(store)
    expected = {
        "final_average_accuracy": 0.75,
        "average_incremental_accuracy": (1 + 0.75) / 2,
        "learning_accuracy": 1.0,
        "worst_experience_accuracy": 0.5,
        "forgetting": 0.5,
        "backward_transfer": -0.5,
        "forward_transfer": float("nan"),
        "final_pooled_accuracy": 0.75,
        "average_incremental_pooled_accuracy": (1 + 0.75) / 2,
    }
    assert run.metrics == pytest.approx(expected, nan_ok=True)
    assert set(run.metrics) == {*METRICS, *POOLED_METRICS}
    assert (run.flaws, run.seed, run.row, run.cell) == ((), 3, made.cell.row, made.cell_id)
    assert run.origin == store.folder(made.cell).relative_to(store.path).as_posix()
    assert run.content == hashlib.sha256((store.folder(made.cell) / RECORD).read_bytes()).hexdigest()
    assert (run.train_seconds, run.state_bytes, run.hardware) == (2, 1, "made up")


def test_without_predictions_they_follow_from_the_matrix(store):
    made, _ = record(right=5)
    store.write(made, None)
    run = only(store)
    assert (run.metrics["final_average_accuracy"], run.flaws) == (0.75, ())


def test_a_logged_metric_that_is_another_number_is_a_flaw(store):
    made = keep(store, right=5)
    change(store, made, metrics={**made.model_dump(mode="json")["metrics"], "forgetting": 0.4})
    run = only(store)
    assert run.flaws == ("forgetting is 0.4 in its record, and 0.5 when it is recomputed",)
    assert run.metrics["forgetting"] == 0.5
    (entry,) = load_board(StoreSource(store.path)).tables[0].apart
    assert entry.reason == f"seed 0: {run.flaws[0]}"


def test_a_defined_number_where_none_can_be_is_a_flaw(store):
    made = keep(store, right=5)
    change(store, made, metrics={"forward_transfer": 0.5})
    assert only(store).flaws == ("forward_transfer is 0.5 in its record, and nan when it is recomputed",)


def test_a_matrix_that_is_another_one_is_a_flaw_even_if_the_metrics_fit_it(store):
    made = keep(store, right=5)
    better, _ = record(right=9)
    fields = better.model_dump(mode="json")
    change(store, made, metrics=fields["metrics"], accuracy_matrix=fields["accuracy_matrix"])
    run = only(store)
    assert run.metrics["final_average_accuracy"] == 0.75
    assert run.flaws[0] == "its accuracy matrix is not what its predictions give"
    assert "final_average_accuracy is 0.95 in its record, and 0.75 when it is recomputed" in run.flaws


def test_a_confusion_matrix_that_is_another_one_is_a_flaw(store):
    made = keep(store, right=5)
    assert made.confusion_matrix == [[5, 5], [0, 10]]
    change(store, made, confusion_matrix=[[10, 0], [0, 10]])
    assert only(store).flaws == ("its confusion matrix is not what its predictions give",)


def test_predictions_that_are_not_those_of_the_record_are_a_flaw(store):
    """Even if every number agrees: these are the same arrays in another file."""
    made = keep(store, right=5)
    arrays = store.predictions(made).arrays
    with (store.folder(made.cell) / PREDICTIONS).open("wb") as file:
        np.savez(file, **arrays)
    assert only(store).flaws == ("its predictions are not those that its record was written with",)


@pytest.mark.parametrize("content", [b"", b"text", b"PK\x03\x04 no zip", b"\x93NUMPY\x01\x00"])
def test_predictions_that_are_no_arrays_are_a_flaw(store, content):
    made = keep(store, right=5)
    (store.folder(made.cell) / PREDICTIONS).write_bytes(content)
    change(store, made, predictions=hashlib.sha256(content).hexdigest())
    assert only(store).flaws == ("its predictions are not those that its record was written with",)


@pytest.mark.parametrize("label", [2, 100])
def test_predictions_of_a_class_that_does_not_exist_are_a_flaw(store, label):
    made, predictions = record(right=5)
    labels = np.where(predictions.labels == 0, label, 1)
    odd = Predictions.of_classes(predicted=predictions.predicted, labels=labels, experience=predictions.experience)
    store.write(made, odd)
    run = only(store)
    assert run.flaws[-1].startswith("its metrics cannot be recomputed: a prediction or a label is none of the 2")
    assert np.isnan(run.metrics["final_average_accuracy"])


@pytest.mark.parametrize("shape", [(), (0,), (3,), (0, 20), (2, 20), (3, 4, 5)])
def test_predictions_of_another_shape_are_a_flaw(store, shape):
    made, predictions = record(right=5)
    odd = Predictions.of_classes(
        predicted=np.zeros(shape, int), labels=predictions.labels, experience=predictions.experience
    )
    store.write(made, odd)
    assert only(store).flaws[0].startswith("its metrics cannot be recomputed: ")


def test_a_finished_run_without_a_matrix_has_a_flaw(store):
    made, _ = record()
    store.write(made, None)
    change(store, made, accuracy_matrix=[])
    assert only(store).flaws[0].startswith("its metrics cannot be recomputed: ")


@pytest.mark.parametrize("matrix", [[[0.5, 0.5]], [[None, None], [2.0, None], [1.0, 1.0]], [[1.0], [1.0, 1.0]]])
def test_a_matrix_that_no_run_can_have_is_refused(store, matrix):
    made, _ = record()
    store.write(made, None)
    change(store, made, accuracy_matrix=matrix)
    (problem,) = collect(store).problems
    assert "is not valid (accuracy_matrix: " in problem


def test_a_run_that_did_not_finish_has_no_metrics(store):
    keep(store, status="diverged", reason="the loss is not finite", metrics={"forgetting": 0.5}, right=5)
    run = only(store)
    assert (run.metrics, run.flaws, run.status, run.reason) == ({}, (), "diverged", "the loss is not finite")


# --- what cannot be read


def test_what_cannot_be_read_is_said_and_the_rest_is_shown(store, tmp_path):
    names = ("newer", "broken", "altered", "undefined", "deep", "fine")
    newer, broken, altered, undefined, deep, _ = (keep(store, name) for name in names)
    change(store, newer, schema_version=3)
    (store.folder(broken.cell) / RECORD).write_text("{")
    change(store, altered, cell={**altered.model_dump(mode="json")["cell"], "seed": 9})
    cell = undefined.model_dump(mode="json")["cell"]
    cell["strategy"]["hyperparameters"] = {"strength": float("nan")}
    change(store, undefined, cell=cell)
    (store.folder(deep.cell) / RECORD).write_text("[" * 100_000)
    (store.path / "notes" / "mine").mkdir(parents=True)
    (store.path / "notes" / "mine" / RECORD).write_text('{"of": "another project"}')
    collection = collect(store)
    assert [each.info.name for each in collection.found] == ["fine"]
    text = "\n".join(collection.problems)
    assert len(collection.problems) == 6
    for words in ("has schema 3; this CLArena reads up to 2", "was altered", "cannot be read", "notes/mine"):
        assert words in text
    assert str(tmp_path) not in text
    assert load_board(StoreSource(store.path)).problems == collection.problems


def test_an_empty_store_is_an_empty_board_and_none_is_an_error(store):
    board = load_board(StoreSource(store.path))
    assert (board.tables, board.problems) == ((), ("There is no readable run in store runs.",))
    with pytest.raises(UsageError, match="There is no store at"):
        open_source(store.path / "nowhere")


def test_a_store_that_goes_away_is_an_error(store, monkeypatch):
    keep(store)
    source = StoreSource(store.path)
    monkeypatch.setattr(sources, "condense", lambda *_: (shutil.rmtree(store.path), found())[1])
    with pytest.raises(StoreError, match="went away"):
        source.collect()


# --- what was read before


@pytest.fixture
def reads(monkeypatch):
    """The origins that were read, not taken from the cache."""
    read, real = [], sources.condense
    monkeypatch.setattr(sources, "condense", lambda folder, origin: (read.append(origin), real(folder, origin))[1])
    return read


def test_only_what_is_new_or_changed_is_read_again(store, tmp_path, reads):
    cache = tmp_path / "cache.json"
    first, second = keep(store, seed=0, right=5), keep(store, seed=1)
    before = collect(store, cache)
    assert len(reads) == 2
    assert repr(collect(store, cache)) == repr(before) == repr(collect(store))
    assert len(reads) == 2 + 2  # those without a cache
    reads.clear()

    keep(store, seed=2)
    assert [each.run.seed for each in collect(store, cache).found] == [0, 1, 2]
    assert [name.partition("-seed")[2][0] for name in reads] == ["2"]
    reads.clear()

    os.utime(store.folder(first.cell) / RECORD, ns=(1, 1))
    (store.folder(second.cell) / PREDICTIONS).write_bytes(b"forged")
    flaws = {each.run.seed: each.run.flaws for each in collect(store, cache).found}
    assert len(reads) == 2
    assert [bool(flaws[seed]) for seed in range(3)] == [False, True, False]

    shutil.rmtree(store.folder(first.cell))
    assert [each.run.seed for each in collect(store, cache).found] == [1, 2]
    assert len(json.loads(cache.read_text())["runs"]) == 2


def test_a_cache_that_is_damaged_or_of_other_code_is_made_anew(store, tmp_path, reads):
    cache = tmp_path / "cache.json"
    keep(store)
    expected = collect(store, cache)
    good = json.loads(cache.read_text())
    bad = ["", "[]", "{}", json.dumps(good | {"code": "other"}), json.dumps(good | {"runs": {"a": [1]}})]
    for number, text in enumerate(bad, start=2):
        cache.write_text(text)
        assert repr(collect(store, cache)) == repr(expected)
        assert len(reads) == number
        assert json.loads(cache.read_text()) == good


def test_an_interrupted_build_keeps_what_it_read(store, tmp_path, monkeypatch, reads):
    cache = tmp_path / "cache.json"
    for seed in range(3):
        keep(store, seed=seed)
    real, left = sources.condense, [2]

    def interrupted(folder, origin):
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        return real(folder, origin)

    with monkeypatch.context() as patch:
        patch.setattr(sources, "condense", interrupted)
        with pytest.raises(KeyboardInterrupt):
            collect(store, cache)
    reads.clear()
    assert len(collect(store, cache).found) == 3
    assert len(reads) == 1
    keep(store, "a")  # is read before the others, of which none is asked for then
    with monkeypatch.context() as patch:
        patch.setattr(sources, "condense", interrupted)
        with pytest.raises(KeyboardInterrupt):
            collect(store, cache)
    reads.clear()
    assert len(collect(store, cache).found) == 4
    assert len(reads) == 1


def test_the_cache_keeps_every_field(tmp_path):
    kept = [*row("ewc", [0.5, float("nan")], flaws=("one", "two")), found("er", at=track("other"), family="replay")]
    cache = Cache(tmp_path / "cache.json")
    for number, each in enumerate(kept):
        cache.put(str(number), "stamp", each)
    cache.save(forget=True)
    again = Cache(tmp_path / "cache.json")
    assert repr([again.get(str(number), "stamp") for number in range(3)]) == repr(kept)
    assert again.get("0", "other stamp") is None


# --- the whole record


def test_the_whole_record_of_a_run(store):
    made = keep(store, right=5)
    source = StoreSource(store.path)
    run = source.collect().found[0].run
    loaded, predictions = source.load(run)
    assert loaded.model_dump_json() == made.model_dump_json()
    assert matrices(loaded, predictions)["score"][2].tolist() == [0.5, 1.0]
    (store.folder(made.cell) / PREDICTIONS).unlink()
    assert source.load(run)[1] is None
    shutil.copy(store.folder(keep(store, seed=1).cell) / RECORD, store.folder(made.cell) / RECORD)
    with pytest.raises(StoreError, match="another run than when the board was built"):
        source.load(run)
    shutil.rmtree(store.folder(made.cell))
    with pytest.raises(StoreError, match="cannot be read"):
        source.load(run)
