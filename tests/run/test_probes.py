"""A backbone's probe: asked before learning and after each experience, kept in the record, shown, range-checked."""

from pathlib import Path

import numpy as np
import pytest
import torch
from clarena_native.strategies.references.finetune import Finetune
from clarena_native.strategies.references.joint import Joint
from clarena_native.strategies.replay.er import ER
from records_with_predictions import changed
from tiny import walk

from clarena import Head, Record, StoreError
from clarena.checks.tiny import TinyMlp
from clarena.record.record import Cell, StrategyInfo
from clarena.record.store import Store, read_folder
from clarena.record.summary import rows, table_texts
from clarena.run.runner import Run
from clarena.tracking.content import metrics

CPU = torch.device("cpu")


class Sums(Head):
    """The sum of the features."""

    def forward(self, features):
        return features.sum(1, keepdim=True)


class Probed(TinyMlp):
    """A network whose probe is the mean of its features of a fixed input."""

    name = "probed"

    def probe(self, scores):
        fixed = torch.linspace(-1, 1, 16).reshape(1, 1, 4, 4).expand(1, *SHAPE)
        assert not torch.is_grad_enabled()
        assert not self.training
        return {"probe_sum": float(scores(Sums(self.features), fixed))}


SHAPE = walk(Finetune).realised.context().input_shape


class Interrupted(Finetune):
    """Stops in the second experience, the first time."""

    name = "interrupted"
    stop = True

    def before_experience(self, experience):
        if experience.position == 1 and Interrupted.stop:
            raise KeyboardInterrupt


def run(strategy, store: Path, backbone=Probed, rate=0.01) -> Record:
    ours = walk(strategy, backbone=backbone)
    info = StrategyInfo(
        name=strategy.name, source_hash="0" * 64, hyperparameters={}, learning_rate=rate, reference=strategy is Joint
    )
    cell = Cell(track=ours.realised.track, strategy=info, seed=0)
    return Run(cell, ours.realised.parts, CPU, Store(store)).execute()


def test_it_is_asked_before_learning_and_after_each_experience(tmp_path):
    record = run(ER, tmp_path)
    ours, found = walk(ER, backbone=Probed), []
    found.append(ours.strategy.model.probe()["probe_sum"])
    for position in range(3):
        ours.step(position)
        found.append(ours.strategy.model.probe()["probe_sum"])
    assert record.probes == {"probe_sum": found}
    assert len(set(found)) == 4
    assert record.changed("probe_sum") == found[3] - found[0] != 0
    assert np.isnan(record.changed("another"))


def test_what_is_learned_is_the_same_with_it_and_without(tmp_path):
    with_it, without = run(ER, tmp_path / "a"), run(ER, tmp_path / "b", backbone=TinyMlp)
    assert np.array_equal(with_it.matrix, without.matrix, equal_nan=True)
    assert without.probes == {}
    assert "probes" not in without.model_dump_json()


def test_where_nothing_is_learned_nothing_changes(tmp_path):
    record = run(Finetune, tmp_path, rate=1e-30)
    assert record.changed("probe_sum") == 0


def test_joint_has_none_in_between(tmp_path):
    (values,) = run(Joint, tmp_path).probes.values()
    assert np.isfinite(values).tolist() == [True, False, False, True]


def test_a_run_that_goes_on_from_a_checkpoint_has_the_same(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(Interrupted, tmp_path / "a")
    (halfway,) = (read_folder(path.parent).record for path in tmp_path.rglob("record.json"))
    assert [len(values) for values in halfway.probes.values()] == [2]
    Interrupted.stop = False
    resumed, whole = run(Interrupted, tmp_path / "a"), run(Interrupted, tmp_path / "b")
    assert resumed.resumed == [1]
    assert resumed.probes == whole.probes


def test_it_is_shown_in_tables_and_in_mlflow(tmp_path):
    record = run(ER, tmp_path)
    titles, (line,) = table_texts(rows([record]))
    assert line[titles.index("Δ probe sum")] == f"{record.changed('probe_sum'):.2f}"
    assert rows([record])[0].as_dict()["probe_sum_change"] == record.changed("probe_sum")
    points = [(value, step) for name, value, step in metrics(record) if name == "probe/probe_sum"]
    assert points == list(zip(record.probes["probe_sum"], range(4)))
    titles, _ = table_texts(rows([run(ER, tmp_path, backbone=TinyMlp)]))
    assert not any("Δ" in title for title in titles)


@pytest.mark.parametrize("values", [[1.0], [1.0] * 5])
def test_a_record_with_other_numbers_than_there_are_experiences_is_refused(tmp_path, values):
    run(ER, tmp_path)
    (path,) = tmp_path.rglob("record.json")
    kept = path.read_text()
    changed(path, probes={"probe_sum": [1.0, 2.0, 3.0, 4.0]})
    assert read_folder(path.parent).record.changed("probe_sum") == 3
    path.write_text(kept)
    changed(path, probes={"probe_sum": values})
    with pytest.raises(StoreError, match="probes"):
        read_folder(path.parent)
