"""One run: its record, its statuses, what it leaves as it found it."""

import gc
import hashlib
import io
import os
import random
import warnings
import weakref

import numpy as np
import pytest
import torch
import troublemakers as trouble
from records_with_predictions import summary

from clarena import Store, evaluate
from clarena.record.curves import CURVE_METRICS
from clarena.record.metrics import METRICS, summarise
from clarena.record.pooled import POOLED_METRICS
from clarena.record.predictions import Predictions
from clarena.record.record import Record
from clarena.record.summary import rows
from clarena.run.data import load
from clarena.run.realisation import CellClasses, Realisation
from clarena.run.runner import Run


def run(store, strategy=trouble.Plain, *, protocol=None, **options):
    """One cell of the tiny benchmark, in this process."""
    settings = {"protocol": {"epochs": 2, "batch_size": 8} | (protocol or {})} | options.pop("settings", {})
    chosen = {"benchmark": trouble.Tiny, "seeds": 1, "jobs": 1, "track": False} | options
    results = evaluate(strategy, store=store, settings=settings, **chosen)
    assert not results.errors
    return results.records[0]


@pytest.mark.parametrize(
    ("strategy", "status", "reason"),
    [
        (trouble.Raises, "failed", "ZeroDivisionError: one over nothing"),
        (trouble.Leaves, "failed", "SystemExit: enough of this"),
        (trouble.Greedy, "out_of_memory", "can't allocate memory"),
        (trouble.Hungry, "out_of_memory", "MemoryError"),
        (trouble.NaNLoss, "diverged", "The loss in experience 2 is not finite."),
        (trouble.NaNWeights, "diverged", "The scores are not finite."),
    ],
)
def test_what_goes_wrong_is_a_status_and_keeps_the_rows_before_it(tmp_path, strategy, status, reason):
    record = run(tmp_path, strategy)
    assert record.status == status
    assert reason in record.reason
    assert "\n" not in record.reason
    assert (record.traceback is not None) == (status == "failed")
    assert rows([record])[0].problems == f"1 {status.replace('_', ' ')}"
    assert record.unranked == status
    matrix = record.matrix  # [T + 1, T]: rows 0 and 1 were tested, those after the trouble were not
    assert np.isfinite(matrix[1, 0])
    assert np.isnan(matrix[2:]).all()
    assert np.isnan(record.metrics["final_average_accuracy"])
    assert len(record.costs) == 1
    assert (Store(tmp_path).predictions(record).predicted[2:] == -1).all()


@pytest.mark.parametrize(
    ("strategy", "reason"),
    [
        (trouble.WrongShape, "it must return"),
        (trouble.NoScores, "predict returned NoneType"),
        (trouble.Elsewhere, "predict returned scores on meta"),
    ],
)
def test_scores_that_break_the_contract_fail_the_run_with_the_reason(tmp_path, strategy, reason):
    record = run(tmp_path, strategy)
    assert record.status == "failed"
    assert reason in record.reason


