"""GDumb: a model trained from scratch on a balanced buffer and on nothing else."""

from collections import Counter

import pytest
import torch
from clarena_native.backbones.small import Mlp
from clarena_native.strategies.replay.gdumb import GDumb
from tiny import SCENARIOS, same, walk
from torch.nn import functional as F

from clarena import ReplayBuffer


def rows_of(x):
    return sorted(row.numpy().tobytes() for row in x)


@pytest.mark.parametrize("capacity", [0, 1, 5, 13, 1000])
def test_the_buffer_is_filled_greedily_by_one_pass_of_each_experience(capacity):
    ours = walk(GDumb(epochs=1), buffer_size=capacity, epochs=3)
    twin = walk(GDumb(epochs=1), buffer_size=capacity, epochs=3)
    buffer = ReplayBuffer(capacity, "greedy")
    for position in range(3):
        experience = ours.step(position)
        assert experience.meter.samples == len(experience)
        twin.realised.begin([position])
        for batch in twin.realised.experience([position]).batches(1):
            buffer.add(twin.realised.seeds.torch("buffer"), x=batch.x, y=batch.y)
        assert rows_of(ours.strategy.buffer.everything()["x"]) == rows_of(buffer.everything()["x"])
    counts = Counter(buffer.everything()["y"].tolist())
    if capacity == 13:
        assert sorted(counts.values()) == [2, 2, 2, 2, 2, 3]


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_training_starts_from_scratch_and_sees_the_buffer_alone(scenario):
    """A model drawn from the experience's own `init` stream, trained by hand on what is in the buffer."""
    ours = walk(GDumb(epochs=3), scenario, buffer_size=14, optimizer="sgd", momentum=0.9, learning_rate=0.05)
    previous = []
    for position in range(3):
        experience = ours.step(position)
        stored = ours.strategy.buffer.everything()
        ours.realised.seeds.start(position)  # every stream from its beginning
        ours.strategy.context.grow(ours.strategy.model)  # so that the last model can answer in the meantime
        model = ours.strategy.context.model()
        optimiser = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
        for _ in range(3):
            order = torch.randperm(len(stored["y"]), generator=ours.realised.seeds.torch("strategy"))
            for rows in order.split(8):
                scores = model(stored["x"][rows])
                if scenario == "task":
                    own = ours.realised.space.tasks
                    for row, task in enumerate(stored["task"][rows].tolist()):
                        hidden = [c for c in range(scores.shape[1]) if c not in own[task]]
                        scores[row, hidden] = -torch.inf
                optimiser.zero_grad()
                F.cross_entropy(scores, stored["y"][rows]).backward()
                optimiser.step()
        assert same(ours.parameters(), [p.detach() for p in model.parameters()])
        assert experience.meter.replayed == 3 * len(stored["y"])
        assert len(model.head.blocks) == 1
        assert not same(previous, ours.parameters()[: len(previous)] or [torch.zeros(1)])
        previous = ours.parameters()


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_without_a_budget_the_model_is_untrained_and_answers(scenario):
    ours = walk(GDumb(buffer_size=0), scenario).finish()
    assert len(ours.strategy.buffer) == 0
    assert len(ours.predict()) == len(ours.realised.test.labels)


def test_it_is_evaluated_within_an_experience_with_the_last_model():
    ours = walk(GDumb(), "class")
    ours.step(0)
    before = ours.strategy.predict(ours.realised.test.x)
    ours.realised.begin([1])
    experience = ours.realised.experience([1])
    seen = []
    experience.on_step = lambda step: seen.append(ours.strategy.predict(ours.realised.test.x))
    ours.strategy.learn(experience)
    assert seen
    for scores in seen:
        assert scores.shape[1] == 4
        torch.testing.assert_close(scores[:, :3], before)


def test_a_budget_smaller_than_the_classes_and_batches_of_one_sample():
    for capacity in (1, 2, 9):
        ours = walk(GDumb(epochs=2), backbone=Mlp, options={"hidden": (8,), "norm": "batch"}, buffer_size=capacity)
        ours.finish()
        assert len(ours.strategy.buffer) == capacity
        assert torch.isfinite(ours.strategy.predict(ours.realised.test.x)).all()


def test_it_learns_what_is_in_the_buffer():
    ours = walk(GDumb(), "class", buffer_size=60, learning_rate=0.02).finish()
    right = torch.tensor(ours.predict()) == torch.as_tensor(ours.realised.test.labels)
    assert right.float().mean() > 0.8
