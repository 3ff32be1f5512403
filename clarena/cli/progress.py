"""Live progress of an evaluation: bars in a terminal, plain lines elsewhere, both on standard error."""

import shlex
import sys
import time
from typing import TYPE_CHECKING, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

if TYPE_CHECKING:
    from clarena.record.record import Record
    from clarena.run.executors import Event
    from clarena.run.planning import Plan

LEAST_WORK = 0.5
"""Runs after which the time left is estimated: before that, starting up is most of the time."""


class Display:
    """Tells what is being run, how far it is, and about how long the rest will take."""

    def __init__(self, plan: "Plan", quiet: bool = False) -> None:
        self.total, self.quiet, self.plan = len(plan.missing), quiet, plan
        self.console = Console(stderr=True)
        self.live = self.console.is_terminal and not quiet
        self.finished = 0
        self.shares: dict[str, float] = {}
        self.tasks: dict[str, TaskID] = {}
        self.bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.percentage:>3.0f} %"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[note]}"),
            console=self.console,
            transient=True,
        )

    def __enter__(self) -> Self:
        self.began = time.monotonic()
        if not self.quiet:
            done = f", {len(self.plan.done)} there already" if self.plan.done else ""
            self.console.print(
                f"[bold]{self.plan.track.label}[/bold] ({self.plan.track.digest[:12]}): {self.total} runs{done}",
                highlight=False,
            )
        if self.live and self.total:
            self.bars.start()
            self.overall = self.bars.add_task("all runs", total=self.total, note="")
        return self

    def __exit__(self, *_: object) -> None:
        if self.live and self.total:
            self.bars.stop()

    def listen(self, event: "Event") -> None:
        """Show one event."""
        label, key = event.work.cell.label, event.work.cell.id
        if event.kind == "progress":
            self.shares[key] = event.share
        elif event.kind in ("done", "error"):
            self.finished += 1
            self.shares.pop(key, None)
            self._say(self._line(label, event))
        elif event.kind == "warning":
            self._say(f"{label}: {event.message}")
        elif event.kind == "logging":
            return self._say(event.message)
        elif event.kind == "waiting":
            self._say(f"{label}: another process is running it; waiting for its record")
        if self.live:
            self._draw(event, key, label)

    def interrupted(self) -> None:
        """Say how to go on."""
        command = shlex.join(sys.argv[1:])
        retry = "" if "--retry" in sys.argv else " --retry"
        self.console.print("\nStopped. What was finished is safe. Go on with:", highlight=False)
        self.console.print(f"  clarena {command}{retry}", highlight=False, markup=False, soft_wrap=True)

    def _line(self, label: str, event: "Event") -> str:
        count = f"[{self.finished}/{self.total}]"
        if event.record is None:
            return f"{count} {label}: not recorded: {event.message}"
        return f"{count} {label}: {outcome(event.record)}{self._left()}"

    def _left(self) -> str:
        """An estimate of the time left, from the work done so far."""
        work = self.finished + sum(self.shares.values())
        remaining = self.total - work
        if remaining <= 0 or work < LEAST_WORK:
            return ""
        seconds = (time.monotonic() - self.began) / work * remaining
        return f", about {duration(seconds)} left"

    def _say(self, line: str) -> None:
        if not self.quiet:
            self.console.print(line, markup=False, highlight=False, soft_wrap=True)

    def _draw(self, event: "Event", key: str, label: str) -> None:
        if event.kind == "started":
            self.tasks[key] = self.bars.add_task(f"  {label}", total=1.0, note="")
        elif event.kind == "progress" and key in self.tasks:
            self.bars.update(self.tasks[key], completed=event.share)
        elif event.kind in ("done", "error", "waiting") and key in self.tasks:
            self.bars.remove_task(self.tasks.pop(key))
        completed = self.finished + sum(self.shares.values())
        self.bars.update(self.overall, completed=completed, note=self._left().lstrip(", "))


def outcome(record: "Record") -> str:
    """One run in a few words."""
    if record.status != "finished":
        return f"{record.status.replace('_', ' ')}: {record.reason}"
    return f"{record.result} in {duration((record.ended - record.started).total_seconds())}"


def duration(seconds: float) -> str:
    """Seconds as a person says them."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
