"""A store: a plain directory of records, the truth on disk.

runs/identities.jsonl                                      earlier code that is proven to be later code: `aliases`
runs/<track>/track.json
            /data.json      what the data were when they were read: for people, no part of any identity
runs/<track>/<strategy>-seed<seed>-<cell>/record.json      written last, in one move: what exists is complete
                                         /predictions.npz
                                         /checkpoint.pt    while the run is under way
"""

import errno
import hashlib
import io
import json
import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout
from pydantic import ValidationError

from clarena.errors import StoreError
from clarena.protocol.protocol import Track
from clarena.record.aliases import Aliases, read_aliases
from clarena.record.record import SCHEMA_VERSION, Cell, Predictions, Record, curve_metrics

RECORD, PREDICTIONS, CHECKPOINT = "record.json", "predictions.npz", "checkpoint.pt"
REPORT = "data.json"


@dataclass(frozen=True)
class Damaged:
    """A record that cannot be read, and why."""

    path: Path
    reason: str


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
        """Where a cell's files are."""
        name = re.sub(r"[^A-Za-z0-9._+-]+", "_", cell.strategy.name)
        return self.path / cell.track.digest[:12] / f"{name}-seed{cell.seed}-{cell.id[:12]}"

    def find(self, cell: Cell) -> Record | None:
        """The record of a cell, or of earlier code that is proven to be the same; None where it was not run yet.

        Raises:
            StoreError: the record or the table of proofs is damaged.
        """
        path = self.folder(cell) / RECORD
        if os.path.exists(path):  # unlike Path.exists, never raises
            return read_record(path)
        for old in self.aliases().earlier(cell):
            if os.path.exists(path := self.folder(old) / RECORD):
                return read_record(path)
        return None

    def aliases(self) -> Aliases:
        """Which earlier code is proven to be later code; raises `StoreError` where that cannot be read."""
        return read_aliases(self.path)

    def holds(self, cell: Cell) -> bool:
        """Whether the record of a cell lies in its folder now, readable or not."""
        return os.path.exists(self.folder(cell) / RECORD)

    def records(self) -> tuple[list[Record], list[Damaged]]:
        """All records, oldest first, and those that cannot be read."""
        records, damaged = [], []
        for path in sorted(self.path.glob(f"*/*/{RECORD}")):
            try:
                records.append(read_record(path))
            except StoreError as error:
                damaged.append(Damaged(path, str(error)))
        return sorted(records, key=lambda record: (record.started, record.cell_id)), damaged

    def write(self, record: Record, predictions: Predictions | None) -> Record:
        """Write a record with its predictions, in one move each; returns it as written."""
        folder = self.folder(record.cell)
        if predictions is not None:
            content = _npz(predictions)
            record = record.model_copy(update={"predictions": hashlib.sha256(content).hexdigest()})
            write_atomic(folder / PREDICTIONS, content)
        track = folder.parent / "track.json"
        if not track.exists():
            write_atomic(track, record.cell.track.model_dump_json(indent=2).encode())
        write_atomic(folder / RECORD, record.model_dump_json(indent=1).encode())
        return record

    def keep_report(self, track: Track, report: Mapping[str, Any]) -> None:
        """Write what is known of a track's data beside its records."""
        content = json.dumps(report, indent=1, ensure_ascii=False, allow_nan=False).encode()
        write_atomic(self.path / track.digest[:12] / REPORT, content)

    def predictions(self, record: Record) -> Predictions:
        """The predictions of a record; raises `StoreError` where they are absent or altered."""
        return read_predictions(self.folder(record.cell) / PREDICTIONS, record)

    @contextmanager
    def locked(self, cell: Cell) -> Iterator[bool]:
        """Hold a cell while it runs; False where another process holds it. The system lets go of a killed one's."""
        folder = self.folder(cell)
        _mkdir(folder)
        lock = FileLock(folder / ".lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            yield False
            return
        except OSError as error:
            raise StoreError(f"Cannot lock {folder}: {error.strerror}. Choose another store with --store.") from error
        try:
            for name in (RECORD, PREDICTIONS, CHECKPOINT):
                for left in folder.glob(f".{name}.*.tmp"):  # by a process that was killed while it wrote
                    left.unlink(missing_ok=True)
            yield True
        finally:
            lock.release()


def read_record(path: Path) -> Record:
    """Read one record; raises `StoreError` with what is wrong and what to do."""
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise StoreError(
            f"The record {path} cannot be read ({error}). Move its folder away to run the cell again."
        ) from error
    version = content.get("schema_version") if isinstance(content, dict) else None
    if isinstance(version, int) and version > SCHEMA_VERSION:
        raise StoreError(
            f"The record {path} has schema {version}; this CLArena reads up to {SCHEMA_VERSION}. Upgrade it."
        )
    try:
        record = Record.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise StoreError(
            f"The record {path} is not valid ({where}: {first['msg']}). Move its folder away to run the cell again."
        ) from error
    if (record.cell_id, record.track_digest) != (record.cell.id, record.cell.track.digest):
        raise StoreError(f"The record {path} was altered: its cell does not match its digest. Move its folder away.")
    if not record.curve:
        return record
    try:
        found = curve_metrics(record.matrix, record.curve)  # which older records do not hold
    except ValueError as error:
        raise StoreError(f"The record {path} is not valid (curve: {error}). Move its folder away.") from error
    return record.model_copy(update={"metrics": record.metrics | found})


def read_predictions(path: Path, record: Record) -> Predictions:
    """Read the predictions of a record; raises `StoreError` where they are absent, altered, or no such arrays."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise StoreError(f"The predictions {path} cannot be read: {error.strerror}.") from error
    if hashlib.sha256(content).hexdigest() != record.predictions:
        raise StoreError(f"The predictions {path} are not those of their record: the SHA-256 differs.")
    try:
        with np.load(io.BytesIO(content)) as arrays:
            held = {name: arrays[name].astype(np.int64) for name in ("predicted", "labels", "experience")}
            if "log_probability" in arrays:
                held["log_probability"] = arrays["log_probability"].astype(np.float32)
                held["text_bytes"] = arrays["text_bytes"].astype(np.int64)
            return Predictions(**held)
    except Exception as error:  # what others wrote may break zip, zlib and numpy in any way
        raise StoreError(f"The predictions {path} cannot be read ({type(error).__name__}: {error}).") from error


def write_atomic(path: Path, content: bytes) -> None:
    """Write a file in one move: a reader sees the old content or the new, never a part.

    Raises:
        StoreError: when the disk is full or the folder cannot be written; the old content stays.
    """
    _mkdir(path.parent)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        _sync(path.parent)
    except BaseException as error:  # an interrupt leaves nothing behind either
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise StoreError(f"Cannot write {path}: {error.strerror}. What was finished before is safe.") from error
        raise


def _mkdir(folder: Path) -> None:
    try:
        made = [each for each in (folder, *folder.parents) if not os.path.exists(each)]
        folder.mkdir(parents=True, exist_ok=True)
        for each in reversed(made):
            _sync(each.parent)
    except OSError as error:
        raise StoreError(f"Cannot create {folder}: {error.strerror}. Choose another store with --store.") from error


def _sync(folder: Path) -> None:
    """Have the disk keep the entries of a folder, without which the files in it are lost when the power fails."""
    if os.name != "posix":  # elsewhere a folder cannot be opened
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some file systems of the network keep none
            raise
    finally:
        os.close(descriptor)


def _npz(predictions: Predictions) -> bytes:
    """Compressed arrays in the smallest integer type that holds them; the same input gives the same bytes."""
    labels = max(int(predictions.labels.max(initial=0)), int(predictions.predicted.max(initial=0)))
    kind = np.int8 if labels < 128 else np.int16 if labels < 2**15 else np.int32
    arrays: dict[str, Any] = {
        "predicted": predictions.predicted.astype(kind),
        "labels": predictions.labels.astype(kind),
        "experience": predictions.experience.astype(np.int16),
    }
    if predictions.log_probability is not None and predictions.text_bytes is not None:
        arrays["log_probability"] = predictions.log_probability
        arrays["text_bytes"] = predictions.text_bytes.astype(np.int32)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()
