"""The one reader of records: what is shown was read here, and checked for form and range.

Three things vouch for a record: the digest of its cell, the SHA-256 over all of it (`seal`), and its predictions, from
which every metric is computed anew (`clarena.record.recomputation`). The SHA-256 is no signature: it finds damage and
careless edits, not a forger.
"""

import hashlib
import json
import math
import os
import re
import stat
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from pydantic import ValidationError

from clarena.errors import StoreError
from clarena.protocol.protocol import digest
from clarena.record.catalogue import ACCURACY
from clarena.record.predictions import MOST_UNFOLDED, Predictions, unpacked
from clarena.record.record import SCHEMA_VERSION, Record
from clarena.record.scoring import metrics_of, scoring

REMEDY = "clarena evaluate with --retry sets it aside and runs the cell again."
TOLERANCE = 1e-9
"""Numbers further apart than that are not the same: they are means of a few fractions, whatever the machine."""
MOST_BYTES = MOST_UNFOLDED
"""Of a record, too."""
MOST = 2**63
"""Counts are below; beyond, neither arrays nor databases hold them."""
RANGES = {"accuracy": (0.0, 1.0), "difference": (-1.0, 1.0)}
"""Of metrics of these units; others are any numbers."""


class NewerError(StoreError):
    """A record of a later CLArena: whole, and not for this one to judge."""


# ---- Form ----


def read_file(path: Path) -> bytes:
    """The content of a plain file; raises `StoreError` for whatever else is there, such as a folder or a pipe."""
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):
            raise StoreError(f"The record {path} cannot be read (it is no plain file). {REMEDY}")
        if status.st_size > MOST_BYTES:
            raise StoreError(f"The record {path} cannot be read (it has {status.st_size} bytes). {REMEDY}")
        return path.read_bytes()
    except (OSError, ValueError) as error:
        raise StoreError(f"The record {path} cannot be read ({error}). {REMEDY}") from error


def read_record(path: Path) -> Record:
    """Read one record; raises `StoreError` with what is wrong and what to do."""
    return record_of(parse(read_file(path), f"The record {path}"), f"The record {path}")


