"""Records on their way to MLflow, on a thread of their own: what it does not take now is tried again later."""

from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass
from threading import Condition, Thread
from time import process_time

from clarena.record.record import Record
from clarena.record.store import Damaged, Store
from clarena.tracking.tracker import Outcome, Tracker, TrackingFailure
from clarena.tracking.uri import public

PAUSES = (1, 2, 4, 8, 15, 30, 60)
"""Seconds before MLflow is tried again after so many failures in a row; the last stays."""

EXIT_SECONDS = 30
"""So long `close` waits while nothing gets done; an MLflow that takes records is waited for."""

LEAST_WORK = 0.1
"""Seconds of the processor that say that something gets done: on a busy machine MLflow's import takes that long."""


@dataclass(frozen=True)
class SyncReport:
    """What `sync` did: how many records it logged, how many MLflow already had, and what went wrong."""

    logged: int
    already: int
    failed: list[TrackingFailure]
    damaged: list[Damaged]


def sync(store: Store, uri: str | None = None) -> SyncReport:
    """Log every record of a store that MLflow misses, or holds in part or in an older version."""
    tracker = BackgroundTracker(store, uri)
    records, damaged = store.records()
    tracker.submit(*records)
    failures = tracker.close()
    return SyncReport(tracker.outcomes["logged"], tracker.outcomes["already"], failures, damaged)


class BackgroundTracker:
    """A `Tracker` on its own thread, so that no run waits for MLflow; it starts with the first record.

    A record that is not taken goes to the end of the queue, and the next is tried after a pause, which grows from
    failure to failure: a server that is away for a minute or an hour costs nothing but time.

    Attributes:
        outcomes: how many records were `logged`, and how many were there `already`.
    """

    def __init__(self, store: Store, uri: str | None = None, pauses: Sequence[float] = PAUSES) -> None:
        self.outcomes: Counter[Outcome] = Counter()
        self._tracker = Tracker(store, uri)
        self._pauses = pauses
        self._waiting: deque[Record] = deque()
        self._given_up: list[TrackingFailure] = []
        self._closing = False
        self._changed = Condition()
        # A daemon: whoever leaves without `close` is not held up; `sync` makes anew what is cut short.
        self._thread = Thread(target=self._work, name="clarena-tracking", daemon=True)

    @property
    def waiting(self) -> int:
        """How many records are still to be logged."""
        return len(self._waiting)

    def submit(self, *records: Record) -> None:
        """Have records of the store logged; returns at once."""
        with self._changed:
            self._waiting.extend(records)
            self._changed.notify_all()
        if records and self._thread.ident is None:
            self._thread.start()

    def close(self, *, patient: bool = True) -> list[TrackingFailure]:
        """Wait until all is logged, as long as MLflow takes records; the failures.

        No pause is waited for, and an MLflow that does not answer now is not tried again. One that neither answers nor
        fails is left after `EXIT_SECONDS`; without `patient` that is the longest wait of all.
        """
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        while self._thread.is_alive():
            steps, work = self._tracker.steps, process_time()
            self._thread.join(EXIT_SECONDS)
            if not patient or (self._tracker.steps == steps and process_time() - work < LEAST_WORK):
                break
        with self._changed:
            return self._given_up + [self._failure(record) for record in self._waiting]

    def _failure(self, record: Record) -> TrackingFailure:
        """Why a record was not logged; one that was never tried waited for others in vain."""
        state = "takes too long" if self._thread.is_alive() else "is out of reach"
        untried = TrackingFailure(record.cell.label, f"not tried: {public(self._tracker.uri)} {state}")
        return self._tracker.failed.get(record.cell.id, untried)

    def _work(self) -> None:
        failures = 0
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closing)
                if not self._waiting:
                    return
                record = self._waiting[0]  # it stays there until it is dealt with, for `close` to see
            outcome = self._tracker.log(record)
            with self._changed:
                if outcome != "failed":
                    self._waiting.popleft()
                    self.outcomes[outcome] += 1
                    failures = 0
                elif not self._closing:
                    self._waiting.rotate(-1)
                    pause = self._pauses[min(failures, len(self._pauses) - 1)]
                    failures += 1
                    self._changed.wait_for(lambda: self._closing, pause)
                elif self._tracker.answers:  # the trouble is with this record
                    self._waiting.popleft()
                    self._given_up.append(self._failure(record))
                else:
                    return
