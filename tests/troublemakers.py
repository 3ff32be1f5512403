"""A tiny benchmark, and strategies that each do one thing that goes wrong in the field."""

import sys
from typing import ClassVar

import numpy as np
import torch

from clarena import Benchmark, Data, GradientStrategy, split_by_class

CLASSES = 6


class Tiny(Benchmark):
    """Six Gaussian blobs in four dimensions, stored as the float32 that a model takes as it is."""

    name = "tiny"
    scenarios = ("class", "task", "domain")

    def __init__(self, *, experiences: int = 3) -> None:
        self.experiences = experiences

    def data(self) -> Data:
        generator = np.random.default_rng(7)
        y = np.arange(120) % CLASSES
        x = generator.normal(size=(120, 4)) + 3 * generator.normal(size=(CLASSES, 4))[y]
        x, y = torch.tensor(x, dtype=torch.float32), torch.tensor(y)
        return Data(x[:84], y[:84], x[84:], y[84:], tuple("abcdef"))

    def stream(self, data, scenario, generator):
        return split_by_class(data, scenario, self.experiences, "seed", generator)

    def inputs(self, x):
        return x


class Plain(GradientStrategy):
    """Fine-tuning, and the base of those below."""

    name = "plain"


class Late(Plain):
    """Does what `trouble` does when the second experience has begun."""

    def trouble(self):
        raise NotImplementedError

    def before_experience(self, experience):
        if experience.position == 1:
            self.trouble()


class Raises(Late):
    """Has a bug."""

    name = "raises"

    def trouble(self):
        raise ZeroDivisionError("one over\nnothing")


class Leaves(Late):
    """Calls sys.exit, as scripts do."""

    name = "leaves"

    def trouble(self):
        sys.exit("enough of this")


class Greedy(Late):
    """Asks for four petabytes."""

    name = "greedy"

    def trouble(self):
        torch.empty(2**50)


class Hungry(Late):
    """Runs out of Python's memory."""

    name = "hungry"

    def trouble(self):
        raise MemoryError


class NaNLoss(Plain):
    """Its loss is not finite in the second experience; it counts the steps it makes all the same."""

    name = "nan-loss"
    steps: ClassVar[int] = 0

    def loss(self, batch):
        if self.experience.position == 1:
            NaNLoss.steps += 1
            return super().loss(batch) * float("nan")
        return super().loss(batch)


class NaNWeights(Plain):
    """Ends the second experience with weights that are not finite, its loss still finite."""

    name = "nan-weights"

    def after_experience(self, experience):
        if experience.position == 1:
            with torch.no_grad():
                next(self.model.parameters()).fill_(float("nan"))


class WrongShape(Plain):
    """Scores of one sample too few."""

    name = "wrong-shape"

    def predict(self, x, task=None):
        return super().predict(x, task)[1:]


class NoScores(Plain):
    """Predicts nothing."""

    name = "no-scores"

    def predict(self, x, task=None):
        return None


class Elsewhere(Plain):
    """Scores on another device."""

    name = "elsewhere"

    def predict(self, x, task=None):
        return super().predict(x, task).to("meta")


class InPlace(Plain):
    """Writes over all data that it is given."""

    name = "in-place"

    def step(self, batch):
        super().step(batch)
        for given in (batch.x, batch.y, self.experience.x, self.experience.y):
            given.fill_(0)

    def predict(self, x, task=None):
        scores = super().predict(x, task)
        x.fill_(0)
        return scores


class Meddler(Plain):
    """Draws from every global generator, and changes torch's settings."""

    name = "meddler"

    def step(self, batch):
        torch.rand(3), np.random.rand(3)
        torch.set_num_threads(2)
        torch.use_deterministic_algorithms(False)
        super().step(batch)
