"""Run many cells: in this process one by one, or in worker processes with one thread each.

CUDA runs, and those whose time is limited, always have a process to themselves: cuBLAS reads its settings once, when it
is first used, and a strategy that never returns can only be ended together with its process.

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
from collections import Counter, deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait
from typing import Any, Literal

import cloudpickle

from clarena.errors import ClarenaError, UsageError
from clarena.record.record import Record
from clarena.record.store import CHECKPOINT, Store
from clarena.run.devices import device_names
from clarena.run.environment import WORKSPACE, WORKSPACE_SIZE, working_directory
from clarena.run.worker import BUSY, INTERRUPTED, Work, run_work, unexpected

POLL_SECONDS = 0.2
PATIENCE_SECONDS = 15.0
"""That a worker has to record how its run ended, before it is killed."""


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
    """A run per core on the CPU, one on each GPU, and one at a time where there are no worker processes."""
    if not workers_exist():
        return 1
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(cells, cores if device.startswith("cpu") else len(device_names(device))))


def workers_exist() -> bool:
    """Whether this system hands open pipes down to a process that it starts, as Linux and macOS do."""
    return os.name == "posix"


def apart(work: Work) -> bool:
    """Whether a cell must run in a process of its own, however few run at a time."""
    return work.device.startswith("cuda") or "," in work.device or bool(work.limits)


def execute(works: list[Work], jobs: int, listener: Listener) -> None:
    """Run all cells; each ends in a `done` or an `error` event.

    Cells that another process is running are left for last, and then waited for.

    Raises:
        UsageError: for what takes worker processes, where there are none.
        KeyboardInterrupt: after every run under way has recorded its interruption.
    """
    if jobs == 1 and not any(map(apart, works)):
        _in_this_process(works, listener)
    elif not workers_exist():
        raise UsageError(
            "Several jobs at a time, several devices, CUDA and limits on time take worker processes, which CLArena "
            "starts on Linux and macOS alone. Leave out --device and --timeout, and run with --jobs 1."
        )
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
        except Exception as error:  # a fault of this cell's own must not cost the others their turn
            listener(Event("error", work, message=unexpected(error)))
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
    """One worker process, the device that is its own, and the cell it is running."""

    def __init__(self, device: str) -> None:
        self.device = device
        ours, theirs = multiprocessing.Pipe()
        environment = os.environ | {
            "OMP_NUM_THREADS": "1",
            "MKL_NUM_THREADS": "1",
            WORKSPACE: os.environ.get(WORKSPACE, WORKSPACE_SIZE),
            "PYTHONPATH": os.pathsep.join(path or working_directory() for path in sys.path),
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
        self.began = 0.0
        self.limit: tuple[float, str] | None = None  # when it is ended from here, and why

    def give(self, work: Work) -> None:
        packed = cloudpickle.dumps(replace(work, device=self.device))
        self.work, self.began = work, time.monotonic()
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

    def stop_all(self) -> None:
        """The same with whatever it has started and not moved to another group."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.stop()


class Pool:
    """Worker processes and the cells that wait for them."""

    def __init__(self, works: list[Work], jobs: int, listener: Listener) -> None:
        self.waiting, self.listener = deque(works), listener
        self.size = min(jobs, len(works))
        self.devices = device_names(works[0].device)
        self.workers: list[Worker] = []
        self.told: set[str] = set()  # cells that another process is running, and the listener knows it
        self.retry_at = 0.0
        self.stopping = False
        self.no_worker = ""  # why the last one could not be started

    def run(self) -> None:
        try:
            for _ in range(self.size):
                self._start()
            while self.workers and (self.waiting or self._busy()):
                self._turn()
            for work in self.waiting:
                reason = f"No worker process is left to run it.{self.no_worker}"
                self.listener(Event("error", work, message=reason))
        except KeyboardInterrupt:
            self._interrupt()
            raise
        finally:
            for worker in self.workers:
                worker.stop()

    def _start(self) -> None:
        """One more worker; where the system gives none, those that there are go on alone."""
        taken = Counter(worker.device for worker in self.workers)
        try:
            self.workers.append(Worker(min(self.devices, key=taken.__getitem__)))  # the one with the fewest runs
        except OSError as error:  # no more processes, open files, or memory
            self.no_worker = f" One cannot be started: {error.strerror}. Try fewer --jobs, or raise the limit (ulimit)."

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
            elif worker.limit and time.monotonic() > worker.limit[0]:
                self._end(worker)
            elif worker.ready and worker.work is None:
                self._feed(worker)

    def _feed(self, worker: Worker) -> None:
        """Give an idle worker the next cell, but do not ask again at once for one that was busy."""
        if not self.waiting or time.monotonic() < self.retry_at:
            return
        work = self.waiting.popleft()
        if work.cell.id not in self.told and not work.late:
            self.listener(Event("started", work))
        try:
            worker.give(work)
        except Exception as error:  # whatever a class of the caller drags along
            reason = f"The class cannot be sent to a worker process ({type(error).__name__}: {error}). {_instead(work)}"
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
        elif kind == "limit":
            seconds, reason = content
            worker.limit = (time.monotonic() + seconds + PATIENCE_SECONDS, reason) if seconds else None
        else:
            worker.work = None
            if kind == "error":
                self.listener(Event("error", work, message=content))
            elif kind == "unloadable":
                reason = f"A worker process cannot load the class ({content}). {_instead(work)}"
                self.listener(Event("error", work, message=reason))
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
        self._remove(worker)
        if worker.work is None or self.stopping:
            return
        how = f"was killed by signal {-code} ({signal.strsignal(-code)})" if code < 0 else f"ended with code {code}"
        hint = " The system may have run out of memory: try fewer --jobs." if code == -signal.SIGKILL else ""
        message = f"The process of this run {how}.{hint} When run again it {_continues(worker.work)}."
        if code == INTERRUPTED:
            message = f"The process of this run was told to stop. With --retry it {_continues(worker.work)}."
        self.listener(Event("error", worker.work, message=message))
        if self.waiting:
            self._start()

    def _end(self, worker: Worker) -> None:
        """End a run that has not ended by itself when its time was up; another worker writes its record."""
        assert worker.work is not None
        assert worker.limit is not None
        worker.stop_all()
        self._remove(worker)
        if not self.stopping:
            self.waiting.appendleft(replace(worker.work, late=(worker.limit[1], time.monotonic() - worker.began)))
            self._start()

    def _remove(self, worker: Worker) -> None:
        self.workers.remove(worker)
        worker.connection.close()

    def _interrupt(self) -> None:
        """Ask every worker to record its interruption, and wait for it."""
        self.waiting.clear()
        self.stopping = True
        for worker in self._busy():
            worker.process.send_signal(signal.SIGINT)
        deadline = time.monotonic() + PATIENCE_SECONDS
        while self._busy() and time.monotonic() < deadline:
            self._turn()


def _instead(work: Work) -> str:
    """What to do with a class that cannot go into another process."""
    if apart(work):
        return "CUDA runs and limits on time need one: put the class into a module, or into a file for --plugin."
    return "Use jobs=1."


def _continues(work: Work) -> str:
    """How a run whose process has died goes on."""
    resumable = work.cell.track.protocol.boundaries == "known"  # else the checkpoint holds no strategy
    checkpoint = Store(work.store).folder(work.cell) / CHECKPOINT
    return "goes on from its last experience" if resumable and checkpoint.exists() else "starts over"


def _has_descriptor(stream: Any) -> bool:
    try:
        stream.fileno()
    except (AttributeError, OSError, ValueError):
        return False
    return True
