"""The interquartile mean over tracks and seeds, its bootstrap interval, and what that interval is worth."""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

RESAMPLES = 999
"""Of the bootstrap: with an odd thousand the 2.5 and 97.5 % points are themselves resampled values."""

BOARDS, RESAMPLES_OF_A_BOARD, AT_ONCE = 1000, 199, 100
"""Of the simulation of `coverage`; it does not depend on the number of resamples, while (1 + that) / 40 is whole."""

APART = 3.0
"""How far the tracks of a simulated board are from each other, in standard deviations between seeds."""


def interquartile_mean(values: Floats) -> Floats:
    """Mean of the middle half along the last axis: a quarter of the values, rounded down, is left out at each end.

    Source: Agarwal et al. 2021 (Deep reinforcement learning at the edge of the statistical precipice), section 4.3.
    """
    from scipy.stats import trim_mean

    return np.asarray(trim_mean(values, 0.25, axis=-1))


def bootstrap_interval(strata: Sequence[Floats], resamples: int = RESAMPLES) -> tuple[float, float]:
    """95 % percentile interval of the interquartile mean over all strata; resamples seeds within each, never strata.

    The generator is fixed: the same scores give the same interval, whatever else is computed.

    Args:
        strata: the scores of one track each, [n_k].

    Returns:
        Low and high; NaN where a stratum has fewer than two scores, in which there is nothing to resample.

    Source: Efron 1979 for the bootstrap; stratified by task as in Agarwal et al. 2021.
    """
    if min(map(len, strata)) < 2:
        return float("nan"), float("nan")
    drawn = _drawn(tuple(map(len, strata)), resamples)
    means = interquartile_mean(np.concatenate(strata)[drawn])
    low, high = percentiles(means)
    return float(low), float(high)


def percentiles(means: Floats) -> Floats:
    """The 2.5 and 97.5 % points of B resampled values along the last axis: the (B + 1) p-th smallest ones."""
    return np.quantile(means, (0.025, 0.975), axis=-1, method="weibull")


@lru_cache(maxsize=8)
def coverage(sizes: tuple[int, ...]) -> float | None:
    """The share of `bootstrap_interval`s that hold the true value, by simulation: 0.95 is what they promise.

    Simulated boards have as many tracks and seeds as the real one; scores are normal with the same spread on each
    track, and tracks are `APART`. The true value is the interquartile mean of the distribution itself. Its standard
    error, from `BOARDS` boards, is less than a point.

    Args:
        sizes: seeds of each track.

    Returns:
        None where a track has fewer than two seeds, and no interval.
    """
    from scipy.special import ndtri

    if min(sizes) < 2:
        return None
    generator = np.random.default_rng(0)
    centre = np.repeat(APART * np.arange(len(sizes)), sizes)  # [N]
    quantiles = ndtri((np.arange(2000) + 0.5) / 2000)
    pooled = [np.tile(APART * track + quantiles, size) for track, size in enumerate(sizes)]
    truth = interquartile_mean(np.concatenate(pooled))
    drawn = _drawn(sizes, RESAMPLES_OF_A_BOARD)
    hits = 0
    for _ in range(BOARDS // AT_ONCE):
        scores = centre + generator.standard_normal((AT_ONCE, centre.size))
        low, high = percentiles(interquartile_mean(scores[:, drawn]))
        hits += int(np.sum((low <= truth) & (truth <= high)))
    return hits / BOARDS


def _drawn(sizes: tuple[int, ...], resamples: int) -> NDArray[np.int64]:
    """Which of the concatenated scores each resample takes, [resamples, N]: seeds within their own track."""
    generator = np.random.default_rng(0)
    starts = np.cumsum((0, *sizes[:-1]))
    parts = [start + generator.integers(0, size, (resamples, size)) for start, size in zip(starts, sizes)]
    return np.concatenate(parts, axis=1)
