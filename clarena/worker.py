"""Run cells in a process of their own, started by an executor: `python -m clarena.worker FD`."""

import os
import signal
import sys
import warnings
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import cloudpickle

from clarena.arena import Parts
from clarena.environment import device_named
from clarena.errors import ClarenaError
from clarena.host import Host, PluginSources
from clarena.records import RETRIED, Cell, Record
from clarena.runner import Progress, Run
from clarena.store import Store

BUSY = "busy"
"""The answer when another process holds the cell."""


@dataclass(frozen=True)
class Work:
    """A cell to be run, and all that a process needs to know to run it.

    Attributes:
        parts: the name, or where the caller gave one the class, of strategy, benchmark and backbone.
        retry: run it again where an earlier record failed, was interrupted, or ran out of memory.
    """

    cell: Cell
    sources: PluginSources
    parts: dict[str, str | type[Any]]
    device: str
    store: str
    command: str = ""
    retry: bool = False


def run_work(work: Work, progress: Progress) -> Record | str:
    """Run a cell unless its record is there already; `BUSY` where another process is running it.

    Raises:
        ClarenaError: when the store cannot be used.
        KeyboardInterrupt: after a record of the interruption was written.
    """
    store = Store(work.store)
    with store.locked(work.cell) as mine:
        if not mine:
            return BUSY
        existing = store.find(work.cell)
        if existing and not (work.retry and existing.status in RETRIED):
            return existing
        run = Run(
            work.cell,
            look_up(work),
            device_named(work.device),
            store,
            command=work.command,
            progress=progress,
        )
        return run.execute()


def look_up(work: Work) -> Parts:
    """The classes behind the names of a cell."""
    host, parts = Host.discover(work.sources), work.parts
    return Parts(
        strategy=host.strategies.resolve(parts["strategy"]),
        benchmark=host.benchmarks.resolve(parts["benchmark"]),
        backbone=host.backbones.resolve(parts["backbone"]),
    )


def main(descriptor: int) -> None:
    """Answer work from the executor until it hangs up."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    connection: Connection[Any, Any] = Connection(descriptor)

    def send(kind: str, content: Any) -> None:
        try:
            connection.send_bytes(cloudpickle.dumps((kind, content)))
        except OSError:
            os._exit(1)  # the executor is gone; the checkpoint is on disk, and the lock goes with this process

    warnings.showwarning = lambda message, *_: send("warning", str(message))
    send("ready", None)
    while True:
        try:
            work: Work = cloudpickle.loads(connection.recv_bytes())
        except (EOFError, KeyboardInterrupt, OSError):
            return
        try:
            answer = run_work(work, lambda share: send("progress", share))
            send("done", answer)
        except ClarenaError as error:
            send("error", str(error))
        except KeyboardInterrupt:
            send("interrupted", None)
            return


if __name__ == "__main__":
    main(int(sys.argv[1]))
