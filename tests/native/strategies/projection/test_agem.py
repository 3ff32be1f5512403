"""A-GEM: the projection onto one reference gradient, and the memory that it is taken from."""

from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from clarena_native.backbones.small import Mlp
from clarena_native.strategies.projection.agem import AGEM
from clarena_native.strategies.projection.gem import multipliers, trained, write_gradient
from clarena_native.strategies.references.finetune import Finetune
from clarena_native.strategies.regularisation.quadratic import flat_gradient
from tiny import SCENARIOS, same, walk

from clarena import ReplayBuffer, UsageError, cross_entropy
from clarena.contract.meter import Meter


def second_experience(scenario="class", **options):
    """A-GEM before its first step on the second experience, in double precision, all exemplars in each reference."""
    walked = walk(AGEM(**options), scenario)
    walked.step(0)
    agem = walked.strategy
    walked.realised.begin([1])
    agem.context.grow(agem.model)
    agem.experience = SimpleNamespace(meter=Meter())
    agem.model.double()
    stored = agem.buffer.everything()
    agem.buffer = ReplayBuffer(agem.buffer.capacity, agem.policy)
    agem.buffer.add(agem.context.generator("buffer"), **stored | {"x": stored["x"].double()})
    return agem


def reference_by_hand(agem):
    """The gradient of the loss on everything stored, with backward()."""
    stored = agem.buffer.everything()
    agem.model.zero_grad()
    mask = agem.context.space.exemplar_mask(stored.get("task"))
    cross_entropy(agem.model(stored["x"]), stored["y"], mask).backward()
    reference = flat_gradient(trained(agem.model))
    agem.model.zero_grad()
    return reference


@pytest.mark.parametrize("scenario", SCENARIOS)
@pytest.mark.parametrize("seed", range(5))
def test_the_projection(scenario, seed):  # A1, A2, A3
    agem = second_experience(scenario)
    reference = reference_by_hand(agem)
    noise = torch.randn(len(reference), generator=torch.Generator().manual_seed(seed), dtype=reference.dtype)
    g = noise - 2 * abs(noise @ reference) / (reference @ reference) * reference
    assert g @ reference < 0
    write_gradient(trained(agem.model), g)
    agem.adjust_gradients(None)
    adjusted = flat_gradient(trained(agem.model))
    assert abs(adjusted @ reference) <= 1e-12 * g.norm() * reference.norm()
    assert adjusted.norm() <= g.norm()
    rows = reference.numpy()[None]
    gem = rows.T @ multipliers(rows @ rows.T, rows @ g.numpy()) + g.numpy()
    np.testing.assert_allclose(adjusted.numpy(), gem, atol=1e-12)
    assert agem.experience.meter.replayed == len(agem.buffer)


def test_without_violation_the_gradient_stays_as_it_is():  # A1
    agem = second_experience()
    g = reference_by_hand(agem)
    g[:10] = -0.0
    write_gradient(trained(agem.model), g.clone())
    agem.adjust_gradients(None)
    adjusted = flat_gradient(trained(agem.model))
    assert torch.equal(adjusted.view(torch.int64), g.view(torch.int64))  # signs of zeros, too


@pytest.mark.parametrize("gradient", [1.0, torch.nan, torch.inf])
def test_a_zero_reference_is_safe(gradient):  # A4
    agem = second_experience()
    stored = agem.buffer.everything()
    with torch.no_grad():  # a loss of exactly 0 on what is remembered
        for block in agem.model.head.blocks:
            block.bias.fill_(-1e4)
        agem.model.head.blocks[0].bias[0] = 1e4
    agem.buffer = ReplayBuffer(12)
    agem.buffer.add(agem.context.generator("buffer"), x=stored["x"], y=torch.zeros_like(stored["y"]))
    assert not reference_by_hand(agem).any()
    for p in trained(agem.model):
        p.grad = torch.full_like(p, gradient)
    agem.adjust_gradients(None)
    for p in trained(agem.model):
        torch.testing.assert_close(p.grad, torch.full_like(p, gradient), rtol=0, atol=0, equal_nan=True)


class Watched(AGEM):
    """Checks at every step what the memory holds."""

    def setup(self, context):
        super().setup(context)
        self.past = Counter()

    def adjust_gradients(self, batch):
        replayed = self.experience.meter.replayed
        super().adjust_gradients(batch)
        assert self.stored() <= self.past  # each sample once, and none of the present experience
        drawn = self.experience.meter.replayed - replayed
        assert drawn == min(self.reference_size, self.buffer.capacity, self.past.total())

    def after_experience(self, experience):
        super().after_experience(experience)
        self.past += Counter(x.numpy().tobytes() for batch in experience.scan() for x in batch.x)

    def stored(self):
        """The exemplars as bytes."""
        everything = self.buffer.everything()
        return Counter(x.numpy().tobytes() for x in everything["x"]) if everything else Counter()


@pytest.mark.parametrize("scenario", SCENARIOS)
@pytest.mark.parametrize("policy", ["reservoir", "class_balanced"])
@pytest.mark.parametrize("size", [1, 12, 100])
def test_memory_holds_past_experiences_only_each_sample_once(scenario, policy, size):
    walked = walk(Watched(policy=policy, buffer_size=size, reference_size=5), scenario, buffer_size=100)
    walked.finish()
    assert len(walked.strategy.buffer) == min(size, 33 + 13 + 22)


def test_classes_are_balanced():
    walked = walk(AGEM).finish()
    labels = walked.strategy.buffer.everything()["y"].tolist()
    assert sorted(Counter(labels).values()) == [2] * 6


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_without_memory_it_is_finetune(scenario):
    class Plain(Finetune):
        """Finetune with plain SGD."""

        needs = AGEM.needs

    settings = {"momentum": 0.5, "optimizer": "sgd", "learning_rate": 0.03}
    off = walk(AGEM(buffer_size=0, learning_rate=0.03), scenario, **settings).finish()
    assert same(off.parameters(), walk(Plain, scenario, **settings).finish().parameters())
    on = walk(AGEM(learning_rate=0.03), scenario, **settings).finish()
    assert scenario != "class" or not same(off.parameters(), on.parameters())  # elsewhere nothing need be violated


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_restored_in_the_middle_it_comes_to_the_same_end(scenario):
    first = walk(AGEM, scenario)
    first.step(0)
    second = walk(AGEM, scenario)
    second.realised.begin([0])
    second.strategy.load_state_dict(first.strategy.state_dict())
    assert same(first.finish(1).parameters(), second.finish(1).parameters())


def test_memory_passes_leave_batch_norm_and_chance_alone():
    walked = walk(AGEM, backbone=Mlp, options={"hidden": [8], "norm": "batch", "dropout": 0.5})
    agem = walked.strategy
    walked.step(0)
    agem.experience = SimpleNamespace(meter=Meter())
    agem.train()
    before = {name: value.clone() for name, value in agem.model.state_dict().items()}
    chance = torch.get_rng_state()
    agem.adjust_gradients(None)
    assert same(list(before.values()), list(agem.model.state_dict().values()))
    assert torch.equal(chance, torch.get_rng_state())
    assert all(part.training for part in agem.model.modules())


def test_a_buffer_beyond_the_protocol_is_refused():
    with pytest.raises(UsageError, match="buffer_size = 13 exceeds the protocol's limit of 12"):
        walk(AGEM(buffer_size=13))
