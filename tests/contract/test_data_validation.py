"""What `Data.validate` refuses, and in which words: no array of a wrong type or shape reaches a strategy."""

import numpy as np
import pytest
import torch

from clarena import Data, DataError
from clarena.errors import UnknownNameError

Y = torch.arange(12) % 3
IMAGES = torch.zeros(12, 3, 8, 8, dtype=torch.uint8)
VECTORS = torch.zeros(12, 4)
TOKENS = torch.zeros(12, 5, dtype=torch.int32)


def data(x: object = VECTORS, y: object = Y, **changes: object) -> Data:
    content = {"x_train": x, "y_train": y, "x_test": x, "y_test": y, "class_names": tuple("abc")}
    return Data(**content | changes)


@pytest.mark.parametrize(
    ("x", "y"),
    [
        (VECTORS, Y),
        (IMAGES, Y),
        (VECTORS.double(), Y),
        (VECTORS.bool(), Y),
    ],
)
def test_what_benchmarks_can_use_passes(x: torch.Tensor, y: torch.Tensor) -> None:
    data(x, y).validate()


TAGS = torch.zeros(12, 5, dtype=torch.int64)


@pytest.mark.parametrize("y", [TAGS, torch.full((12, 5), -100).index_fill(1, torch.tensor([0]), 1)])
def test_a_label_for_each_token_passes_where_that_is_the_target(y: torch.Tensor) -> None:
    data(TOKENS, y, target="tokens").validate()
    data(TOKENS, y, target="text", class_bytes=(1, 2, 0)).validate()
    with pytest.raises(DataError, match=r"or one for each token of inputs that are tokens, and say so: Data\(target="):
        data(TOKENS, y).validate()


OF_TOKENS = {
    "per number": (VECTORS, torch.zeros(12, 4, dtype=torch.int64), "inputs that are tokens"),
    "other length": (TOKENS, TAGS[:, :4], r"\[4\] of int64, its inputs \[5\] of int32"),
    "one a sample": (TOKENS, Y, "inputs that are tokens"),
    "float": (TOKENS, TAGS.float(), r"y.long\(\)"),
    "none in a sequence": (TOKENS, TAGS.index_fill(0, torch.tensor([3]), -100), "without any label, first number 3"),
    "too high": (TOKENS, TAGS + 3, "run from 3 to 3"),
}


@pytest.mark.parametrize("what", OF_TOKENS)
def test_labels_that_are_not_of_tokens_are_refused(what: str) -> None:
    x, y, message = OF_TOKENS[what]
    with pytest.raises(DataError, match=message):
        data(x, y, target="tokens").validate()


def test_bytes_of_classes_are_for_language_models() -> None:
    with pytest.raises(DataError, match="Only language models"):
        data(TOKENS, TAGS, target="tokens", class_bytes=(1, 1, 1)).validate()
    with pytest.raises(DataError, match="for each of the 3 classes"):
        data(TOKENS, TAGS, target="text").validate()


def test_a_target_that_does_not_exist_is_refused_by_name() -> None:
    with pytest.raises(UnknownNameError, match="no target named 'classs'"):
        data(target="classs").validate()


LABELS = {
    "float labels": (VECTORS, Y.float(), r"float32 \[12\].*y.long\(\)"),
    "not finite": (VECTORS, Y.float() / 0, r"float32 \[12\].*Labels must be the numbers of classes"),
    "int32": (VECTORS, Y.int(), r"int32 \[12\]"),
    "bool": (VECTORS, Y.bool(), r"bool \[12\]"),
    "complex": (VECTORS, Y.to(torch.complex64), r"complex64 \[12\]"),
    "one-hot": (VECTORS, torch.eye(3)[Y], r"single 1.*y.argmax\(1\)"),
    "one-hot whole": (VECTORS, torch.eye(3).long()[Y], r"single 1.*y.argmax\(1\)"),
    "a label for each channel": (IMAGES, torch.zeros(12, 3, dtype=torch.int64), "Give one label per input"),
    "per number": (VECTORS, torch.zeros(12, 4, dtype=torch.int64), "inputs that are tokens"),
    "other length": (TOKENS, torch.zeros(12, 4, dtype=torch.int64), "inputs that are tokens"),
    "no dimension of samples": (IMAGES, torch.zeros(12, 3, 8, dtype=torch.int64), "Give one label per input"),
    "column": (VECTORS, Y[:, None], "Give one label per input"),
    "negative": (VECTORS, Y - 1, "labels run from -1 to 1"),
    "too high": (VECTORS, Y + 1, "labels must lie in 0 … 2"),
    "fewer": (VECTORS, Y[1:], "12 inputs but 11 labels"),
}
INPUTS = {
    "complex": (VECTORS.to(torch.complex64), "inputs are complex64"),
    "bfloat16": (VECTORS.bfloat16(), "inputs are bfloat16"),
    "no row": (VECTORS[:, 0], r"shape \(12,\)"),
    "NaN": (VECTORS / 0, "NaN or infinity, first in sample 0"),
    "nothing in a row": (VECTORS[:, :0], "set is empty"),
    "numpy": (VECTORS.numpy(), "x_train must be a torch.Tensor, not ndarray of float32"),
    "objects": (np.array([None] * 12), "not ndarray of object"),
    "a list": ([1, 2], "not list"),
}


@pytest.mark.parametrize("what", LABELS)
def test_labels_of_another_kind_are_refused(what: str) -> None:
    x, y, message = LABELS[what]
    with pytest.raises(DataError, match=message):
        data(x, y).validate()


@pytest.mark.parametrize("what", INPUTS)
def test_inputs_of_another_kind_are_refused(what: str) -> None:
    x, message = INPUTS[what]
    with pytest.raises(DataError, match=message):
        data(x).validate()


OTHERS = {
    "types differ": ({"x_test": IMAGES[:, 0, 0, :4]}, "of float32, test inputs are .* of uint8.*alike"),
    "name of a class": ({"class_names": ("a", "b", 3)}, r"must be text, not int \(3\)"),
    "no UTF-8": ({"class_names": ("a", "b", "\udce9")}, "cannot be written as UTF-8"),
    "domains": ({"domain_train": Y.float(), "domain_names": ("x",)}, "domains must be whole numbers"),
    "domains outside": ({"domain_test": Y, "domain_names": ("x",)}, r"must lie in 0 … 0"),
}


@pytest.mark.parametrize("what", OTHERS)
def test_what_does_not_belong_together_is_refused(what: str) -> None:
    changes, message = OTHERS[what]
    with pytest.raises(DataError, match=message):
        data(**changes).validate()


def test_notes_are_no_part_of_the_fingerprint() -> None:
    assert data(notes=("Something was left out.",)).fingerprint() == data().fingerprint()
