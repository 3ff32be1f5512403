"""Scores [n, height, width, outputs], cells by output: every shape is another than a class's, from loss to board."""

from pathlib import Path

import made_pixels
import numpy as np
import pytest
import torch
from clarena_leaderboard.board import load_board
from clarena_leaderboard.site.render import build_site
from clarena_leaderboard.sources import StoreSource
from made_pixels import Pixels, Squares
from sklearn.metrics import jaccard_score
from trained_models import evaluated

from clarena import PluginError, UsageError, continue_run, load_model
from clarena.plugins.host import PluginSources
from clarena.record.recomputation import recompute
from clarena.record.store import Store
from clarena.testing import check_target

PLUGINS = PluginSources(files=(Path(made_pixels.__file__),))
STRATEGIES = ["finetune", "joint", "er", "ewc", "lwf", "mas", "si", "agem", "der"]
SETTINGS = {"ewc": {"fisher": "sample"}, "protocol": {"epochs": 15, "learning_rate": 0.01}, "backbone": {}}


def test_its_likelihood_is_one():
    y = torch.tensor([[[0, 1], [-100, 2]], [[2, -100], [-100, -100]], [[1, 1], [0, 0]]])
    check_target(Pixels, y, 4)


@pytest.fixture(scope="module", params=["class", "domain"])
def runs(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    options = {"benchmark": "squares", "scenario": request.param, "plugins": PLUGINS, "protocol": "standard"}
    options["backbone"] = "pixel-net"
    settings = dict(SETTINGS)
    results = evaluated(folder, *STRATEGIES, **options, settings=settings, limit=None)
    assert not results.errors
    return folder, request.param, results


def test_every_strategy_learns_them_and_every_number_is_computed_again(runs):
    folder, _, results = runs
    store = Store(folder / "runs")
    for record in results:
        assert (record.status, record.score, record.unit) == ("finished", "mean IoU", "pixels"), record.reason
        assert recompute(record, store.predictions(record))[1] == []
        assert np.array_equal(store.find(record.cell).matrix, record.matrix, equal_nan=True)
    by_name = {record.cell.strategy.name: record for record in results}
    final = {name: record.metrics["final_average_score"] for name, record in by_name.items()}
    assert final["joint"] > final["finetune"]
    assert final["er"] > final["finetune"]


def test_a_cell_is_the_mean_over_its_classes_of_scikit_learn_s_index(runs):
    """By output in the class scenario: of all pixels, those of other experiences too. Else: of its own pixels."""
    folder, scenario, results = runs
    for record in results:
        predictions = Store(folder / "runs").predictions(record)
        for j in range(3):
            given, true = predictions.predicted[-1], predictions.labels
            if scenario == "class":
                classes = [2 * j, 2 * j + 1]
            else:
                given, true = (each[predictions.experience == j] for each in (given, true))
                classes = sorted(set(true.tolist()))
            wanted = jaccard_score(true, given, labels=classes, average="macro", zero_division=0)
            assert record.matrix[-1, j] == pytest.approx(wanted)


def test_all_pixels_are_asked_where_cells_are_by_output(runs):
    folder, scenario, results = runs
    (finetune,) = (record for record in results if record.cell.strategy.name == "finetune")
    predicted = Store(folder / "runs").predictions(finetune).predicted
    asked = [(row >= 0).all() for row in predicted[1:]]
    assert asked == [True] * 3
    seen = [set(row.tolist()) for row in predicted[1:]]
    if scenario == "class":
        assert (predicted[0] == -1).all()
        assert all(known <= set(range(2 * (i + 1))) for i, known in enumerate(seen))


def test_a_backbone_without_positions_is_refused_in_words(tmp_path):
    with pytest.raises(PluginError, match=r"should be \[2, 8, 8, 400\]\. A sample of made-up-pixels is asked at each"):
        evaluated(tmp_path, "finetune", benchmark="squares", plugins=PLUGINS, settings={"backbone": {}})


def test_a_board_shows_them_under_the_name_of_their_score(runs, tmp_path):
    folder, scenario, _ = runs
    source = StoreSource(folder / "runs")
    board = load_board(source)
    (table,) = board.tables
    assert (table.target, table.score, table.unit) == ("made-up-pixels", "mean IoU", "pixels")
    assert {entry.reason for entry in table.entries} == {""}
    assert {run.flaws for entry in table.entries for run in entry.runs} == {()}
    build_site(board, source.load, tmp_path / "site")
    page = (tmp_path / "site" / "row" / f"{table.ranked[0].slug}.html").read_text()
    assert "Final average mean IoU" in page
    assert scenario in (tmp_path / "site" / "index.html").read_text()


def test_their_models_answer_and_go_on_where_cells_are_by_sample(runs, tmp_path):
    folder, scenario, results = runs
    (er,) = (record for record in results if record.cell.strategy.name == "er")
    model = load_model(er, folder / "runs", plugins=PLUGINS)
    data = Squares().data()
    assert model.scores(data.x_test[:2]).shape == (2, 8, 8, 6)
    np.savez(tmp_path / "new.npz", x=data.x_train[:20], y=data.y_train[:20])
    options = {"store": folder / "runs", "plugins": PLUGINS, "track": False, "benchmark": "squares"}
    if scenario == "class":
        with pytest.raises(UsageError, match="is over all test samples, by output"):
            continue_run(er, tmp_path / "new.npz", **options)
        return
    went = continue_run(er, tmp_path / "new.npz", **options)
    assert went.status == "finished"
    assert np.isfinite(went.matrix[-1]).all()
