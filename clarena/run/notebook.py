"""Progress in a notebook: one display that is brought up to date while the runs proceed."""

import sys
import time
from html import escape
from typing import Any

from clarena.run.executors import Event, Listener
from clarena.run.planning import Plan

SECONDS = 0.2
"""Between two updates of what is under way; what ends a run is shown at once."""
MOST_LINES = 8


def notebook_listener(plan: Plan) -> Listener | None:
    """A listener that shows the progress of a plan, where this process is a notebook's kernel; else None.

    IPython is never imported for it: a kernel has.
    """
    IPython: Any = sys.modules.get("IPython")
    shell = IPython.get_ipython() if IPython else None
    if not plan.missing or not hasattr(shell, "kernel"):
        return None
    return _Display(plan, IPython.display).listen


class _Display:
    def __init__(self, plan: Plan, display: Any) -> None:
        self.html, self.plan, self.total = display.HTML, plan, len(plan.missing)
        self.lines: list[str] = []
        self.shares: dict[str, float] = {}
        self.finished, self.due = 0, 0.0
        self.handle = display.display(self.html(self.page()), display_id=True)

    def listen(self, event: Event) -> None:
        label, key = event.work.cell.label, event.work.cell.id
        if event.kind == "progress":
            self.shares[key] = event.share
        elif event.kind in ("done", "error"):
            self.finished += 1
            self.shares.pop(key, None)
            told = event.record.outcome if event.record else f"not recorded: {event.message}"
            self.lines.append(f"{label}: {told}")
        elif event.kind == "warning":
            self.lines.append(f"{label}: {event.message}")
        elif event.kind == "waiting":
            self.lines.append(f"{label}: another process is running it; waiting for its record")
        if event.kind != "progress" or time.monotonic() >= self.due:
            self.due = time.monotonic() + SECONDS
            self.handle.update(self.html(self.page()))

    def page(self) -> str:
        """A bar, how many runs are done, and the latest of what there is to say."""
        done = f", {len(self.plan.done)} there already" if self.plan.done else ""
        share = (self.finished + sum(self.shares.values())) / self.total
        title = f"{self.plan.track.label}: {self.finished} of {self.total} runs{done}"
        lines = "".join(f"<div>{escape(line)}</div>" for line in self.lines[-MOST_LINES:])
        return f'<div>{escape(title)} <progress value="{share:.3f}" max="1"></progress></div>{lines}'
