"""Where a run happens, and what becomes of it when the system gives little or takes away."""

import os
import shutil
import subprocess

import pytest
import troublemakers as trouble

from clarena import UsageError, evaluate
from clarena.run.executors import default_jobs


def test_cuda_runs_in_a_process_that_begins_with_its_settings_however_few_jobs(tmp_path, monkeypatch):
    """cuBLAS reads its workspace's size when it is first used, which in this process may be long ago."""
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    started, popen = [], subprocess.Popen
    monkeypatch.setattr(subprocess, "Popen", lambda *a, **k: started.append(k["env"]) or popen(*a, **k))
    options = {"benchmark": trouble.Tiny, "protocol": "smoke", "track": False, "jobs": 1, "seeds": 1}
    evaluate(trouble.Plain, store=tmp_path / "cpu", **options)
    assert started == []
    # No GPU is needed to see where the run would be: the worker finds out by itself whether there is one.
    monkeypatch.setattr("clarena.run.planning.check_devices", lambda name: None)
    results = evaluate(trouble.Plain, store=tmp_path / "cuda", device="cuda:99", **options)
    assert [environment["CUBLAS_WORKSPACE_CONFIG"] for environment in started] == [":4096:8"]
    assert "CUDA device" in results.errors["plain seed 0"]
    assert "CUBLAS_WORKSPACE_CONFIG" not in os.environ


def test_a_store_that_is_removed_while_runs_go_on_is_no_success(tmp_path):
    """The last run makes the folders anew; the records of those before it are gone."""
    store = tmp_path / "store"

    def remove(event):
        if event.kind == "done" and event.work.cell.seed == 1:
            shutil.rmtree(store)

    options = {"benchmark": trouble.Tiny, "protocol": "smoke", "track": False, "jobs": 1, "store": store}
    evaluate(trouble.Plain, seeds=[0], **options)
    results = evaluate(trouble.Plain, seeds=3, listener=remove, **options)
    assert list(results.errors) == ["plain seed 0", "plain seed 1"]
    assert all("was removed while this ran" in message for message in results.errors.values())
    assert [record.cell.seed for record in results] == [0, 1, 2]


def test_without_another_worker_the_first_goes_on_alone(tmp_path, monkeypatch):
    """As where open files or processes are few; with none at all, it is said why."""
    made, popen = [], subprocess.Popen

    def scarce(*a, **k):
        if len(made) >= most:
            raise OSError(24, "Too many open files")
        made.append(a)
        return popen(*a, **k)

    monkeypatch.setattr(subprocess, "Popen", scarce)
    options = {"benchmark": trouble.Tiny, "protocol": "smoke", "track": False, "jobs": 2, "seeds": 2}
    most = 1
    results = evaluate(trouble.Plain, store=tmp_path / "one", **options)
    assert results.errors == {}
    assert len(results) == 2
    most = 0
    made.clear()
    results = evaluate(trouble.Plain, store=tmp_path / "none", **options)
    assert len(results) == 0
    assert all("One cannot be started: Too many open files." in message for message in results.errors.values())


def test_a_run_whose_clock_was_set_back_took_no_negative_time(tmp_path, monkeypatch):
    from clarena.record import record as module

    later = module.datetime(2030, 1, 2, tzinfo=module.UTC)
    days = iter([later, later.replace(day=1)])
    monkeypatch.setattr("clarena.run.runner.now", lambda: next(days, later.replace(day=1)))
    options = {"benchmark": trouble.Tiny, "protocol": "smoke", "track": False, "jobs": 1, "seeds": 1}
    (record,) = evaluate(trouble.Plain, store=tmp_path, **options)
    assert record.started == later
    assert record.ended >= record.started


def test_where_no_worker_can_be_started_what_needs_one_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("clarena.run.executors.workers_exist", lambda: False)
    options = {"benchmark": trouble.Tiny, "protocol": "smoke", "track": False, "store": tmp_path, "seeds": 2}
    assert default_jobs("cpu", 9) == 1
    for wanted in ({"jobs": 2}, {"jobs": 1, "timeout": 60}):
        with pytest.raises(UsageError, match="Linux and macOS alone"):
            evaluate(trouble.Plain, **wanted, **options)
    assert [record.status for record in evaluate(trouble.Plain, **options)] == ["finished"] * 2
