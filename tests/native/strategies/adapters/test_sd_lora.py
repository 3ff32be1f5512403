"""SD-LoRA: the sum of directions written out, what stays to the bit, and magnitudes that are all learned on."""

import copy

import pytest
import torch
from clarena_native.strategies.adapters.sd_lora import SDLoRA
from clarena_native.strategies.architecture.frozen import FrozenFeatures
from tiny import SCENARIOS, walk
from tiny_language import language_walk

from clarena.checks.tiny import TinyTransformer

ON = {"backbone": TinyTransformer}
QUICK = {"learning_rate": 0.02, "epochs": 4}


@pytest.mark.parametrize("scenario", ["domain", "task"])
def test_directions_keep_their_bits_and_all_magnitudes_move(scenario):
    ours = walk(SDLoRA(rank=2), scenario, **ON, **QUICK, weight_decay=0.1)
    lora, magnitudes = ours.strategy.lora, ours.strategy.model.adapter.magnitudes
    for position in range(3):
        directions = [[p.detach().clone() for p in branch.parameters()] for branch in list(lora.branches)[:position]]
        before = [p.detach().clone() for p in magnitudes]
        experience = ours.step(position)
        assert len(lora.branches) == len(magnitudes) == position + 1
        for branch, kept in zip(lora.branches, directions, strict=False):
            assert all(map(torch.equal, branch.parameters(), kept))
        if scenario == "task" and len(experience.classes) == 1:
            continue  # its loss is 0
        held = {p for group in ours.strategy.optimizer.param_groups for p in group["params"]}
        assert {*magnitudes, *lora.branches[-1].parameters()} <= held
        assert held.isdisjoint(p for branch in list(lora.branches)[:-1] for p in branch.parameters())
        for p, old in zip(magnitudes, before, strict=False):
            assert (p != old).all() or not old.any()
    for branch in [lora.branches[0], lora.branches[2]]:
        for a, b in zip(branch.down, branch.up, strict=True):
            assert float((b.double() @ a.double()).norm().detach()) == pytest.approx(1, abs=1e-5)


def test_it_answers_by_the_sum_of_magnitudes_and_directions():
    ours = walk(SDLoRA(rank=2), "domain", **ON, **QUICK).finish()
    model, x = ours.strategy.model, ours.realised.test.x
    merged = copy.deepcopy(model.backbone)
    weight = merged.get_parameter("layers.layers.0.self_attn.in_proj_weight")
    for branch, (query, value) in zip(ours.strategy.lora.branches, model.adapter.magnitudes, strict=True):
        for rows, alpha, a, b in zip(
            (slice(0, 32), slice(64, 96)), (query, value), branch.down, branch.up, strict=True
        ):
            direction = b @ a / (b @ a).norm()
            weight.data[rows] += alpha.detach() * direction.detach()
    with torch.no_grad():
        scores = model.head(merged(x))
    torch.testing.assert_close(ours.strategy.predict(x), scores, rtol=1e-5, atol=1e-5)


def test_at_magnitude_0_it_is_the_backbone():
    ours = walk(SDLoRA(rank=2), "domain", **ON, **QUICK).finish()
    model, x = ours.strategy.model, ours.realised.test.x
    learned = ours.strategy.predict(x)
    for p in model.adapter.magnitudes:
        p.data.zero_()
    with torch.no_grad():
        assert torch.equal(ours.strategy.predict(x), model.head(model.backbone.eval()(x)))
    assert not torch.allclose(ours.strategy.predict(x), learned)


def test_what_was_learned_becomes_a_direction_without_a_change_of_answers():
    ours = walk(SDLoRA(rank=2), "domain", **ON, **QUICK)
    adapter, x = ours.strategy.model.adapter, ours.realised.test.x
    answers = []
    normalise = adapter.normalise
    adapter.normalise = lambda: (answers.append(ours.strategy.predict(x)), normalise())
    for position in range(2):
        ours.step(position)
        answers.append(ours.strategy.predict(x))
        torch.testing.assert_close(answers[-1], answers[-2], rtol=1e-5, atol=1e-5)
    assert (adapter.magnitudes[0] != 1).all()
    ours.strategy.grow()  # a new term is 0
    assert torch.equal(ours.strategy.predict(x), answers[-1])


def test_a_gradient_reaches_every_magnitude_and_the_newest_term():
    ours = walk(SDLoRA(rank=2), "domain", **ON, **QUICK).finish()
    strategy, x = ours.strategy, ours.realised.test.x
    strategy.zero_grad()
    strategy.train()
    strategy.model(x).square().sum().backward()
    reached = {name for name, p in strategy.model.adapter.named_parameters() if p.grad is not None and p.grad.any()}
    assert {f"magnitudes.{j}" for j in range(3)} == {name for name in reached if name.startswith("magnitudes")}
    assert {name.split(".")[2] for name in reached if name.startswith("lora")} == {"2"}


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_rank_0_is_a_head_on_a_frozen_backbone_bit_for_bit(scenario):
    none = walk(SDLoRA(rank=0), scenario, **ON, loss_over="current", heads="growing")
    frozen = walk(FrozenFeatures(freeze="from_start"), scenario, **ON, loss_over="current", heads="growing")
    for position in range(3):
        none.step(position)
        frozen.step(position)
        ours, theirs = (dict(walked.strategy.model.named_parameters()) for walked in (none, frozen))
        assert all(torch.equal(ours[name], value) for name, value in theirs.items())
        assert not any(ours[name].numel() for name in ours.keys() - theirs.keys())


def test_every_target_is_learned(tmp_path):
    spoken = language_walk(SDLoRA(rank=2), tmp_path).finish()
    assert all(b.any() for branch in spoken.strategy.lora.branches for b in branch.up)
