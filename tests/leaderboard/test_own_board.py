"""This project's own board: its archives hold what was run, its runs are sound, and a fresh checkout can build it."""

import hashlib
import tomllib
from pathlib import Path

from clarena_leaderboard.board import load_board
from clarena_leaderboard.sources import StoreSource

from clarena.plugins.host import Host, PluginSources
from clarena.plugins.identity import code_identity
from clarena.record.record import Cell
from clarena.record.store import Store

ROWS = Path(__file__).parents[2] / "leaderboard" / "rows"

FILES_OF_715_RUNS = "875bfa945f93db037a779d2f305c0270f3c93db299856f3c353ef39893fe9cc6"
"""SHA-256 over a line for each run, `address record.json predictions.npz` with the SHA-256 of both, taken from the
files that lay in the repository one by one before they were packed."""


def test_the_runs_are_those_that_were_made_byte_by_byte() -> None:
    """Reading one verifies its arrays and the SHA-256 of its `record.json`, which names its array file's."""
    told = hashlib.sha256()
    places, damaged = Store(ROWS).places()
    assert (len(places), damaged) == (715, [])
    for place in places:
        checked = place.read()
        told.update(f"{place.address} {checked.sha256} {checked.record.predictions}\n".encode())
    assert told.hexdigest() == FILES_OF_715_RUNS


def test_it_is_a_few_files_and_each_summary_is_of_its_archive() -> None:
    assert sum(path.is_file() for path in ROWS.rglob("*")) < 200
    archives = sorted(ROWS.glob("*/*.zip"))
    assert [path.with_suffix(".toml") for path in archives] == sorted(ROWS.glob("*/*.toml"))
    for path in archives:
        summary = tomllib.loads(path.with_suffix(".toml").read_text(encoding="utf-8"))
        assert (summary["archive"], summary["bytes"]) == (path.name, path.stat().st_size)
        assert summary["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()


def test_every_run_of_ours_says_what_its_predictions_say() -> None:
    collection = StoreSource(ROWS).collect()
    assert collection.problems == ()
    flawed = {found.run.origin: found.run.flaws for found in collection.found if found.run.flaws}
    assert flawed == {}


def test_every_row_is_of_todays_code_or_proven_to_be() -> None:
    """Who changes what a native does to the bits runs its rows again; who does not has `results attest` prove it."""
    store, host = Store(ROWS), Host.discover(PluginSources(third_party=False))
    newest = {(cell.strategy.name, cell.strategy.code) for cell in map(store.aliases().newest, cells(store))}
    names = {name for name, _ in newest}
    assert newest == {(name, code_identity(host.strategy(name))) for name in names}


def cells(store: Store) -> list[Cell]:
    return [record.cell for record in store.records()[0]]


def test_digits_are_ranked_on_ten_seeds_in_every_scenario() -> None:
    board = load_board(StoreSource(ROWS))
    tables = {table.label: table for table in board.tables}
    for scenario in ("class", "task", "domain"):
        table = tables[f"split-digits/{scenario}/mlp/standard"]
        assert table.seeds == tuple(range(10))
        assert {"finetune", "joint", "cumulative"} == {entry.label for entry in table.references}
        assert {"ewc", "mas", "si", "l2", "lwf", "er", "der", "der++", "gem", "agem", "gdumb", "frozen"} <= {
            entry.label for entry in table.ranked
        }
