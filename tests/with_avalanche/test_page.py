"""The parity page says what the tables of the plugin say; its numbers are those of `docs/parity.py`."""

from pathlib import Path

import pytest
from clarena_avalanche.method import Method
from clarena_avalanche.table import METHODS

PAGE = (Path(__file__).parents[2] / "docs" / "avalanche.md").read_text()


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_every_strategy_is_on_the_page(method: Method) -> None:
    rows = [line for line in PAGE.splitlines() if line.startswith(f"| `avalanche/{method.name}` |")]
    assert len(rows) == 1
    assert method.refuses is None or method.refuses in rows[0]
    assert all(f"`{name}`" in rows[0] for name in method.hyper)
    assert method.differs in PAGE


def test_names_are_told_apart() -> None:
    assert len({method.name for method in METHODS}) == len({method.class_name for method in METHODS}) == len(METHODS)
