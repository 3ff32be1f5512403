"""Where runs come from: a store directory, or MLflow. Both give the same runs, by the same door."""

import os
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from clarena.errors import StoreError, UsageError
from clarena.record import archive, store
from clarena.record.aliases import Aliases
from clarena.record.predictions import Predictions
from clarena.record.reader import record_of
from clarena.record.record import Record
from clarena.record.store import PREDICTIONS, RECORD, Store, read_folder, run_in, stamp
from clarena.tracking.reader import LoggedCell, fetch, logged_cells
from clarena.tracking.uri import database_file, public, resolve_uri
from clarena_leaderboard.cache import Cache
from clarena_leaderboard.collect import Found, condense, followed
from clarena_leaderboard.contents import Run

MLFLOW = "mlflow:"
"""What the origin of a run begins with that is in MLflow."""

Place = tuple[str, str, Callable[[], Found]]
"""Where a run is, a stamp that changes with it, and how to read it."""


@dataclass(frozen=True)
class Collection:
    """What a source holds: its runs, oldest first, and what could not be read, one sentence each."""

    found: tuple[Found, ...]
    problems: tuple[str, ...]


class RunSource(Protocol):
    """What a board is built from."""

    @property
    def name(self) -> str:
        """What a reader is told of it: no folder of this machine, no password."""

    def collect(self, cache: Path | None = None) -> Collection:
        """All its runs; those that were read before are taken from the cache file, which is rewritten.

        Raises:
            ClarenaError: where the source is out of reach, or goes away meanwhile. What was read stays in the cache.
        """

    def load(self, run: Run) -> tuple[Record, Predictions | None]:
        """All that is known of one run of `collect`: its record, and its predictions where it has any.

        Raises:
            StoreError: where they are gone by now, or not what they were.
        """


def open_source(store: Path, tracking_uri: str | None = None) -> RunSource:
    """MLflow where a URI is given, else the store; raises `UsageError` where there is none."""
    return MlflowSource(tracking_uri) if tracking_uri else StoreSource(store)


class StoreSource:
    """A store directory, its archives among it; the origin of a run is its address in it.

    Args:
        aliases: which codes are proven to be one; those that the store itself holds where none are given.

    Raises:
        UsageError: there is no such store.
        StoreError: its table of aliases cannot be read.
    """

    def __init__(self, path: Path, aliases: Aliases | None = None) -> None:
        if not path.is_dir():
            raise UsageError(
                f"There is no store at {path}. Name one with --store, or MLflow's address with --tracking-uri."
            )
        self._path = path
        self._store = Store(path)
        self._aliases = self._store.aliases() if aliases is None else aliases

    @property
    def name(self) -> str:
        return f"store {self._path.resolve().name}"

    def collect(self, cache: Path | None = None) -> Collection:
        places, damaged = self._store.places()
        known = _gather(map(self._place, places), cache)
        if not self._path.is_dir():
            raise StoreError(f"The store {self._path} went away while it was read.")
        found = tuple(followed(each, self._aliases) for each in known.found)
        return Collection(found, tuple(sorted((*known.problems, *(self._said(each.reason) for each in damaged)))))

    def _place(self, place: store.Place) -> Place:
        return place.address, place.stamp, lambda: self._read(place)

    def _read(self, place: store.Place) -> Found:
        try:
            return condense(place.read(), place.address)
        except StoreError as error:
            raise StoreError(self._said(str(error))) from error

    def _said(self, message: str) -> str:
        """A message without where this machine has the store."""
        return message.replace(f"{self._path}{os.sep}", "")

    def load(self, run: Run) -> tuple[Record, Predictions | None]:
        return _whole(self._store.at(run.origin), run)


class MlflowSource:
    """An MLflow database or server; the origin of a run is `mlflow:<run id>`."""

    def __init__(self, uri: str | None = None) -> None:
        self._uri = resolve_uri(uri)
        self._cells: dict[str, LoggedCell] = {}

    @property
    def name(self) -> str:
        database = database_file(self._uri)
        return f"MLflow {database.name if database else public(self._uri)}"

    def collect(self, cache: Path | None = None) -> Collection:
        self._cells = {MLFLOW + cell.run_id: cell for cell in logged_cells(self._uri)}
        return _gather(map(self._place, self._cells), cache)

    def _place(self, origin: str) -> Place:
        cell = self._cells[origin]
        files = _stamp(cell.folder) if cell.folder else ""
        return origin, f"{cell.sha256} {sorted(cell.metrics.items())} {files}", lambda: self._read(origin)

    def load(self, run: Run) -> tuple[Record, Predictions | None]:
        if not self._cells:
            self._cells = {MLFLOW + cell.run_id: cell for cell in logged_cells(self._uri)}
        if run.origin not in self._cells:
            raise StoreError(f"MLflow has no run {run.origin.removeprefix(MLFLOW)} any more. Build the board anew.")
        with tempfile.TemporaryDirectory() as folder:
            return _whole(run_in(fetch(self._uri, self._cells[run.origin], Path(folder))), run)

    def _read(self, origin: str) -> Found:
        cell = self._cells[origin]
        if cell.sha256 is None:
            raise StoreError(f"The run {cell.run_id} of MLflow was cut short while it was logged: clarena sync.")
        with tempfile.TemporaryDirectory() as temporary:
            folder = fetch(self._uri, cell, Path(temporary))
            if not (folder / RECORD).is_file():
                raise StoreError(f"The run {cell.run_id} of MLflow has no {RECORD}.")
            try:
                found = condense(read_folder(folder), origin, cell.metrics)
            except StoreError as error:
                raise StoreError(str(error).replace(str(folder), f"run {cell.run_id} of MLflow:")) from error
        if found.run.content != cell.sha256:
            raise StoreError(f"The record of run {cell.run_id} of MLflow is not the one that was logged.")
        return found


def _gather(places: Iterable[Place], cache_file: Path | None) -> Collection:
    """Read what the cache does not know; what cannot be read is noted, and whatever else is raised goes on."""
    cache, found, problems, ended = Cache(cache_file), [], [], False
    try:
        for key, stamp, read in places:
            try:
                one = cache.get(key, stamp) or read()
            except StoreError as error:
                problems.append(str(error))
                continue
            cache.put(key, stamp, one)
            found.append(one)
        ended = True
    finally:
        cache.save(forget=ended)
    found.sort(key=lambda each: (each.run.started, each.run.cell, each.run.origin))
    return Collection(tuple(found), tuple(sorted(problems)))


def _stamp(folder: Path) -> str:
    """What changes when the files of a run do."""
    return stamp(folder / RECORD) + stamp(folder / PREDICTIONS)


def _whole(loaded: archive.Run, run: Run) -> tuple[Record, Predictions | None]:
    """Record and predictions of a run; raises `StoreError` where they are another's by now."""
    record = record_of(loaded.content, f"The record of {run.origin}")
    if record.cell_id != run.cell:
        raise StoreError(f"{run.origin} now holds another run than when the board was built. Build it anew.")
    return record, loaded.predictions
