"""A store: a plain directory of records, the truth on disk.

runs/identities.jsonl                                      earlier code that is proven to be later code: `aliases`
runs/<track>/track.json
            /data.json      what the data were when they were read: for people, no part of any identity
runs/<track>/<strategy>-seed<seed>-<cell>/record.json      written last, in one move: what exists is complete
                                         /predictions.npz
                                         /model.pt         the trained model, where it was asked to be kept
                                         /checkpoint.pt    while the run is under way
runs/<track>/<strategy>-<row>.zip                          rows that were packed: see `clarena.record.archive`
runs/ledger.jsonl                                          the archives and their SHA-256: see `clarena.record.packing`

Folders and archives are read alike. Where both hold a cell, its folder counts.
"""

import hashlib
import json
import os
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from clarena.errors import StoreError
from clarena.protocol.protocol import Track
from clarena.record.aliases import Aliases, read_aliases
from clarena.record.archive import Archive, Run, as_written, bytes_of_predictions
from clarena.record.ledger import LEDGER, entered
from clarena.record.predictions import Predictions, npz
from clarena.record.reader import REMEDY, parse, read_file, read_predictions, record_of, sealed
from clarena.record.recomputation import Checked, check
from clarena.record.record import Cell, Record
from clarena.record.writing import make_folder, write_atomic

RECORD, PREDICTIONS, MODEL, CHECKPOINT = "record.json", "predictions.npz", "model.pt", "checkpoint.pt"
REPORT = "data.json"


@dataclass(frozen=True)
class Damaged:
    """A record that cannot be read, or believed, and why."""

    path: Path
    reason: str


@dataclass(frozen=True)
class Place:
    """Where a store has a record.

    Attributes:
        address: of the cell, within any store: `<track>/<strategy>-seed<seed>-<cell>`.
        path: of the file that holds it.
        stamp: changes with the files.
        read: the record, checked and recomputed; raises `StoreError` where it cannot be read.
    """

    address: str
    path: Path
    stamp: str
    read: Callable[[], Checked]


