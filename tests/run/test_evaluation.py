"""`clarena.evaluate`: what a request means, what it gives back, and what it does not run again."""

import math

import numpy as np
import pytest
import troublemakers as trouble

from clarena import Store, UsageError, evaluate
from clarena.plugins.host import PluginSources


def run(store, strategies=trouble.Plain, **options):
    chosen = {"benchmark": trouble.Tiny, "seeds": 1, "jobs": 1, "track": False, "protocol": "smoke"} | options
    results = evaluate(strategies, store=store, **chosen)
    assert not results.errors
    return results


def test_names_and_classes_seeds_and_the_order_of_the_request(tmp_path):
    results = run(tmp_path, ["er", trouble.Plain], seeds=[4, np.int64(2)])
    assert [(r.cell.strategy.name, r.cell.seed) for r in results] == [("er", 4), ("er", 2), ("plain", 4), ("plain", 2)]
    assert len(results) == 4
    assert results.records[0].cell.strategy.plugin.startswith("native")
    assert results.records[2].cell.strategy.plugin == "class troublemakers.Plain"
    assert {record.cell.track.digest for record in results} == {results.records[0].track_digest}
    assert results.records[0].cell.track.benchmark.fingerprint == trouble.Tiny().data().fingerprint()


def test_what_is_there_is_not_run_again_and_more_seeds_add_to_it(tmp_path):
    first = run(tmp_path, seeds=2)
    heard = []
    more = run(tmp_path, seeds=3, listener=heard.append)
    assert [r.started for r in more][:2] == [r.started for r in first]
    assert {event.work.cell.seed for event in heard} == {2}
    changed = run(tmp_path, settings={"plain": {"learning_rate": 0.5}})
    assert changed.records[0].cell_id != first.records[0].cell_id
    assert len(Store(tmp_path).records()[0]) == 4


def test_the_data_frame_has_a_line_for_each_record(tmp_path):
    results = run(tmp_path, ["er", trouble.Raises], settings={"er": {"buffer_size": 7}}, scenario="task")
    frame = results.dataframe()
    assert frame["strategy"].tolist() == ["er", "raises"]
    assert frame["status"].tolist() == ["finished", "failed"]
    assert frame["er.buffer_size"][0] == 7
    assert math.isnan(frame["er.buffer_size"][1])
    matrix = results.records[0].matrix
    assert frame["final_average_accuracy"][0] == pytest.approx(matrix[-1].mean())
    assert math.isnan(frame["final_average_accuracy"][1])
    assert frame["track"][0] == "tiny/task/mlp/smoke"


@pytest.mark.parametrize("strategy", ["finetune", "ewc", "er", trouble.Plain])
def test_the_learning_rate_can_be_set_for_every_strategy_and_takes_effect(tmp_path, strategy):
    name = strategy if isinstance(strategy, str) else strategy.name
    small = {"protocol": {"batch_size": 8}}  # for several steps in an experience
    slow = run(tmp_path, strategy, settings={name: {"learning_rate": "1e-30"}} | small).records[0]
    usual = run(tmp_path, strategy, settings=small).records[0]
    assert (slow.cell.strategy.learning_rate, usual.cell.strategy.learning_rate) == (1e-30, 0.001)
    assert slow.cell.strategy.hyperparameters == usual.cell.strategy.hyperparameters
    assert slow.cell.row != usual.cell.row
    assert slow.track_digest == usual.track_digest
    assert slow.costs[0].mean_loss != usual.costs[0].mean_loss
    for value in (0, -1, "nan", "quick"):
        with pytest.raises(UsageError, match=r"(?s)learning_rate = .* is not valid.*Learning rate of the optimiser"):
            run(tmp_path, strategy, settings={name: {"learning_rate": value}})


def test_a_limit_uses_fewer_samples_and_is_never_ranked(tmp_path):
    whole = run(tmp_path, protocol="standard", settings={"protocol": {"epochs": 1}}).records[0]
    few = run(tmp_path, protocol="standard", settings={"protocol": {"epochs": 1}}, limit=5).records[0]
    assert whole.unranked is None
    assert few.unranked == "only 5 samples of each experience were used"
    assert few.track_digest != whole.track_digest
    assert [(e.train_samples, e.test_samples) for e in few.experiences] == [(5, 5)] * 3
    assert sum(e.train_samples for e in whole.experiences) == 84


