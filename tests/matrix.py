"""Full matrices (strategy × backbone × scenario …) are sampled: every strategy once, and a seeded tenth of the rest.

A test marked `matrix` is one; one marked `matrix("check")` takes every strategy once with every value of that
parameter. `CLARENA_MATRIX_SEED` turns the sample; `all` takes everything, as `.ci/full` does.
"""

import os
from collections.abc import Iterable
from hashlib import sha256

import pytest

SHARE = 10
SEED = os.environ.get("CLARENA_MATRIX_SEED", "0")


def left_out(items: Iterable[pytest.Item], seed: str = SEED) -> set[pytest.Item]:
    """Those tests of matrices that this seed does not take."""
    matrices: dict[str, list[pytest.Item]] = {}
    if seed != "all":
        for item in items:
            if item.get_closest_marker("matrix"):
                matrices.setdefault(item.nodeid.partition("[")[0], []).append(item)
    return {item for matrix in matrices.values() for item in set(matrix) - _taken(matrix, seed)}


def _taken(matrix: list[pytest.Item], seed: str) -> set[pytest.Item]:
    """In an order that the seed draws: the first test of each strategy (and value), and the first tenth of all."""
    drawn = sorted(matrix, key=lambda item: sha256(f"{seed} {item.nodeid}".encode()).hexdigest())
    once = {(strategy_of(item), *_values(item)): item for item in reversed(drawn)}
    return {*once.values(), *drawn[: -(-len(drawn) // SHARE)]}


def _values(item: pytest.Item) -> list[str]:
    """The names of the values that the mark asks for."""
    mark = item.get_closest_marker("matrix")
    return [item.callspec.params[parameter].name for parameter in mark.args]  # type: ignore[attr-defined,union-attr]


def strategy_of(item: pytest.Item) -> str:
    """The name of the strategy among a test's parameters; empty where there is none."""
    for value in item.callspec.params.values():  # type: ignore[attr-defined]
        suite = getattr(value, "suite", value)  # a check of the conformance kit, or a suite of them
        strategy = getattr(suite, "strategy", suite)
        if hasattr(strategy, "scenarios") and hasattr(strategy, "learn"):
            return strategy.name
    return ""
