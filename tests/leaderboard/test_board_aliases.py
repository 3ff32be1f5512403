"""A board follows what is proven of code: runs of earlier and of today's code share the row of today's."""

from pathlib import Path

import pytest
from clarena_leaderboard.sources import StoreSource
from records_of_matrices import CLASS, make_record

from clarena.record.aliases import Alias, SameBytes, add_aliases
from clarena.record.record import Cell
from clarena.record.store import Store

OLD, NEW = "0" * 64, "1" * 64


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Seed 0 of earlier code, whose record has no identity, and seed 1 of today's."""
    store = Store(tmp_path)
    for seed in (0, 1):
        record = make_record(CLASS, seed=seed)
        if seed:
            info = record.cell.strategy.model_copy(update={"identity": NEW})
            cell = Cell(track=record.cell.track, strategy=info, seed=seed)
            record = record.model_copy(update={"cell": cell, "cell_id": cell.id})
        store.write(record, None)
    return store


def test_without_proof_they_are_two_rows(store: Store) -> None:
    assert len({each.run.row for each in StoreSource(store.path).collect().found}) == 2


def test_with_proof_they_are_one_the_cached_ones_too(store: Store, tmp_path: Path) -> None:
    cache = tmp_path / "cache.json"
    before = StoreSource(store.path).collect(cache)
    add_aliases(store.path, [Alias(strategy="ewc", old=OLD, new=NEW, evidence=SameBytes())])
    after = StoreSource(store.path).collect(cache)
    (row,) = {each.run.row for each in after.found}
    assert row == next(each.run.row for each in before.found if each.info.identity)
    assert {each.info.identity for each in after.found} == {NEW}
    assert [each.run.cell for each in after.found] == [each.run.cell for each in before.found]
