"""The numbers a run is judged by: pure functions of its accuracy matrix or predictions.

The accuracy matrix R of a stream of T experiences has shape [T + 1, T] and holds fractions in [0, 1]:

* row 0 is the test accuracy before any learning; it counts towards forward transfer and nothing else;
* row i, 1 <= i <= T, is the test accuracy after learning experience i;
* column j, 1 <= j <= T, is experience j, stored at index j - 1: R[i, j] in an equation is `matrix[i, j - 1]`;
* NaN is an undefined cell: classes that were not yet seen, or an evaluation that never took place.

A metric that needs an undefined cell is itself undefined (NaN), silently: a joint run, which has a last row
only, has a final average accuracy and no forgetting. Input that no run can produce raises ValueError.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

MOST_REPORTED = 255
"""Beyond so many classes a record has no report by class and no confusion matrix: a table nobody can read."""


def accuracy_matrix(predictions: ArrayLike, labels: ArrayLike, experience: ArrayLike, experiences: int) -> Floats:
    """The accuracy matrix that a run's predictions amount to.

    R[i, j] = mean over the test samples n of experience j of [predictions[i, n] = labels[n]]

    Args:
        predictions: [T + 1, N] the class predicted for test sample n after experience i; -1 where none was.
        labels: [N] the true classes, 0 or more.
        experience: [N] the experience each test sample belongs to, counted from 0.
        experiences: T.

    Returns:
        [T + 1, T]; NaN where a cell's samples were not predicted, or where an experience has no test samples.

    Raises:
        ValueError: for shapes or values that do not fit, or a cell of which only some samples were predicted.
    """
    predicted, truth, owner = checked_integers(predictions), checked_integers(labels), checked_integers(experience)
    if predicted.shape != (experiences + 1, truth.size) or truth.ndim != 1 or owner.shape != truth.shape:
        raise ValueError(
            f"Predictions {predicted.shape}, labels {truth.shape} and experience {owner.shape} do not fit: "
            f"expected [{experiences + 1}, N], [N] and [N] for {experiences} experiences."
        )
    if np.any(predicted < -1) or np.any(truth < 0):
        raise ValueError("Predictions must be -1 (none) or more, and labels 0 or more.")
    if np.any(owner < 0) or np.any(owner >= experiences):
        raise ValueError(f"Each test sample must belong to an experience in 0..{experiences - 1}.")

    def count(per_sample: NDArray[np.bool_]) -> Floats:  # [T + 1, N] -> [T + 1, T]
        return np.stack([np.bincount(owner, weights=row, minlength=experiences) for row in per_sample])

    total = np.bincount(owner, minlength=experiences)
    missing = count(predicted == -1)
    mixed = np.argwhere((missing > 0) & (missing < total))
    if mixed.size:
        i, j = mixed[0]
        raise ValueError(
            f"After experience {i}, only some test samples of experience {j + 1} were predicted: "
            f"{missing[i, j]:.0f} of {total[j]} are -1. A cell is predicted as a whole or not at all."
        )
    matrix = np.full(missing.shape, np.nan)
    np.divide(count(predicted == truth), total, out=matrix, where=(total > 0) & (missing == 0))
    return matrix


def final_average_accuracy(matrix: ArrayLike) -> float:
    """Mean accuracy over all experiences at the end of the stream.

    (1/T) sum_{j=1..T} R[T, j]

    Source: Lopez-Paz & Ranzato 2017 (GEM), eq. 2.
    """
    _, after = _rows(matrix)
    return mean(after[-1])


def average_incremental_accuracy(matrix: ArrayLike) -> float:
    """Mean over time of the mean accuracy over the experiences learned so far.

    (1/T) sum_{i=1..T} (1/i) sum_{j=1..i} R[i, j]

    Source: Rebuffi et al. 2017 (iCaRL), section 4. There each test sample weighs the same, here each
    experience, which is equal where experiences have test sets of one size.
    """
    _, after = _rows(matrix)
    return mean(np.array([row[:i].mean() for i, row in enumerate(after, start=1)]))


def learning_accuracy(matrix: ArrayLike) -> float:
    """Mean accuracy on each experience directly after learning it: how well the strategy still learns.

    (1/T) sum_{j=1..T} R[j, j]

    Source: Riemer et al. 2019 (MER), section 5, "learning accuracy".
    """
    _, after = _rows(matrix)
    return mean(after.diagonal())


def worst_experience_accuracy(matrix: ArrayLike) -> float:
    """Accuracy on the experience that the final model knows least: what the average hides.

    min_{j=1..T} R[T, j]

    Source: this project, of the last row as in `final_average_accuracy`.
    """
    _, after = _rows(matrix)
    return float(after[-1].min())


def forgetting(matrix: ArrayLike) -> float:
    """Mean drop from the best accuracy an experience ever had to the one it has at the end; NaN for T < 2.

    (1/(T-1)) sum_{j=1..T-1} f_j,  f_j as in `forgetting_per_experience`

    Source: Chaudhry et al. 2018 (Riemannian Walk), "forgetting measure" F_T. On 0.5, 0.8, 0.6 it is 0.2;
    first minus last would give -0.1. It is negative where experiences end better than they ever were.
    """
    return mean(forgetting_per_experience(matrix))


def forgetting_per_experience(matrix: ArrayLike) -> Floats:
    """Drop of each experience but the last from its best earlier accuracy to its final one: [T - 1].

    f_j = max_{l=1..T-1} R[l, j] - R[T, j]

    The maximum excludes the last row (else f_j could not be negative) and row 0, includes the rows before j
    was learned, and passes over undefined cells; f_j is NaN where no earlier row is defined.

    Source: Chaudhry et al. 2018 (Riemannian Walk), f_j^T.
    """
    _, after = _rows(matrix)
    best: Floats = np.fmax.reduce(after[:-1, :-1], axis=0, initial=np.nan)
    return best - after[-1, :-1]


def backward_transfer(matrix: ArrayLike) -> float:
    """Mean change of an experience's accuracy from just after learning it to the end; NaN for T < 2.

    (1/(T-1)) sum_{j=1..T-1} (R[T, j] - R[j, j])

    Source: Lopez-Paz & Ranzato 2017 (GEM), eq. 3. Their code divides by T.
    """
    _, after = _rows(matrix)
    return mean(after[-1, :-1] - after.diagonal()[:-1])


def forward_transfer(matrix: ArrayLike) -> float:
    """Mean gain on an experience from what was learned before it, over no learning at all; NaN for T < 2.

    (1/(T-1)) sum_{j=2..T} (R[j-1, j] - R[0, j])

    Source: Lopez-Paz & Ranzato 2017 (GEM), eq. 4, where R[0, j] is called b_j. Their code divides by T. It is
    undefined where classes that were not yet seen cannot be predicted, as in the class scenario.
    """
    before, after = _rows(matrix)
    return mean(after.diagonal(offset=1) - before[1:])


@dataclass(frozen=True)
class Metric:
    """One metric of a matrix, or of a curve: what records, tables, documentation and the leaderboard show of it.

    `unit` is "accuracy" for a fraction in [0, 1], "difference" for one of two such fractions, in [-1, 1], "bits" for
    bits per byte, 0 or more, and "number" for anything else.
    """

    name: str
    title: str
    unit: Literal["accuracy", "difference", "bits", "number"]
    higher_is_better: bool
    function: Callable[..., float]

    @property
    def fraction(self) -> bool:
        """Whether it is told in percent."""
        return self.unit in ("accuracy", "difference")


def by_name(*metrics: Metric) -> Mapping[str, Metric]:
    """Metrics by name, in this order."""
    return MappingProxyType({metric.name: metric for metric in metrics})


METRICS: Mapping[str, Metric] = by_name(
    Metric("final_average_accuracy", "Final average accuracy", "accuracy", True, final_average_accuracy),
    Metric(
        "average_incremental_accuracy",
        "Average incremental accuracy",
        "accuracy",
        True,
        average_incremental_accuracy,
    ),
    Metric("learning_accuracy", "Learning accuracy", "accuracy", True, learning_accuracy),
    Metric(
        "worst_experience_accuracy",
        "Worst-experience accuracy",
        "accuracy",
        True,
        worst_experience_accuracy,
    ),
    Metric("forgetting", "Forgetting", "difference", False, forgetting),
    Metric("backward_transfer", "Backward transfer", "difference", True, backward_transfer),
    Metric("forward_transfer", "Forward transfer", "difference", True, forward_transfer),
)
"""The metrics of the accuracy matrix by name, in the order tables show them."""


def summarise(matrix: ArrayLike, of: Mapping[str, Metric] = METRICS) -> dict[str, float]:
    """The value of every metric of a matrix, by name; NaN where undefined."""
    return {name: metric.function(matrix) for name, metric in of.items()}


def class_report(labels: ArrayLike, predictions: ArrayLike, names: Sequence[str] | None = None) -> dict[str, Any]:
    """Precision, recall, F1 and support of each class that occurs, and their averages.

    tp / given,  tp / actual,  2 tp / (actual + given), and 0 where nothing is to be divided by

    with `actual` samples of the class, `given` samples taken for it and `tp` both. Every number but the averages is one
    division of counts, so that it is the same bits on every machine.

    Args:
        labels: [N] the true classes.
        predictions: [N] the predicted classes.
        names: names[c] is what class c is called in the report; its number otherwise.

    Returns:
        What `sklearn.metrics.classification_report(..., output_dict=True, zero_division=0)` does.

    Raises:
        ValueError: for shapes that do not fit, no sample at all, or a class that is negative or has no name.
    """
    truth, predicted = _paired(labels, predictions, None if names is None else len(names))
    if truth.size == 0:
        raise ValueError("A report needs at least one test sample.")
    present = np.union1d(truth, predicted)
    counts = _counts(np.searchsorted(present, truth), np.searchsorted(present, predicted), len(present))
    hits, actual, given = counts.diagonal(), counts.sum(axis=1), counts.sum(axis=0)
    columns = {
        "precision": _ratio(hits, given),
        "recall": _ratio(hits, actual),
        "f1-score": _ratio(2 * hits, actual + given),
    }
    report: dict[str, Any] = {}
    for place, c in enumerate(present):
        line = {column: float(values[place]) for column, values in columns.items()}
        report[str(c) if names is None else names[c]] = line | {"support": float(actual[place])}
    report["accuracy"] = float(hits.sum() / truth.size)
    for title, weights in (("macro avg", None), ("weighted avg", actual)):
        line = {column: float(np.average(values, weights=weights)) for column, values in columns.items()}
        report[title] = line | {"support": float(truth.size)}
    return report


def confusion_matrix(labels: ArrayLike, predictions: ArrayLike, classes: int) -> Integers:
    """How many test samples of each class were taken for each: [classes, classes], true by predicted.

    Raises:
        ValueError: for shapes that do not fit, or a class outside 0..classes - 1 (else dropped silently).
    """
    return _counts(*_paired(labels, predictions, classes), classes)


def _counts(truth: Integers, predicted: Integers, classes: int) -> Integers:
    return np.bincount(truth * classes + predicted, minlength=classes**2).reshape(classes, classes).astype(np.int64)


def _ratio(part: Integers, whole: Integers) -> Floats:
    return np.divide(part, whole, out=np.zeros(len(part)), where=whole > 0)


def _rows(matrix: ArrayLike) -> tuple[Floats, Floats]:
    """The checked matrix as row 0, [T], and the rows after learning, [T, T]: R[i, j] at [i - 1, j - 1]."""
    cells = checked_fractions(matrix)
    if cells.ndim != 2 or cells.shape[1] < 1 or cells.shape[0] != cells.shape[1] + 1:
        raise ValueError(f"An accuracy matrix has shape [T + 1, T] with T >= 1, not {list(cells.shape)}.")
    return cells[0], cells[1:]


def checked_fractions(values: ArrayLike) -> Floats:
    array = np.asarray(values, dtype=np.float64)
    if np.any((array < 0) | (array > 1)):
        raise ValueError("An accuracy is a fraction in [0, 1], or NaN where it is undefined.")
    return array


def checked_integers(values: ArrayLike) -> Integers:
    array = np.asarray(values)
    if array.size and not np.issubdtype(array.dtype, np.integer):
        raise ValueError(f"Integers expected, not {array.dtype}.")
    return array.astype(np.int64)


def _paired(labels: ArrayLike, predictions: ArrayLike, classes: int | None) -> tuple[Integers, Integers]:
    """Labels and predictions as [N] each, checked to be classes: 0 or more, and below `classes`."""
    truth, predicted = checked_integers(labels), checked_integers(predictions)
    if truth.ndim != 1 or predicted.shape != truth.shape:
        raise ValueError(f"Labels {truth.shape} and predictions {predicted.shape} are not [N] and [N].")
    both = np.concatenate([truth, predicted])
    if np.any(both < 0) or (classes is not None and np.any(both >= classes)):
        allowed = "0 or more" if classes is None else f"in 0..{classes - 1}"
        raise ValueError(f"Classes must be {allowed}, found {np.unique(both)}.")
    return truth, predicted


def mean(values: Floats) -> float:
    """The mean, NaN when there is nothing to take it of (where numpy would warn)."""
    return float(values.mean()) if values.size else float("nan")
