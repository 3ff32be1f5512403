"""What a row's page shows beyond its entry: matrices, curves and provenance, read from whole records.

It is plain data, written beside the page as JSON, so that a page can be drawn again without reading records.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clarena.record import metrics
from clarena.record.catalogue import named
from clarena.record.predictions import Predictions
from clarena.record.recomputation import matrices as recomputed
from clarena.record.record import Record
from clarena.record.scoring import scoring
from clarena.record.statistics import student_t_interval
from clarena_leaderboard.contents import Entry, Run, Table

Floats = NDArray[np.float64]
Load = Callable[[Run], tuple[Record, Predictions | None]]

DIGITS = 6
"""Decimals of a fraction, beyond what any test set resolves."""


def row_detail(entry: Entry, table: Table, load: Load) -> dict[str, Any]:
    """Everything about a row, as data.

    Means are over the finished runs on the table's seeds; matrices follow from predictions where there are any.
    """
    loaded = [(run, *load(run)) for run in entry.runs]
    found = {run.seed: recomputed(record, predictions) for run, record, predictions in loaded if _counts(run, table)}
    matrices = {seed: each["score"] for seed, each in found.items()}
    counted = [record for run, record, _ in loaded if _counts(run, table)]
    further = dict.fromkeys(name for each in found.values() for name in each if name != "score")
    confusions = [_confusion(record, predictions) for run, record, predictions in loaded if _counts(run, table)]
    stack = np.array(list(matrices.values())) if matrices else np.zeros((0, 1, 0))
    return {
        "row": entry.id,
        "label": entry.label,
        "strategy": entry.info.model_dump(mode="json"),
        "track": table.track.model_dump(mode="json"),
        "track_digest": table.digest,
        "standing": entry.standing,
        "reason": entry.reason,
        "seeds": [_run(run, record) for run, record, _ in loaded],
        "experiences": _experiences([record for _, record, _ in loaded]),
        "target": table.target,
        "score": entry.score,
        "unit": table.unit,
        "recomputed": entry.recomputed,
        "chance": _mean_chance(counted),
        named("accuracy_matrix", entry.score): _with_mean(matrices),
        "further": {name: _with_mean({s: each[name] for s, each in found.items() if name in each}) for name in further},
        named("accuracy_over_time", entry.score): _intervals(_over_time(stack)),
        "forgetting_per_experience": _intervals(np.array([metrics.forgetting_per_experience(m) for m in stack])),
        "confusion": _total(confusions),
        "curve": _curve(counted),
        "environment": _together(record.environment for _, record, _ in loaded),
        "commands": list(dict.fromkeys(record.command for _, record, _ in loaded if record.command)),
    }


def _counts(run: Run, table: Table) -> bool:
    return run.status == "finished" and run.seed in table.seeds


def _run(run: Run, record: Record) -> dict[str, Any]:
    return {
        "seed": run.seed,
        "status": run.status,
        "reason": run.reason,
        "flaws": list(run.flaws),
        "metrics": {named(name, run.score): finite(value) for name, value in run.metrics.items()},
        "train_seconds": run.train_seconds,
        "predict_seconds": run.predict_seconds,
        "peak_memory_bytes": run.peak_memory_bytes,
        "state_bytes": run.state_bytes,
        "parameters": run.parameters,
        "metering": run.metering,
        "hardware": run.hardware,
        "started": run.started,
        "cell": run.cell,
        "predictions": record.predictions,
        "resumed": record.resumed,
        "traceback": record.traceback,
    }


def _mean_chance(records: Sequence[Record]) -> list[float | None] | None:
    """Chance on each experience, mean over the runs that know it; None where none does."""
    known = [record.chance for record in records if record.chance]
    return _rounded(np.mean(known, axis=0)[None])[0] if known else None


def _with_mean(matrices: Mapping[int, Floats]) -> dict[str, Any]:
    stack = np.array(list(matrices.values())) if matrices else np.zeros((0, 1, 0))
    return {
        "mean": _rounded(_mean(stack)),
        "seeds": {str(seed): _rounded(matrix) for seed, matrix in matrices.items()},
    }


def _confusion(record: Record, predictions: Predictions | None) -> tuple[list[str], NDArray[np.int64]] | None:
    """Class names and counts, true by predicted, of the last row.

    None where it was not predicted whole, or has more classes than are reported.
    """
    names, target = record.output_names, scoring(record.target)
    if predictions is None or target is None:
        held = record.confusion_matrix
    else:
        held = target.report(predictions, names).get("confusion_matrix", [])
    counts = np.array(held, dtype=np.int64)
    return (names, counts) if counts.size else None


def _total(confusions: Sequence[tuple[list[str], NDArray[np.int64]] | None]) -> dict[str, Any] | None:
    """Counts summed over seeds, class by class: each seed may meet the classes in an order of its own."""
    found = [each for each in confusions if each is not None]
    if not found or any(sorted(names) != sorted(found[0][0]) for names, _ in found):
        return None
    names = sorted(found[0][0], key=lambda name: (len(name), name) if name.isdigit() else (0, name))
    total = sum(counts[np.ix_(order, order)] for order, counts in _ordered(found, names))
    return {"classes": names, "counts": np.asarray(total).tolist()}


def _ordered(
    found: Iterable[tuple[list[str], NDArray[np.int64]]], names: list[str]
) -> Iterable[tuple[list[int], NDArray[np.int64]]]:
    for own, counts in found:
        yield [own.index(name) for name in names], counts


def _experiences(records: Sequence[Record]) -> list[dict[str, Any]]:
    """What each experience held; its domain and its classes where all seeds agree on them."""
    whole = [record.experiences for record in records if record.experiences]
    if not whole:
        return []
    result = []
    for j, first in enumerate(whole[0]):
        held = (first.domain, first.classes)
        same = all(len(each) > j and (each[j].domain, each[j].classes) == held for each in whole)
        sizes = {"train_samples": first.train_samples, "test_samples": first.test_samples}
        result.append({"domain": first.domain, "classes": first.classes if same else None, **sizes})
    return result


def _over_time(stack: Floats) -> Floats:
    """Mean score over the experiences seen, [seeds, T]; of matrices [seeds, T + 1, T]."""
    if not len(stack):
        return np.zeros((0, 0))
    return np.stack([stack[:, i, :i].mean(axis=1) for i in range(1, stack.shape[1])], axis=1)


def _intervals(values: Floats) -> list[dict[str, float | None]]:
    """Mean and half width over seeds at each position of [seeds, positions]; null where undefined."""
    found: list[dict[str, float | None]] = []
    for column in values.T if len(values) else ():
        defined = bool(np.isfinite(column).all())
        interval = student_t_interval(column) if defined else None
        mean, half = (interval.mean, interval.half_width) if interval else (math.nan, math.nan)
        found.append({"mean": finite(mean), "half_width": finite(half)})
    return found


def _curve(records: Sequence[Record]) -> list[dict[str, float | None]]:
    """Mean score over the experiences seen, by step within the stream, over the seeds that tested there."""
    points: dict[tuple[int, int], list[float]] = {}
    for record in records:
        for point in record.curve:
            points.setdefault((point.position, point.step), []).append(
                float(np.mean(np.array(point.accuracy[: point.position], dtype=float)))
            )
    before = _steps_before(records)
    shared = [key for key in sorted(points) if len(points[key]) == len(records)]
    return [
        {"step": before.get(position, 0) + step, "mean": finite(float(np.mean(points[position, step])))}
        for position, step in shared
    ]


def _steps_before(records: Sequence[Record]) -> dict[int, int]:
    """Steps taken before each experience, of the first record."""
    before, total = {}, 0
    for cost in records[0].costs if records else ():
        before[cost.position] = total
        total += cost.steps
    return before


def _together(environments: Iterable[dict[str, str]]) -> dict[str, list[str]]:
    """Every value that each entry of the environment has over the runs."""
    found: dict[str, dict[str, None]] = {}
    for environment in environments:
        for name, value in environment.items():
            found.setdefault(name, {})[value] = None
    return {name: list(values) for name, values in found.items()}


def _mean(stack: Floats) -> Floats:
    """The mean over seeds, NaN wherever any seed is undefined."""
    return stack.mean(axis=0) if len(stack) else np.zeros((0, 0))


def _rounded(matrix: Floats) -> list[list[float | None]]:
    return [[finite(round(float(value), DIGITS)) for value in row] for row in matrix]


def finite(value: float) -> float | None:
    """The number, or None where it is undefined."""
    return value if math.isfinite(value) else None
