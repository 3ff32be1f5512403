"""Counts: how often something happens. A target of one's own, both halves, and a benchmark that asks for it.

With a log link the score s_k of an output is the logarithm of its rate λ_k = e^{s_k}, and

    −ln p(y | s) = Σ_k e^{s_k} − y_k s_k + const,    g = ∂ ln p / ∂s = y − e^s,    E_y[g gᵀ] = diag(e^s)

so the exact directions are √(e^{s_k}) e_k. The divergence is that of two Poisson distributions, without what the older
scores alone decide. A temperature T has the rates λ^{1/T} in it, as a softmax has y^{1/T}.
"""

from collections.abc import Iterable
from typing import Annotated

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from clarena import Benchmark, Data, DataError, Scoring, Stream, Target, hookimpl, split_by_domain

SITES, FEATURES, DOORS, TRAIN, TEST = 4, 6, ("front door", "side door", "cellar"), 240, 200


class Counts(Target):
    """How often each of several things happens: y whole numbers [n, outputs], scores [n, outputs] their log rates."""

    name = "counts"

    def check(self, y: Tensor, outputs: int, what: str) -> None:
        if y.ndim != 2 or y.shape[1] != outputs or y.is_floating_point() or bool((y < 0).any()):
            raise DataError(f"{what} are {y.dtype} {list(y.shape)}. Give whole numbers, 0 or more, [n, {outputs}].")

    def loss(self, scores: Tensor, y: Tensor, mask: Tensor | None = None, reduction: str = "mean") -> Tensor:
        each = _in_play(scores.exp() - y * scores, mask).sum(-1)  # [n]
        return each if reduction == "none" else each.mean() if reduction == "mean" else each.sum()

    def divergence(
        self,
        scores: Tensor,
        old: Tensor,
        counted: Tensor | None = None,
        mask: Tensor | None = None,
        temperature: float = 1.0,
    ) -> Tensor:
        new, old = scores / temperature, old / temperature
        return _in_play(new.exp() - old.exp() * new, mask).sum(-1).mean()

    def exact_directions(self, scores: Tensor, mask: Tensor | None) -> Iterable[Tensor]:
        root = _in_play((scores / 2).exp(), mask)
        yield from (root * unit for unit in torch.eye(scores.shape[-1]).to(scores))

    def draw(self, scores: Tensor, generator: torch.Generator) -> Tensor:
        return torch.poisson(scores.exp().cpu(), generator).to(scores.device)

    def answers(self, scores: Tensor, y: Tensor, columns: Tensor) -> dict[str, Tensor]:
        return {"rate": scores.exp().float()}


def _in_play(terms: Tensor, mask: Tensor | None) -> Tensor:
    return terms if mask is None else terms.where(mask, 0)


class CountScore(Scoring):
    """1 / (1 + MSE / σ²), the mean over outputs, with σ² the variance of an output's counts over the whole test set.

    It is 1 for right answers and ½ for the mean of all counts; it is defined for any cell, and never cut off.
    """

    name, score, unit = "counts", "closeness", "counts"
    answers = {"rate": float}
    truth = {"labels": int}

    def measure(self, answers, truth, scope):
        error = np.mean((answers["rate"].astype(float) - truth["labels"]) ** 2, axis=0)  # [outputs]
        spread = np.var(scope.truth["labels"], axis=0)
        return float(np.mean(1 / (1 + error / spread)))

    def uninformed(self, train, test):
        mean = train["labels"].mean(axis=0, keepdims=True)
        return {"rate": np.repeat(mean, len(test["labels"]), axis=0).astype(np.float32)}


class Visitors(Benchmark):
    """Visitors at three doors of four houses, one house after another; the inputs say which, so old rules stay true."""

    name = "visitors"
    scenarios = ("domain",)

    def __init__(self, *, seed: Annotated[int, Field(ge=0, description="Of the made-up data.")] = 0) -> None:
        self.seed = seed

    def data(self) -> Data:
        """x [n, features + houses], whose last numbers are a one-hot house; y int32 [n, doors]."""
        chance = np.random.default_rng(self.seed)
        rules = chance.normal(0, 0.3, (SITES, FEATURES, len(DOORS)))
        parts = [self._house(site, rules[site], n, chance) for site in range(SITES) for n in (TRAIN, TEST)]
        (x, y, house), (x_test, y_test, house_test) = (map(torch.cat, zip(*half)) for half in (parts[::2], parts[1::2]))
        houses = tuple(f"house {site + 1}" for site in range(SITES))
        return Data(x, y, x_test, y_test, DOORS, house, house_test, houses, target="counts")

    def _house(self, site: int, rule: np.ndarray, n: int, chance: np.random.Generator) -> tuple[Tensor, Tensor, Tensor]:
        x = chance.normal(size=(n, FEATURES))
        y = torch.from_numpy(chance.poisson(np.exp(0.5 + x @ rule))).int()
        house = torch.full((n,), site)
        return torch.cat([torch.from_numpy(x), torch.eye(SITES)[house]], 1).float(), y, house

    def stream(self, data: Data, scenario: str, generator: np.random.Generator) -> Stream:
        return split_by_domain(data, scenario, "seed", generator)


@hookimpl
def clarena_register_targets(register):
    register(Counts, scoring=CountScore)


@hookimpl
def clarena_register_benchmarks(register):
    register(Visitors)
