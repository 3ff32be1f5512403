"""Metrics of accuracy curves, against hand-worked curves and properties that must hold on any curve."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from clarena.record.catalogue import ACCURACY_METRICS
from clarena.record.curves import (
    CURVE_METRICS,
    average_anytime_accuracy,
    evaluations,
    min_accuracy,
    summarise,
    worst_case_accuracy,
)
from clarena.record.metrics import METRICS, final_average_accuracy
from clarena.record.pooled import POOLED_METRICS
from clarena.record.record import CurvePoint
from clarena.record.scoring import summarise as all_metrics

NAN = math.nan

LEARNING = [1, 1, 2, 2, 3, 3]
CURVE = [
    [0.1, 0.0, 0.0],  # still learning 1: does not count as a fall
    [0.9, 0.0, 0.0],
    [0.2, 0.3, 0.0],
    [0.8, 0.9, 0.0],
    [0.6, 0.5, 0.4],
    [0.8, 0.6, 0.9],
]


def test_min_accuracy_worked():
    """Experience 1 falls to 0.2 while 2 is learned, 2 to 0.5 while 3 is: the matrix shows 0.8 and 0.6."""
    assert min_accuracy(LEARNING, CURVE) == pytest.approx((0.2 + 0.5) / 2)
    assert min_accuracy(LEARNING[:4], CURVE[:4]) == pytest.approx(0.2)  # half way, one experience is old


def test_worst_case_accuracy_worked():
    """The last experience at 0.9 weighs a third, the old ones at 0.35 two thirds."""
    assert worst_case_accuracy(LEARNING, CURVE) == pytest.approx(0.9 / 3 + 2 / 3 * 0.35)
    assert worst_case_accuracy(LEARNING[:4], CURVE[:4]) == pytest.approx(0.9 / 2 + 0.2 / 2)
    assert worst_case_accuracy([1, 1], [[0.1, NAN], [0.9, NAN]]) == pytest.approx(0.9)  # nothing is old


def test_average_anytime_accuracy_worked():
    seen = [0.1, 0.9, (0.2 + 0.3) / 2, (0.8 + 0.9) / 2, (0.6 + 0.5 + 0.4) / 3, (0.8 + 0.6 + 0.9) / 3]
    assert average_anytime_accuracy(LEARNING, CURVE) == pytest.approx(sum(seen) / 6)


def test_undefined():
    assert math.isnan(min_accuracy([1, 1], [[0.5, NAN], [0.6, NAN]]))
    assert math.isnan(min_accuracy([1, 2, 2], [[0.5, NAN], [NAN, 0.3], [0.4, 0.6]]))
    assert math.isnan(worst_case_accuracy([1, 2, 2], [[0.5, NAN], [NAN, 0.3], [0.4, 0.6]]))
    assert math.isnan(average_anytime_accuracy([1, 2], [[0.5, NAN], [0.4, NAN]]))
    for metric in CURVE_METRICS.values():
        assert math.isnan(metric.function([], np.empty((0, 2))))


@pytest.mark.parametrize("metric", CURVE_METRICS)
@pytest.mark.parametrize(
    ("learning", "curve"),
    [([1], [0.5]), ([1, 2], [[0.5, 0.5]]), ([0], [[0.5]]), ([2], [[0.5]]), ([1], [[5.0]]), ([0.5], [[0.5]])],
)
def test_curves_that_do_not_fit(metric, learning, curve):
    with pytest.raises(ValueError, match=r"Curve|name an experience|fraction|Integers"):
        CURVE_METRICS[metric].function(learning, curve)


MATRIX = [[NAN, NAN], [0.9, NAN], [0.7, 0.8]]
POINTS = [CurvePoint(position=1, step=1, accuracy=[0.3, NAN]), CurvePoint(position=2, step=1, accuracy=[0.1, 0.2])]


def curve_metrics(matrix, points):
    """Those that a run has beside the metrics of its matrix."""
    found = all_metrics(np.array(matrix), curve=([p.position for p in points], [p.accuracy for p in points]))
    return {name: value for name, value in found.items() if name not in METRICS}


def test_what_was_tested_is_points_and_rows_in_order():
    """The row after an experience comes after the points within it; row 0 is no evaluation of a curve."""
    learning, tested = evaluations(MATRIX, [1, 2], [point.accuracy for point in POINTS])
    assert learning.tolist() == [1, 1, 2, 2]
    assert np.array_equal(tested, [[0.3, NAN], [0.9, NAN], [0.1, 0.2], [0.7, 0.8]], equal_nan=True)


def test_metrics_of_a_run_worked():
    """Experience 1 falls to 0.1; anytime: 0.3, 0.9, 0.15 and 0.75."""
    assert curve_metrics(MATRIX, POINTS) == pytest.approx(
        {"min_accuracy": 0.1, "worst_case_accuracy": (0.8 + 0.1) / 2, "average_anytime_accuracy": 2.1 / 4}
    )
    assert curve_metrics(MATRIX, []) == {}


def test_joint_has_no_curve_metrics():
    """It is tested only once all is learned: nothing was old before."""
    joint = [[NAN, NAN], [NAN, NAN], [0.7, 0.8]]
    points = [CurvePoint(position=2, step=1, accuracy=[0.3, 0.4])]
    assert curve_metrics(joint, points) == pytest.approx(dict.fromkeys(CURVE_METRICS, NAN), nan_ok=True)


def test_points_that_do_not_fit_the_matrix():
    with pytest.raises(ValueError, match="do not fit"):
        summarise(MATRIX, [1], [[0.5, 0.5, 0.5]])
    with pytest.raises(ValueError, match="name an experience"):
        summarise(MATRIX, [3], [[0.5, 0.5]])
    with pytest.raises(ValueError, match="do not fit"):
        summarise([], [1], [[0.5]])


FRACTIONS = st.floats(0, 1)


@given(st.integers(1, 5), st.integers(0, 6), st.data())
def test_the_worst_case_is_never_above_the_end(experiences, count, data):
    """And neither is above 1 or below 0, whatever the curve; without points, only the rows count."""
    rows = data.draw(hnp.arrays(float, (experiences + 1, experiences), elements=FRACTIONS))
    positions = data.draw(st.lists(st.integers(1, experiences), min_size=count, max_size=count))
    points = data.draw(hnp.arrays(float, (count, experiences), elements=FRACTIONS))
    found = summarise(rows, positions, points)
    assert found["worst_case_accuracy"] <= final_average_accuracy(rows) + 1e-12
    assert all(0 <= value <= 1 or math.isnan(value) for value in found.values())
    more = summarise(rows, [*positions, experiences], [*points, np.zeros(experiences)])
    assert experiences == 1 or more["min_accuracy"] == 0


def test_names():
    assert list(ACCURACY_METRICS) == [*METRICS, *POOLED_METRICS, *CURVE_METRICS]
    assert all(metric.function.__name__ == name for name, metric in CURVE_METRICS.items())
    assert all("Source:" in (metric.function.__doc__ or "") for metric in CURVE_METRICS.values())
