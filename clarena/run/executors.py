"""Run many cells: in this process one by one, or in worker processes with one thread each.

A worker is a plain `python -m clarena.run.worker`, so that a caller's script needs no `__main__` guard, and one that
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
from contextlib import suppress
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait
from typing import Any, Literal

import cloudpickle

from clarena.errors import ClarenaError
from clarena.record.record import Record
from clarena.run.worker import BUSY, INTERRUPTED, Work, run_work

POLL_SECONDS = 0.2
PATIENCE_SECONDS = 15.0


@dataclass(frozen=True)
class Event:
    """What happens to a cell.

    Attributes:
        kind: `started`, `progress` (share is set), `done` (record is set), `error` (message: the cell could not be
            recorded), `waiting` (another process runs it), `warning`, `logging` (the runs are over, MLflow is not yet
            told: of no cell alone).
    """

    kind: Literal["started", "progress", "done", "error", "waiting", "warning", "logging"]
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
    told: set[str] = set()  # cells that another process is running, and the listener knows it
    while waiting:
        work = waiting.popleft()
        if work.cell.id not in told:
            listener(Event("started", work))
        try:
            with warnings.catch_warnings():
                warnings.showwarning = lambda message, *_, work=work: listener(
                    Event("warning", work, message=str(message))
                )
                answer = run_work(work, lambda share, work=work: listener(Event("progress", work, share)))  # type: ignore[misc]
        except ClarenaError as error:
            listener(Event("error", work, message=str(error)))
            continue
        if isinstance(answer, Record):
            listener(Event("done", work, record=answer))
            continue
        if work.cell.id not in told:
            told.add(work.cell.id)
            listener(Event("waiting", work))
        waiting.append(replace(work, retry=False))
        if all(other.cell.id in told for other in waiting):
            time.sleep(POLL_SECONDS)


class Worker:
    """One worker process and the cell it is running."""

    def __init__(self) -> None:
        ours, theirs = multiprocessing.Pipe()
        environment = os.environ | {
            "OMP_NUM_THREADS": "1",
            "MKL_NUM_THREADS": "1",
            "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path),
            "PYTHONUNBUFFERED": "1",  # what a strategy prints is not lost when the process is killed
        }
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", "clarena.run.worker", str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=sys.stderr.fileno() if _has_descriptor(sys.stderr) else subprocess.DEVNULL,
            env=environment,
            process_group=0,  # Ctrl-C reaches this process alone, which then stops its workers in good order
        )
        theirs.close()
        self.connection: Connection[Any, Any] = ours
        self.ready = False
        self.work: Work | None = None

    def give(self, work: Work) -> None:
        packed = cloudpickle.dumps(work)
        self.work = work
        with suppress(OSError):  # it died just now: `receive` will say so
            self.connection.send_bytes(packed)

    def receive(self) -> tuple[str, Any]:
        """The next message; `died` when there will be none."""
        try:
            kind, content = cloudpickle.loads(self.connection.recv_bytes())
        except (EOFError, OSError):
            return "died", None
        return kind, content

    def stop(self) -> None:
        """End the process, which is safe at any time: all that it keeps is written in one move."""
        self.process.kill()
        self.process.wait()
        self.connection.close()


class Pool:
    """Worker processes and the cells that wait for them."""

    def __init__(self, works: list[Work], jobs: int, listener: Listener) -> None:
        self.waiting, self.listener = deque(works), listener
        self.size = min(jobs, len(works))
        self.workers: list[Worker] = []
        self.told: set[str] = set()  # cells that another process is running, and the listener knows it
        self.retry_at = 0.0
        self.stopping = False

    def run(self) -> None:
        try:
            for _ in range(self.size):
                self.workers.append(Worker())
            while self.workers and (self.waiting or self._busy()):
                self._turn()
            for work in self.waiting:
                self.listener(Event("error", work, message="No worker process is left to run it."))
        except KeyboardInterrupt:
            self._interrupt()
            raise
        finally:
            for worker in self.workers:
                worker.stop()

    def _busy(self) -> list[Worker]:
        return [worker for worker in self.workers if worker.work]

    def _turn(self) -> None:
        """Hear what there is to hear, and give idle workers something to do."""
        wait([worker.connection for worker in self.workers], timeout=POLL_SECONDS)
        for worker in list(self.workers):
            if worker.connection.poll():
                self._hear(worker)
            elif worker.process.poll() is not None:  # its end of the pipe may live on in what it started
                self._bury(worker)
            elif worker.ready and worker.work is None:
                self._feed(worker)

    def _feed(self, worker: Worker) -> None:
        """Give an idle worker the next cell, but do not ask again at once for one that was busy."""
        if not self.waiting or time.monotonic() < self.retry_at:
            return
        work = self.waiting.popleft()
        if work.cell.id not in self.told:
            self.listener(Event("started", work))
        try:
            worker.give(work)
        except Exception as error:  # whatever a class of the caller drags along
            reason = f"The class cannot be sent to a worker process ({type(error).__name__}: {error}). Use jobs=1."
            self.listener(Event("error", work, message=reason))

    def _hear(self, worker: Worker) -> None:
        kind, content = worker.receive()
        work = worker.work
        if kind == "died":
            self._bury(worker)
        elif kind == "ready":
            worker.ready = True
            self._feed(worker)
        elif work is None:
            return
        elif kind == "progress":
            self.listener(Event("progress", work, share=content))
        elif kind == "warning":
            self.listener(Event("warning", work, message=content))
        else:
            worker.work = None
            if kind == "error":
                self.listener(Event("error", work, message=content))
            elif content == BUSY:
                self._put_off(work)
            else:
                self.listener(Event("done", work, record=content))
            self._feed(worker)

    def _put_off(self, work: Work) -> None:
        """Another process is running this cell: come back to it later."""
        if work.cell.id not in self.told:
            self.told.add(work.cell.id)
            self.listener(Event("waiting", work))
        if not self.stopping:
            self.waiting.append(replace(work, retry=False))
            self.retry_at = time.monotonic() + POLL_SECONDS

    def _bury(self, worker: Worker) -> None:
        """A worker died: where it had a cell, say so, keep its checkpoint, and go on with another worker.

        One that dies without a cell could not even start; it is not replaced, so that this comes to an end.
        """
        code = worker.process.wait()
        self.workers.remove(worker)
        worker.connection.close()
        if worker.work is None or self.stopping:
            return
        how = f"was killed by signal {-code} ({signal.strsignal(-code)})" if code < 0 else f"ended with code {code}"
        hint = " The system may have run out of memory: try fewer --jobs." if code == -signal.SIGKILL else ""
        message = f"The process of this run {how}.{hint} It goes on from its last experience when run again."
        if code == INTERRUPTED:
            message = "The process of this run was told to stop. --retry goes on from its last experience."
        self.listener(Event("error", worker.work, message=message))
        if self.waiting:
            self.workers.append(Worker())

    def _interrupt(self) -> None:
        """Ask every worker to record its interruption, and wait for it."""
        self.waiting.clear()
        self.stopping = True
        for worker in self._busy():
            worker.process.send_signal(signal.SIGINT)
        deadline = time.monotonic() + PATIENCE_SECONDS
        while self._busy() and time.monotonic() < deadline:
            self._turn()


def _has_descriptor(stream: Any) -> bool:
    try:
        stream.fileno()
    except (AttributeError, OSError, ValueError):
        return False
    return True
