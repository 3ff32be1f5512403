"""The scores that published tables mostly hold: over all test samples seen so far together, each of which counts alike.

`clarena.record.metrics` averages over experiences, in which each experience counts alike, however many samples it is
tested on. Where a first experience holds half of the classes, the two are far apart. The pooled scores of a stream of T
experiences are P, [T]: P[i] is stored at index i - 1, and NaN where a sample that it needs was not asked.

P[i] = the score, after learning experience i, on the test samples of the experiences 1 … i together
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike

from clarena.record.metrics import Floats, Metric, by_name, checked_fractions, mean


def final_pooled_accuracy(pooled: ArrayLike) -> float:
    """Accuracy at the end on the test samples of all experiences together.

    sum_{j=1..T} n_j R[T, j] / sum_{j=1..T} n_j  with n_j test samples of experience j;  P[T] above

    Of other scores than accuracy it is the score of these samples together, which need be no mean of cells.

    Source: Rebuffi et al. 2017 (iCaRL), section 4: after the last batch of classes, the accuracy over all test samples
    of the classes already trained.
    """
    return float(_checked(pooled)[-1])


def average_incremental_pooled_accuracy(pooled: ArrayLike) -> float:
    """Mean over time of the accuracy on the test samples of all experiences learned so far together.

    (1/T) sum_{i=1..T} ( sum_{j=1..i} n_j R[i, j] / sum_{j=1..i} n_j )  = (1/T) sum_{i=1..T} P[i]

    It is `average_incremental_accuracy` where experiences have test sets of one size.

    Source: Rebuffi et al. 2017 (iCaRL), section 4, "average incremental accuracy": the average of the accuracies after
    each batch of classes. Papers that leave the first experience out of the mean, or weigh experiences alike, have
    other numbers.
    """
    return mean(_checked(pooled))


POOLED_METRICS: Mapping[str, Metric] = by_name(
    Metric("final_pooled_accuracy", "Final pooled accuracy", "accuracy", True, final_pooled_accuracy),
    Metric(
        "average_incremental_pooled_accuracy",
        "Average incremental pooled accuracy",
        "accuracy",
        True,
        average_incremental_pooled_accuracy,
    ),
)
"""The metrics of pooled scores by name: of runs whose predictions are at hand, beside those of `METRICS`."""


def _checked(pooled: ArrayLike) -> Floats:
    scores = checked_fractions(pooled)
    if scores.ndim != 1 or not scores.size:
        raise ValueError(f"Pooled scores have shape [T] with T >= 1, not {list(np.shape(pooled))}.")
    return scores
