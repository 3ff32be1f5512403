"""Intervals, paired tests and their correction against scipy, textbook numbers and other definitions."""

import itertools
import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from clarena.record.statistics import EXACT_UP_TO, Interval, holm, paired_sign_flip, student_t_interval

pytestmark = pytest.mark.filterwarnings("error")

DARWIN = [
    49,
    -67,
    8,
    16,
    6,
    23,
    28,
    41,
    14,
    29,
    56,
    24,
    75,
    60,
    -48,
]  # crossed minus self-fertilised maize, 1/8 inch
accuracies = st.floats(0, 1, width=32)
correct = st.integers(0, 1000)  # of 1000 test samples: sums of counts are exact, so ties are ties for every oracle
p_values = st.lists(accuracies, min_size=1, max_size=6)


# --- intervals


def test_interval_worked():
    """Mean 3, s² = 2.5, t_{4, 0.975} = 2.776 from the table."""
    interval = student_t_interval([1, 2, 3, 4, 5])
    assert (interval.mean, interval.n) == (3, 5)
    assert interval.half_width == pytest.approx(2.776 * math.sqrt(2.5 / 5), abs=1e-3)
    assert (interval.low, interval.high) == (3 - interval.half_width, 3 + interval.half_width)


@given(st.lists(accuracies, min_size=2, max_size=12), st.sampled_from([0.5, 0.9, 0.95, 0.99]))
def test_interval_is_scipys(values, confidence):
    interval = student_t_interval(values, confidence)
    half = scipy.stats.t.ppf((1 + confidence) / 2, len(values) - 1) * scipy.stats.sem(values)
    assert interval.mean == pytest.approx(np.mean(values))
    assert interval.half_width == pytest.approx(half, rel=1e-6, abs=1e-12)


def test_interval_covers_as_often_as_it_says():
    """Of 2000 samples of five, 95 % ± 2 % (four standard errors) of the intervals hold the true mean."""
    samples = np.random.default_rng(0).normal(size=(2000, 5))
    hits = sum(interval.low <= 0 <= interval.high for interval in map(student_t_interval, samples))
    assert abs(hits / 2000 - 0.95) < 0.02


def test_one_seed_has_no_width_and_equal_seeds_have_width_zero():
    assert math.isnan(student_t_interval([0.9]).half_width)
    assert student_t_interval([0.5, 0.5, 0.5]).half_width == 0


@pytest.mark.parametrize(
    ("values", "complaint"),
    [([], "at least one"), ([0.5, math.nan], "Finite"), ([math.inf], "Finite"), ([[0.5, 0.6]], "shape")],
)
def test_interval_drops_nothing_in_silence(values, complaint):
    with pytest.raises(ValueError, match=complaint):
        student_t_interval(values)


@pytest.mark.parametrize("confidence", [0, 1, 95, math.nan])
def test_confidence_is_a_fraction(confidence):
    with pytest.raises(ValueError, match="between 0 and 1"):
        student_t_interval([0.5, 0.6], confidence)


@pytest.mark.parametrize(
    ("interval", "digits", "text"),
    [
        (Interval(0.9134, 0.0119, 5), 1, "91.3 ± 1.2"),
        (Interval(0.9134, 0.0119, 5), 2, "91.34 ± 1.19"),
        (Interval(0.9134, math.nan, 1), 1, "91.3"),
        (Interval(-0.0001, 0.0, 3), 1, "0.0 ± 0.0"),
        (Interval(-0.0123, 0.2, 3), 0, "-1 ± 20"),
    ],
)
def test_percent(interval, digits, text):
    assert interval.percent(digits) == text


# --- sign flips


def test_sign_flip_worked():
    """Differences 1, 2, -3 sum to 0, so every pattern is as extreme; of 1, 2, 3 only +++ and --- are."""
    assert paired_sign_flip([1, 2, 0], [0, 0, 3]).p_value == 1
    assert paired_sign_flip([1, 2, 3], [0, 0, 0]).p_value == 2 / 8
    assert paired_sign_flip([1, 2, 3], [0, 4, 0]).p_value == 6 / 8  # |1-2+3| = 2: only ±(1+2-3) is less


def test_sign_flip_on_fishers_example():
    """Fisher 1935, section 21: in 1726 of 2^15 patterns the sum is as large as Darwin's 314, either way."""
    result = paired_sign_flip(DARWIN, np.zeros(15))
    assert result.p_value == 1726 / 2**15
    assert (result.patterns, result.exact, result.n) == (2**15, True, 15)
    assert result.difference == pytest.approx(314 / 15)