class Store:
    """Where records live; any number of processes may use one at once."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def __repr__(self) -> str:
        return f"Store({str(self.path)!r})"

    def prepare(self) -> None:
        """Create the directory; raises `StoreError` where nothing can be written."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.path):
                pass
        except OSError as error:
            raise StoreError(
                f"Cannot write to the store {self.path}: {error.strerror}. Choose another with --store."
            ) from error

    def folder(self, cell: Cell) -> Path:
        """Where a cell's files are, or would be."""
        return self.path / _address(cell.track.digest, cell.strategy.name, cell.seed, cell.id)

    # ---- Reading ----

    def find(self, cell: Cell) -> Record | None:
        """The record of a cell, or of earlier code that is proven to be the same; None where it was not run yet.

        Raises:
            StoreError: it is damaged, or says something else than its predictions; or the table of proofs is damaged.
        """
        for each in (cell, *self.aliases().earlier(cell)):
            if found := self._found(each):
                return found
        return None

    def _found(self, cell: Cell) -> Record | None:
        """The record of just this cell."""
        folder = self.folder(cell)
        if os.path.lexists(folder / RECORD):
            return believed(folder / RECORD, read_folder(folder))
        for path in sorted(folder.parent.parent.glob(f"*-{cell.track.digest[:8]}/*-{cell.row[:8]}.zip")):
            for place in self._in_archive(path):
                if place.address == f"{folder.parent.name}/{folder.name}":
                    return believed(path, place.read())
        return None

    def aliases(self) -> Aliases:
        """Which earlier code is proven to be later code; raises `StoreError` where that cannot be read."""
        return read_aliases(self.path)

    def holds(self, cell: Cell) -> bool:
        """Whether the record of a cell lies in its folder now, readable or not."""
        return os.path.exists(self.folder(cell) / RECORD)

    def records(self) -> tuple[list[Record], list[Damaged]]:
        """All records, oldest first, and those that cannot be read or believed."""
        held, damaged = self.read()
        return [each.record for each in held], damaged

    def read(self) -> tuple[list[Checked], list[Damaged]]:
        """The same, each record with what vouches for it."""
        places, damaged = self.places()
        held = []
        for place in places:
            try:
                found = place.read()
                believed(place.path, found)
                held.append(found)
            except StoreError as error:
                damaged.append(Damaged(place.path, str(error)))
        return sorted(held, key=lambda each: (each.record.started, each.record.cell_id)), damaged

    def places(self) -> tuple[list[Place], list[Damaged]]:
        """Where records are, each cell once, and what cannot even be looked into; nothing is read but archives."""
        places: dict[str, Place] = {}
        self._archived.clear()
        try:
            listed, problems = entered(self.path)
        except StoreError as error:
            listed, problems = {}, [str(error)]
        damaged = [Damaged(self.path / LEDGER, problem) for problem in problems]
        entries = _two_deep(self.path, damaged)
        for path in (entry for entry in entries if entry.suffix == ".zip"):
            try:
                places |= {place.address: place for place in self._in_archive(path, listed)}
            except StoreError as error:
                damaged.append(Damaged(path, str(error)))
        for missing in sorted({self.path / name for name in listed} - set(entries)):
            said = f"The archive {missing} is missing: the ledger {LEDGER} lists it. Take a whole copy."
            damaged.append(Damaged(missing, said))
        for path in entries:
            try:
                if _is_there(path / RECORD):
                    place = self._in_folder(path)
                    places[place.address] = place
            except OSError as error:
                said = f"The folder {path} cannot be looked into: {error.strerror}. Mend its permissions, or remove it."
                damaged.append(Damaged(path, said))
        return [places[address] for address in sorted(places)], damaged

    def _in_folder(self, folder: Path) -> Place:
        state = stamp(folder / RECORD) + stamp(folder / PREDICTIONS)
        return Place(folder.relative_to(self.path).as_posix(), folder / RECORD, state, lambda: read_folder(folder))

    def _in_archive(self, path: Path, listed: Mapping[str, str] = {}) -> Iterator[Place]:
        """The records of an archive; raises `StoreError` where it is not whole, or not the one in the ledger."""
        archive = Archive(path)
        known = listed.get(path.relative_to(self.path).as_posix(), "") if listed else archive.sha256
        if archive.sha256 != known:
            said = f"its SHA-256 there is {known[:12]}…, not {archive.sha256[:12]}…" if known else "it is not in there"
            raise StoreError(
                f"The archive {path} is not the one of the ledger {LEDGER}: {said}. Take a whole copy of both; "
                "clarena store pack enters what it makes."
            )
        for number, line in enumerate(archive.lines):
            content = line["record"]
            address = _address(
                str(content["track_digest"]),
                str(content["cell"]["strategy"]["name"]),
                content["cell"]["seed"],
                str(content["cell_id"]),
            )
            self._archived[address] = (archive, number)

            def read(number: int = number) -> Checked:
                record, run = archive.record(number)
                return check(record, run.predictions, archive.lines[number]["sha256"], [], True)

            yield Place(address, path, f"{archive.sha256} {number}", read)

    @cached_property
    def _archived(self) -> dict[str, tuple[Archive, int]]:
        """Archive and line by address, of what was looked at."""
        return {}

    def _packed(self, address: str) -> tuple[Archive, int] | None:
        """Archive and line of a cell that has no folder."""
        if os.path.lexists(self.path / address / RECORD):
            return None
        if address not in self._archived:
            self.places()
        return self._archived.get(address)

    def _address(self, cell: Cell) -> str:
        return self.folder(cell).relative_to(self.path).as_posix()

    def home(self, cell: Cell) -> Path:
        """The folder or the archive that holds a cell."""
        packed = self._packed(self._address(cell))
        return packed[0].path if packed else self.folder(cell)

    def at(self, address: str) -> Run:
        """What is held at an address, as it was written; raises `StoreError` where it cannot be read."""
        packed = self._packed(address)
        return packed[0].run(packed[1]) if packed else run_in(self.path / address)

    def files(self, cell: Cell) -> tuple[bytes, bytes | None]:
        """A cell's record and array file, byte by byte as they were written; raises `StoreError`.

        Out of an archive there is no array file where this machine's zlib is not the one that wrote it.
        """
        if packed := self._packed(self._address(cell)):
            run = packed[0].run(packed[1])
            return as_written(run.content), bytes_of_predictions(run)
        path = self.folder(cell) / PREDICTIONS
        return read_file(path.with_name(RECORD)), read_file(path) if path.exists() else None

    def predictions(self, record: Record) -> Predictions:
        """The predictions of a record; raises `StoreError` where they are absent or altered."""
        if packed := self._packed(self._address(record.cell)):
            found = packed[0].run(packed[1]).predictions
            if found is None:
                raise StoreError(f"The archive {packed[0].path} holds no predictions of {record.cell.label}.")
            return found
        return read_predictions(self.folder(record.cell) / PREDICTIONS, record)

    # ---- Writing ----

    def write(self, record: Record, predictions: Predictions | None) -> Record:
        """Write a record with its predictions, in one move each; returns it as written."""
        folder = self.folder(record.cell)
        if predictions is not None:
            content = npz(predictions)
            record = record.model_copy(update={"predictions": hashlib.sha256(content).hexdigest()})
            write_atomic(folder / PREDICTIONS, content)
        record = sealed(record)
        track = folder.parent / "track.json"
        if not track.exists():
            write_atomic(track, record.cell.track.model_dump_json(indent=2).encode())
        write_atomic(folder / RECORD, record.model_dump_json(indent=1).encode())
        return record

    def keep_report(self, track: Track, report: Mapping[str, Any]) -> None:
        """Write what is known of a track's data beside its records."""
        content = json.dumps(report, indent=1, ensure_ascii=False, allow_nan=False).encode()
        write_atomic(self.path / track.digest[:12] / REPORT, content)

    def set_aside(self, cell: Cell) -> Path:
        """Rename a cell's record and predictions, so that it can be run again; returns where the record is kept."""
        folder = self.folder(cell)
        number = 1
        while os.path.lexists(folder / f"record.damaged-{number}.json"):
            number += 1
        kept = folder / f"record.damaged-{number}.json"
        try:
            if os.path.lexists(folder / PREDICTIONS):
                os.replace(folder / PREDICTIONS, folder / f"predictions.damaged-{number}.npz")
            if os.path.lexists(folder / RECORD):
                os.replace(folder / RECORD, kept)
        except OSError as error:
            raise StoreError(f"Cannot rename {folder / RECORD}: {error.strerror}.") from error
        return kept

    @contextmanager
    def locked(self, cell: Cell) -> Iterator[bool]:
        """Hold a cell while it runs; False where another process holds it. The system lets go of a killed one's."""
        folder = self.folder(cell)
        make_folder(folder)
        lock = FileLock(folder / ".lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            yield False
            return
        except OSError as error:
            raise StoreError(f"Cannot lock {folder}: {error.strerror}. Choose another store with --store.") from error
        try:
            for name in (RECORD, PREDICTIONS, MODEL, CHECKPOINT):
                for left in folder.glob(f".{name}.*.tmp"):  # by a process that was killed while it wrote
                    left.unlink(missing_ok=True)
            yield True
        finally:
            lock.release()


def read_folder(folder: Path) -> Checked:
    """The record of a cell's folder, checked and recomputed; raises `StoreError` where it cannot be read."""
    path = folder / RECORD
    content = read_file(path)
    record = record_of(parse(content, f"The record {path}"), f"The record {path}")
    predictions, flaws = None, []
    if os.path.lexists(folder / PREDICTIONS):
        try:
            predictions = read_predictions(folder / PREDICTIONS, record)
        except StoreError:
            flaws = ["its predictions are not those that its record was written with"]
    return check(record, predictions, hashlib.sha256(content).hexdigest(), flaws, record.sha256 is not None)


def run_in(folder: Path) -> Run:
    """A run as a cell's folder has it; raises `StoreError` where its record or its predictions cannot be read."""
    what = f"The record {folder / RECORD}"
    content = parse(read_file(folder / RECORD), what)
    path = folder / PREDICTIONS
    return Run(content, read_predictions(path, record_of(content, what)) if os.path.lexists(path) else None)


def _address(track: str, strategy: str, seed: int, cell: str) -> str:
    """What a cell is called within a store."""
    return f"{track[:12]}/{sanitised(strategy)}-seed{seed}-{cell[:12]}"


def sanitised(strategy: str) -> str:
    """The name of a strategy as a folder has it."""
    return re.sub(r"[^A-Za-z0-9._+-]+", "_", strategy)


def believed(path: Path, found: Checked) -> Record:
    """The record of what was read; raises `StoreError` where it is not what its predictions say."""
    if found.flaws:
        raise StoreError(f"The record {path} cannot be believed: {'; '.join(found.flaws)}. {REMEDY}")
    return found.record


def _two_deep(root: Path, damaged: list[Damaged]) -> list[Path]:
    """What lies in the folders of a folder, in order; what cannot be listed is said."""
    found: list[Path] = []
    try:
        folders = [Path(entry.path) for entry in os.scandir(root)]
    except OSError as error:
        damaged.append(Damaged(root, f"The store {root} cannot be listed: {error.strerror}."))
        return []
    for folder in folders:
        try:
            found += [Path(entry.path) for entry in os.scandir(folder)]
        except NotADirectoryError:
            continue
        except OSError as error:
            said = f"The folder {folder} cannot be listed: {error.strerror}. Mend its permissions, or remove it."
            damaged.append(Damaged(folder, said))
    return sorted(found)


def _is_there(path: Path) -> bool:
    """Whether there is anything of this name; raises OSError where nobody can know."""
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def stamp(path: Path) -> str:
    """What changes when a file does."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return "- "
    return f"{status.st_size}:{status.st_mtime_ns} "
