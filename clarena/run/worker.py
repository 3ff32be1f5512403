"""Run cells in a process of their own, started by an executor: `python -m clarena.run.worker FD`."""

import os
import signal
import sys
import time
import warnings
from dataclasses import dataclass
from multiprocessing.connection import Connection
from queue import SimpleQueue
from threading import Thread
from typing import Any

import cloudpickle

from clarena.errors import ClarenaError, ClarenaWarning, PluginError, StoreError
from clarena.plugins.host import Host, PluginSources
from clarena.plugins.identity import code_identity
from clarena.record.reader import NewerError
from clarena.record.record import RETRIED, Cell, Record
from clarena.record.store import Store
from clarena.run.data import require_unchanged
from clarena.run.deadline import NO_LIMITS, Deadline, Limits, Tell
from clarena.run.devices import device_named
from clarena.run.keeping import keep_beside, lacks_model
from clarena.run.output import shield
from clarena.run.realisation import CellClasses
from clarena.run.runner import Progress, Run

BUSY = "busy"
"""The answer when another process holds the cell."""
PROGRESS_SECONDS = 0.1
INTERRUPTED = 130
"""The exit code of a worker that was told to stop."""


@dataclass(frozen=True)
class Work:
    """A cell to be run, and all that a process needs to know to run it.

    Attributes:
        parts: the name, or where the caller gave one the class, of strategy, benchmark and backbone.
        retry: run it again where an earlier record failed, timed out, was interrupted, or ran out of memory.
        device: its name; several, `cuda:0,1`, until it is given to a worker, which has one of them.
        limits: on its time. They take no part in the cell's identity.
        keep: keep the trained model beside the record.
        late: of a run whose process did not end when its time was up: why, and how many seconds it took. All that is
            left to do is its record.
    """

    cell: Cell
    sources: PluginSources
    parts: dict[str, str | type[Any]]
    device: str
    store: str
    command: str = ""
    retry: bool = False
    limits: Limits = NO_LIMITS
    keep: bool = False
    late: tuple[str, float] | None = None

    def made(self, store: Store, progress: Progress, tell: Tell) -> Run:
        """The run itself, whose record goes to `store`; raises `ClarenaError` as `run_work`."""
        parts = look_up(self)
        require_unchanged(parts.benchmark, self.cell.track.benchmark, parts.targets)
        return Run(self.cell, parts, device_named(self.device), store, **self.told(progress, tell))

    def told(self, progress: Progress, tell: Tell) -> dict[str, Any]:
        """What a run is told besides what it is a run of."""
        return {
            "command": self.command,
            "progress": seldom(progress),
            "deadline": Deadline(self.limits, tell),
            "keep": self.keep,
        }


def run_work(work: Work, progress: Progress, tell: Tell = lambda seconds, reason: None) -> Record | str:
    """Run a cell unless its record is there already; `BUSY` where another process is running it.

    Raises:
        ClarenaError: when the store cannot be used, or code or data are no longer those of the cell.
        KeyboardInterrupt: after a record of the interruption was written.
    """
    store = Store(work.store)

    def run_in(place: Store) -> Run:
        return work.made(place, progress, tell)

    with store.locked(work.cell) as mine:
        if not mine:
            return BUSY
        existing = found_or_set_aside(store, work)
        if existing and not (work.retry and existing.status in RETRIED):
            if not (work.keep and lacks_model(store, existing)):
                return existing
            if work.late:  # there is nothing to record: the run has finished before
                raise ClarenaError(f"When it was run again to keep its model, {work.late[0]}. The record stays.")
            return keep_beside(store, existing, lambda place: run_in(place).execute())
        return run_in(store).give_up(*work.late) if work.late else run_in(store).execute()


def found_or_set_aside(store: Store, work: Work) -> Record | None:
    """The record of a cell, or None where it is to be run; a damaged one is renamed where it is to be tried again."""
    try:
        return store.find(work.cell)
    except NewerError:
        raise
    except StoreError as error:
        if not work.retry:
            raise
        kept = store.set_aside(work.cell)
        warnings.warn(f"{error} It is kept as {kept}.", ClarenaWarning, stacklevel=2)
        return None


def look_up(work: Work) -> CellClasses:
    """The classes behind the names of a cell.

    Raises:
        PluginError: when the code behind a name is no longer the one that the cell's identity is made of.
    """
    host, parts, cell = Host.discover(work.sources), work.parts, work.cell
    found = CellClasses(
        strategy=host.strategy(parts["strategy"]),
        benchmark=host.benchmarks.resolve(parts["benchmark"]),
        backbone=host.backbones.resolve(parts["backbone"]),
        targets=host.targets.load,
    )
    planned = {
        "strategy": cell.strategy.identity,
        "benchmark": cell.track.benchmark.identity,
        "backbone": cell.track.backbone.identity,
    }
    for part, identity in planned.items():
        cls = getattr(found, part)
        if identity and isinstance(parts[part], str) and code_identity(cls) != identity:
            raise PluginError(f"The source of {cls.name} has changed since the evaluation began. Start it again.")
    return found


def unexpected(error: Exception) -> str:
    """What is said of an error that nobody foresaw, so that no record tells of it."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def seldom(progress: Progress) -> Progress:
    """The same, but told no more often than a person can see: a step may take less than a millisecond."""
    due = 0.0

    def tell(share: float) -> None:
        nonlocal due
        if time.monotonic() >= due:
            progress(share)
            due = time.monotonic() + PROGRESS_SECONDS

    return tell


def main(descriptor: int) -> None:
    """Answer work from the executor until it hangs up, or until a signal says to stop."""
    shield()  # what a strategy prints is no reason to stop it
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    connection: Connection[Any, Any] = Connection(descriptor)
    inbox: SimpleQueue[bytes] = SimpleQueue()

    def listen() -> None:
        try:
            while True:
                inbox.put(connection.recv_bytes())
        except (EOFError, OSError):
            os._exit(1)  # the executor is gone; the checkpoint is on disk, and the lock goes with this process

    def send(kind: str, content: Any) -> None:
        connection.send_bytes(cloudpickle.dumps((kind, content)))

    def answer(packed: bytes) -> None:
        try:
            work: Work = cloudpickle.loads(packed)
        except Exception as error:  # whatever the import of a class raises
            send("unloadable", f"{type(error).__name__}: {error}")
            return
        try:
            send(
                "done",
                run_work(
                    work,
                    lambda share: send("progress", share),
                    lambda seconds, reason: send("limit", (seconds, reason)),
                ),
            )
        except ClarenaError as error:
            send("error", str(error))
        except ConnectionError:
            raise  # the executor is gone
        except Exception as error:  # a fault of this cell's own must not cost the others their worker
            send("error", unexpected(error))

    try:
        Thread(target=listen, daemon=True).start()
        warnings.showwarning = lambda message, *_: send("warning", str(message))
        send("ready", None)
        while True:
            answer(inbox.get())
    except ConnectionError:
        return  # the executor is gone
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


if __name__ == "__main__":
    main(int(sys.argv[1]))