def test_divergence_is_noticed_after_one_pass_over_the_data(tmp_path):
    trouble.NaNLoss.steps = 0
    record = run(tmp_path, trouble.NaNLoss, protocol={"epochs": 50})
    samples = record.experiences[1].train_samples
    assert record.status == "diverged"
    assert trouble.NaNLoss.steps == -(-samples // 8)


def test_only_what_did_not_end_is_run_again_and_only_on_request(tmp_path):
    for strategy, again in ((trouble.Raises, True), (trouble.Hungry, True), (trouble.NaNLoss, False)):
        first = run(tmp_path, strategy)
        assert run(tmp_path, strategy).started == first.started
        assert (run(tmp_path, strategy, retry=True).started > first.started) == again


def test_the_record_survives_json_exactly_and_undefined_numbers_are_null(tmp_path):
    record = run(tmp_path, trouble.Raises)
    text = record.model_dump_json()
    assert "NaN" not in text
    assert '"final_average_accuracy":null' in text
    back = Record.model_validate_json(text)
    assert back.model_dump_json() == text
    np.testing.assert_array_equal(back.matrix, record.matrix)
    assert Store(tmp_path).records()[0][0].model_dump_json() == text


@pytest.mark.parametrize("scenario", ["class", "task", "domain"])
def test_metrics_follow_from_the_predictions_alone(tmp_path, scenario):
    record = run(tmp_path, scenario=scenario)
    with np.load(Store(tmp_path).folder(record.cell) / "predictions.npz") as arrays:
        assert {array.dtype.itemsize for array in arrays.values()} <= {1, 2}
        predicted, labels, owner = arrays["predicted"], arrays["labels"], arrays["experience"]
    matrix = np.full((4, 3), np.nan)
    for i in range(4):
        for j in range(3):
            here = owner == j
            if (predicted[i, here] >= 0).all():
                matrix[i, j] = (predicted[i, here] == labels[here]).mean()
    np.testing.assert_allclose(record.matrix, matrix, rtol=1e-15)
    assert [*record.metrics] == [*METRICS, *POOLED_METRICS]
    for name, value in summarise(matrix).items():
        assert record.metrics[name] == pytest.approx(value, nan_ok=True)
    assert sum(map(sum, record.confusion_matrix)) == len(labels)


def test_the_report_and_the_confusion_matrix_of_a_hand_worked_example():
    # Three outputs; no test sample is of class "ape", and none is taken for it.
    predictions = Predictions.of_classes(
        predicted=np.array([[-1, -1, -1, -1], [1, 2, 2, 2]]),
        labels=np.array([1, 1, 2, 2]),
        experience=np.zeros(4, dtype=int),
    )
    found = summary(predictions, ["ape", "bee", "cat"])
    assert found["confusion_matrix"] == [[0, 0, 0], [0, 1, 1], [0, 0, 2]]
    assert found["accuracy_matrix"][1] == [0.75]
    report = found["class_report"]
    assert "ape" not in report
    assert report["bee"] == pytest.approx({"precision": 1.0, "recall": 0.5, "f1-score": 2 / 3, "support": 2})
    assert report["cat"] == pytest.approx({"precision": 2 / 3, "recall": 1.0, "f1-score": 0.8, "support": 2})


def test_the_same_run_twice_gives_the_same_bytes(tmp_path):
    one, two = (run(tmp_path / name, "er") for name in ("one", "two"))
    assert one.cell_id == two.cell_id
    contents = [(Store(tmp_path / name).folder(one.cell) / "predictions.npz").read_bytes() for name in ("one", "two")]
    assert contents[0] == contents[1]
    np.testing.assert_array_equal(one.matrix, two.matrix)
    assert one.confusion_matrix == two.confusion_matrix


def test_testing_within_an_experience_gives_a_curve_and_changes_nothing_else(tmp_path):
    plain = run(tmp_path, "er")
    curved = run(tmp_path, "er", protocol={"eval_every": 3})
    assert plain.curve == []
    assert set(curved.metrics) - set(plain.metrics) == set(CURVE_METRICS)
    assert 0 <= curved.metrics["min_accuracy"] <= curved.metrics["final_average_accuracy"]
    assert plain.track_digest != curved.track_digest
    assert plain.predictions == curved.predictions
    assert [cost.mean_loss for cost in plain.costs] == [cost.mean_loss for cost in curved.costs]
    for position, cost in enumerate(curved.costs, 1):
        points = [point for point in curved.curve if point.position == position]
        assert [point.step for point in points] == list(range(3, cost.steps, 3))
        for point in points:  # the class scenario: what was not seen yet is undefined
            assert np.isnan(point.accuracy).tolist() == [j >= position for j in range(3)]
    again = Record.model_validate_json(curved.model_dump_json())
    np.testing.assert_array_equal(again.curve[0].accuracy, curved.curve[0].accuracy)


def test_a_strategy_that_writes_over_its_data_harms_no_other_run(tmp_path):
    before = run(tmp_path / "before")
    data = load(trouble.Tiny, {"experiences": 3}).data
    fingerprint = data.fingerprint()
    run(tmp_path, trouble.InPlace)
    assert load(trouble.Tiny, {"experiences": 3}).data is data
    assert data.fingerprint() == fingerprint
    assert run(tmp_path / "after").predictions == before.predictions


def test_the_process_is_left_as_it_was_found(tmp_path):
    def everything():
        return {
            "torch": torch.get_rng_state().tolist(),
            "numpy": np.random.get_state()[1].tolist(),
            "random": random.getstate(),
            "threads": torch.get_num_threads(),
            "deterministic": torch.are_deterministic_algorithms_enabled(),
            "warn_only": torch.is_deterministic_algorithms_warn_only_enabled(),
            "fill": torch.utils.deterministic.fill_uninitialized_memory,
            "benchmark": torch.backends.cudnn.benchmark,
            "tf32": (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32),
            "environ": dict(os.environ),
            "cwd": os.getcwd(),
            "warnings": (list(warnings.filters), warnings.showwarning),
            "grad": torch.is_grad_enabled(),
        }

    run(tmp_path / "imports")  # what is imported on the way may set what it likes, once
    torch.set_num_threads(2)
    torch.backends.cudnn.benchmark = True
    before = everything()
    try:
        for strategy in (trouble.Meddler, trouble.Raises):
            run(tmp_path, strategy, protocol={"precision": "tf32"})
            assert everything() == before
    finally:
        torch.backends.cudnn.benchmark = False


def test_a_damaged_checkpoint_is_said_and_the_run_starts_over(tmp_path):
    """Cut short, of zeros, with one bit flipped anywhere, empty: the result is as if there had been none."""
    whole = run(tmp_path / "whole", "er")
    failed = run(tmp_path / "made", trouble.Raises)
    made = (Store(tmp_path / "made").folder(failed.cell) / "checkpoint.pt").read_bytes()
    middle = len(made) // 2
    flipped = made[:middle] + bytes([made[middle] ^ 1]) + made[middle + 1 :]
    for number, content in enumerate((made[:middle], bytes(len(made)), flipped, b"", made)):
        path = Store(tmp_path / str(number)).folder(whole.cell) / "checkpoint.pt"
        path.parent.mkdir(parents=True)
        path.write_bytes(content)
        heard = []
        results = evaluate(
            "er",
            benchmark=trouble.Tiny,
            seeds=1,
            jobs=1,
            track=False,
            store=tmp_path / str(number),
            settings={"protocol": {"epochs": 2, "batch_size": 8}},
            listener=heard.append,
        )
        record = results.records[0]
        said = [event.message for event in heard if event.kind == "warning"]
        assert len(said) == 1
        assert f"The checkpoint {path} cannot be used; starting over." in said[0]
        assert (record.status, record.resumed) == ("finished", [])
        assert record.predictions == whole.predictions
        assert not path.exists()
    assert "belongs to another cell" in said[0]


def test_a_checkpoint_of_an_earlier_version_is_said_and_the_run_starts_over(tmp_path, monkeypatch):
    """One that does not say how its modules are built, as they were until 0.2."""
    whole = run(tmp_path / "whole")
    save, saved = Run._save, []

    def stop_after_saving(self, strategy):
        saved.append(save(self, strategy))
        if len(saved) == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(Run, "_save", stop_after_saving)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path)
    path = Store(tmp_path).folder(whole.cell) / "checkpoint.pt"
    content = torch.load(io.BytesIO(path.read_bytes()[32:]), weights_only=True)
    del content["strategy"]["_structure"]
    buffer = io.BytesIO()
    torch.save(content, buffer)
    path.write_bytes(hashlib.sha256(buffer.getvalue()).digest() + buffer.getvalue())
    heard = []
    record = run(tmp_path, retry=True, listener=heard.append)
    (said,) = [event.message for event in heard if event.kind == "warning"]
    assert "cannot be used; starting over. (This state does not say how its module is built, as those of" in said
    assert (record.status, record.resumed) == ("finished", [])
    assert record.predictions == whole.predictions