def parse(content: bytes, what: str) -> Any:
    """JSON that may have come from anywhere; raises `StoreError` for what is none."""
    try:
        return json.loads(content, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        said = "it is nested too deeply" if isinstance(error, RecursionError) else error
        raise StoreError(f"{what} cannot be read ({said}). {REMEDY}") from error


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number of JSON")


def record_of(content: Any, what: str) -> Record:
    """The record that parsed JSON amounts to.

    Args:
        what: it is, to begin a message with.

    Raises:
        NewerError: it has a later schema.
        StoreError: it is no record, it was altered, or holds what no run can have measured.
    """
    version = content.get("schema_version") if isinstance(content, dict) else None
    if isinstance(version, int) and version > SCHEMA_VERSION:
        raise NewerError(f"{what} has schema {version}; this CLArena reads up to {SCHEMA_VERSION}. Upgrade it.")
    try:
        record = Record.model_validate(content)
        cell = (record.cell.id, record.cell.track.digest)
        sealed = record.sha256 is None or record.sha256 == seal(content)
        odd = out_of_range(record)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise StoreError(f"{what} is not valid ({where}: {first['msg']}). {REMEDY}") from error
    except (ValueError, TypeError, ArithmeticError, RecursionError) as error:  # such as what no digest can hold
        said = "it is nested too deeply" if isinstance(error, RecursionError) else error
        raise StoreError(f"{what} is not valid ({said}). {REMEDY}") from error
    if (record.cell_id, record.track_digest) != cell:
        raise StoreError(f"{what} was altered: its cell does not match its digest. {REMEDY}")
    if not sealed:
        raise StoreError(f"{what} was altered: it is not what its SHA-256 was taken of. {REMEDY}")
    if odd:
        raise StoreError(f"{what} is not valid ({odd}). {REMEDY}")
    return record


def seal(content: Mapping[str, Any]) -> str:
    """SHA-256 over the canonical JSON of a record without the hash itself; ValueError for what JSON cannot say."""
    return digest({name: value for name, value in content.items() if name != "sha256"})


def sealed(record: Record) -> Record:
    """A record with the SHA-256 of all the rest of it."""
    return record.model_copy(update={"sha256": seal(json.loads(record.model_dump_json()))})


# ---- Range ----


def out_of_range(record: Record) -> str:
    """The first value that no run can have measured, or that does not fit the others, in words; empty for none."""
    return next(_odd(record), "")


def _odd(record: Record) -> Iterator[str]:
    matrices = {"accuracy_matrix": record.accuracy_matrix, "score_matrix": record.score_matrix}
    matrices |= {"bits_per_byte": record.bits_per_byte} | {f"further.{name}": m for name, m in record.further.items()}
    experiences = len(record.experiences) or max(len(record.accuracy_matrix), len(record.score_matrix), 1) - 1
    for name, matrix in matrices.items():
        if matrix and (len(matrix), {len(row) for row in matrix}) != (experiences + 1, {experiences}):
            yield f"{name}: it is not {experiences + 1} rows of {experiences}, one for each experience and one before"
        fraction = name in ("accuracy_matrix", "score_matrix")
        for row in matrix:
            yield from _outside(name, row, -math.inf if "." in name else 0.0, 1.0 if fraction else math.inf)
    yield from _odd_target(record)
    if record.chance and len(record.chance) != experiences:
        yield f"chance: it is of {len(record.chance)} experiences, of {experiences}"
    yield from _outside("chance", record.chance, 0.0, 1.0)
    for cost in record.costs:
        for name, value in cost:
            if name == "mean_loss":
                yield from _outside("costs.mean_loss", [value], -math.inf, math.inf)
            elif not 0 <= value < MOST:
                yield f"costs.{name}: {value:.6g} is not within 0 and 2**63"
    positions = [cost.position for cost in record.costs]
    every = list(range(1, experiences + 1))
    if record.status == "finished" and experiences and positions not in (every, every[-1:]):  # joint has the last only
        yield f"costs: they are of the experiences {positions}, of {experiences}"
    elif sorted(set(positions)) != positions or (experiences and not set(positions) <= set(every)):
        yield f"costs: experiences {positions} are out of order"
    for point in record.curve:
        yield from _outside("curve.accuracy", point.accuracy, 0.0, 1.0)
        if len(point.accuracy) != experiences or not 1 <= point.position <= experiences or not 0 <= point.step < MOST:
            yield f"curve: a point at step {point.step} of experience {point.position} fits no experience"
    for name, values in record.probes.items():
        yield from _outside(f"probes.{name}", values, -math.inf, math.inf)
        if len(values) > experiences + 1 or (record.status == "finished" and len(values) != experiences + 1):
            yield f"probes.{name}: it is {len(values)} numbers, of {experiences} experiences and one before"
    for each in record.experiences:
        for count in (each.train_samples, each.test_samples, each.from_others, each.noisy_labels, *each.class_samples):
            if not 0 <= count < MOST:
                yield f"experiences: {count} is no number of samples"
    counts = record.confusion_matrix
    classes = len(record.output_names)
    if counts and (len(counts), {len(row) for row in counts}) != (classes, {classes}):
        yield f"confusion_matrix: it is not {classes} by {classes}, as there are classes"
    if any(not 0 <= count < MOST for row in counts for count in row):
        yield "confusion_matrix: a count is below 0 or above any"
    if record.predictions is not None and not re.fullmatch("[0-9a-f]{64}", record.predictions):
        yield "predictions: it is no SHA-256"
    if not 2000 <= record.started.year < 9999 or not 2000 <= record.ended.year < 9999:
        yield "started, ended: no run was made then"


def _odd_target(record: Record) -> Iterator[str]:
    """What does not go with the record's target, or with its score where that target is not installed."""
    if record.score_matrix if record.score == ACCURACY else record.accuracy_matrix:
        yield f"score: its matrix is not one of {record.score}"
    target = scoring(record.target)
    if target is not None and (record.score, record.unit) != (target.score, target.unit):
        yield f"score: that of {record.target} is {target.score} of {target.unit}"
    known = metrics_of(record.target, record.score)
    for name, value in record.metrics.items():
        if name not in known and target is not None:
            yield f"metrics: {name!r} is none that this CLArena knows"
            return
        limits = RANGES.get(known[name].unit) if name in known else None
        yield from _outside(f"metrics.{name}", [value], *limits or (-math.inf, math.inf))


def _outside(name: str, values: Sequence[float], least: float, most: float) -> Iterator[str]:
    """Those that are neither undefined nor within the limits."""
    for value in values:
        if math.isinf(value) or value < least - TOLERANCE or value > most + TOLERANCE:
            yield f"{name}: {value:.6g} is not within {least:g} and {most:g}"


# ---- Predictions ----


def read_predictions(path: Path, record: Record) -> Predictions:
    """Read the predictions of a record; raises `StoreError` where they are absent, altered, or no such arrays."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise StoreError(f"The predictions {path} cannot be read: {error.strerror}.") from error
    if hashlib.sha256(content).hexdigest() != record.predictions:
        raise StoreError(f"The predictions {path} are not those of their record: the SHA-256 differs.")
    try:
        return unpacked(content)
    except Exception as error:  # what others wrote may break zip, zlib and numpy in any way
        raise StoreError(f"The predictions {path} cannot be read ({type(error).__name__}: {error}).") from error
