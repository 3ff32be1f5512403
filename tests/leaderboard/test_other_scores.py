"""Rows of a plugin's target: a table under the name of its score, apart from accuracies in every column and mean."""

import csv
import json
import re
from html import unescape

import pytest
from clarena_leaderboard.board import load_board
from clarena_leaderboard.compare import duel
from clarena_leaderboard.site.render import build_site
from clarena_leaderboard.sources import MlflowSource, StoreSource
from made_targets import Numbers, installed, made_numbers
from made_up import found, record, row, table, track

from clarena.record.record import Cell
from clarena.record.store import Store
from clarena.tracking import Tracker


@pytest.fixture
def store(tmp_path):
    """Two tracks of classes, and one on which numbers are asked for."""
    store = Store(tmp_path / "runs")
    for name, right in (("finetune", 1), ("joint", 9), ("ewc", 5), ("er", 6)):
        for seed in range(5):
            for at in (track("a"), track("b")):
                store.write(*record(name, seed, right=right + seed % 2, at=at))
            made, predictions = made_numbers(seed, name)
            info = made.cell.strategy.model_copy(update={"reference": name in ("finetune", "joint")})
            cell = Cell(track=made.cell.track, strategy=info, seed=seed)
            store.write(made.model_copy(update={"cell": cell, "cell_id": cell.id}), predictions)
    return store


def built(source, folder):
    board = load_board(source)
    build_site(board, source.load, folder)
    (numbers,) = (each for each in board.tables if each.score == "fit")
    return board, numbers


@pytest.fixture
def shown(store, tmp_path):
    with installed(Numbers):
        return *built(StoreSource(store.path), tmp_path / "site"), tmp_path / "site"


def text(path):
    return unescape(re.sub(r"<[^>]+>", " ", path.read_text()))


def test_a_table_has_the_score_of_its_rows(shown):
    board, numbers, _ = shown
    assert [(each.target, each.score, each.unit) for each in board.tables if each is not numbers] == [
        ("classes", "accuracy", "samples")
    ] * 2
    assert (numbers.target, numbers.unit) == ("made-up numbers", "degrees")
    (ewc,) = (each for each in numbers.ranked if each.info.name == "ewc")
    assert ewc.reason == ""
    assert [run.flaws for run in ewc.runs] == [()] * 5
    assert ewc.intervals["final_pooled_accuracy"] is not None
    assert numbers.chance == pytest.approx(0.5, abs=0.05)


def test_across_tracks_its_scores_are_not_averaged_with_accuracies(shown):
    board, numbers, site = shown
    assert board.across is not None
    assert numbers.digest not in board.across.tracks
    assert len(board.across.tracks) == 2
    said = board.across.skipped[numbers.label]
    assert said == "it asks for made-up numbers, in fit: scores of several kinds have no mean"
    assert said in text(site / "index.html")


def test_the_front_page_has_a_table_for_each_score(shown):
    *_, site = shown
    accuracies, fits = re.findall(
        r"<table class=\"sortable tracks\">.*?</table>", (site / "index.html").read_text(), re.S
    )
    assert "Best accuracy, %" in accuracies
    assert "Best fit, %" in fits
    assert (accuracies.count("data-scenario"), fits.count("data-scenario")) == (2, 1)
    (line,) = [each for each in json.loads((site / "tracks.json").read_text()) if each["score"] == "fit"]
    assert 0 < line["final_average_score"] < 1
    assert "final_average_accuracy" not in line


