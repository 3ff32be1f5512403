"""A plugin of the tests: what each pixel of a picture shows, scored by output. Positions have two dimensions here."""

import numpy as np
import torch
from torch import Tensor, nn

from clarena import Backbone, Benchmark, Data, Scoring, Split, Stream, hookimpl
from clarena.contract.target import Categorical
from clarena.toolbox.categorical import IGNORED

SIDE, STEPS, TRAIN, TEST = 8, 3, 24, 12


class Pixels(Categorical):
    """A class for each pixel that shows anything: y int64 [n, height, width], −100 elsewhere."""

    name = "made-up-pixels"
    scenarios = ("class", "domain")

    def positions(self, y: Tensor) -> tuple[int, ...]:
        return tuple(y.shape[1:])

    def counted(self, y: Tensor) -> Tensor:
        return y != IGNORED


class Overlap(Scoring):
    """The mean over classes of intersection over union."""

    name, score, unit, by_output = "made-up-pixels", "mean IoU", "pixels", True
    answers = {"predicted": int}
    truth = {"labels": int}

    def measure(self, answers, truth, scope):
        given, true = answers["predicted"], truth["labels"]
        found = [
            ((given == c) & (true == c)).sum() / ((given == c) | (true == c)).sum()
            for c in scope.outputs
            if (true == c).any()
        ]
        return float(np.mean(found)) if found else float("nan")

    def uninformed(self, train, test):
        return {"predicted": np.full(len(test["labels"]), np.bincount(train["labels"]).argmax())}


class Squares(Benchmark):
    """Pictures of two squares, each of a shade of its own; two more shades in every experience."""

    name = "squares"
    scenarios = ("class", "domain")

    def data(self) -> Data:
        """x uint8 [n, 8, 8], y int64 [n, 8, 8]."""
        chance = np.random.default_rng(0)
        parts = [self._pictures(step, count, chance) for count in (TRAIN, TEST) for step in range(STEPS)]
        (x, y), (x_test, y_test) = (map(torch.cat, zip(*half)) for half in (parts[:STEPS], parts[STEPS:]))
        names = tuple(f"shade {shade}" for shade in range(2 * STEPS))
        return Data(x, y, x_test, y_test, names, target=Pixels.name)

    def _pictures(self, step: int, count: int, chance: np.random.Generator) -> tuple[Tensor, Tensor]:
        x, y = np.zeros((count, SIDE, SIDE)), np.full((count, SIDE, SIDE), IGNORED)
        for picture in range(count):
            for shade in (2 * step, 2 * step + 1):
                top, left = chance.integers(0, SIDE - 3, 2)
                x[picture, top : top + 3, left : left + 3] = 40 * (shade + 1)
                y[picture, top : top + 3, left : left + 3] = shade
        x = (x + chance.normal(0, 5, x.shape)).clip(0, 255)
        return torch.from_numpy(x.astype(np.uint8)), torch.from_numpy(y)

    def inputs(self, x: Tensor) -> Tensor:
        return x.float().div_(255).unsqueeze(1)

    def stream(self, data: Data, scenario: str, generator: np.random.Generator) -> Stream:
        steps = [(torch.arange(TRAIN) + TRAIN * i, torch.arange(TEST) + TEST * i) for i in range(STEPS)]
        splits = [Split(train, data.y_train[train], test, data.y_test[test]) for train, test in steps]
        return Stream(tuple(splits), data.class_names)


class PixelNet(Backbone):
    """Features of each pixel, [batch, height, width, features]."""

    name = "pixel-net"

    def __init__(self, input_shape: tuple[int, ...]) -> None:
        super().__init__()
        self.features = 12
        self.layers = nn.Sequential(nn.Conv2d(input_shape[0], 12, 3, padding=1), nn.ReLU(), nn.Conv2d(12, 12, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x).relu().movedim(1, -1)


@hookimpl
def clarena_register_targets(register):
    register(Pixels, scoring=Overlap)


@hookimpl
def clarena_register_benchmarks(register):
    register(Squares)


@hookimpl
def clarena_register_backbones(register):
    register(PixelNet)
