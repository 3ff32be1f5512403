"""What torch does once in a process is done before any clock runs."""

import subprocess
import sys

import pytest
import troublemakers as trouble

from clarena import evaluate
from clarena.run import runner
from clarena.run.clock import Clock

FIRST = """
import sys, time
sys.path[:0] = {path!r}
import troublemakers as trouble
from clarena import evaluate
from clarena.run import clock

known = []
class Watching:
    "Tells what has been imported whenever the clock is looked at."
    @staticmethod
    def perf_counter():
        known.append(set(sys.modules))
        return time.perf_counter()

clock.time = Watching
record = evaluate({strategy!r}, benchmark=trouble.Tiny, store={store!r}, seeds=1, jobs=1, protocol="smoke",
                  track=False, settings={settings!r}).records[0]
assert record.status == "finished", record.reason
late = known[-1] - known[0]
print(sorted(name for name in late if name.split(".")[0] in ("torch", "sympy", "mpmath")))
"""


def test_a_process_warms_up_once_and_before_its_first_clock(tmp_path, monkeypatch):
    order = []
    warm, enter = runner.warm_up, Clock.__enter__
    monkeypatch.setattr(runner, "warm_up", lambda device: order.append("warm") or warm(device))
    monkeypatch.setattr(Clock, "__enter__", lambda self: order.append("clock") or enter(self))
    evaluate(trouble.Plain, benchmark=trouble.Tiny, store=tmp_path, seeds=2, jobs=1, protocol="smoke", track=False)
    assert order[:2] == ["warm", "clock"]
    assert order.count("warm") == 2  # asked by each run, done by the first
    assert warm.cache_info().misses <= 1


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_while_the_clock_runs_torch_imports_nothing(tmp_path, optimizer):
    """In a fresh process; the first optimiser of one imports torch's compiler."""
    script = FIRST.format(
        path=sys.path, strategy="ewc", store=str(tmp_path), settings={"protocol": {"optimizer": optimizer}}
    )
    told = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stderr
    assert told.stdout.strip() == "[]"
