"""`clarena compare`: the board's own numbers, in 80 columns, and clear words where a name is none or many."""

import json
import re

import pytest
import typer
from clarena_leaderboard.compare import compare, duel, pairs
from made_up import board, found, keep, row, table, track
from typer.testing import CliRunner

from clarena.errors import ClarenaError, UnknownNameError, UsageError
from clarena.record.store import Store

SIX = [*row("finetune", [0.2] * 6), *row("ewc", [0.5] * 6), *row("er", [0.4, 0.5, 0.5, 0.5, 0.5, 0.5])]


def both(made, a, b):
    """The comparison of two rows on a made-up table."""
    ((found_in, first, second),) = pairs([made], a, b, None, "a list")
    return duel(found_in, first, second)


def test_the_numbers_are_those_of_the_board():
    made = table(SIX)
    against = both(made, "er", "finetune")
    entry = next(entry for entry in made.ranked if entry.label == "er")
    assert against.board == entry.against_finetune
    assert (against.test.p_value, against.test.n) == (entry.against_finetune.p_value, 6)
    assert against.difference.mean == pytest.approx(entry.against_finetune.difference)
    data = against.as_dict()
    assert data["a"]["interval"]["mean"] == entry.intervals["final_average_accuracy"].mean
    assert data["seeds"] == (0, 1, 2, 3, 4, 5)


def test_one_test_alone_needs_no_correction_and_the_board_says_what_it_says():
    """2/2⁶ = 0.031 alone; the board makes two tests against finetune, so it cannot get below 0.0625."""
    against = both(table(SIX), "finetune", "ewc")
    assert (against.test.p_value, against.claim) == (2 / 64, "worse")
    assert against.verdict == "ewc is better than finetune in final average accuracy."
    assert (against.board.adjusted, against.board.claim) == (4 / 64, "too few seeds")


def test_verdicts():
    assert both(table(SIX), "ewc", "er").verdict == "ewc and er cannot be told apart: p is above 0.05."
    few = table([run for run in SIX if run.run.seed < 5])
    assert both(few, "ewc", "finetune").verdict == (
        "Too few seeds to tell ewc from finetune: over 5 p cannot be below 0.0625."
    )
    less = table(SIX, sort_key="forgetting")
    assert both(less, "ewc", "finetune").verdict == "finetune is better than ewc in forgetting."


def test_rows_that_are_not_ranked_are_paired_over_what_they_share():
    runs = [*SIX, *[found("lwf", seed, 0.3) for seed in (0, 2, 3)], found("lwf", 1, status="failed")]
    against = both(table(runs), "lwf", "ewc")
    assert against.seeds == (0, 2, 3)
    assert against.difference.n == 3
    with pytest.raises(UsageError, match="share no finished seed"):
        both(table([*SIX, found("lwf", 9)]), "lwf", "ewc")


STRENGTHS = [run for value in (1, 10, 100) for run in row("mas", [0.1] * 6, hyperparameters={"strength": value})]


def test_a_row_is_found_by_its_label_its_name_or_a_beginning():
    made = table([*SIX, *STRENGTHS, *row("e", [0.5] * 6)])
    for name, label in (("e", "e"), ("ew", "ewc"), ("mas strength=1", "mas strength=1")):
        assert both(made, name, "finetune").a.label == label
    assert both(made, "mas strength=100", "mas strength=10").b.label == "mas strength=10"
    with pytest.raises(UsageError) as caught:
        both(made, "ewc", "mas")
    assert str(caught.value).splitlines() == [
        "'mas' may be any of 3 rows on toy/class/mlp/standard. Give one of these labels:",
        "  'mas strength=1'",
        "  'mas strength=10'",
        "  'mas strength=100'",
    ]
    with pytest.raises(UsageError, match="one row, not two"):
        both(made, "ewc", "ewc")
    with pytest.raises(UnknownNameError, match="Did you mean 'ewc'"):
        both(made, "ecw", "er")


def test_tracks():
    other = track("other")
    tables = board([*SIX, *row("ewc", [0.5] * 6, at=other), *row("er", [0.4] * 6, at=other)]).tables
    assert [each[0].label for each in pairs(tables, "ewc", "er", None, "")] == [each.label for each in tables]
    assert [each[0].label for each in pairs(tables, "ewc", "finetune", None, "")] == ["toy/class/mlp/standard"]
    for name in (other.digest[:6], "other"):
        assert [each[0].digest for each in pairs(tables, "ewc", "er", name, "")] == [other.digest]
    with pytest.raises(UnknownNameError, match="no track in a store named 'digits'"):
        pairs(tables, "ewc", "er", "digits", "a store")
    with pytest.raises(UnknownNameError, match="no row named 'finetune'"):
        pairs(tables, "ewc", "finetune", "other", "a store")
    with pytest.raises(UsageError, match="no readable run in a store"):
        pairs([], "ewc", "er", None, "a store")
    apart = board([*row("ewc", [0.5] * 6), *row("er", [0.4] * 6, at=other)]).tables
    with pytest.raises(UsageError, match="No track has both ewc and er"):
        pairs(apart, "ewc", "er", None, "")


# --- the command


@pytest.fixture
def store(tmp_path):
    store = Store(tmp_path / "runs")
    for seed in range(6):
        keep(store, "ewc", seed, right=8)
        keep(store, "er", seed, right=7 if seed else 8)
        keep(store, "finetune", seed, right=1)
    keep(store, "lwf", 0, right=3)
    return store


def run(*arguments, **environment):
    app = typer.Typer()
    app.command()(compare)
    return CliRunner().invoke(app, list(map(str, arguments)), env=environment)


def test_the_command_fits_into_80_columns(store):
    shown = run("ewc", "finetune", "--store", store.path, COLUMNS="80")
    assert shown.exit_code == 0, shown.output
    assert max(map(len, shown.output.splitlines())) <= 80
    text = " ".join(shown.output.split())
    for words in (
        "toy/class/mlp/standard",
        "ewc 90.0 ± 0.0 20.0 ± 0.0 6 1",
        "finetune 55.0 ± 0.0 90.0 ± 0.0 6 –",
        "Difference: 35.00 ± 0.00 points, paired over seeds 0–5.",
        "p = 0.03125, n = 6 (exact)",
        "ewc is better than finetune in final average accuracy.",
        "The leaderboard tests all rows against finetune; corrected for that p = 0.0625: too few seeds.",
    ):
        assert words in text


def test_what_stands_apart_is_said(store):
    shown = run("lwf", "ewc", "--store", store.path)
    assert re.search(r"lwf stands apart: no run for seeds 1–5", shown.output)
    assert "n = 1 (exact)" in shown.output


def test_the_command_gives_json(store):
    (data,) = json.loads(run("ewc", "er", "--store", store.path, "--json").output)
    assert (data["a"]["label"], data["b"]["label"], data["claim"]) == ("ewc", "er", "not told apart")
    assert data["difference"]["mean"] == pytest.approx(0.05 * 5 / 6)
    assert data["p_value"] == 2 / 32  # of five differences that are not zero


def test_settings_of_the_board_count(store, tmp_path):
    config = tmp_path / "board.toml"
    config.write_text("seeds = [0, 1]")
    (data,) = json.loads(run("ewc", "er", "--store", store.path, "--config", config, "--json").output)
    assert data["seeds"] == [0, 1]


def test_without_a_store_it_says_what_to_do(tmp_path):
    shown = run("ewc", "er", "--store", tmp_path / "none")
    assert isinstance(shown.exception, ClarenaError)
    assert "There is no store" in str(shown.exception)
