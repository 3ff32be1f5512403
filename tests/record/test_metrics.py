"""Each metric against numbers worked by hand, its equation read as loops, and what must hold for any run."""

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from clarena.record import metrics
from clarena.record.metrics import (
    METRICS,
    accuracy_matrix,
    backward_transfer,
    class_report,
    confusion_matrix,
    final_average_accuracy,
    forgetting,
    forgetting_per_experience,
    learning_accuracy,
    summarise,
    worst_experience_accuracy,
)

pytestmark = pytest.mark.filterwarnings("error")

NAN = math.nan

WORKED = [  # experiences 1, 2, 3; every cell defined, as in the domain scenario
    [0.1, 0.2, 0.3],  # before any learning
    [0.9, 0.4, 0.2],
    [0.7, 0.8, 0.5],
    [0.6, 0.9, 1.0],
]
CLASS_SCENARIO = [  # the same run where classes not yet seen cannot be predicted
    [NAN, NAN, NAN],
    [0.9, NAN, NAN],
    [0.7, 0.8, NAN],
    [0.6, 0.9, 1.0],
]
JOINT = [[NAN, NAN, NAN], [NAN, NAN, NAN], [NAN, NAN, NAN], [0.6, 0.9, 1.0]]

WORKED_VALUES = {
    "final_average_accuracy": 2.5 / 3,
    "average_incremental_accuracy": (0.9 + 0.75 + 2.5 / 3) / 3,
    "learning_accuracy": (0.9 + 0.8 + 1.0) / 3,
    "worst_experience_accuracy": 0.6,
    "forgetting": ((0.9 - 0.6) + (0.8 - 0.9)) / 2,  # the second ends better than it ever was
    "backward_transfer": ((0.6 - 0.9) + (0.9 - 0.8)) / 2,
    "forward_transfer": ((0.4 - 0.2) + (0.5 - 0.3)) / 2,
}


@st.composite
def matrices(draw, least=2):
    """Fully defined matrices of `least` to 6 experiences."""
    experiences = draw(st.integers(least, 6))
    return draw(arrays(float, (experiences + 1, experiences), elements=st.floats(0, 1, width=32)))


def test_worked_matrix():
    assert summarise(WORKED) == pytest.approx(WORKED_VALUES)


def test_class_scenario_leaves_only_forward_transfer_undefined():
    assert summarise(CLASS_SCENARIO) == pytest.approx(WORKED_VALUES | {"forward_transfer": NAN}, nan_ok=True)


def test_joint_run_has_a_last_row_only():
    defined = {"final_average_accuracy": 2.5 / 3, "worst_experience_accuracy": 0.6}
    assert summarise(JOINT) == pytest.approx(dict.fromkeys(METRICS, NAN) | defined, nan_ok=True)


def test_one_experience_has_nothing_to_forget_or_transfer():
    values = summarise([[0.1], [0.7]])
    undefined = {name for name, value in values.items() if math.isnan(value)}
    assert undefined == {"forgetting", "backward_transfer", "forward_transfer"}
    assert {values[name] for name in METRICS.keys() - undefined} == {0.7}
    assert forgetting_per_experience([[0.1], [0.7]]).shape == (0,)


def test_run_that_stopped_early_keeps_no_final_number():
    stopped = np.array(WORKED)
    stopped[3] = NAN
    defined = {"forward_transfer": 0.2}
    assert summarise(stopped) == pytest.approx(dict.fromkeys(METRICS, NAN) | defined, nan_ok=True)


def test_forgetting_is_chaudhrys():
    """On 0.5, 0.8, 0.6 others print -0.1; on 0.5, 0.6, 0.8 those whose maximum takes in the end print 0."""
    assert forgetting_per_experience([[0, 0, 0], [0.5, 0, 0], [0.8, 0, 0], [0.6, 0, 0]])[0] == pytest.approx(0.2)
    assert forgetting_per_experience([[0, 0, 0], [0.5, 0, 0], [0.6, 0, 0], [0.8, 0, 0]])[0] == pytest.approx(-0.2)


def test_accuracy_before_learning_is_never_forgotten():
    raised = np.array(WORKED)
    raised[0] = 1.0
    assert forgetting(raised) == forgetting(WORKED)


def test_accuracy_before_an_experience_is_learned_can_be_forgotten():
    """Chaudhry's maximum runs over all earlier rows: 0.9 on experience 2 came from experience 1."""
    assert forgetting_per_experience(
        [[0, 0, 0], [1, 0.9, 0], [1, 0.8, 0], [1, 0.6, 1]],
    ) == pytest.approx([0.0, 0.3])


