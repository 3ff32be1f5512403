"""Rows of a table: order, intervals from Student's t by hand, nothing left out, nothing made up."""

import json
import math
from datetime import UTC, datetime

import pytest
from clarena_native.strategies.references.finetune import Finetune
from hypothesis import given
from hypothesis import strategies as st

from clarena.checks.tiny import Subject
from clarena.cli.table import print_table
from clarena.record.metrics import METRICS
from clarena.record.record import Cell, Cost, Record, StrategyInfo
from clarena.record.summary import by_track, row_labels, rows

TRACK = Subject(Finetune, "class").track()
MOMENT = datetime(2024, 1, 1, tzinfo=UTC)


def record(name="ewc", seed=0, accuracy=0.5, status="finished", track=TRACK, reference=False, seconds=1.0, **changes):
    info = {"name": name, "source_hash": "a" * 64, "hyperparameters": {}, "learning_rate": 0.1, "reference": reference}
    cell = Cell(track=track, strategy=StrategyInfo(**info | changes), seed=seed)
    finished = status == "finished"
    metrics = dict.fromkeys(METRICS, 0.25) | {"final_average_accuracy": accuracy, "forward_transfer": math.nan}
    cost = Cost(
        position=1,
        train_seconds=seconds,
        predict_seconds=0.5,
        peak_memory_bytes=10,
        state_bytes=100,
        parameters=7,
        passes=1,
        steps=1,
        replayed=0,
        scanned=0,
        accesses=0,
        mean_loss=0.1,
    )
    return Record(
        cell=cell,
        cell_id=cell.id,
        track_digest=track.digest,
        status=status,
        metrics=metrics if finished else {},
        costs=[cost] if finished else [],
        started=MOMENT,
        ended=MOMENT,
    )


def test_the_interval_is_student_t_over_finished_seeds():
    """0.4, 0.5, 0.9: mean 0.6, s = √0.07, and t(0.975; 2) = 4.302653."""
    records = [record(seed=s, accuracy=a) for s, a in enumerate((0.4, 0.5, 0.9))]
    (row,) = rows([*records, record(seed=3, status="failed"), record(seed=4, status="diverged")])
    interval = row.interval("final_average_accuracy")
    half = 4.302653 * math.sqrt(0.07 / 3)
    assert (interval.mean, interval.low, interval.high) == pytest.approx((0.6, 0.6 - half, 0.6 + half), abs=1e-6)
    assert row.seeds == [0, 1, 2]
    assert len(row.records) == 5
    assert row.problems == "1 failed, 1 diverged"
    assert row.interval("forward_transfer") is None
    assert row.interval("no such metric") is None


def test_a_metric_that_one_seed_lacks_is_undefined():
    """A mean over the seeds that happen to have it would be a mean over other seeds than the row says."""
    (row,) = rows([record(seed=0), record(seed=1, accuracy=math.nan)])
    assert row.interval("final_average_accuracy") is None
    assert row.as_dict()["final_average_accuracy"] is None


def test_references_come_first_then_the_best_then_those_without_a_number():
    table = rows(
        [
            record("bad", accuracy=0.2),
            record("none", status="failed"),
            record("good", accuracy=0.9),
            record("equal-b", accuracy=0.5),
            record("equal-a", accuracy=0.5),
            record("zero", accuracy=0.0),
            record("bound", accuracy=0.1, reference=True),
            record("upper", accuracy=1.0, reference=True),
        ]
    )
    assert [row.info.name for row in table] == [
        "upper", "bound", "good", "equal-a", "equal-b", "bad", "zero", "none",
    ]  # fmt: skip


@given(st.permutations(range(8)))
def test_the_order_of_records_does_not_matter(order):
    records = [record(name, seed=seed, accuracy=0.1 * seed) for name in ("ewc", "er") for seed in range(4)]
    expected = [row.as_dict() for row in rows(records)]
    assert [row.as_dict() for row in rows([records[i] for i in order])] == expected
    assert [row["seeds"] for row in expected] == [[0, 1, 2, 3]] * 2