@given(st.lists(st.tuples(correct, correct), min_size=2, max_size=7))
def test_sign_flip_is_scipys(pairs):
    a, b = np.array(pairs).T
    expected = scipy.stats.permutation_test(
        (a - b,), np.sum, permutation_type="samples", n_resamples=np.inf, vectorized=True
    )
    # scipy doubles the smaller tail: as the distribution is symmetric, that is both tails, up to 1.
    assert paired_sign_flip(a, b).p_value == pytest.approx(expected.pvalue)
    assert paired_sign_flip(a / 1000, b / 1000).p_value == pytest.approx(expected.pvalue)


@given(st.lists(st.tuples(correct, correct), min_size=1, max_size=8))
def test_sign_flip_ignores_which_comes_first_and_is_never_below_its_least(pairs):
    a, b = np.array(pairs).T / 1000
    p = paired_sign_flip(a, b).p_value
    assert 2 / 2 ** len(pairs) <= p <= 1
    assert paired_sign_flip(b, a).p_value == p
    assert paired_sign_flip(a[::-1], b[::-1]).p_value == p


@pytest.mark.parametrize("n", [1, 2, 5, 6, EXACT_UP_TO])
def test_least_p_of_n_pairs(n):
    gains = np.linspace(0.01, 0.02, n)
    assert paired_sign_flip(0.5 + gains, np.full(n, 0.5)).p_value == 2 / 2**n


def test_equal_sums_are_ties_whatever_the_rounding():
    """Differences of 0.1 up to rounding, five up and one down: 2 (1 + 6) of 64 patterns are as extreme."""
    a = np.array([0.3, 0.4, 0.5, 0.9, 0.8, 0.6])
    b = np.array([0.2, 0.3, 0.4, 0.8, 0.7, 0.7])
    assert len(set(np.abs(a - b))) > 1
    assert paired_sign_flip(a, b).p_value == 14 / 64


def test_no_difference_at_all():
    assert paired_sign_flip([0.5] * 5, [0.5] * 5).p_value == 1


def test_many_pairs_are_sampled_and_say_so():
    """On each Darwin difference twice, p agrees with the exact one by convolution, within 5 sigma."""
    differences = np.array(DARWIN * 2)
    counts = {0: 1}
    for d in differences:
        moved: dict[int, int] = {}
        for total, count in counts.items():
            for sign in (d, -d):
                moved[total + sign] = moved.get(total + sign, 0) + count
        counts = moved
    extreme = sum(count for total, count in counts.items() if abs(total) >= abs(differences.sum()))
    exact = extreme / 2**30

    result = paired_sign_flip(differences, np.zeros(30))
    assert (result.exact, result.n, result.patterns) == (False, 30, 2**EXACT_UP_TO)
    assert abs(result.p_value - exact) < 5 * math.sqrt(exact / result.patterns)
    assert paired_sign_flip(differences, np.zeros(30)) == result


def test_sampled_p_is_never_zero():
    assert paired_sign_flip(np.arange(1, 61), np.zeros(60)).p_value == 1 / 2**EXACT_UP_TO


@pytest.mark.parametrize(("a", "b"), [([], []), ([1, 2], [1]), ([1, math.nan], [1, 2]), ([[1]], [[2]])])
def test_pairs_that_do_not_fit(a, b):
    with pytest.raises(ValueError, match=r"at least one|Pairs|Finite|shape"):
        paired_sign_flip(a, b)


# --- Holm


def test_holm_worked():
    """Sorted 0.005, 0.01, 0.03, 0.04 times 4, 3, 2, 1 is 0.02, 0.03, 0.06, 0.04; none may fall again."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.04]) == pytest.approx([0.04])
    assert holm([0.6, 0.7]) == pytest.approx([1.0, 1.0])


@given(p_values)
def test_holm_is_the_closed_test_of_bonferroni(p):
    """One falls when every intersection with it does: the largest |S| min_S p over sets S with it."""
    sets = [s for size in range(1, len(p) + 1) for s in itertools.combinations(range(len(p)), size)]
    closed = [max(min(1, len(s) * min(p[k] for k in s)) for s in sets if i in s) for i in range(len(p))]
    assert holm(p) == pytest.approx(closed)


@pytest.mark.parametrize("p", [[], [0.5, 1.2], [-0.1], [math.nan]])
def test_holm_takes_p_values(p):
    with pytest.raises(ValueError, match=r"at least one|lies in|Finite"):
        holm(p)
