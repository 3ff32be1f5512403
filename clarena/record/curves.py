"""The numbers that testing within experiences gives (`protocol.eval_every`): what the accuracy matrix cannot see.

A method may lose an experience as soon as the next one begins and have it back at the end, when the matrix looks. These
metrics are pure functions of everything that the host tested, in order: S evaluations within experiences and after each
of T, of which evaluation s took place while experience e_s (counted from 1) was learned or just after it.

* e is [S] and never falls; A, [S, T], holds fractions in [0, 1]: A[s, j] is the accuracy on experience j;
* NaN is an undefined cell, and a metric that needs one is itself undefined, as all are of a joint run.

Each takes e and A, and raises ValueError for shapes that do not fit or values out of range.
"""

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np
from numpy.typing import ArrayLike

from clarena.record.metrics import Floats, Integers, Metric, by_name, checked_fractions, checked_integers, mean


def min_accuracy(experience: ArrayLike, accuracy: ArrayLike) -> float:
    """Mean over old experiences of the lowest accuracy each fell to once it was learned: the stability gap.

    (1/(k-1)) sum_{j=1..k-1} min_{s: e_s > j} A[s, j],  k = max_s e_s

    It is undefined where nothing was tested after the first experience, or an old one not when it had been learned.

    Source: De Lange, van de Ven & Tuytelaars 2023 (identifying the stability gap), "average minimum accuracy", min-ACC.
    """
    learning, tested = _checked(experience, accuracy)

    def lowest(j: int) -> float:
        learned = tested[learning == j, j - 1][-1:]  # undefined where all is learned at once: then nothing is old
        return float(tested[learning > j, j - 1].min()) if np.isfinite(learned).any() else float("nan")

    return mean(np.array([lowest(j) for j in range(1, int(learning.max(initial=1)))]))


def worst_case_accuracy(experience: ArrayLike, accuracy: ArrayLike) -> float:
    """Accuracy on the experience learned last, weighed against the lowest that the old ones ever fell to.

    (1/k) A[S, k] + (1 - 1/k) min_accuracy,  k = e_S

    It is never above the final average accuracy.

    Source: De Lange, van de Ven & Tuytelaars 2023 (identifying the stability gap), "worst-case accuracy", WC-ACC.
    """
    learning, tested = _checked(experience, accuracy)
    if not learning.size:
        return float("nan")
    k = int(learning[-1])
    last = float(tested[-1, k - 1])
    return last if k == 1 else last / k + (1 - 1 / k) * min_accuracy(experience, accuracy)


def average_anytime_accuracy(experience: ArrayLike, accuracy: ArrayLike) -> float:
    """Mean over all evaluations, within experiences too, of the mean accuracy over the experiences begun so far.

    (1/S) sum_{s=1..S} (1/e_s) sum_{j=1..e_s} A[s, j]

    Every evaluation weighs the same, whatever the number of steps before it, and so does every experience.

    Source: Soutif-Cormerais et al. 2023 (online continual learning, an empirical evaluation), "average anytime
    accuracy", which others who use it trace to Caccia et al. 2022 (ER-ACE). Of the former's code it is known that it
    is the mean over all evaluations of the accuracy on the stream, where samples weigh the same; the text of neither
    paper was at hand, so that experiences to come are left out is this project's reading.
    """
    learning, tested = _checked(experience, accuracy)
    return mean(np.array([row[:seen].mean() for seen, row in zip(learning, tested)]))


CURVE_METRICS: Mapping[str, Metric] = by_name(
    Metric("min_accuracy", "Minimum accuracy", "accuracy", True, min_accuracy),
    Metric("worst_case_accuracy", "Worst-case accuracy", "accuracy", True, worst_case_accuracy),
    Metric("average_anytime_accuracy", "Average anytime accuracy", "accuracy", True, average_anytime_accuracy),
)
"""The metrics of an accuracy curve by name: of runs that were tested within experiences, beside those of `METRICS`."""

SHORT: Mapping[str, str] = MappingProxyType(
    {"min_accuracy": "min-ACC", "worst_case_accuracy": "WC-ACC", "average_anytime_accuracy": "anytime"}
)
"""What they are called where there is little room: as in the papers."""


def evaluations(
    matrix: ArrayLike, positions: Sequence[int], curve: Sequence[Sequence[float]]
) -> tuple[Integers, Floats]:
    """Everything that the host tested, in order: points within an experience, then its row of the matrix.

    Args:
        matrix: [T + 1, T] the accuracy matrix, whose row 0 takes no part.
        positions: of each point of the curve, the experience (counted from 1) that was being learned.
        curve: of each point, the accuracy on each of the T experiences.

    Returns:
        e [S] and A [S, T]. Rows of experiences that the run did not come to, or tested never, are undefined.

    Raises:
        ValueError: for a point of another length, or a position that is none.
    """
    rows = np.asarray(matrix, dtype=np.float64)
    points = np.asarray(curve, dtype=np.float64)
    if rows.ndim != 2 or points.shape != (len(positions), rows.shape[1]):
        raise ValueError(f"Points {points.shape} do not fit {len(positions)} positions and the matrix {rows.shape}.")
    experience = np.concatenate([checked_integers(positions), np.arange(1, len(rows))])
    order = np.argsort(experience, kind="stable")
    return experience[order], np.concatenate([points, rows[1:]])[order]


def summarise(matrix: ArrayLike, positions: Sequence[int], curve: Sequence[Sequence[float]]) -> dict[str, float]:
    """The value of every metric of a run's curve, by name; NaN where undefined. See `evaluations`."""
    tested = evaluations(matrix, positions, curve)
    return {name: metric.function(*tested) for name, metric in CURVE_METRICS.items()}


def _checked(experience: ArrayLike, accuracy: ArrayLike) -> tuple[Integers, Floats]:
    learning, tested = checked_integers(experience), checked_fractions(accuracy)
    if tested.ndim != 2 or learning.shape != tested.shape[:1]:
        raise ValueError(f"Curve {tested.shape} and experiences {learning.shape} are not [S, T] and [S].")
    if np.any(learning < 1) or np.any(learning > tested.shape[1]):
        raise ValueError(f"Each evaluation must name an experience in 1..{tested.shape[1]}.")
    return learning, tested
