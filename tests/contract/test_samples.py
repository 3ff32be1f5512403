"""Rows of new samples: of the form that was stored, or refused."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from clarena import DataError, RowForm, held_out_rows, npz_arrays

BYTES = RowForm((2, 3), torch.uint8, {})
FLOATS = RowForm((3,), torch.float32, {})
finite = st.floats(width=32, allow_nan=False, allow_infinity=False)


@given(arrays.arrays(np.uint8, st.tuples(st.integers(0, 5), st.just(2), st.just(3))))
def test_rows_of_the_stored_form_are_taken_as_they_are(x):
    assert np.array_equal(BYTES.rows(x).numpy(), x)
    assert np.array_equal(BYTES.rows(x.astype(np.int64)).numpy(), x)
    assert np.array_equal(BYTES.rows(torch.from_numpy(x.copy())).numpy(), x)
    assert np.array_equal(BYTES.rows(x[::-1]).numpy(), x[::-1])  # also where memory is not in order


def test_memory_that_may_not_be_written_is_taken_without_a_warning(recwarn):
    x = np.zeros((1, 2, 3), dtype=np.uint8)
    x.flags.writeable = False
    assert BYTES.rows(x).shape == x.shape
    assert not recwarn


@given(arrays.arrays(np.int64, (2, 2, 3), elements=st.integers(-(2**40), 2**40)))
def test_whole_numbers_are_never_wrapped(x):
    if x.min() >= 0 and x.max() < 256:
        assert np.array_equal(BYTES.rows(x).numpy(), x)
    else:
        with pytest.raises(DataError, match=f"run from {x.min()} to {x.max()}"):
            BYTES.rows(x)


@given(arrays.arrays(np.float64, st.tuples(st.integers(0, 4), st.just(3)), elements=finite))
def test_numbers_are_rounded_to_the_stored_float_and_no_further(x):
    assert np.array_equal(FLOATS.rows(x).numpy(), x.astype(np.float32))


@pytest.mark.parametrize("odd", [np.nan, np.inf, 1e300])
def test_what_is_not_finite_is_found(odd):
    with pytest.raises(DataError, match="first in sample 1"):
        FLOATS.rows(np.array([[0, 0, 0], [0, odd, 0]]))


@given(st.integers(0, 200), st.floats(0.01, 0.99))
def test_a_share_is_held_out_evenly(count, share):
    held = held_out_rows(count, share)
    assert len(held) == count
    assert abs(held.sum() - count * share) <= 0.5 + 1e-9
    for end in range(count):  # also of every beginning
        assert abs(held[:end].sum() - end * share) <= 0.5 + 1e-9


def test_labels_are_names_or_places_in_names(tmp_path):
    path, x = tmp_path / "a.npz", np.zeros((3, 2))
    for content, expected in (
        ({"y": np.array(["a", "b", "a"])}, ("a", "b", "a")),
        ({"y": np.array([b"a", b"b", b"a"])}, ("a", "b", "a")),
        ({"y": [2, 0, 1], "class_names": np.array(["p", "q", "r"])}, ("r", "p", "q")),
        ({"y": [3, 0, 1], "class_names": np.array(["p", "q", "r"])}, ("3", "0", "1")),
        ({}, None),
    ):
        np.savez(path, x=x, **content)
        assert npz_arrays(path)[1] == expected


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"x": np.zeros((3, 2)), "y": [1, 2]}, "must be one for each of its 3 samples"),
        ({"x": np.zeros((3, 2)), "y": [[1], [2], [3]]}, "must be one for each of its 3 samples"),
        ({"x_train": np.zeros((3, 2)), "x_test": np.zeros((3, 3))}, "differ in shape or type"),
        ({"x": np.array([object()])}, "cannot be read as an .npz of arrays: Object arrays"),
    ],
    ids=range(4),
)
def test_an_archive_that_does_not_fit_is_refused(content, message, tmp_path):
    np.savez(tmp_path / "a.npz", **content)
    with pytest.raises(DataError, match=message):
        npz_arrays(tmp_path / "a.npz")


def test_what_is_no_archive_is_refused(tmp_path):
    (tmp_path / "a.npz").write_bytes(b"no zip")
    with pytest.raises(DataError, match=r"a\.npz cannot be read"):
        npz_arrays(tmp_path / "a.npz")
    (tmp_path / "a.csv").write_text("x")
    with pytest.raises(DataError, match=r"a\.csv is no \.npz"):
        npz_arrays(tmp_path / "a.csv")
