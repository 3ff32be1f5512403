"""Limits on the time of a run: an alarm ends what Python runs, and the executor, which is told of it, ends the rest."""

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from clarena.errors import UsageError

AGAIN_SECONDS = 1.0
"""An alarm that was lost (raised in a destructor, or caught by a strategy) comes again after so long."""


class TimedOut(BaseException):
    """The time is up. No `Exception`: a strategy that catches all of those goes on with something else."""


@dataclass(frozen=True)
class Limits:
    """Seconds by the clock that may pass; None is as long as it takes.

    Attributes:
        run: for a run from beginning to end; one that is resumed has as many again.
        experience: for learning one experience and the tests after it, and as many for what comes before the first.

    Raises:
        UsageError: for a number that is not above 0.
    """

    run: float | None = None
    experience: float | None = None

    def __post_init__(self) -> None:
        for name, seconds in (("timeout", self.run), ("experience_timeout", self.experience)):
            if seconds is not None and not 0 < seconds < float("inf"):
                raise UsageError(f"{name} = {seconds} is not valid: give seconds, more than 0.")

    def __bool__(self) -> bool:
        return (self.run, self.experience) != (None, None)


NO_LIMITS = Limits()

Tell = Callable[[float, str], None]
"""Told in how many seconds the time is up, and what is to be said then; 0 and nothing when that is past."""


class Deadline:
    """The time that one run has, watched by the process it runs in."""

    def __init__(self, limits: Limits, tell: Tell = lambda seconds, reason: None) -> None:
        self.limits, self.tell = limits, tell
        self._ends: float | None = None
        self._before: Any = None
        self._armed = False

    def start(self) -> None:
        """The run begins."""
        if self.limits:
            self._ends = None if self.limits.run is None else time.monotonic() + self.limits.run
            self._before, self._armed = signal.getsignal(signal.SIGALRM), True
            self.next("what comes before the first experience")

    def next(self, what: str) -> None:
        """An experience begins; `what`: how it is called."""
        if not self._armed:
            return
        due = []
        if self._ends is not None:
            due.append((self._ends - time.monotonic(), f"the run took longer than {self.limits.run:g} s"))
        if self.limits.experience is not None:
            due.append((self.limits.experience, f"{what} took longer than {self.limits.experience:g} s"))
        seconds, reason = min(due)
        self.tell(seconds, reason)
        _set_alarm(seconds, reason)

    def stop(self) -> None:
        """The run is over: what is left to do has no limit."""
        if self._armed:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, self._before)
            self._armed = False
            self.tell(0, "")


@contextmanager
def limited(seconds: float | None) -> Iterator[None]:
    """Raise `TimedOut` inside when the time is up; no limit where there is no alarm: another thread, another system."""
    if seconds is None or not hasattr(signal, "setitimer") or threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGALRM)
    _set_alarm(seconds, f"it took longer than {seconds:g} s")
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _set_alarm(seconds: float, reason: str) -> None:
    def ring(number: int, frame: Any) -> None:
        raise TimedOut(reason)

    signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, max(seconds, 1e-3), AGAIN_SECONDS)
