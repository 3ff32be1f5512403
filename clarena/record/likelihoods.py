"""The numbers a language model is judged by besides its accuracy: pure functions of likelihoods.

The matrix of bits per byte B of a stream of T experiences has shape [T + 1, T], and rows, columns and NaN as the
accuracy matrix has: see `clarena.record.metrics`. Fewer bits are better; 8 are what guessing among 256 bytes needs.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike

from clarena.record.metrics import Floats, Metric, by_name, mean


def bits_per_byte(log_probability: ArrayLike, text_bytes: ArrayLike, experience: ArrayLike, experiences: int) -> Floats:
    """The matrix of bits per byte: what a language model needs to write a byte of each experience's test text.

    B[i, j] = -sum_n log2 p_i(n) / sum_n b_n  over the tokens n of experience j, with p_i(n) the probability that the
    model gives to token n after experience i, and b_n the bytes of text that it stands for

    It compares models with different tokens, which perplexity does not: log2 of the perplexity is bits per token.

    Args:
        log_probability: [T + 1, N] ln p_i(n); NaN where nothing was predicted.
        text_bytes: [N] b_n, 0 or more.
        experience: [N] the experience each token belongs to, counted from 0.
        experiences: T.

    Returns:
        [T + 1, T]; NaN where a cell's tokens were not predicted, or stand for no bytes.

    Raises:
        ValueError: for shapes or values that do not fit.

    Source: Gao et al. 2020 (The Pile), section 3.1, "bits per UTF-8 encoded byte".
    """
    likely = np.asarray(log_probability, dtype=np.float64)
    weight, owner = np.asarray(text_bytes), np.asarray(experience)
    if likely.shape != (experiences + 1, weight.size) or weight.ndim != 1 or owner.shape != weight.shape:
        raise ValueError(
            f"Log-probabilities {likely.shape}, bytes {weight.shape} and experience {owner.shape} do not fit: "
            f"expected [{experiences + 1}, N], [N] and [N] for {experiences} experiences."
        )
    if np.any(likely > 0) or np.any(weight < 0):
        raise ValueError("The logarithm of a probability is 0 or less, and a token stands for 0 bytes or more.")
    if np.any(owner < 0) or np.any(owner >= experiences):
        raise ValueError(f"Each token must belong to an experience in 0..{experiences - 1}.")
    size = np.bincount(owner, weights=weight, minlength=experiences)
    bits = np.stack([np.bincount(owner, weights=row, minlength=experiences) for row in likely / -np.log(2)])
    matrix = np.full(bits.shape, np.nan)
    np.divide(bits, size, out=matrix, where=size > 0)
    return matrix


def final_bits_per_byte(matrix: ArrayLike) -> float:
    """Mean bits per byte over all experiences at the end of the stream.

    (1/T) sum_{j=1..T} B[T, j]

    Source: this project, of the matrix of bits per byte as `final_average_accuracy` is of accuracies.
    """
    return mean(_after(matrix)[-1])


def bits_per_byte_forgetting(matrix: ArrayLike) -> float:
    """Mean rise of an experience's bits per byte from the fewest it ever had to the end; NaN for T < 2.

    (1/(T-1)) sum_{j=1..T-1} (B[T, j] - min_{l=1..T-1} B[l, j])

    Source: this project, of the matrix of bits per byte as `forgetting` is of accuracies.
    """
    after = _after(matrix)
    fewest: Floats = np.fmin.reduce(after[:-1, :-1], axis=0, initial=np.nan)
    return mean(after[-1, :-1] - fewest)


LANGUAGE_METRICS: Mapping[str, Metric] = by_name(
    Metric("final_bits_per_byte", "Final bits per byte", "bits", False, final_bits_per_byte),
    Metric("bits_per_byte_forgetting", "Forgetting in bits per byte", "bits", False, bits_per_byte_forgetting),
)
"""The metrics of the matrix of bits per byte by name: of language models, beside those of `METRICS`."""


def _after(matrix: ArrayLike) -> Floats:
    """The rows after learning, [T, T], of a checked matrix."""
    cells = np.asarray(matrix, dtype=np.float64)
    if cells.ndim != 2 or cells.shape[1] < 1 or cells.shape[0] != cells.shape[1] + 1:
        raise ValueError(f"A matrix of bits per byte has shape [T + 1, T] with T >= 1, not {list(cells.shape)}.")
    if np.any(cells < 0):
        raise ValueError("Bits per byte are 0 or more, or NaN where undefined.")
    return cells[1:]
