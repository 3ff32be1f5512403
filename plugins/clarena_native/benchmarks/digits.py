"""Benchmarks of the digits that ship inside scikit-learn: no download, and a run takes seconds."""

from functools import cache

import torch
from torch import Tensor

from clarena import Benchmark, Data

from .families import PermutedInputs, RotatedImages, SplitClasses


class Digits(Benchmark):
    """The 1,797 handwritten digits of `sklearn.datasets.load_digits`, 8×8 (Alpaydin & Kaynak, 1998).

    There is no published split: of each class, in the order of the file, every fifth sample is a test sample.
    """

    pictures = 16

    def data(self) -> Data:
        """Images uint8 [n, 1, 8, 8] of values 0 … 16, loaded once for each process."""
        return load_digits()

    def inputs(self, x: Tensor) -> Tensor:
        """Pixels from 0 (black) to 1."""
        return x.float() / 16


@cache
def load_digits() -> Data:
    """Scikit-learn's digits and the fixed test split; see `Digits`."""
    from sklearn import datasets

    bunch = datasets.load_digits()
    x = torch.from_numpy(bunch.images).to(torch.uint8).unsqueeze(1)
    y = torch.from_numpy(bunch.target).long()
    is_test = torch.zeros(len(y), dtype=torch.bool)
    for digit in range(10):
        is_test[(y == digit).nonzero().flatten()[4::5]] = True
    return Data(x[~is_test], y[~is_test], x[is_test], y[is_test], tuple("0123456789"))


class SplitDigits(Digits, SplitClasses):
    """Scikit-learn's 8×8 digits, a few classes at a time; needs no download."""

    name = "split-digits"


class PermutedDigits(Digits, PermutedInputs):
    """Scikit-learn's 8×8 digits under one pixel permutation after another; needs no download."""

    name = "permuted-digits"


class RotatedDigits(Digits, RotatedImages):
    """Scikit-learn's 8×8 digits, turned by one angle after another; needs no download."""

    name = "rotated-digits"