def test_an_edited_plugin_makes_new_cells_and_a_comment_or_an_unrelated_file_does_not(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    plugin = tmp_path / "mine.py"
    plugin.write_text(
        "from clarena import GradientStrategy, hookimpl\n"
        "import mine_helper\n\n\n"
        "class Mine(GradientStrategy):\n    '''Mine alone.'''\n\n    name = 'mine'\n\n\n"
        "@hookimpl\ndef clarena_register_strategies(register):\n    register(Mine)\n"
    )
    helper, unrelated = tmp_path / "mine_helper.py", tmp_path / "notes.py"
    helper.write_text("FACTOR = 1\n")
    seen = []
    for change in (lambda: None, lambda: unrelated.write_text("x = 1\n"), lambda: helper.write_text("FACTOR = 2\n")):
        change()
        record = run(tmp_path / "runs", "mine", plugins=PluginSources(files=[plugin])).records[0]
        assert record.status == "finished", record.reason
        seen.append(record.cell_id)
    for line in ("# a comment\n", "VALUE = 1\n"):
        plugin.write_text(plugin.read_text() + line)
        seen.append(run(tmp_path / "runs", "mine", plugins=PluginSources(files=[plugin])).records[0].cell_id)
    assert [seen.index(cell) for cell in seen] == [0, 0, 2, 2, 4]


def test_a_composite_records_the_learning_rate_of_the_part_that_owns_one(tmp_path):
    """GEM's mathematics fixes its optimiser, so its rate is its own hyper-parameter, in company too."""
    common = {"store": tmp_path, "track": False, "jobs": 1, "protocol": "smoke", "seeds": 1}
    results = evaluate("ewc+gem", settings={"ewc+gem.gem": {"learning_rate": "0.01"}}, **common)
    assert results.records[0].status == "finished"
    assert results.records[0].cell.strategy.learning_rate == 0.01
    with pytest.raises(UsageError, match=r"--set ewc\+gem\.gem\.learning_rate=0\.02"):
        evaluate("ewc+gem", settings={"ewc+gem": {"learning_rate": "0.02"}}, **common)


NET = """
import torch
from torch import nn

from clarena import Backbone, hookimpl

WIDTH = 16


class Net(Backbone):
    '''One layer.'''

    name = "net"

    def __init__(self, input_shape):
        super().__init__()
        self.features = WIDTH
        self.layer = nn.Linear(torch.Size(input_shape).numel(), WIDTH)

    def forward(self, x):
        return torch.relu(self.layer(x.flatten(1)))


@hookimpl
def clarena_register_backbones(register):
    register(Net)
"""


def test_an_edited_backbone_makes_another_track_and_a_comment_does_not(tmp_path):
    plugin, seen = tmp_path / "net.py", []
    for text in (NET, NET.replace("WIDTH = 16", "WIDTH = 16  # wide"), NET.replace("WIDTH = 16", "WIDTH = 20")):
        plugin.write_text(text)
        record = run(tmp_path / "runs", backbone="net", plugins=PluginSources(files=[plugin])).records[0]
        assert record.status == "finished", record.reason
        seen.append((record.cell_id, record.cell.track.backbone.identity, record.costs[0].parameters))
    assert seen[0] == seen[1]
    assert all(one != other for one, other in zip(seen[0], seen[2]))


def test_a_backbone_or_benchmark_given_as_a_class_counts_by_its_code_and_a_built_in_one_by_its_revision(tmp_path):
    from clarena_native.backbones.small import Mlp
    from clarena_native.benchmarks.digits import SplitDigits

    def track(**parts):
        return run(tmp_path, "finetune", **parts).records[0].cell.track

    own = track(backbone=type("Own", (Mlp,), {"name": "mlp"}), benchmark=trouble.Tiny)
    assert own.backbone.identity
    assert own.benchmark.identity
    by_class = track(backbone=Mlp, benchmark=SplitDigits)
    assert (by_class.backbone.identity, by_class.benchmark.identity) == (None, None)
    assert by_class.digest == track(backbone="mlp", benchmark="split-digits").digest
    assert track(backbone="mlp", benchmark=trouble.Tiny).digest != own.digest
