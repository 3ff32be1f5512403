"""Every number of a record computed again from its predictions, or where there are none, from its matrices."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from clarena.record import metrics
from clarena.record.catalogue import ACCURACY, named, named_metrics
from clarena.record.curves import CURVE_METRICS
from clarena.record.metrics import Floats
from clarena.record.pooled import POOLED_METRICS
from clarena.record.predictions import Predictions
from clarena.record.record import CurvePoint, Record
from clarena.record.scoring import Groups, Scoring, scoring, summarise

TOLERANCE = 1e-9
"""Numbers further apart than that are not the same: they are means of a few fractions, whatever the machine."""

SAID = {
    "accuracy_matrix": "accuracy matrix is",
    "score_matrix": "matrix of scores is",
    "bits_per_byte": "bits per byte are",
    "further": "further matrices are",
    "confusion_matrix": "confusion matrix is",
    "class_report": "report by class is",
}
"""The fields that a record must hold as its predictions give them, in words."""

LATER_METRICS = (*POOLED_METRICS, *CURVE_METRICS)
"""Metrics of accuracies that records from before there were any do not have; they are added where they are read."""

NOT_RECOMPUTED = "not recomputed"
"""What is said of a row whose target's scoring half is not installed: its matrix is taken as it stands."""


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
    """A record that was read, recomputed; metrics that it is too old to have are added."""
    values, found = recompute(record, predictions)
    later = [named(name, record.score) for name in LATER_METRICS]
    if added := {name: values[name] for name in values if name in later and name not in record.metrics}:
        record = record.model_copy(update={"metrics": record.metrics | added})
    return Checked(record, values, (*flaws, *found), sha256, sealed)


def facts(
    target: Scoring,
    predictions: Predictions,
    names: Sequence[str],
    groups: Groups | None = None,
    curve: Sequence[CurvePoint] = (),
) -> dict[str, Any]:
    """The fields of a record that follow from predictions, and for some of the metrics from the curve.

    Args:
        target: what was asked.
        names: of the outputs.
        groups: the outputs of each experience, where cells of the matrix are by output.

    Raises:
        ValueError: for predictions that are not this target's, or a curve that does not fit them.
    """
    within = [point.position for point in curve], [point.accuracy for point in curve]
    found, values = target.values(predictions, names, groups, within)
    return {
        "target": target.name,
        "score": target.score,
        "unit": target.unit,
        **_matrix_fields(target.score, found),
        "metrics": values,
        **target.report(predictions, names),
    }


def groups_of(target: Scoring, record: Record) -> Groups | None:
    """The outputs that belong to each experience, where the target's cells are by output; raises ValueError."""
    if not target.by_output or record.cell.track.scenario != "class":
        return None
    return [[record.output_names.index(name) for name in each.classes] for each in record.experiences]


def recompute(record: Record, predictions: Predictions | None) -> tuple[dict[str, float], list[str]]:
    """Every metric of a run, and in words where its record says something else.

    The metrics follow from the predictions; or, where there are none or the target's scoring half is not installed,
    from the matrices of the record.
    """
    target, flaws = scoring(record.target), []
    try:
        if predictions is not None and target is not None:
            found = facts(target, predictions, record.output_names, groups_of(target, record), record.curve)
            flaws = [f"its {said} not what its predictions give" for name, said in SAID.items()
                     if not _told(record, name, found)]  # fmt: skip
            values = found["metrics"]
        elif record.matrix.size or record.status == "finished":
            values = _from_matrices(record, target)
        else:
            return {}, []
    except (ValueError, TypeError, LookupError) as error:
        return dict.fromkeys(named_metrics(record.score), float("nan")), [f"its metrics cannot be recomputed: {error}"]
    return values, flaws + disagreements(record.metrics, values, "its record")


def matrices(record: Record, predictions: Predictions | None) -> dict[str, Floats]:
    """All matrices of a run by name, the scores as `score`: of its predictions, or as they stand in its record."""
    target = scoring(record.target)
    if predictions is None or target is None:
        return {"score": record.matrix, **record.matrices}
    told = predictions, record.output_names, groups_of(target, record)
    return {"score": target.score_matrix(*told), **target.further(*told)}


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


def _matrix_fields(score: str, found: Mapping[str, Floats]) -> dict[str, Any]:
    """Matrices as the fields of a record that hold them."""
    fields = {name: matrix.tolist() for name, matrix in found.items()}
    made = {"accuracy_matrix" if score == ACCURACY else "score_matrix": fields.pop("score")}
    made |= {"bits_per_byte": fields.pop("bits_per_byte")} if "bits_per_byte" in fields else {}
    return made | ({"further": fields} if fields else {})


def _told(record: Record, name: str, found: Mapping[str, Any]) -> bool:
    """Whether a record says of a field what its predictions do; tables by class may be left out."""
    held = getattr(record, name)
    if name in ("confusion_matrix", "class_report"):
        return not held or same(held, found.get(name))
    return same(held, found.get(name, type(held)()))


def _from_matrices(record: Record, target: Scoring | None) -> dict[str, float]:
    values = summarise(record.matrix, record.score, record.tested_within)
    for name, matrix in record.matrices.items():
        if target is not None and name in target.further_metrics:
            values |= metrics.summarise(matrix, target.further_metrics[name])
    return values
