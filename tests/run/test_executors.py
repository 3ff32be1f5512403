"""Many runs at once: in worker processes, in several commands, killed, stopped, and short of workers."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path

import pytest
import troublemakers as trouble

from clarena import Store, evaluate
from clarena.plugins.host import PluginSources
from clarena.run.executors import default_jobs
from clarena.run.worker import seldom

PLUGIN = '''
"""A strategy that writes a line whenever a run of it begins, and waits in its second experience for a word."""

import os
import time
import warnings
from pathlib import Path

from clarena import GradientStrategy, hookimpl

HERE = Path(__file__).parent


class Patient(GradientStrategy):
    """Waits until it is told to go on."""

    name = "patient"

    def before_experience(self, experience):
        if experience.position == 0:
            with open(HERE / "began", "a") as file:
                file.write(f"{self.context.seeds.seed}\\n")
            print("patient speaks on standard output")
        if experience.position == 1:
            (HERE / f"waits-{self.context.seeds.seed}").write_text(str(os.getpid()))
            while not (HERE / "go").exists():
                time.sleep(0.02)


@hookimpl
def clarena_register_strategies(register):
    register(Patient)
'''

SMOKE = {"protocol": "smoke", "track": False, "settings": {"benchmark": {"experiences": 3}}}


@pytest.fixture
def plugin(tmp_path):
    path = tmp_path / "plugin" / "patient_plugin.py"
    path.parent.mkdir()
    path.write_text(PLUGIN)
    return path


def command(plugin, store, seeds, jobs):
    """`clarena evaluate` as a process of its own, at the head of its own group."""
    options = ["--seeds", str(seeds), "--jobs", str(jobs), "--protocol", "smoke", "--set", "benchmark.experiences=3"]
    places = ["--store", str(store), "--plugin", str(plugin), "--no-tracking", "--json"]
    return subprocess.Popen(
        [sys.executable, "-c", "from clarena.cli import main; main()", "evaluate", "patient", *options, *places],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        process_group=0,
    )


def until(condition):
    """Wait for what must happen, however slow the machine; give up after minutes."""
    give_up = time.monotonic() + 240
    while not condition():
        assert time.monotonic() < give_up, "it did not happen"
        time.sleep(0.05)


def waiting_pids(plugin, seeds):
    """The processes in which these seeds wait, once all of them do."""
    paths = [plugin.parent / f"waits-{seed}" for seed in seeds]
    until(lambda: all(path.exists() and path.read_text() for path in paths))
    pids = [int(path.read_text()) for path in paths]
    for path in paths:
        path.unlink()
    return pids


def gone(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def test_two_commands_at_once_run_every_cell_once_between_them(tmp_path, plugin):
    """On one fresh store; and what a strategy prints in a worker stays out of the JSON on standard output."""
    (plugin.parent / "go").touch()
    store = tmp_path / "store"
    both = [command(plugin, store, seeds=6, jobs=2) for _ in range(2)]
    for process in both:
        out, err = process.communicate()
        assert process.returncode == 0, err
        assert json.loads(out)["errors"] == {}
        assert json.loads(out)["tracks"][0]["rows"][0]["seeds"] == [0, 1, 2, 3, 4, 5]
    assert sorted((plugin.parent / "began").read_text().split()) == list("012345")
    records, damaged = Store(store).records()
    assert [record.status for record in records] == ["finished"] * 6
    assert damaged == []


def test_stopped_and_killed_in_every_way_nothing_is_lost_and_nobody_stays(tmp_path, plugin):
    """The parent killed; Ctrl-C to the group; SIGTERM to the parent alone; at last left in peace."""
    store = tmp_path / "store"
    sources = PluginSources(files=[plugin])
    (plugin.parent / "go").touch()
    whole = evaluate("patient", store=tmp_path / "whole", seeds=2, jobs=1, plugins=sources, **SMOKE).records
    (plugin.parent / "go").unlink()
    for seed in (0, 1):
        (plugin.parent / f"waits-{seed}").unlink()

    process = command(plugin, store, seeds=2, jobs=2)
    pids = waiting_pids(plugin, (0, 1))
    process.kill()
    process.communicate()
    until(lambda: all(map(gone, pids)))
    assert Store(store).records() == ([], [])

    def stop(how):
        process = command(plugin, store, seeds=2, jobs=2)
        pids = waiting_pids(plugin, (0, 1))
        how(process)
        _, err = process.communicate()
        assert process.returncode == 130
        assert "Traceback" not in err
        assert "What was finished is safe. Go on with:" in " ".join(err.split())
        assert "--retry" in err
        until(lambda: all(map(gone, pids)))
        records, _ = Store(store).records()
        assert [(r.status, r.reason, r.resumed) for r in records] == [("interrupted", "stopped by the user", [1])] * 2
        assert not list(store.rglob("*.tmp"))
        for record in records:
            (Store(store).folder(record.cell) / "record.json").unlink()  # or the next command would have nothing to do

    stop(lambda process: os.killpg(process.pid, signal.SIGINT))
    stop(lambda process: process.terminate())

    (plugin.parent / "go").touch()
    results = evaluate("patient", store=store, seeds=2, jobs=2, plugins=sources, **SMOKE)
    assert results.errors == {}
    assert [record.resumed[-1] for record in results] == [1, 1]
    assert [record.predictions for record in results] == [record.predictions for record in whole]


def test_a_killed_worker_costs_its_own_cell_alone_and_that_goes_on_later(tmp_path, plugin):
    heard = []

    def kill_seed_1():
        (victim,) = waiting_pids(plugin, [1])
        os.kill(victim, signal.SIGKILL)
        (plugin.parent / "go").touch()

    killer = threading.Thread(target=kill_seed_1)
    killer.start()
    options = {"store": tmp_path / "store", "seeds": 4, "plugins": PluginSources(files=[plugin])} | SMOKE
    results = evaluate("patient", jobs=2, listener=heard.append, **options)
    killer.join()
    assert list(results.errors) == ["patient seed 1"]
    assert "was killed by signal 9 (Killed)" in results.errors["patient seed 1"]
    assert [record.cell.seed for record in results] == [0, 2, 3]
    assert [event.work.cell.seed for event in heard if event.kind == "started"] == [0, 1, 2, 3]
    again = evaluate("patient", jobs=1, **options)
    assert [(r.cell.seed, r.status, r.resumed) for r in again] == [
        (seed, "finished", [1] if seed == 1 else []) for seed in range(4)
    ]


def test_in_workers_or_not_and_in_any_order_the_predictions_are_the_same(tmp_path):
    """And classes come along that only this process has: of a test module, and typed into a notebook."""
    cell = "class Typed(Plain):\n    'Typed into a cell.'\n    name = 'typed'\n"
    notebook = {"Plain": trouble.Plain, "__name__": "__main__"}
    exec(cell, notebook)
    strategies = [trouble.Plain, notebook["Typed"], "er"]
    options = {"benchmark": trouble.Tiny, "seeds": 2, "protocol": "smoke", "track": False}
    one = evaluate(strategies, store=tmp_path / "one", jobs=1, **options)
    two = evaluate(strategies[::-1], store=tmp_path / "two", jobs=2, **options)
    assert one.errors == two.errors == {}
    assert {r.cell_id: r.predictions for r in one} == {r.cell_id: r.predictions for r in two}
    assert {record.status for record in two} == {"finished"}


def test_a_class_that_cannot_travel_is_said_and_the_others_run(tmp_path):
    notebook = {"Plain": trouble.Plain, "__name__": "__main__", "lock": threading.Lock()}
    exec("class Held(Plain):\n    'Holds a lock.'\n    name = 'held'\n    lock = lock\n", notebook)
    lost = type("Lost", (trouble.Plain,), {"name": "lost", "__doc__": "Of nowhere.", "__module__": "nowhere_else"})
    module = type(sys)("nowhere_else")
    module.Lost = lost
    sys.modules["nowhere_else"] = module
    try:
        results = evaluate(
            [notebook["Held"], lost, trouble.Plain],
            benchmark=trouble.Tiny,
            store=tmp_path,
            seeds=1,
            jobs=2,
            protocol="smoke",
            track=False,
        )
    finally:
        del sys.modules["nowhere_else"]
    assert "cannot be sent to a worker process" in results.errors["held seed 0"]
    assert "No module named 'nowhere_else'" in results.errors["lost seed 0"]
    assert all(message.endswith("Use jobs=1.") for message in results.errors.values())
    assert [record.status for record in results] == ["finished"]


def test_workers_that_cannot_start_or_die_of_a_plugin_end_in_errors(tmp_path, plugin, monkeypatch):
    """A plugin that ends its process, but not in this one; then a Python that is none."""
    plugin.write_text(
        PLUGIN + f"\nimport sys\nif os.getpid() != {os.getpid()}:\n    sys.stderr.flush()\n    os._exit(7)\n"
    )
    options = {"store": tmp_path / "store", "plugins": PluginSources(files=[plugin]), "jobs": 2} | SMOKE
    results = evaluate("patient", seeds=2, **options)
    assert len(results) == 0
    assert sorted(results.errors) == ["patient seed 0", "patient seed 1"]
    assert all("ended with code 7" in message for message in results.errors.values())
    monkeypatch.setattr(sys, "executable", "/bin/false")
    results = evaluate("patient", seeds=5, **options)
    assert set(results.errors.values()) == {"No worker process is left to run it."}
    assert len(results.errors) == 5
    assert Store(tmp_path / "store").records() == ([], [])


def test_a_plugin_edited_during_the_evaluation_is_not_run_under_its_old_name(tmp_path, plugin):
    (plugin.parent / "go").touch()

    def edit(event):
        if event.kind == "done":
            plugin.write_text(PLUGIN + "\nEDITED = True\n")

    options = {"store": tmp_path / "store", "plugins": PluginSources(files=[plugin]), "jobs": 1} | SMOKE
    results = evaluate("patient", seeds=2, listener=edit, **options)
    assert [record.cell.seed for record in results] == [0]
    assert "The source of patient has changed" in results.errors["patient seed 1"]
    again = evaluate("patient", seeds=2, **options)
    assert [record.cell.seed for record in again] == [0, 1]
    assert again.records[0].cell_id != results.records[0].cell_id


def test_a_cell_that_another_process_holds_is_waited_for_and_told_once(tmp_path):
    options = {"benchmark": trouble.Tiny, "protocol": "smoke", "track": False, "jobs": 1}
    held = evaluate(trouble.Plain, store=tmp_path / "other", seeds=1, **options).records[0]
    store, heard = Store(tmp_path / "store"), []

    def listener(event):
        heard.append((event.kind, event.work.cell.seed))
        if heard.count(("done", 1)) and not released.is_set():
            released.set()

    released, holding = threading.Event(), threading.Event()

    def hold():
        with store.locked(held.cell):
            holding.set()
            released.wait()
            time.sleep(0.5)  # long enough to be asked for again and again

    holder = threading.Thread(target=hold)
    holder.start()
    holding.wait()
    results = evaluate(trouble.Plain, store=store.path, seeds=2, listener=listener, **options)
    holder.join()
    assert [record.status for record in results] == ["finished", "finished"]
    told = [event for event in heard if event[0] != "progress"]
    assert told == [("started", 0), ("waiting", 0), ("started", 1), ("done", 1), ("done", 0)]


def test_warnings_of_a_run_are_told_as_they_happen_and_once(tmp_path):
    heard = []

    class Warns(trouble.Plain):
        """Warns at every step."""

        name = "warns"

        def after_step(self, batch):
            warnings.warn("mind the step", stacklevel=1)

    results = evaluate(
        Warns, benchmark=trouble.Tiny, store=tmp_path, seeds=1, jobs=1, track=False, listener=heard.append
    )
    assert results.records[0].status == "finished"
    kinds = [event.kind for event in heard if event.kind != "progress"]
    assert kinds == ["started", "warning", "done"]


def test_progress_is_told_no_more_often_than_a_person_can_see(monkeypatch):
    moment, shares = 0.0, []
    monkeypatch.setattr("clarena.run.worker.time.monotonic", lambda: 100 + moment)
    tell = seldom(shares.append)
    for step in range(100):
        moment = step / 100
        tell(step)
    assert shares[0] == 0
    assert len(shares) == pytest.approx(10, abs=1)


def test_jobs_are_one_per_core_on_the_cpu_and_one_on_a_gpu(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: range(4))
    assert [default_jobs("cpu", cells) for cells in (0, 1, 3, 9)] == [1, 1, 3, 4]
    assert default_jobs("cuda:1", 9) == 1


def test_what_nobody_foresaw_in_one_cell_costs_no_other_its_worker(tmp_path, plugin, monkeypatch):
    """An error outside of what a record tells of, in this process and in a worker."""
    broken = "\nfrom clarena.run.runner import Run\n\n\ndef broken(run):\n    raise RuntimeError('out of\\nnowhere')\n"
    plugin.write_text(PLUGIN + broken + "\n\nRun.execute = broken\n")
    monkeypatch.setattr("clarena.run.runner.Run.execute", None)  # put back afterwards, whatever the plugin does
    for jobs in (1, 2):
        options = {"store": tmp_path / str(jobs), "jobs": jobs, "plugins": PluginSources(files=[plugin])} | SMOKE
        results = evaluate("patient", seeds=3, **options)
        assert len(results) == 0
        assert list(results.errors.values()) == ["RuntimeError: out of nowhere"] * 3
