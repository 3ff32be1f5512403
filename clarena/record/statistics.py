"""What a handful of seeds allows one to say: intervals, paired tests, and correction for many comparisons."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

EXACT_UP_TO = 16
"""The largest number of pairs for which `paired_sign_flip` enumerates every pattern of signs."""

SIGNIFICANT = 0.05
"""What an adjusted p-value may be at most where a difference is claimed."""


@dataclass(frozen=True)
class Interval:
    """A mean over `n` seeds and the half width of its confidence interval: NaN, never 0, for n = 1."""

    mean: float
    half_width: float
    n: int

    @property
    def low(self) -> float:
        return self.mean - self.half_width

    @property
    def high(self) -> float:
        return self.mean + self.half_width

    def percent(self, digits: int = 1) -> str:
        """As a person reads it: `91.3 ± 1.2`, or `91.3` for one seed."""
        mean = f"{100 * self.mean:z.{digits}f}"  # z: a loss of 0.0001 reads 0.0, never -0.0
        return mean if self.n == 1 else f"{mean} ± {100 * self.half_width:.{digits}f}"


def student_t_interval(values: ArrayLike, confidence: float = 0.95) -> Interval:
    """Confidence interval of the mean of independent, roughly normal values: one per seed.

    mean ± t_{n-1, (1 + confidence)/2} * s / sqrt(n),  s² = sum (x - mean)² / (n - 1)

    Args:
        values: [n], in any unit.
        confidence: between 0 and 1, both excluded.

    Raises:
        ValueError: for no values, values that are not finite (none is dropped), or such a confidence.

    Source: Student 1908, The probable error of a mean.
    """
    from scipy.special import stdtrit

    sample = _sample(values)
    if not 0 < confidence < 1:
        raise ValueError(f"A confidence lies between 0 and 1, not {confidence}.")
    n, mean = sample.size, float(sample.mean())
    if n == 1:
        return Interval(mean, float("nan"), n)
    error = float(sample.std(ddof=1)) / n**0.5
    return Interval(mean, float(stdtrit(n - 1, (1 + confidence) / 2)) * error, n)


@dataclass(frozen=True)
class SignFlip:
    """The outcome of a sign-flip test: the mean of a - b, its two-sided p, and the number of sign patterns.

    `exact` says whether those patterns are all 2^n, or a random sample of them.
    """

    difference: float
    p_value: float
    n: int
    patterns: int
    exact: bool


def paired_sign_flip(a: ArrayLike, b: ArrayLike) -> SignFlip:
    """Two-sided permutation test that two strategies, paired by seed, do equally well.

    p = (number of s in {-1, +1}^n with |sum_k s_k d_k| >= |sum_k d_k|) / 2^n,  d = a - b

    If the strategies were exchangeable, each difference would be as likely to have the other sign. p is never
    below 2 / 2^n: 0.0625 at n = 5, so below six seeds nothing is significant at 0.05. Above `EXACT_UP_TO`
    pairs, p is estimated over as many patterns as that many pairs have: the observed one, which keeps the
    test valid, and random ones from a fixed seed; the result says so.

    Args:
        a: [n] one value per seed.
        b: [n] the same seeds in the same order.

    Raises:
        ValueError: for no values, values that are not finite, or lengths that differ.

    Source: Fisher 1935, The Design of Experiments, section 21; Phipson & Smyth 2010 for the sampled p.
    """
    first, second = _sample(a), _sample(b)
    if first.shape != second.shape:
        raise ValueError(f"Pairs expected, not {first.size} values against {second.size}.")
    difference, n = first - second, first.size
    signs = _signs(n)
    sums = np.abs(signs @ difference)
    # Equal sums may differ by rounding, which is relative to the values, not to their small differences.
    tolerance = 1e-12 * float(np.abs(first).sum() + np.abs(second).sum())
    p_value = float(np.mean(sums >= sums[0] - tolerance))
    return SignFlip(float(difference.mean()), p_value, n, len(signs), n <= EXACT_UP_TO)


def smallest_p(n: int) -> float:
    """The smallest p that `paired_sign_flip` can give for n pairs: 2 / 2^n where it is exact."""
    return 0.5 ** (n - 1) if n <= EXACT_UP_TO else 0.5**EXACT_UP_TO


@lru_cache(maxsize=4)
def _signs(n: int) -> NDArray[np.float64]:
    """Patterns of signs, [2^n, n] or as many random ones as `EXACT_UP_TO` allows; row 0 is the observed one: all +1."""
    patterns = 2 ** min(n, EXACT_UP_TO)
    if n <= EXACT_UP_TO:
        flipped = np.arange(patterns)[:, None] >> np.arange(n) & 1
    else:
        flipped = np.random.default_rng(0).integers(0, 2, size=(patterns, n))
        flipped[0] = 0
    signs = np.where(flipped, -1.0, 1.0)
    signs.setflags(write=False)
    return signs


def holm(p_values: ArrayLike) -> NDArray[np.float64]:
    """Adjusted p-values, [m] in the order given: reject those up to alpha, and so is the family-wise error.

    With p_(1) <= ... <= p_(m):  adjusted_(i) = max_{k <= i} min(1, (m - k + 1) p_(k))

    Raises:
        ValueError: for no values, or values outside [0, 1].

    Source: Holm 1979, A simple sequentially rejective multiple test procedure.
    """
    p = _sample(p_values)
    if np.any((p < 0) | (p > 1)):
        raise ValueError("A p-value lies in [0, 1].")
    order = np.argsort(p)
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(1, np.maximum.accumulate(p[order] * np.arange(p.size, 0, -1)))
    return adjusted


def _sample(values: ArrayLike) -> NDArray[np.float64]:
    """The values as [n], n >= 1, all finite."""
    sample = np.asarray(values, dtype=np.float64)
    if sample.ndim != 1 or sample.size == 0:
        raise ValueError(f"A list of at least one value expected, not shape {sample.shape}.")
    if not np.isfinite(sample).all():
        raise ValueError(f"Finite values expected, not {sample}: leave out undefined ones knowingly, before.")
    return sample