@given(matrices())
def test_equations_read_as_loops(matrix):
    """The equations as printed, with one-based loops over R(i, j)."""
    T = matrix.shape[1]

    def R(i, j):  # noqa: N802 - as printed
        return matrix[i, j - 1]

    def mean(values):
        values = list(values)
        return sum(values) / len(values)

    old = range(1, T)
    assert summarise(matrix) == pytest.approx(
        {
            "final_average_accuracy": mean(R(T, j) for j in range(1, T + 1)),
            "average_incremental_accuracy": mean(mean(R(i, j) for j in range(1, i + 1)) for i in range(1, T + 1)),
            "learning_accuracy": mean(R(j, j) for j in range(1, T + 1)),
            "worst_experience_accuracy": min(R(T, j) for j in range(1, T + 1)),
            "forgetting": mean(max(R(i, j) for i in range(1, T)) - R(T, j) for j in old),
            "backward_transfer": mean(R(T, j) - R(j, j) for j in old),
            "forward_transfer": mean(R(j - 1, j) - R(0, j) for j in range(2, T + 1)),
        }
    )


@given(matrices(least=1))
def test_values_lie_in_their_unit(matrix):
    for name, value in summarise(matrix).items():
        low = 0 if METRICS[name].unit == "accuracy" else -1
        assert math.isnan(value) or low <= value <= 1 + 1e-12, name


@given(matrices())
def test_relations_between_metrics(matrix):
    """The best earlier accuracy is at least the one just after learning; the mean is at least the worst."""
    assert forgetting(matrix) >= -backward_transfer(matrix) - 1e-12
    assert worst_experience_accuracy(matrix) <= final_average_accuracy(matrix) + 1e-12
    T = matrix.shape[1]
    assert final_average_accuracy(matrix) == pytest.approx(
        learning_accuracy(matrix) + backward_transfer(matrix) * (T - 1) / T, abs=1e-9
    )


@given(matrices(), st.randoms(use_true_random=False))
def test_last_row_metrics_ignore_the_order_of_experiences(matrix, random):
    order = list(range(matrix.shape[1]))
    random.shuffle(order)
    assert final_average_accuracy(matrix[:, order]) == pytest.approx(final_average_accuracy(matrix))
    assert worst_experience_accuracy(matrix[:, order]) == worst_experience_accuracy(matrix)


@given(st.integers(2, 6), st.floats(0, 1))
def test_nothing_changes_nothing_is_forgotten(experiences, accuracy):
    values = summarise(np.full((experiences + 1, experiences), accuracy))
    for name, metric in METRICS.items():
        assert values[name] == pytest.approx(accuracy if metric.unit == "accuracy" else 0.0), name


@given(matrices())
def test_forgetting_and_backward_transfer_are_opposite_when_accuracy_only_falls(matrix):
    falling = np.concatenate([matrix[:1], np.sort(matrix[1:], axis=0)[::-1]])
    falling[1:][~np.tri(len(falling) - 1, dtype=bool)] = NAN  # experience i is defined from row i on
    assert forgetting(falling) == pytest.approx(-backward_transfer(falling))
    assert forgetting(falling) >= 0


@given(matrices(), st.data())
def test_undefined_cells_never_change_a_metric_in_silence(matrix, data):
    """Taking a cell away leaves a metric as it was or undefined; only forgetting's maximum passes over it."""
    whole = summarise(matrix)
    row = data.draw(st.integers(0, matrix.shape[0] - 1))
    column = data.draw(st.integers(0, matrix.shape[1] - 1))
    matrix[row, column] = NAN
    for name, value in summarise(matrix).items():
        if name == "forgetting":
            assert math.isnan(value) or value <= whole[name]
        else:
            assert math.isnan(value) or value == whole[name], name


def test_improving_a_run_moves_metrics_the_declared_way():
    better = np.array(WORKED)
    better[3] = [0.7, 0.95, 1.0]  # higher at the end
    for name in ("final_average_accuracy", "worst_experience_accuracy", "forgetting", "backward_transfer"):
        rose = summarise(better)[name] > summarise(WORKED)[name]
        assert rose == METRICS[name].higher_is_better, name


@pytest.mark.parametrize(
    ("matrix", "complaint"),
    [
        ([[0.1, 0.2], [0.3, 0.4]], r"shape \[T \+ 1, T\]"),  # row 0 forgotten
        ([0.1, 0.2], r"shape \[T \+ 1, T\]"),
        (np.empty((1, 0)), r"shape \[T \+ 1, T\]"),
        ([[10.0], [70.0]], "fraction"),  # percent
        ([[0.1], [math.inf]], "fraction"),
        ([[-0.1], [0.5]], "fraction"),
    ],
)
def test_what_no_run_produces_is_an_error_in_every_metric(matrix, complaint):
    for metric in METRICS.values():
        with pytest.raises(ValueError, match=complaint):
            metric.function(matrix)


def test_registry_is_frozen_and_true_to_the_module():
    for name, metric in METRICS.items():
        assert metric.name == name
        assert metric.function is getattr(metrics, name)
        assert "Source:" in (metric.function.__doc__ or ""), name
    with pytest.raises(TypeError):
        METRICS["mine"] = METRICS["forgetting"]


# --- the matrix from predictions


