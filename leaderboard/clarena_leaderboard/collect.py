"""Runs, condensed from their records: every number is recomputed, and what does not agree is said."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from clarena.errors import StoreError
from clarena.protocol.protocol import Track
from clarena.record import metrics
from clarena.record.likelihoods import LANGUAGE_METRICS
from clarena.record.record import Predictions, Record, StrategyInfo, curve_metrics
from clarena.record.store import PREDICTIONS, RECORD, read_predictions, read_record
from clarena_leaderboard.contents import Run

TOLERANCE = 1e-9
"""Numbers further apart than that are not the same: they are means of a few fractions, whatever the machine."""


@dataclass(frozen=True)
class Found:
    """A run, with the row and the track it belongs to."""

    run: Run
    info: StrategyInfo
    track: Track


def load_predictions(folder: Path, record: Record) -> Predictions | None:
    """The predictions beside a record, or None; raises `StoreError` where they are not those it was written with."""
    path = folder / PREDICTIONS
    return read_predictions(path, record) if path.exists() else None


def condense(folder: Path, origin: str, logged: Mapping[str, float] | None = None) -> Found:
    """Read a run from its folder and recompute its metrics.

    Args:
        folder: holds the record, and its predictions where there are any.
        origin: of the run.
        logged: metrics that were logged somewhere else as well, such as in MLflow.

    Raises:
        StoreError: where there is no record, or one that is not valid.
    """
    try:
        record = read_record(folder / RECORD)
    except (ValueError, RecursionError) as error:  # such as a hyper-parameter that is NaN, which no digest can hold
        raise StoreError(f"The record {folder / RECORD} is not valid ({error}).") from error
    values: dict[str, float] = {}
    flaws: list[str] = []
    if record.status == "finished":
        try:
            predictions = load_predictions(folder, record)
        except StoreError:
            predictions, flaws = None, ["its predictions are not those that its record was written with"]
        values, found = recompute(record, predictions)
        flaws += found + disagreements(logged or {}, values, "MLflow")
    run = Run(
        origin=origin,
        row=record.cell.row,
        cell=record.cell_id,
        track=record.track_digest,
        seed=record.cell.seed,
        status=record.status,
        reason=record.reason or "",
        metrics=values,
        flaws=tuple(flaws),
        train_seconds=record.train_seconds,
        predict_seconds=record.predict_seconds,
        peak_memory_bytes=record.peak_memory_bytes,
        state_bytes=record.state_bytes,
        parameters=record.parameters,
        hardware=record.environment.get("hardware", ""),
        started=record.started.isoformat(),
        metering=record.metering,
        content=hashlib.sha256((folder / RECORD).read_bytes()).hexdigest(),
    )
    return Found(run, record.cell.strategy, record.cell.track)


def recompute(record: Record, predictions: Predictions | None) -> tuple[dict[str, float], list[str]]:
    """Every metric of a finished run, and in words where its record says something else.

    The metrics follow from the predictions, or where there are none, from the accuracy matrix.
    """
    flaws = []
    try:
        matrix = record.matrix
        if predictions is not None:
            matrix = predictions.accuracy_matrix()
            if not same(matrix, record.matrix):
                flaws.append("its accuracy matrix is not what its predictions give")
            if record.confusion_matrix and not same(_confusion(predictions, record), record.confusion_matrix):
                flaws.append("its confusion matrix is not what its predictions give")
        values = metrics.summarise(matrix) | curve_metrics(matrix, record.curve)
        bits = np.array(record.bits_per_byte, dtype=float)
        if predictions is not None:
            found = predictions.bits_per_byte()
            found = np.array([]) if found is None else found
            if not same(found, bits):
                flaws.append("its bits per byte are not what its predictions give")
            bits = found
        if bits.size:
            values |= metrics.summarise(bits, LANGUAGE_METRICS)
    except (ValueError, TypeError, LookupError) as error:
        return dict.fromkeys(metrics.METRICS, float("nan")), [f"its metrics cannot be recomputed: {error}"]
    return values, flaws + disagreements(record.metrics, values, "its record")


def disagreements(logged: Mapping[str, float], values: Mapping[str, float], where: str) -> list[str]:
    """One sentence for each logged metric that is another number than the recomputed one."""
    return [
        f"{name} is {logged[name]:.6g} in {where}, and {values[name]:.6g} when it is recomputed"
        for name in values
        if name in logged and not same(logged[name], values[name])
    ]


def _confusion(predictions: Predictions, record: Record) -> np.ndarray[Any, Any]:
    """Counts [classes, classes], true by predicted, of the last row."""
    classes, last = len(record.output_names), predictions.predicted[-1]
    if max(last.max(initial=0), predictions.labels.max(initial=0)) >= classes:
        raise ValueError(f"a prediction or a label is none of the {classes} classes.")
    counts = np.zeros((classes, classes), dtype=np.int64)
    np.add.at(counts, (predictions.labels[last >= 0], last[last >= 0]), 1)
    return counts


def same(one: Any, other: Any) -> bool:
    """Whether numbers or arrays agree, undefined cells included."""
    a, b = np.asarray(one, dtype=float), np.asarray(other, dtype=float)
    if a.shape != b.shape:
        return False
    return bool(np.all((np.abs(a - b) <= TOLERANCE) | (np.isnan(a) & np.isnan(b))))
