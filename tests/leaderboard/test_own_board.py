"""This project's own board: its runs are sound, and a fresh checkout can build it."""

from pathlib import Path

from clarena_leaderboard.board import load_board
from clarena_leaderboard.sources import StoreSource

RUNS = Path(__file__).parents[2] / "leaderboard" / "runs"


def test_every_run_of_ours_says_what_its_predictions_say() -> None:
    source = StoreSource(RUNS)
    collection = source.collect()
    assert collection.problems == ()
    flawed = {found.run.origin: found.run.flaws for found in collection.found if found.run.flaws}
    assert flawed == {}


def test_digits_are_ranked_on_ten_seeds_in_every_scenario() -> None:
    board = load_board(StoreSource(RUNS))
    tables = {table.label: table for table in board.tables}
    for scenario in ("class", "task", "domain"):
        table = tables[f"split-digits/{scenario}/mlp/standard"]
        assert table.seeds == tuple(range(10))
        assert {"finetune", "joint", "cumulative"} == {entry.label for entry in table.references}
        assert {"ewc", "mas", "si", "l2", "lwf", "er", "der", "der++", "gem", "agem", "gdumb", "frozen"} <= {
            entry.label for entry in table.ranked
        }
