"""Metrics of curves wherever a run that was tested within experiences is shown, and nowhere else."""

import csv
import io
import json

import pytest
from clarena_leaderboard.board import load_board
from clarena_leaderboard.site.render import build_site
from clarena_leaderboard.sources import StoreSource
from cli_command import clarena
from made_up import keep, record, track
from records_with_predictions import changed

from clarena import Results
from clarena.errors import StoreError
from clarena.record.reader import read_record
from clarena.record.record import CurvePoint
from clarena.record.store import RECORD, Store
from clarena.submission.evidence import Evidence, _wrong
from clarena.submission.manifest import Claim, ClaimedRun
from clarena.tracking.content import metrics as logged

NAN = float("nan")
OFTEN = track(eval_every=2)
CURVE = [
    CurvePoint(position=1, step=2, accuracy=[0.5, NAN]),
    CurvePoint(position=2, step=2, accuracy=[0.2, 0.6]),
]
WORKED = {"min_accuracy": 0.2, "worst_case_accuracy": 0.6, "average_anytime_accuracy": 0.7}
"""Of 8 of the first ten right at the end: points 0.5 and 0.4, rows 1 and 0.9; the fall is to 0.2."""


@pytest.fixture
def store(tmp_path):
    """Records as they were before these metrics: with a curve, and without its numbers."""
    store = Store(tmp_path / "runs")
    for name in ("ewc", "er"):
        for seed in range(2):
            older = keep(store, name, seed, 8, at=OFTEN, curve=CURVE)
            assert not WORKED.keys() & json.loads((store.folder(older.cell) / RECORD).read_bytes())["metrics"].keys()
    keep(store, "ewc", 0, 8)
    return store


def test_an_older_record_gets_them_by_recomputation(store):
    """The file stays as it is; one that says something else of them is not believed."""
    held, damaged = store.records()
    assert not damaged
    (plain,) = (record for record in held if not record.curve)
    assert not WORKED.keys() & plain.metrics.keys()
    found = next(record for record in held if record.curve)
    assert {name: found.metrics[name] for name in WORKED} == pytest.approx(WORKED)
    assert {name: value for name, value, step in logged(found) if name in WORKED} == pytest.approx(WORKED)
    assert Results([found, plain]).dataframe()["min_accuracy"].tolist() == pytest.approx([0.2, NAN], nan_ok=True)
    path = store.folder(found.cell) / RECORD
    older = {name: value for name, value in json.loads(path.read_bytes())["metrics"].items() if name not in WORKED}
    changed(path, sealed=False, metrics=older)
    assert {name: store.find(found.cell).metrics[name] for name in WORKED} == pytest.approx(WORKED)
    changed(path, metrics=older | {"min_accuracy": 1.0})
    with pytest.raises(StoreError, match=r"min_accuracy is 1 in its record, and 0.2 when it is recomputed"):
        store.find(found.cell)


def test_a_curve_that_fits_no_matrix_is_damage(store):
    damaged = next(record for record in store.records()[0] if record.curve)
    path = store.folder(damaged.cell) / RECORD
    content = json.loads(path.read_bytes())
    content["curve"][1]["position"] = 9
    changed(path, curve=content["curve"])
    with pytest.raises(StoreError, match=r"not valid \(curve"):
        read_record(path)


@pytest.mark.parametrize("older", [True, False])
def test_evidence_recomputes_them(older):
    """A bundle claims what its predictions and curve give; one of before these metrics claims none of them."""
    run, predictions = record("mine", at=OFTEN, right=8, curve=CURVE)
    run = run.model_copy(update={"metrics": run.metrics | WORKED})
    claimed = {name: value for name, value in run.metrics.items() if not older or name not in WORKED}
    claim = Claim(track=OFTEN, learning_rate=0.001, runs=[ClaimedRun(seed=0, cell=run.cell_id, metrics=claimed)])
    assert _wrong(Evidence(claim, claim.runs[0], run, predictions)) == []
    lie = claim.runs[0].model_copy(update={"metrics": claimed | {"min_accuracy": 0.9}})
    assert "metrics in the manifest" in _wrong(Evidence(claim, lie, run, predictions))[0]


def test_results_has_them_where_there_is_a_curve(store):
    text = clarena("results", "--store", store.path).out
    with_curve, plain = (part for part in text.split("\ntoy/class") if part.strip())
    if "min-ACC" in plain:
        with_curve, plain = plain, with_curve
    assert "Within experiences, tested every 2 steps" in with_curve
    assert "min-ACC" not in plain
    line = next(line for line in with_curve.splitlines()[8:] if line.startswith("er "))
    assert line.split()[1::3] == ["20.0", "60.0", "70.0"]
    rows = list(csv.DictReader(io.StringIO(clarena("results", "--store", store.path, "--format", "csv").out)))
    assert sorted(row["worst_case_accuracy"] for row in rows)[0] == ""
    assert [float(row["worst_case_accuracy"]) for row in rows if row["worst_case_accuracy"]] == pytest.approx([0.6] * 2)


def test_the_board_has_them_where_there_is_a_curve(store, tmp_path):
    source = StoreSource(store.path)
    board = load_board(source)
    assert not board.problems
    build_site(board, source.load, tmp_path / "site")
    for table in board.tables:
        often = table.digest == OFTEN.digest
        page = (tmp_path / "site/track" / f"{table.slug}.html").read_text()
        assert ("WC-ACC" in page) == often
        rows = list(csv.DictReader((tmp_path / "site/track" / f"{table.slug}.csv").open()))
        assert ("min_accuracy" in rows[0]) == often
        assert all(not run.flaws for entry in table.entries for run in entry.runs)
        if often:
            assert [float(row["min_accuracy"]) for row in rows] == pytest.approx([0.2, 0.2])
            assert 'id="worst_case_accuracy"' in (tmp_path / "site/metrics.html").read_text()