def test_accuracy_matrix_worked():
    """Three and two test samples, interleaved; the second experience is not predicted before it is seen."""
    experience = [0, 1, 0, 1, 0]
    labels = [0, 2, 1, 3, 1]
    predictions = [
        [-1, -1, -1, -1, -1],
        [0, -1, 1, -1, 0],
        [2, 2, 1, 2, 2],
    ]
    np.testing.assert_allclose(
        accuracy_matrix(predictions, labels, experience, 2), [[NAN, NAN], [2 / 3, NAN], [1 / 3, 1 / 2]]
    )


def test_experience_without_test_samples_is_undefined():
    np.testing.assert_array_equal(accuracy_matrix([[0], [0], [1]], [0], [0], 2), [[1.0, NAN], [1.0, NAN], [0.0, NAN]])


@given(st.data())
def test_accuracy_matrix_is_the_mean_over_each_cell(data):
    experiences, samples = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 12))
    labels = data.draw(arrays(np.int64, samples, elements=st.integers(0, 3)))
    owner = data.draw(arrays(np.int64, samples, elements=st.integers(0, experiences - 1)))
    predictions = data.draw(arrays(np.int64, (experiences + 1, samples), elements=st.integers(0, 3)))
    hidden = data.draw(arrays(bool, (experiences + 1, experiences)))
    predictions[hidden[:, owner]] = -1
    matrix = accuracy_matrix(predictions, labels, owner, experiences)
    for i in range(experiences + 1):
        for j in range(experiences):
            cell = [predictions[i, n] == labels[n] for n in range(samples) if owner[n] == j]
            if hidden[i, j] or not cell:
                assert math.isnan(matrix[i, j])
            else:
                assert matrix[i, j] == pytest.approx(sum(cell) / len(cell))


@pytest.mark.parametrize(
    ("predictions", "labels", "experience", "complaint"),
    [
        ([[0, 0], [0, -1]], [0, 0], [0, 0], r"After experience 1.* experience 1 were predicted: 1 of 2"),
        ([[0, 0]], [0, 0], [0, 0], "do not fit"),  # no row before learning
        ([[0, 0], [0, 0]], [0], [0, 0], "do not fit"),
        ([[0, 0], [0, 0]], [0, 0], [0], "do not fit"),
        ([[0, 0], [0, 0]], [0, 0], [0, 1], r"0\.\.0"),  # counted from 1
        ([[0, 0], [0, 0]], [0, -1], [0, 0], "labels 0 or more"),
        ([[0, 0], [0, -2]], [0, 0], [0, 0], "-1"),
        ([[0.5, 0], [0, 0]], [0, 0], [0, 0], "Integers expected"),
    ],
)
def test_predictions_that_do_not_fit(predictions, labels, experience, complaint):
    with pytest.raises(ValueError, match=complaint):
        accuracy_matrix(predictions, labels, experience, 1)


# --- per class


def test_class_report_worked():
    """Class 1: two of three found, none wrongly; class 2 is named but does not occur."""
    report = class_report([0, 0, 1, 1, 1], [0, 0, 1, 1, 0], names=["zero", "one", "two"])
    assert report["one"] == pytest.approx({"precision": 1.0, "recall": 2 / 3, "f1-score": 0.8, "support": 3})
    assert report["zero"] == pytest.approx({"precision": 2 / 3, "recall": 1.0, "f1-score": 0.8, "support": 2})
    assert report["accuracy"] == pytest.approx(0.8)
    assert "two" not in report
    assert json.loads(json.dumps(report)) == report


def test_names_change_the_keys_only():
    labels, predictions = [0, 2, 2, 4], [0, 2, 3, 4]
    plain, named = class_report(labels, predictions), class_report(labels, predictions, names="abcde")
    assert list(plain.values()) == list(named.values())
    assert list(plain)[:4] == ["0", "2", "3", "4"]
    assert list(named)[:4] == ["a", "c", "d", "e"]
    assert plain["3"] == {"precision": 0.0, "recall": 0.0, "f1-score": 0.0, "support": 0.0}  # only predicted


def test_confusion_matrix_worked():
    assert confusion_matrix([0, 0, 1, 2], [0, 1, 1, 0], 4).tolist() == [
        [1, 1, 0, 0],
        [0, 1, 0, 0],
        [1, 0, 0, 0],
        [0, 0, 0, 0],
    ]
    assert confusion_matrix([], [], 2).tolist() == [[0, 0], [0, 0]]


@pytest.mark.parametrize(
    ("labels", "predictions"), [([0, 2], [0, 1]), ([0, 1], [0, 2]), ([0, 1], [0, -1]), ([0, 1], [0])]
)
def test_classes_that_would_drop_out_are_errors(labels, predictions):
    with pytest.raises(ValueError, match=r"in 0\.\.1|are not \[N\]"):
        confusion_matrix(labels, predictions, 2)
    with pytest.raises(ValueError, match=r"in 0\.\.1|are not \[N\]"):
        class_report(labels, predictions, names=["a", "b"])


def test_report_needs_samples():
    with pytest.raises(ValueError, match="at least one"):
        class_report([], [])