def test_rows_are_told_apart_by_what_differs():
    table = rows(
        [
            record("ewc", hyperparameters={"strength": 1.0, "mode": "online"}),
            record("ewc", hyperparameters={"strength": 2.0, "mode": "online"}),
            record("er", learning_rate=0.1),
            record("er", learning_rate=0.2),
            record("mas", source_hash="b" * 64),
            record("mas", source_hash="c" * 64),
            record("lwf", hyperparameters={"strength": 3.0}),
        ]
    )
    assert len(table) == 7
    assert sorted(row_labels(table)) == [
        "er learning_rate=0.1",
        "er learning_rate=0.2",
        "ewc strength=1.0",
        "ewc strength=2.0",
        "lwf",
        "mas source=bbbbbbbb",
        "mas source=cccccccc",
    ]


def test_rows_of_different_tracks_never_share_a_table():
    other = Subject(Finetune, "class").track(buffer_size=8)
    tracks = by_track([record(), record(track=other), record(seed=1)])
    assert {found[0].track_digest: len(found) for found in tracks} == {TRACK.digest: 2, other.digest: 1}
    assert len(rows([record(), record(track=other)])) == 2


def test_a_row_as_data():
    (row,) = rows([record(seed=s, accuracy=0.5 + 0.1 * s, seconds=1.0 + s) for s in range(2)])
    data = json.loads(json.dumps(row.as_dict(), allow_nan=False))
    assert data["final_average_accuracy"] == pytest.approx(0.55)
    assert data["train_seconds"] == 1.5
    assert (data["n"], data["seeds"], data["problems"], data["unranked"]) == (2, [0, 1], "", None)
    assert (data["parameters"], data["state_bytes"], data["peak_memory_bytes"]) == (7, 100, 10)
    assert data["forward_transfer"] is None
    assert set(METRICS) <= set(data)


def test_a_row_without_a_finished_seed_makes_nothing_up():
    (row,) = rows([record(seed=0, status="out_of_memory"), record(seed=1, status="out_of_memory")])
    data = json.loads(json.dumps(row.as_dict(), allow_nan=False))
    assert (data["n"], data["problems"]) == (0, "2 out of memory")
    for name in ("final_average_accuracy", "forgetting", "train_seconds", "state_bytes", "parameters"):
        assert data[name] is None
    (single,) = rows([record()])
    assert single.as_dict()["final_average_accuracy_low"] is None  # one seed has no spread
    assert single.as_dict()["final_average_accuracy"] == 0.5


def measured(metering, **changes):
    return record(**changes).model_copy(update={"metering": metering})


def test_a_record_of_the_first_metering_is_written_as_it_was_and_a_later_one_says_so():
    first = record()
    assert first.metering == 1
    assert "metering" not in first.model_dump(mode="json")
    later = measured(2)
    assert later.model_dump(mode="json") == first.model_dump(mode="json") | {"metering": 2}
    assert Record.model_validate_json(later.model_dump_json()).metering == 2


def test_times_are_averaged_within_the_newest_metering_and_what_is_left_out_is_said(capsys):
    """State and parameters are counted alike in both; a row of older runs alone has no time to show."""
    old = [measured(1, seed=seed, seconds=9.0) for seed in range(3)]
    assert [row.total("train_seconds") for row in rows(old)] == [9.0]
    assert rows(old)[0].earlier_metering == 0
    mixed, older = rows([*old, measured(2, seed=3, seconds=1.0), measured(1, name="si", accuracy=0.1)])
    assert (mixed.total("train_seconds"), mixed.earlier_metering) == (1.0, 3)
    assert mixed.total("state_bytes") == 100
    assert math.isnan(older.total("train_seconds"))
    assert older.total("parameters") == 7
    assert (older.as_dict()["train_seconds"], older.as_dict()["metering"]) == (None, 2)
    print_table(TRACK, [mixed, older])
    assert "Training times of 4 runs are left out: they were measured before revision 2" in capsys.readouterr().out
    print_table(TRACK, rows(old))
    assert "left out" not in capsys.readouterr().out
