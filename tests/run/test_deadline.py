"""Limits on the time of a run: whatever a strategy does, it ends, is recorded, and those after it run."""

import ctypes
import time

import numpy as np
import pytest
import troublemakers as trouble

from clarena import Store, UsageError, evaluate
from clarena.record.summary import rows
from clarena.run import executors
from clarena.run.deadline import Limits, TimedOut, limited

SHORT = 4.0
"""Seconds: enough for what does end, on a busy machine."""
OPTIONS = {"benchmark": trouble.Tiny, "protocol": "smoke", "track": False}


class Sleeps(trouble.Late):
    """Waits for something that never comes."""

    name = "sleeps"

    def trouble(self):
        time.sleep(3600)


class Spins(trouble.Late):
    """Loops for ever, and catches whatever is an Exception."""

    name = "spins"

    def trouble(self):
        while True:
            try:
                time.perf_counter()
            except Exception:
                continue


class Stubborn(trouble.Late):
    """Catches everything, time and again."""

    name = "stubborn"

    def trouble(self):
        while True:
            try:
                time.sleep(3600)
            except BaseException:
                continue


class InC(trouble.Late):
    """Is stuck in C code, which does not let Python run meanwhile."""

    name = "in-c"

    def trouble(self):
        ctypes.PyDLL(None).sleep(3600)


class NoSetup(trouble.Plain):
    """Never comes back from setting up."""

    name = "no-setup"

    def setup(self, context):
        super().setup(context)
        while True:
            time.sleep(1)


def test_strategies_that_never_return_are_ended_and_those_after_them_run(tmp_path, monkeypatch):
    """A record holds what was finished; trying again goes on from there, and the cell is the same without a limit."""
    monkeypatch.setattr(executors, "PATIENCE_SECONDS", 1.0)
    options = {"store": tmp_path, "seeds": 1} | OPTIONS
    results = evaluate([Sleeps, Spins, Stubborn, InC, trouble.Plain], experience_timeout=SHORT, jobs=2, **options)
    assert results.errors == {}
    *late, plain = results.records
    assert plain.status == "finished"
    assert [record.status for record in late] == ["timed_out"] * 4
    for record in late:
        assert record.reason == f"experience 2 took longer than {SHORT:g} s"
        assert record.traceback is None
        assert [cost.position for cost in record.costs] == [1]
        assert np.isfinite(record.matrix[1, 0])
        assert np.isnan(record.matrix[2:]).all()
        assert record.predictions is not None
        assert (record.ended - record.started).total_seconds() >= SHORT
        assert record.unranked == "timed_out"
        assert rows([record])[0].problems == "1 timed out"
    # In one job as well, and on from the checkpoint; without --retry the record that is there counts, limit or not.
    (same,) = evaluate(InC, jobs=1, **options)
    assert (same.cell_id, same.ended) == (late[-1].cell_id, late[-1].ended)
    again, plain = evaluate([InC, trouble.Plain], retry=True, timeout=SHORT, jobs=1, **options)
    assert (again.status, again.reason) == ("timed_out", f"the run took longer than {SHORT:g} s")
    assert [cost.position for cost in again.costs] == [1]
    assert again.cell_id == same.cell_id
    assert again.started > same.started
    assert plain.status == "finished"


def test_a_strategy_that_never_comes_back_from_setting_up_does_not_hold_up_the_plan(tmp_path):
    results = evaluate([NoSetup, trouble.Plain], experience_timeout=SHORT, store=tmp_path, seeds=1, jobs=1, **OPTIONS)
    assert [record.status for record in results] == ["timed_out", "finished"]
    assert results.records[0].reason == f"what comes before the first experience took longer than {SHORT:g} s"


class InCHidden(trouble.Plain):
    """Is stuck in C code some way into a stream whose boundaries are hidden."""

    name = "in-c-hidden"

    def after_step(self, batch):
        if self.context.space.width > 4:
            ctypes.PyDLL(None).sleep(3600)


def test_where_boundaries_are_hidden_what_was_finished_is_recorded_as_well(tmp_path, monkeypatch):
    monkeypatch.setattr(executors, "PATIENCE_SECONDS", 1.0)
    monkeypatch.setattr("clarena.run.planning.admit", lambda *_: None)  # the rehearsal would be stuck here
    hidden = {"protocol": {"boundaries": "hidden", "optimizer_state": "kept"}}
    options = {"store": tmp_path, "seeds": 1, "jobs": 1, "settings": hidden} | OPTIONS
    (record,) = evaluate(InCHidden, experience_timeout=SHORT, **options)
    assert (record.status, record.reason) == ("timed_out", f"experience 3 took longer than {SHORT:g} s")
    assert [cost.position for cost in record.costs] == [1, 2]
    assert np.isfinite(record.matrix[2, :2]).all()


def test_a_run_within_its_limits_is_the_run_without_them(tmp_path):
    options = {"seeds": 2, "jobs": 1} | OPTIONS
    free = evaluate("er", store=tmp_path / "free", **options)
    kept = evaluate("er", store=tmp_path / "kept", timeout=600, experience_timeout=300, **options)
    assert [record.predictions for record in free] == [record.predictions for record in kept]
    assert [record.cell_id for record in free] == [record.cell_id for record in kept]
    assert not list(Store(tmp_path / "kept").path.rglob("checkpoint.pt"))


@pytest.mark.parametrize("wrong", [{"timeout": 0}, {"experience_timeout": -1.0}, {"timeout": float("nan")}])
def test_a_limit_must_be_seconds_above_nothing(tmp_path, wrong):
    with pytest.raises(UsageError, match="give seconds, more than 0"):
        evaluate("finetune", store=tmp_path, **wrong, **OPTIONS)


def test_the_alarm_is_gone_when_time_was_enough():
    with limited(0.2):
        pass
    time.sleep(0.3)
    with pytest.raises(TimedOut, match=r"took longer than 0\.05 s"), limited(0.05):
        time.sleep(10)
    assert not Limits()
