"""Experience replay: the loss it minimises, what it stores and when, and nothing at all without a buffer."""

from collections import Counter

import numpy as np
import pytest
import torch
from clarena_native.backbones.small import Cnn, Mlp
from clarena_native.strategies.references.finetune import Finetune
from clarena_native.strategies.replay.er import ER
from tiny import SCENARIOS, same, walk
from torch.nn import functional as F

POLICIES = ["reservoir", "class_balanced", "ring", "balanced_random"]


def key(x, y, task=None):
    return x.numpy().tobytes(), int(y), None if task is None else int(task)


def stored(strategy):
    """Every exemplar as (bytes, label, task)."""
    everything = strategy.buffer.everything()
    tasks = everything.get("task", [None] * len(everything["y"]))
    return [key(*row) for row in zip(everything["x"], everything["y"], tasks, strict=True)]


def samples(walked, positions):
    """Every training sample of these experiences as (bytes, label, task)."""
    found = []
    for i in positions:
        split = walked.realised.stream.splits[i]
        task = i if walked.realised.track.scenario == "task" else None
        found += [
            key(x, y, task) for x, y in zip(walked.realised.data.x_train[split.train], split.y_train, strict=True)
        ]
    return found


class Watched(ER):
    """Checks every step against the definition."""

    def setup(self, context):
        super().setup(context)
        self.steps = 0

    def replay(self, batch):
        full = super().replay(batch)
        wanted = min(len(self.buffer), self.replay_size or self.context.protocol.batch_size)
        assert len(full) - full.fresh == wanted
        assert full.fresh == len(batch)
        assert torch.equal(full.stream().x, batch.x)
        assert torch.equal(full.stream().y, batch.y)
        self.before = Counter(stored(self)) if self.buffer.seen else Counter()
        tasks = [None] * len(full) if full.task is None else full.task
        drawn = Counter(key(*row) for row in list(zip(full.x, full.y, tasks, strict=True))[full.fresh :])
        assert drawn <= self.before  # without replacement, from what was there before this batch
        return full

    def loss(self, batch):
        loss = super().loss(batch)
        parts = []
        for part in (batch.stream(), batch.exemplars()):
            scores = part.scores
            if part.mask is not None:
                scores = scores.masked_fill(~part.mask, -torch.inf)
            parts.append(F.cross_entropy(scores, part.y, reduction="sum"))
        torch.testing.assert_close(loss, (parts[0] + parts[1]) / len(batch))  # (n_c L_c + n_m L_m) / (n_c + n_m)
        return loss

    def after_step(self, batch):
        assert Counter(stored(self) if self.buffer.seen else []) == self.before  # not written to before the update
        super().after_step(batch)
        self.steps += 1


@pytest.mark.parametrize("settings", [{}, {"replay_size": 3}, {"replay_size": 100}])
@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_every_step_replays_what_was_stored_before_it(scenario, policy, settings):
    walked = walk(Watched(policy=policy, **settings), scenario, buffer_size=12)
    replayed = sum(walked.step(position).meter.replayed for position in range(3))
    assert walked.strategy.steps == 2 * (5 + 2 + 3)
    assert replayed > 0
    exemplars = stored(walked.strategy)
    assert len(exemplars) == 12
    allowed = set(samples(walked, range(3)))
    assert set(exemplars) <= allowed  # bit for bit, under their own labels and tasks


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("capacity", [0, 1, 5, 12])
def test_the_budget_is_kept_at_every_step(capacity, policy):
    class Counted(ER):
        def after_step(self, batch):
            super().after_step(batch)
            assert len(self.buffer) <= capacity

    walked = walk(Counted(policy=policy, buffer_size=capacity), "class", buffer_size=12).finish()
    assert len(walked.strategy.buffer) == capacity
    tensors = [t for name, t in walked.strategy.named_buffers() if "stored_" in name]
    assert all(len(t) == capacity for t in tensors)


def test_it_takes_all_that_is_granted_and_no_more():
    assert walk(ER, buffer_size=9).strategy.buffer.capacity == 9
    assert walk(ER(buffer_size=4), buffer_size=9).strategy.buffer.capacity == 4


@pytest.mark.parametrize("state", ["reset", "kept"])
@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_without_a_buffer_it_is_finetune_bit_for_bit(scenario, policy, state):
    plain, off = (walk(s, scenario, optimizer_state=state) for s in (Finetune, ER(buffer_size=0, policy=policy)))
    for position in range(3):
        plain.step(position)
        off.step(position)
        assert same(off.parameters(), plain.parameters())
        assert off.predict() == plain.predict()


def test_until_something_is_stored_it_is_finetune_bit_for_bit():
    one = {"epochs": 1, "batch_size": 33}  # one step in the first experience
    plain, er = walk(Finetune, **one), walk(ER, **one)
    plain.step(0)
    er.step(0)
    assert same(er.parameters(), plain.parameters())
    plain.step(1)
    er.step(1)
    assert not same(er.parameters(), plain.parameters())


def test_the_policies_keep_what_they_promise():
    labels = {}
    for policy in POLICIES:
        walked = walk(ER(policy=policy), "class", buffer_size=12, epochs=1).finish()
        labels[policy] = Counter(int(y) for _, y, _ in stored(walked.strategy))
    assert labels["ring"] == dict.fromkeys(range(6), 2)
    assert min(labels["class_balanced"][label] for label in range(6)) >= 1
    assert max(labels["class_balanced"].values()) - min(labels["class_balanced"].values()) <= 1
    shares = [sum(labels["balanced_random"][label] for label in part) for part in ((0, 1, 2), (3,), (4, 5))]
    assert shares == [4, 4, 4]


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_exemplars_come_under_the_outputs_in_play_for_them(scenario):
    class Masks(ER):
        def replay(self, batch):
            full = super().replay(batch)
            if len(full) > full.fresh and full.mask is not None:
                exemplars = full.exemplars()
                rows = exemplars.mask.expand(len(exemplars), -1)
                for row, (label, task) in enumerate(zip(exemplars.y.tolist(), tasks(exemplars), strict=True)):
                    inside = set(rows[row].nonzero().flatten().tolist())
                    own = (
                        set(walked.realised.stream.splits[task].classes)
                        if scenario == "task"
                        else self.context.space.seen
                    )
                    assert label in inside
                    assert inside == own
            return full

    def tasks(batch):
        return [None] * len(batch) if batch.task is None else batch.task.tolist()

    walked = walk(Masks, scenario, loss_over="current")
    walked.finish()


@pytest.mark.parametrize("scenario", SCENARIOS)
@pytest.mark.parametrize("norm", ["none", "batch", "group", "layer"])
@pytest.mark.parametrize(("backbone", "options"), [(Mlp, {"hidden": (16,)}), (Cnn, {"widths": (4,), "features": 16})])
def test_it_runs_on_every_backbone(backbone, options, norm, scenario):
    walked = walk(Watched, scenario, backbone=backbone, options=options | {"norm": norm})
    losses = [walked.step(position).meter.mean_loss for position in range(3)]
    assert np.isfinite(losses).all()
    assert set(walked.predict()) <= set(range(6))


def test_replay_helps():
    """On the tiny stream, what was learned first is still known at the end, and forgotten without a buffer."""
    known = {}
    for name, strategy in (("er", ER(buffer_size=30)), ("finetune", Finetune)):
        walked = walk(strategy, "class", buffer_size=30, epochs=10).finish()
        test = walked.realised.test
        right = np.array(walked.predict()) == test.labels
        known[name] = right[test.experience == 0].mean()
    assert known["er"] > 0.8
    assert known["finetune"] < 0.5
