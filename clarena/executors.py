"""Run many cells: in this process one by one, or in worker processes with one thread each.

A worker is a plain `python -m clarena.worker`, so that a caller's script needs no `__main__` guard, and one that
is killed costs no more than its own cell.
"""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
import warnings
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait
from typing import Any, Literal

import cloudpickle

from clarena.errors import ClarenaError
from clarena.records import Record
from clarena.worker import BUSY, Work, run_work

POLL_SECONDS = 0.2
PATIENCE_SECONDS = 15.0


@dataclass(frozen=True)
class Event:
    """What happens to a cell.

    Attributes:
        kind: `started`, `progress` (share is set), `done` (record is set), `error` (message: the cell could not be
            recorded), `waiting` (another process runs it), `warning`.
    """

    kind: Literal["started", "progress", "done", "error", "waiting", "warning"]
    work: Work
    share: float = 0.0
    record: Record | None = None
    message: str = ""


Listener = Callable[[Event], None]


def default_jobs(device: str, cells: int) -> int:
    """A run per core on the CPU; one run at a time on a GPU."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(cells, 1 if device.startswith("cuda") else cores))


def execute(works: list[Work], jobs: int, listener: Listener) -> None:
    """Run all cells; each ends in a `done` or an `error` event.

    Cells that another process is running are left for last, and then waited for.

    Raises:
        KeyboardInterrupt: after every run under way has recorded its interruption.
    """
    if jobs == 1:
        _in_this_process(works, listener)
    elif works:
        Pool(works, jobs, listener).run()


def _in_this_process(works: list[Work], listener: Listener) -> None:
    waiting = deque(works)
    busy = 0
    while waiting:
        work = waiting.popleft()
        listener(Event("started", work))
        try:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                answer = run_work(work, lambda share, work=work: listener(Event("progress", work, share)))  # type: ignore[misc]
        except ClarenaError as error:
            listener(Event("error", work, message=str(error)))
            continue
        for warning in caught:
            listener(Event("warning", work, message=str(warning.message)))
        if isinstance(answer, Record):
            busy = 0
            listener(Event("done", work, record=answer))
            continue
        listener(Event("waiting", work))
        waiting.append(replace(work, retry=False))
        busy += 1
        if busy >= len(waiting):
            time.sleep(POLL_SECONDS)


class Worker:
    """One worker process and the cell it is running."""

    def __init__(self) -> None:
        ours, theirs = multiprocessing.Pipe()
        environment = os.environ | {
            "OMP_NUM_THREADS": "1",
            "MKL_NUM_THREADS": "1",
            "PYTHONPATH": os.pathsep.join(sys.path),
        }
        self.process = subprocess.Popen(
            [sys.executable, "-m", "clarena.worker", str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=sys.stderr.fileno() if _has_descriptor(sys.stderr) else subprocess.DEVNULL,
            env=environment,
        )
        theirs.close()
        self.connection: Connection[Any, Any] = ours
        self.work: Work | None = None

    def give(self, work: Work) -> None:
        self.work = work
        self.connection.send_bytes(cloudpickle.dumps(work))

    def receive(self) -> tuple[str, Any]:
        """The next message; `died` when the process is gone."""
        try:
            kind, content = cloudpickle.loads(self.connection.recv_bytes())
        except (EOFError, OSError):
            return "died", self.process.wait()
        return kind, content

    def stop(self) -> None:
        self.connection.close()
        try:
            self.process.wait(PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()


class Pool:
    """Worker processes and the cells that wait for them."""

    def __init__(self, works: list[Work], jobs: int, listener: Listener) -> None:
        self.waiting, self.listener = deque(works), listener
        self.retry_at = 0.0
        self.workers = [Worker() for _ in range(min(jobs, len(works)))]

    def run(self) -> None:
        try:
            while self.workers and (self.waiting or any(worker.work for worker in self.workers)):
                ready = wait([worker.connection for worker in self.workers], timeout=POLL_SECONDS)
                for worker in list(self.workers):
                    if worker.connection in ready:
                        self._hear(worker)
                    elif worker.work is None:
                        self._feed(worker)
        except KeyboardInterrupt:
            self._interrupt()
            raise
        finally:
            for worker in self.workers:
                worker.stop()

    def _feed(self, worker: Worker) -> None:
        """Give an idle worker the next cell, but do not ask again at once for one that was busy."""
        if self.waiting and time.monotonic() >= self.retry_at:
            work = self.waiting.popleft()
            worker.give(work)
            self.listener(Event("started", work))

    def _hear(self, worker: Worker) -> None:
        kind, content = worker.receive()
        work = worker.work
        if kind == "died":
            self._bury(worker, content)
        elif kind == "ready" or work is None:
            return
        elif kind == "interrupted":
            raise KeyboardInterrupt
        elif kind == "progress":
            self.listener(Event("progress", work, share=content))
        elif kind == "warning":
            self.listener(Event("warning", work, message=content))
        else:
            worker.work = None
            if kind == "error":
                self.listener(Event("error", work, message=content))
            elif content == BUSY:
                self.listener(Event("waiting", work))
                self.waiting.append(replace(work, retry=False))
                self.retry_at = time.monotonic() + POLL_SECONDS
            else:
                self.listener(Event("done", work, record=content))
            self._feed(worker)

    def _bury(self, worker: Worker, code: int) -> None:
        """A worker died (out of memory, or killed): say so, keep its checkpoint, and go on with another."""
        self.workers.remove(worker)
        if worker.work is None:
            self.listener(Event("error", self.waiting.popleft(), message=f"The worker process ended with code {code}."))
        else:
            how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
            hint = " The system may have run out of memory: try fewer --jobs." if code == -signal.SIGKILL else ""
            message = f"The process of this run {how}.{hint} It goes on from its last experience when run again."
            self.listener(Event("error", worker.work, message=message))
        if self.waiting:
            self.workers.append(Worker())

    def _interrupt(self) -> None:
        """Ask every worker to record its interruption, and wait for it."""
        for worker in self.workers:
            if worker.process.poll() is None and worker.work is not None:
                worker.process.send_signal(signal.SIGINT)
        deadline = time.monotonic() + PATIENCE_SECONDS
        for worker in self.workers:
            while worker.work is not None and time.monotonic() < deadline:
                if worker.connection.poll(POLL_SECONDS) and worker.receive()[0] in (
                    "interrupted",
                    "died",
                    "done",
                    "error",
                ):
                    worker.work = None


def _has_descriptor(stream: Any) -> bool:
    try:
        stream.fileno()
    except (AttributeError, OSError, ValueError):
        return False
    return True
