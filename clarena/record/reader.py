"""The one reader of records: what is shown was read here, checked for form and range, and recomputed.

Three things vouch for a record: the digest of its cell, the SHA-256 over all of it (`seal`), and its predictions, from
which every metric is computed anew. The SHA-256 is no signature: it finds damage and careless edits, not a forger.
"""

import hashlib
import io
import json
import math
import os
import re
import stat
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from pydantic import ValidationError

from clarena.errors import StoreError
from clarena.protocol.protocol import digest
from clarena.record import metrics
from clarena.record.curves import ACCURACY_METRICS, CURVE_METRICS
from clarena.record.likelihoods import LANGUAGE_METRICS
from clarena.record.record import SCHEMA_VERSION, Predictions, Record, curve_metrics

REMEDY = "clarena evaluate with --retry sets it aside and runs the cell again."
TOLERANCE = 1e-9
"""Numbers further apart than that are not the same: they are means of a few fractions, whatever the machine."""
MOST_BYTES = 2**28
"""Of a record, and of the arrays of one run: what claims to hold more was not written here."""
MOST = 2**63
"""Counts are below; beyond, neither arrays nor databases hold them."""
KNOWN = {**ACCURACY_METRICS, **LANGUAGE_METRICS}
RANGES = {"accuracy": (0.0, 1.0), "difference": (-1.0, 1.0), "bits": (-math.inf, math.inf)}


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
    experiences = len(record.experiences) or max(len(record.accuracy_matrix) - 1, 0)
    for name, most in (("accuracy_matrix", 1.0), ("bits_per_byte", math.inf)):
        matrix = getattr(record, name)
        if matrix and (len(matrix), {len(row) for row in matrix}) != (experiences + 1, {experiences}):
            yield f"{name}: it is not {experiences + 1} rows of {experiences}, one for each experience and one before"
        for row in matrix:
            yield from _outside(name, row, 0.0, most)
    for name, value in record.metrics.items():
        if name not in KNOWN:
            yield f"metrics: {name!r} is none that this CLArena knows"
            return
        yield from _outside(f"metrics.{name}", [value], *RANGES[KNOWN[name].unit])
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


def _outside(name: str, values: Sequence[float], least: float, most: float) -> Iterator[str]:
    """Those that are neither undefined nor within the limits."""
    for value in values:
        if math.isinf(value) or value < least - TOLERANCE or value > most + TOLERANCE:
            yield f"{name}: {value:.6g} is not within {least:g} and {most:g}"


# ---- Recomputation ----


def recompute(record: Record, predictions: Predictions | None) -> tuple[dict[str, float], list[str]]:
    """Every metric of a run, and in words where its record says something else.

    The metrics follow from the predictions, or where there are none, from the accuracy matrix.
    """
    flaws = []
    try:
        matrix = record.matrix
        if predictions is not None:
            matrix = predictions.accuracy_matrix()
            if not same(record.accuracy_matrix, matrix.tolist()):
                flaws.append("its accuracy matrix is not what its predictions give")
            told = (predictions.labels, predictions.predicted[-1])
            classes = len(record.output_names)
            if classes and max(told[0].max(initial=0), predictions.predicted.max(initial=0)) >= classes:
                raise ValueError(f"a prediction or a label is none of the {classes} classes.")
            if record.confusion_matrix and not same(
                record.confusion_matrix, metrics.confusion_matrix(*told, classes).tolist()
            ):
                flaws.append("its confusion matrix is not what its predictions give")
            if record.class_report and not same(record.class_report, metrics.class_report(*told, record.output_names)):
                flaws.append("its report by class is not what its predictions give")
        if not matrix.size and record.status != "finished":
            return {}, flaws
        values = metrics.summarise(matrix) | curve_metrics(matrix, record.curve)
        bits = np.array(record.bits_per_byte, dtype=float)
        if predictions is not None:
            found = predictions.bits_per_byte()
            found = np.array([]) if found is None else found
            if not same(record.bits_per_byte, found.tolist()):
                flaws.append("its bits per byte are not what its predictions give")
            bits = found
        if bits.size:
            values |= metrics.summarise(bits, LANGUAGE_METRICS)
    except (ValueError, TypeError, LookupError) as error:
        return dict.fromkeys(metrics.METRICS, float("nan")), [f"its metrics cannot be recomputed: {error}"]
    return values, flaws + disagreements(record.metrics, values, "its record")


@dataclass(frozen=True)
class Checked:
    """A record with what vouches for it.

    Attributes:
        metrics: recomputed.
        flaws: in words, where it says something else than its predictions give.
        sha256: of `record.json`.
        sealed: whether a hash over all of it, its own or its archive's, was found to be right.
    """

    record: Record
    metrics: Mapping[str, float]
    flaws: tuple[str, ...]
    sha256: str
    sealed: bool


def check(record: Record, predictions: Predictions | None, sha256: str, flaws: Sequence[str], sealed: bool) -> Checked:
    """A record that was read, recomputed; the metrics of its curve are added where it is of before there were any."""
    values, found = recompute(record, predictions)
    of_curve = {name: value for name, value in values.items() if name in CURVE_METRICS}
    if of_curve.keys() - record.metrics.keys():
        record = record.model_copy(update={"metrics": of_curve | record.metrics})
    return Checked(record, values, (*flaws, *found), sha256, sealed)


def disagreements(logged: Mapping[str, float], values: Mapping[str, float], where: str) -> list[str]:
    """One sentence for each logged metric that is another number than the recomputed one."""
    return [
        f"{name} is {logged[name]:.6g} in {where}, and {values[name]:.6g} when it is recomputed"
        for name in values
        if name in logged and not same(logged[name], values[name])
    ]


def same(one: Any, other: Any) -> bool:
    """Whether nested data agree; numbers to nine digits after the point, and undefined ones with each other."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, int | float) and isinstance(other, int | float):
        return one == other or abs(one - other) <= TOLERANCE or (one != one and other != other)
    return bool(one == other)


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
        with zipfile.ZipFile(io.BytesIO(content)) as parts:
            unfolded = sum(part.file_size for part in parts.infolist())
        if unfolded > MOST_BYTES:
            raise ValueError(f"they unfold to {unfolded} bytes")
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            held = {name: arrays[name].astype(np.int64) for name in ("predicted", "labels", "experience")}
            if "log_probability" in arrays:
                held["log_probability"] = arrays["log_probability"].astype(np.float32)
                held["text_bytes"] = arrays["text_bytes"].astype(np.int64)
            return Predictions(**held)
    except Exception as error:  # what others wrote may break zip, zlib and numpy in any way
        raise StoreError(f"The predictions {path} cannot be read ({type(error).__name__}: {error}).") from error


def smallest(highest: int) -> type[np.signedinteger[Any]]:
    """The smallest type that holds integers from -1 up to this one."""
    return np.int8 if highest < 128 else np.int16 if highest < 2**15 else np.int32


def npz(predictions: Predictions) -> bytes:
    """Compressed arrays in the smallest integer type that holds them; the same input and zlib give the same bytes."""
    kind = smallest(max(int(predictions.labels.max(initial=0)), int(predictions.predicted.max(initial=0))))
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
