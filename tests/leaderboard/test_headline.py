"""A track whose paper compares by another metric is ranked by that, and its pages name it."""

import json
import re
from html import unescape

import numpy as np
import pytest
from clarena_leaderboard.board import load_board
from clarena_leaderboard.compare import duel
from clarena_leaderboard.site.exports import to_latex
from clarena_leaderboard.site.render import build_site
from clarena_leaderboard.sources import StoreSource
from made_up import board, found, record, row, table, track
from records_with_predictions import summary

from clarena.errors import UsageError
from clarena.protocol.frozen import Continuation
from clarena.protocol.presets import NAMED
from clarena.protocol.protocol import PRESETS, NamedPart, Track
from clarena.record.predictions import Predictions
from clarena.record.store import Store

POOLED = "average_incremental_pooled_accuracy"
PAPER = Track(
    benchmark=NamedPart(name="split-cifar100", options=dict(NAMED["b0-inc10"].benchmark)),
    scenario="class",
    backbone=NamedPart(name="mlp"),
    protocol=PRESETS["b0-inc10"],
)


def rows(name, finals, pooled):
    """Runs that are good at the end, or on the way."""
    pairs = enumerate(zip(finals, pooled))
    return [found(name, seed, final, at=PAPER, metrics={POOLED: way}) for seed, (final, way) in pairs]


def test_rows_are_ranked_by_the_headline_of_their_track():
    end, way = rows("end", [0.6] * 3, [0.4] * 3), rows("way", [0.5] * 3, [0.7] * 3)
    assert PAPER.headline == POOLED
    made = table([*end, *way])
    assert (made.sort_key, made.headline) == (POOLED, POOLED)
    assert [entry.label for entry in made.ranked] == ["way", "end"]
    assert made.ranked[1].against_best.difference == pytest.approx(-0.3)
    told = table([*end, *way], sort_key="final_average_accuracy")  # a board may decide otherwise
    assert [entry.label for entry in told.ranked] == ["end", "way"]
    assert told.headline == POOLED
    assert table(row("ewc", [0.5] * 3)).sort_key == "final_average_accuracy"


def test_each_track_of_a_board_has_its_own():
    made = board([*rows("way", [0.5] * 3, [0.7] * 3), *row("ewc", [0.5] * 3)])
    assert {each.track.preset: each.sort_key for each in made.tables} == {
        "b0-inc10": POOLED,
        "standard": "final_average_accuracy",
    }


def test_a_row_without_the_headline_stands_apart():
    """Pooled scores take the predictions of a run, which may not have been kept."""
    known, unknown = rows("known", [0.5] * 2, [0.5] * 2), row("unknown", [0.9] * 2, at=PAPER)
    made = table([*known, *unknown])
    assert [entry.label for entry in made.ranked] == ["known"]
    (apart,) = made.apart
    assert apart.reason == "average incremental pooled accuracy is undefined for seeds 0, 1"
    with pytest.raises(UsageError, match="share no finished seed"):
        duel(made, made.ranked[0], apart)


def kept(store, name, seed, first, last):
    """A run with so many of ten right after its first experience, and of those ten after the second."""
    made, whole = record(name, seed, at=PAPER)
    predicted = np.array(whole.predicted)
    predicted[1, first:10] = 1
    predicted[2, last:10] = 1
    predictions = Predictions.of_classes(predicted, whole.labels, whole.experience)
    store.write(made.model_copy(update=summary(predictions, ["cat", "dog"])), predictions)


@pytest.fixture
def site(tmp_path):
    store = Store(tmp_path / "runs")
    for seed in range(5):
        kept(store, "finetune", seed, 1, 0)
        kept(store, "joint", seed, 10, 10)
        kept(store, "end", seed, 2, 9)
        kept(store, "way", seed, 10 - seed % 2, 7)
    source = StoreSource(store.path)
    made = load_board(source)
    build_site(made, source.load, tmp_path / "site")
    return made.tables[0], tmp_path / "site"


def text(path):
    return " ".join(unescape(re.sub(r"<[^>]+>", " ", path.read_text())).split())


def test_pages_show_it_first_and_name_it(site):
    made, folder = site
    assert [entry.label for entry in made.ranked] == ["way", "end"]
    # By hand: after the first experience (10 or 9)/10, after the second (10 + 7)/20.
    assert made.ranked[0].intervals[POOLED].mean == pytest.approx((3 * 1.0 + 2 * 0.9) / 10 + 0.85 / 2)
    page = text(folder / "track" / f"{made.slug}.html")
    assert "Ranked rows by average incremental pooled accuracy , highest first" in page
    assert "Average incremental pooled accuracy ? Average incremental pooled accuracy between 0 and 100 %" in page
    assert "Final" in page
    assert "Average incremental pooled accuracy against forgetting" in page
    cells = re.findall(r'<td class="num main" data-v="([0-9.]+)"', (folder / "track" / f"{made.slug}.html").read_text())
    assert [float(cell) for cell in cells] == [e.intervals[POOLED].mean for e in (*made.references, *made.ranked)]
    front = text(folder / "index.html")
    assert "90.5 ± 3.4 average incremental pooled accuracy" in front
    assert "joint 100.0" in front
    one = text(folder / "row" / f"{made.ranked[0].slug}.html")
    assert "average incremental pooled accuracy, %" in one
    (line,) = json.loads((folder / "tracks.json").read_text())
    assert line[POOLED] == pytest.approx(0.905)
    assert to_latex(made).splitlines()[3].startswith("Strategy & Average incremental pooled accuracy (\\%)")
    assert r"way & $90.5 \pm 3.4$" in to_latex(made)


def test_runs_that_go_on_from_others_have_no_page():
    came = Continuation(cell="a" * 64, record="b" * 64, state="c" * 64, data="new.csv")
    later = track("toy").model_copy(update={"continues": came})
    runs = row("ewc", [0.5] * 2)
    alone = board(runs)
    both = board([*runs, found("ewc", 0, 0.9, at=later)])
    assert repr(both.tables) == repr(alone.tables)  # not ==: in Python 3.13 a NaN in a field differs from itself
    assert both.problems == alone.problems == ()
    assert board([found("ewc", 0, 0.9, at=later)]).tables == ()
