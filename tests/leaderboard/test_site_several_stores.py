"""A store and submissions read together give the board that one store with all their runs gives."""

from dataclasses import replace

from clarena_leaderboard.board import load_board
from clarena_leaderboard.several_stores import SeveralStores
from clarena_leaderboard.sources import StoreSource
from site_stores import ROWS, make_store


def test_joined_stores_are_one_board(tmp_path):
    make_store(tmp_path / "whole", ROWS[:5], seeds=3)
    sources = [StoreSource(make_store(tmp_path / name, rows, seeds=3)) for name, rows in
               (("own", ROWS[:3]), ("first", ROWS[3:4]), ("second", ROWS[4:5]))]  # fmt: skip
    joined = SeveralStores(sources)
    (whole,), (table,) = load_board(StoreSource(tmp_path / "whole")).tables, load_board(joined).tables
    assert joined.name == "store own and 2 submissions"
    assert [(e.label, e.standing, e.tier) for e in table.entries] == [
        (e.label, e.standing, e.tier) for e in whole.entries
    ]
    for entry in table.entries:
        for run in entry.runs:
            record, predictions = joined.load(run)
            assert (record.cell_id, predictions is not None) == (run.cell, True)
    numbers = {run.origin.partition(":")[0] for entry in table.entries for run in entry.runs}
    assert numbers == {"0", "1", "2"}


def test_each_joined_source_has_a_cache_of_its_own(tmp_path):
    stores = [make_store(tmp_path / name, [replace(ROWS[0])], seeds=1) for name in ("a", "b")]
    cache = tmp_path / ".site.cache"
    first = SeveralStores(list(map(StoreSource, stores))).collect(cache)
    assert {path.name for path in tmp_path.glob(".site.cache*")} == {".site.cache", ".site.cache1"}
    assert repr(SeveralStores(list(map(StoreSource, stores))).collect(cache)) == repr(first)  # NaN is no equal of NaN
