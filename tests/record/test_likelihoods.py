"""Bits per byte: hand-worked matrices, what is undefined, and what no run can produce."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clarena.record.likelihoods import LANGUAGE_METRICS, bits_per_byte, bits_per_byte_forgetting, final_bits_per_byte
from clarena.record.metrics import summarise

nan = math.nan
LOG = np.log([[1 / 256, 1 / 256, 1 / 256], [1 / 2, 1 / 4, 1 / 8], [1 / 4, 1 / 4, 1 / 2]])


def test_bits_per_byte_by_hand() -> None:
    """Two tokens of 1 and 3 bytes in experience 1, one of 2 bytes in experience 2.

    (8 + 8) / 4 and 8 / 2; (1 + 2) / 4 and 3 / 2; (2 + 2) / 4 and 1 / 2.
    """
    found = bits_per_byte(LOG, [1, 3, 2], [0, 0, 1], 2)
    np.testing.assert_allclose(found, [[4, 4], [0.75, 1.5], [1, 0.5]], rtol=1e-12)


def test_guessing_among_bytes_takes_eight_bits() -> None:
    found = bits_per_byte(np.full((2, 7), -np.log(256)), np.ones(7, int), np.zeros(7, int), 1)
    np.testing.assert_allclose(found, [[8], [8]], rtol=1e-12)


def test_metrics_of_the_matrix_by_hand() -> None:
    """Final: (3 + 2 + 1.5) / 3. Forgetting: (3 - min(2, 2.5) + 2 - min(4, 1.5)) / 2; row 0 plays no part."""
    matrix = [[0.5, 0.5, 0.5], [2, 4, 6], [2.5, 1.5, 5], [3, 2, 1.5]]
    assert final_bits_per_byte(matrix) == pytest.approx(6.5 / 3, rel=1e-12)
    assert bits_per_byte_forgetting(matrix) == pytest.approx((1 + 0.5) / 2, rel=1e-12)
    assert summarise(matrix, LANGUAGE_METRICS) == {
        "final_bits_per_byte": final_bits_per_byte(matrix),
        "bits_per_byte_forgetting": bits_per_byte_forgetting(matrix),
    }
    assert not any(metric.higher_is_better for metric in LANGUAGE_METRICS.values())


def test_what_is_not_predicted_or_has_no_bytes_is_undefined() -> None:
    found = bits_per_byte([[nan, nan, -1.0], [-1.0, -1.0, -1.0], [nan, -1.0, -1.0]], [1, 1, 0], [0, 0, 1], 2)
    assert np.isnan(found).tolist() == [[True, True], [False, True], [True, True]]
    joint = [[8, 8], [nan, nan], [2, 4]]
    assert final_bits_per_byte(joint) == 3
    assert math.isnan(bits_per_byte_forgetting(joint))
    assert math.isnan(bits_per_byte_forgetting([[8], [2]]))  # one experience has nothing to forget


@given(st.integers(1, 5), st.integers(0, 2**32 - 1))
def test_how_a_text_is_cut_into_tokens_does_not_matter(pieces: int, seed: int) -> None:
    """Two tokens with probabilities p and q are one token of p·q, with the bytes of both."""
    rng = np.random.default_rng(seed)
    p, sizes = rng.uniform(0.01, 1, (2, pieces)), rng.integers(1, 5, pieces)
    whole = bits_per_byte(np.log(p).sum(1, keepdims=True), [sizes.sum()], [0], 1)
    np.testing.assert_allclose(bits_per_byte(np.log(p), sizes, np.zeros(pieces, int), 1), whole, rtol=1e-9)


@pytest.mark.parametrize(
    ("likely", "sizes", "owner", "says"),
    [
        ([[0.1], [0.0]], [1], [0], "0 or less"),
        ([[0.0], [0.0]], [-1], [0], "0 bytes or more"),
        ([[0.0], [0.0]], [1], [1], "in 0..0"),
        ([[0.0]], [1], [0], "do not fit"),
        ([[0.0], [0.0]], [1, 1], [0], "do not fit"),
    ],
)
def test_what_no_run_can_produce_is_refused(likely: object, sizes: object, owner: object, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        bits_per_byte(likely, sizes, owner, 1)  # type: ignore[arg-type]


@pytest.mark.parametrize(("matrix", "says"), [([[1.0]], "T \\+ 1"), ([[1.0], [-0.1]], "0 or more")])
def test_a_matrix_that_is_none_is_refused(matrix: object, says: str) -> None:
    for metric in LANGUAGE_METRICS.values():
        with pytest.raises(ValueError, match=says):
            metric.function(matrix)  # type: ignore[arg-type]
