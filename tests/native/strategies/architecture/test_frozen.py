"""Frozen features: the backbone stays bit for bit, and the head is a linear probe on it."""

import copy
import io

import pytest
import torch
from clarena_native.backbones.small import Mlp
from clarena_native.strategies.architecture.frozen import FrozenFeatures
from tiny import SCENARIOS, same, walk
from torch import nn
from torch.nn import functional as F

HARD = {"backbone": Mlp, "options": {"hidden": (16, 16), "norm": "batch", "dropout": 0.3}}
OPTIMISERS = {
    "sgd": {"optimizer": "sgd", "momentum": 0.9, "weight_decay": 0.1, "learning_rate": 0.05},
    "adamw": {"optimizer": "adamw", "weight_decay": 0.5, "optimizer_state": "kept"},
}


def backbone_of(ours):
    return copy.deepcopy(ours.strategy.model.backbone.state_dict())


def alike(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("freeze", ["after_first", "from_start"])
@pytest.mark.parametrize("optimiser", OPTIMISERS)
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_the_backbone_and_its_buffers_stay_bit_for_bit(scenario, optimiser, freeze):
    ours = walk(FrozenFeatures(freeze=freeze), scenario, **HARD, **OPTIMISERS[optimiser])
    states, heads = [backbone_of(ours)], []
    for position in range(3):
        ours.step(position)
        states.append(backbone_of(ours))
        heads.append([p.detach().clone() for p in ours.strategy.model.head.parameters()])
    assert any("running_mean" in name for name in states[0])
    assert alike(states[0], states[1]) is (freeze == "from_start")
    assert alike(states[1], states[2])
    assert alike(states[2], states[3])
    assert not same(heads[0], heads[1][: len(heads[0])])
    trained = {id(p) for group in ours.strategy.optimizer.param_groups for p in group["params"]}
    assert trained == {id(p) for p in ours.strategy.model.head.parameters()}
    assert all(p.grad is None for p in ours.strategy.model.backbone.parameters())


def test_the_head_is_a_linear_probe_on_cached_features():
    """Bit for bit the same as a linear layer trained on features that were computed once, in evaluation mode."""
    ours = walk(FrozenFeatures(), "domain", **HARD, **OPTIMISERS["sgd"])
    ours.step(0)
    backbone = copy.deepcopy(ours.strategy.model.backbone).eval()
    probe = copy.deepcopy(ours.strategy.model.head.blocks[0])
    optimiser = torch.optim.SGD(probe.parameters(), lr=0.05, momentum=0.9, weight_decay=0.1)
    ours.realised.begin([1])
    experience = ours.realised.experience([1])
    for batch in experience.batches():
        with torch.no_grad():
            features = backbone(batch.x)
        optimiser.zero_grad()
        F.cross_entropy(nn.functional.linear(features, probe.weight, probe.bias), batch.y).backward()
        optimiser.step()
    ours.step(1)
    assert same(list(ours.strategy.model.head.parameters()), list(probe.parameters()))


@pytest.mark.parametrize("freeze", ["after_first", "from_start"])
@pytest.mark.parametrize("optimiser", ["adam", "sgd"])
def test_saved_and_restored_it_goes_on_bit_for_bit(optimiser, freeze):
    protocol = {"optimizer": optimiser, "optimizer_state": "kept", "weight_decay": 0.1}
    protocol |= {"momentum": 0.9} if optimiser == "sgd" else {}
    whole = walk(FrozenFeatures(freeze=freeze), "task", **HARD, **protocol)
    saved = []
    for position in range(3):
        whole.step(position)
        saved.append(io.BytesIO())
        torch.save(whole.strategy.state_dict(), saved[-1])
    for done in (1, 2):
        resumed = walk(FrozenFeatures(freeze=freeze), "task", **HARD, **protocol)
        for position in range(done):
            resumed.realised.begin([position])
        saved[done - 1].seek(0)
        resumed.strategy.load_state_dict(torch.load(saved[done - 1], weights_only=True))
        frozen = backbone_of(resumed)
        resumed.finish(done)
        assert alike(frozen, backbone_of(resumed))
        assert same(resumed.parameters(), whole.parameters())
        assert resumed.predict() == whole.predict()
    moments = whole.strategy.state_dict()["_extra_state"]["optimizer"]
    assert {name.partition(".")[0] for name in moments} == {"head"}  # what is frozen has lost its own


def test_set_up_again_it_thaws():
    ours = walk(FrozenFeatures(), "class", **HARD).finish()
    expected = ours.parameters()
    ours.realised.set_up(ours.strategy)
    assert all(p.requires_grad for p in ours.strategy.model.parameters())
    assert ours.strategy.train().model.backbone.training
    assert same(ours.finish().parameters(), expected)