def test_pages_and_files_of_its_rows_speak_of_it_and_never_of_accuracy(shown):
    _, numbers, site = shown
    ewc = next(each for each in numbers.ranked if each.info.name == "ewc")
    page = text(site / "row" / f"{ewc.slug}.html")
    for words in (
        "Error",
        "fewer are better",
        "Final error in degrees",
        "Fit matrix",
        "Final average fit",
        "Final pooled fit",
        "Fit over time",
        "Chance",
    ):
        assert words in page
    for path in (site / "track" / f"{numbers.slug}.html", site / "row" / f"{ewc.slug}.html"):
        assert not re.search(r"(?i)accura", text(path)), re.findall(r".{30}(?i:accura).{30}", text(path))
    data = json.loads((site / "row" / f"{ewc.slug}.json").read_text())
    assert data["score_matrix"]["mean"][3][0] == pytest.approx(
        sum(data["score_matrix"]["seeds"][str(seed)][3][0] for seed in range(5)) / 5, abs=1e-5
    )
    assert not [key for key in data if "accuracy" in key]
    columns = csv.DictReader((site / "track" / f"{numbers.slug}.csv").read_text().splitlines()).fieldnames
    assert {"final_average_score", "final_error"} <= {*columns}
    assert not [name for name in columns if "accuracy" in name]
    assert "score" in (site / "row" / f"{ewc.slug}.csv").read_text().splitlines()[0].split(",")
    assert r"Strategy & Fit (\%)" in (site / "track" / f"{numbers.slug}.tex").read_text()


def test_where_it_is_not_installed_rows_are_shown_from_their_matrices_and_say_so(store, shown, tmp_path):
    _, there, _ = shown
    board, numbers = built(StoreSource(store.path), tmp_path / "bare")
    assert board.problems == ()
    ewc, before = (next(each for each in at.ranked if each.info.name == "ewc") for at in (numbers, there))
    assert ewc.intervals["final_average_accuracy"] == before.intervals["final_average_accuracy"]
    assert ewc.intervals["final_pooled_accuracy"] is None
    for path in (tmp_path / "bare" / "track" / f"{numbers.slug}.html", tmp_path / "bare" / "row" / f"{ewc.slug}.html"):
        assert "not recomputed" in text(path)
    for path in (tmp_path / "site" / "track" / f"{there.slug}.html", tmp_path / "site" / "row" / f"{ewc.slug}.html"):
        assert "not recomputed" not in text(path)


def test_two_rows_are_compared_in_their_score(shown):
    _, numbers, _ = shown
    a, b = numbers.ranked[:2]
    told = duel(numbers, a, b).as_dict()
    assert told["metric"] == "final_average_score"


def test_a_row_of_another_score_stands_apart():
    runs = row("finetune", [0.2] * 3) + row("ewc", [0.5] * 3) + [found("er", seed, 0.9) for seed in range(3)]
    from dataclasses import replace

    others = [replace(each, run=replace(each.run, score="fit")) if each.info.name == "er" else each for each in runs]
    made = table(others)
    assert [entry.label for entry in made.ranked] == ["ewc"]
    assert made.apart[0].reason == "its score is fit, where that of the table is accuracy"


def test_mlflow_has_its_names_and_gives_the_same_board(store, shown, tmp_path):
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    tracker = Tracker(store, uri)
    for each in store.records()[0]:
        tracker.log(each)
    assert tracker.failures == []
    from mlflow import MlflowClient

    client = MlflowClient(uri)
    runs = client.search_runs([e.experiment_id for e in client.search_experiments()], "tags.`clarena.score` = 'fit'")
    cells = [run for run in runs if run.data.tags["clarena.kind"] == "cell"]
    means = [run for run in runs if run.data.tags["clarena.kind"] == "row"]
    assert (len(cells), len(means)) == (20, 4)
    assert cells[0].data.tags["clarena.target"] == "made-up numbers"
    assert cells[0].data.tags["clarena.unit"] == "degrees"
    assert {"final_average_score", "final_pooled_score", "chance", "score/exp_1"} <= cells[0].data.metrics.keys()
    assert not [name for run in runs for name in run.data.metrics if "accuracy" in name]
    assert 0 < means[0].data.metrics["final_average_score"] < 1
    _, numbers, _ = shown
    with installed(Numbers):
        again, there = built(MlflowSource(uri), tmp_path / "from mlflow")
    assert there.ranked[0].intervals == numbers.ranked[0].intervals
    assert again.problems == ()