def test_the_clock_stands_still_while_testing_within_an_experience(tmp_path, monkeypatch):
    """With a clock that ticks once for each prediction, training takes no time at all."""
    ticks = 0
    predict = trouble.Plain.predict

    def counting(self, x, task=None):
        nonlocal ticks
        ticks += 1
        return predict(self, x, task)

    monkeypatch.setattr(trouble.Plain, "predict", counting)
    monkeypatch.setattr("clarena.run.clock.time.perf_counter", lambda: float(ticks))
    record = run(tmp_path, protocol={"eval_every": 2})
    assert len(record.curve) > 3
    assert record.train_seconds == 0
    assert record.predict_seconds == len(record.costs)  # one call of predict tests them all


def test_a_cell_is_told_by_its_share_from_nothing_to_all(tmp_path):
    shares = []
    whole = run(tmp_path)
    cell = whole.cell
    parts = CellClasses(trouble.Plain, trouble.Tiny, _mlp())
    Run(cell, parts, torch.device("cpu"), Store(tmp_path / "shares"), progress=shares.append).execute()
    assert shares == sorted(shares)
    assert shares[0] == 0
    assert 0.9 < shares[-1] <= 1
    assert len(shares) == sum(cost.steps for cost in whole.costs)


def test_joint_learns_once_and_has_no_rows_in_between(tmp_path):
    record = run(tmp_path, "joint")
    assert [cost.position for cost in record.costs] == [3]
    assert np.isnan(record.matrix[:3]).all()
    assert np.isfinite(record.matrix[3]).all()


def test_what_an_experience_gives_is_its_own_copy(tmp_path):
    cell = run(tmp_path).cell
    realised = Realisation(cell.track, CellClasses(trouble.Plain, trouble.Tiny, _mlp()), 0, torch.device("cpu"))
    realised.begin([0])
    given = realised.experience([0])
    sources = [realised.data.x_train, realised.data.y_train, realised.data.x_test, realised.data.y_test]
    held = {tensor.untyped_storage().data_ptr() for tensor in sources}
    assert held.isdisjoint(tensor.untyped_storage().data_ptr() for tensor in (given.x, given.y, realised.test.x))


NAMES = ["finetune", "er", "gem", "icarl", "ewc+lwf", "joint"]


@pytest.mark.parametrize(("strategy", "boundaries"), [*((name, "known") for name in NAMES), ("er", "hidden")])
def test_a_finished_run_leaves_nothing_in_memory(tmp_path, monkeypatch, strategy, boundaries):
    """Not even until Python looks for cycles, which may be gigabytes later."""
    arenas = []
    made = Realisation.__init__

    def remembered(self, *args):
        made(self, *args)
        arenas.append(weakref.ref(self))

    monkeypatch.setattr(Realisation, "__init__", remembered)
    gc.collect()
    gc.disable()
    try:
        run(tmp_path, strategy, seeds=3, protocol={"boundaries": boundaries, "stream_length": "known"})
        alive = [realised() is not None for realised in arenas[-2:]]
    finally:
        gc.enable()
    assert alive == [False, False]


def _mlp():
    from clarena.plugins.host import Host

    return Host.discover().backbones.load("mlp")
