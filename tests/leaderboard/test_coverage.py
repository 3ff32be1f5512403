"""What the bootstrap's interval is worth: against another bootstrap, and against another simulation."""

import numpy as np
import pytest
import scipy.stats
from clarena_leaderboard.bootstrap import APART, bootstrap_interval, coverage, interquartile_mean


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 8, 30])
def test_the_interquartile_mean_leaves_out_a_quarter_at_each_end(size):
    values = np.random.default_rng(size).random(size)
    cut = size // 4
    assert interquartile_mean(values) == pytest.approx(np.mean(sorted(values)[cut : size - cut]))
    assert interquartile_mean(np.tile(values, (3, 2, 1))) == pytest.approx(np.full((3, 2), interquartile_mean(values)))


def by_hand(strata, resamples, generator):
    """The same bootstrap in other words: its 2.5 and 97.5 % points, for so many resamples that their rank is whole."""
    pooled = np.sort(np.concatenate([generator.choice(each, (resamples, each.size)) for each in strata], axis=1))
    cut = pooled.shape[1] // 4
    means = np.sort(pooled[:, cut : pooled.shape[1] - cut].mean(axis=1))
    rank = (resamples + 1) // 40
    return means[rank - 1], means[-rank]


def test_the_interval_is_that_of_a_bootstrap_by_hand():
    generator = np.random.default_rng(0)
    strata = [generator.normal(0, 0.1, 10), generator.normal(0.5, 0.1, 5), generator.normal(0.6, 0.2, 8)]
    low, high = bootstrap_interval(strata)
    assert (low, high) == pytest.approx(by_hand(strata, 9999, np.random.default_rng(1)), abs=0.01)
    assert low < interquartile_mean(np.concatenate(strata)) < high


def test_strata_are_resampled_within_and_never_mixed():
    """Where no seed of a track differs, nothing is left to resample, however far apart the tracks are."""
    assert bootstrap_interval([np.full(5, 0.1), np.full(5, 0.9)]) == pytest.approx((0.5, 0.5))


def test_the_interval_hangs_on_nothing_but_the_scores():
    strata = [np.arange(5.0), np.arange(7.0)]
    assert bootstrap_interval(strata) == bootstrap_interval([each.copy() for each in strata])
    assert all(np.isnan(bootstrap_interval([np.arange(5.0), np.array([1.0])])))


@pytest.mark.parametrize("sizes", [(5, 5), (10, 10, 10)])
def test_the_printed_coverage_is_that_of_another_simulation(sizes):
    """600 boards, each with a bootstrap of its own; three standard errors of the two simulations together."""
    generator = np.random.default_rng(7)
    far = 200_000  # the true value, from so many seeds on each track
    truth = scipy.stats.trim_mean(
        np.concatenate([APART * k + generator.standard_normal(far) for k in range(len(sizes))]), 0.25
    )
    hits = 0
    for _ in range(600):
        strata = [APART * k + generator.standard_normal(size) for k, size in enumerate(sizes)]
        low, high = by_hand(strata, 399, generator)
        hits += low <= truth <= high
    printed = coverage(sizes)
    assert printed == pytest.approx(hits / 600, abs=3 * (0.1 * 0.9 * (1 / 600 + 1 / 1000)) ** 0.5)
    assert printed < 0.95  # a percentile interval from a few seeds promises more than it keeps: hence it is printed


def test_more_seeds_keep_more_of_the_promise():
    assert coverage((3, 3)) < coverage((5, 5)) < coverage((20, 20)) < 0.96
    assert coverage((5, 1)) is None
