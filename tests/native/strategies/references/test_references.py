"""The bounds: finetune, joint and cumulative, and what they see when."""

import numpy as np
import pytest
import torch
from clarena_native.benchmarks.digits import PermutedDigits, SplitDigits
from clarena_native.strategies.references.cumulative import Cumulative
from clarena_native.strategies.references.finetune import Finetune
from clarena_native.strategies.references.joint import Joint
from clarena_native.strategies.regularisation.ewc import EWC
from clarena_native.strategies.replay.er import ER
from tiny import SCENARIOS, same, walk

from clarena.contract.strategy import is_reference
from clarena.record.record import Cell, StrategyInfo
from clarena.record.store import Store
from clarena.run.realisation import CellClasses, Realisation
from clarena.run.runner import Run


class Sees:
    """Notes which samples each step brings, and in how many passes."""

    def setup(self, context):
        super().setup(context)
        self.seen = []

    def before_experience(self, experience):
        self.seen.append([])

    def after_step(self, batch):
        self.seen[-1] += [x.numpy().tobytes() for x in batch.x]


def tiny_class(base):
    return type(f"Sees{base.__name__}", (Sees, base), {})


def data_of(realised, positions):
    return sorted(
        x.numpy().tobytes() for i in positions for x in realised.data.x_train[realised.stream.splits[i].train]
    )


@pytest.mark.parametrize("scenario", SCENARIOS)
@pytest.mark.parametrize(
    ("strategy", "steps"),
    [(Finetune, [[0], [1], [2]]), (Cumulative, [[0], [0, 1], [0, 1, 2]]), (Joint, [[0, 1, 2]])],
)
def test_what_is_seen_when(strategy, steps, scenario):
    walked = walk(tiny_class(strategy), scenario, epochs=2).finish()
    assert walked.realised.steps == steps
    assert [sorted(seen) for seen in walked.strategy.seen] == [
        sorted(data_of(walked.realised, positions) * 2) for positions in steps
    ]


@pytest.mark.parametrize("scenario", SCENARIOS)
@pytest.mark.parametrize("strategy", [Joint, Cumulative])
def test_with_one_experience_they_are_finetune_bit_for_bit(strategy, scenario):
    settings = {"benchmark": SplitDigits, "benchmark_options": {"experiences": 1}, "limit": 60, "batch_size": 16}
    plain, bound = (walk(s, scenario, seed=4, **settings).finish() for s in (Finetune, strategy))
    assert same(bound.parameters(), plain.parameters())
    assert bound.predict() == plain.predict()


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_the_first_step_of_cumulative_is_finetune(scenario):
    plain, bound = walk(Finetune, scenario), walk(Cumulative, scenario)
    plain.step(0)
    bound.step(0)
    assert same(bound.parameters(), plain.parameters())


@pytest.mark.parametrize("strategy", [Finetune, Cumulative, Joint])
def test_each_step_has_chance_of_its_own(strategy):
    walked = walk(strategy, "domain")
    drawn = []
    for steps in walked.realised.steps:
        walked.realised.begin(steps)
        drawn.append(torch.rand(3, generator=walked.realised.experience(steps).generator).tolist())
    assert len({tuple(numbers) for numbers in drawn}) == len(walked.realised.steps)


def test_joint_mixes_the_experiences():
    walked = walk(tiny_class(Joint), "class", epochs=1).finish()
    first = set(data_of(walked.realised, [0]))
    positions = [i for i, x in enumerate(walked.strategy.seen[0]) if x in first]
    assert positions != list(range(len(positions)))
    assert max(positions) > len(walked.strategy.seen[0]) / 2


def test_joint_applies_each_experience_its_own_transform():
    walked = walk(Joint, "domain", benchmark=PermutedDigits, benchmark_options={"experiences": 3}, limit=5)
    walked.realised.begin([0, 1, 2])
    union = walked.realised.experience([0, 1, 2])
    alone = [walked.realised.experience([i]) for i in range(3)]
    assert torch.equal(union.x, torch.cat([e.x for e in alone]))
    assert torch.equal(union.y, torch.cat([e.y for e in alone]))
    assert not torch.equal(alone[0].x, alone[1].x)


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_rows_of_the_matrix(scenario, tmp_path):
    """Joint has the row before learning and the last, and nothing in between; the others have all."""
    for strategy, rows in ((Finetune, [1, 2, 3]), (Cumulative, [1, 2, 3]), (Joint, [3])):
        walked = walk(strategy, scenario)
        info = StrategyInfo(
            name=strategy.name, source_hash="0" * 64, hyperparameters={}, learning_rate=0.01, reference=True
        )
        cell = Cell(track=walked.realised.track, strategy=info, seed=0)
        run = Run(cell, walked.realised.parts, torch.device("cpu"), Store(tmp_path / strategy.name))
        record = run.execute()
        assert record.status == "finished", record.traceback
        defined = np.isfinite(record.matrix)
        assert defined.shape == (4, 3)
        expected = np.zeros((4, 3), dtype=bool)
        expected[0] = scenario == "domain"
        for row in rows:
            expected[row, : 3 if scenario == "domain" else row] = True
        assert (defined == expected).all()
        assert [cost.position for cost in record.costs] == rows
        assert [cost.passes for cost in record.costs] == [2] * len(rows)


def test_the_bounds_bound():
    """On the tiny stream in the class scenario: forgetting without protection, and none with all the data."""
    final = {}
    for strategy in (Finetune, Cumulative, Joint):
        walked = walk(strategy, "class", epochs=10).finish()
        final[strategy.name] = (np.array(walked.predict()) == walked.realised.test.labels).mean()
    assert final["finetune"] < 0.6
    assert min(final["joint"], final["cumulative"]) > 0.9


def test_which_rows_are_references():
    assert {cls.name for cls in (Finetune, Joint, Cumulative, EWC, ER) if is_reference(cls)} == {
        "finetune", "joint", "cumulative",
    }  # fmt: skip
    assert isinstance(walk(Joint).realised, Realisation)
    assert walk(Joint).realised.parts == CellClasses(
        Joint, walk(Joint).realised.parts.benchmark, walk(Joint).realised.parts.backbone
    )
