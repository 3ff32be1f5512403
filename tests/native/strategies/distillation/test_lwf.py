"""LwF: targets, warm-up and distillation, against definitions and loops written by hand."""

import copy

import pytest
import torch
from clarena_native.backbones.small import Mlp
from clarena_native.strategies.distillation.lwf import LwF
from clarena_native.strategies.references.finetune import Finetune
from exact import begin
from tiny import SCENARIOS, same, walk
from torch.nn import functional as F

from clarena import evaluating
from clarena.contract.target import Classes

FULL = {"heads": "full", "stream_length": "known"}
BATCH_NORM = {"backbone": Mlp, "options": {"hidden": (16, 16), "norm": "batch", "dropout": 0.3}}
HEAVY = {"optimizer": "sgd", "momentum": 0.9, "weight_decay": 0.1, "learning_rate": 0.05}


# --- the distillation


def distillation(scores, old, temperature):
    return Classes().divergence(scores, old, temperature=temperature)


def random_scores(rows=7, outputs=5):
    chance = torch.Generator().manual_seed(1)
    make = torch.randn(2, rows, outputs, generator=chance, dtype=torch.float64)
    return make[0].mul(3).requires_grad_(), make[1].mul(3)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0, 10.0])
def test_l1_value_and_gradient_of_the_distillation(temperature):
    """With y' = y^{1/T} renormalised; the gradient is (softmax(z/T) − q) / (T B), without a factor T²."""
    z, old = random_scores()
    y, y_hat = old.softmax(1) ** (1 / temperature), z.softmax(1) ** (1 / temperature)
    q, p = y / y.sum(1, keepdim=True), y_hat / y_hat.sum(1, keepdim=True)
    value = distillation(z, old, temperature)
    torch.testing.assert_close(value, -(q * p.log()).sum() / 7, rtol=1e-12, atol=0)
    (gradient,) = torch.autograd.grad(value, z)
    torch.testing.assert_close(gradient, (p - q) / (temperature * 7), rtol=0, atol=1e-15)


def test_l6_at_a_high_temperature_the_gradient_is_the_difference_of_centred_scores():
    z, old = random_scores()
    (gradient,) = torch.autograd.grad(distillation(z, old, 1e5), z)
    centred = (z - z.mean(1, keepdim=True)) - (old - old.mean(1, keepdim=True))
    torch.testing.assert_close(gradient * 1e10 * 7 * 5, centred.detach(), rtol=1e-3, atol=1e-3)


def test_one_output_has_nothing_to_distil():
    z, old = random_scores(outputs=1)
    value = distillation(z, old, 2.0)
    assert value.item() == 0
    assert not torch.autograd.grad(value, z)[0].any()


# --- targets, and which outputs they concern


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_l5_targets_are_the_outputs_before_bit_for_bit_and_stay(scenario):
    ours = walk(LwF(warmup=1), scenario, epochs=3, **BATCH_NORM)
    ours.step(0)
    before = copy.deepcopy(ours.strategy.model).eval()
    experience = begin(ours, 1)
    with torch.no_grad():
        expected = before(experience.x)
    recorded = ours.strategy.recorded.clone()
    assert torch.equal(recorded[:, : expected.shape[1]], expected)
    for batch in experience.batches():
        ours.strategy.step(batch)
    assert torch.equal(ours.strategy.recorded, recorded)
    assert not same(list(before.parameters()), ours.parameters()[: len(list(before.parameters()))])
    ours.strategy.after_experience(experience)
    assert not {"targets", "groups"} & vars(ours.strategy).keys()  # nothing of it is carried on


@pytest.mark.parametrize(
    ("scenario", "protocol", "expected"),
    [
        ("task", {}, [[], [[0, 1, 2]], [[0, 1, 2], [3]]]),
        ("task", FULL, [[], [[0, 1, 2]], [[0, 1, 2], [3]]]),
        ("class", {}, [[], [[0, 1, 2]], [[0, 1, 2, 3]]]),
        ("class", FULL, [[], [[0, 1, 2]], [[0, 1, 2, 3]]]),
        ("domain", {}, [[], [[0, 1, 2]], [[0, 1, 2]]]),
    ],
)
def test_the_old_heads_of_each_scenario(scenario, protocol, expected):
    ours = walk(LwF(), scenario, **protocol)
    for position, groups in enumerate(expected):
        begin(ours, position)
        assert [group.tolist() for group in ours.strategy.groups] == groups


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_the_term_is_one_distillation_for_each_old_head_on_stream_samples_alone(scenario):
    ours = walk(LwF(strength=0.7, temperature=3.0), scenario)
    ours.step(0)
    ours.step(1)
    experience = begin(ours, 2)
    batch = next(experience.batches())
    context = ours.strategy.context
    task = None if batch.task is None else torch.zeros(5, dtype=torch.long)
    exemplars = torch.randn(5, 1, 4, 4), torch.zeros(5, dtype=torch.long), task
    joined = batch.join(*exemplars, context.space.exemplar_mask(task))
    joined.scores = ours.strategy.model(joined.x)
    heads = {"class": [range(4)], "domain": [range(3)], "task": [range(3), [3]]}[scenario]
    expected = 0.0
    for head in map(list, heads):
        q = (ours.strategy.recorded[batch.index][:, head] / 3.0).softmax(1)
        expected -= (q * (joined.scores[: len(batch), head] / 3.0).log_softmax(1)).sum(1).mean()
    torch.testing.assert_close(ours.strategy.distil(joined), 0.7 * expected)


# --- the warm-up


@pytest.mark.parametrize("scenario", ["class", "task"])
def test_l2_after_the_warm_up_there_is_nothing_to_distil_yet(scenario):
    """Student and teacher agree on shared and old parameters: the gradient is that of rounding."""
    ours = walk(LwF(warmup=2, strength=1.0), scenario, epochs=3, **HEAVY)
    ours.step(0)
    experience = begin(ours, 1)
    assert experience.passes_left == 1
    for group in ours.strategy.groups:
        scores = ours.strategy.model(experience.x)
        term = distillation(scores[:, group], ours.strategy.recorded[:, group], 2.0)
        found = torch.autograd.grad(term, scores)[0]
        assert found.abs().max() < 4 * torch.finfo(torch.float32).eps / len(experience)


@pytest.mark.parametrize("scenario", ["class", "task"])
def test_l3_the_warm_up_leaves_all_that_is_old_bit_identical(scenario):
    ours = walk(LwF(warmup=2), scenario, epochs=3, **HEAVY, **BATCH_NORM)
    ours.step(0)
    before = copy.deepcopy(ours.strategy.model.state_dict())
    new = begin_without_training(ours)
    experience = ours.realised.experience([1])
    ours.strategy.before_experience(experience)
    after = ours.strategy.model.state_dict()
    assert any("running_mean" in name for name in before)
    assert all(torch.equal(after[name], before[name]) for name in before)
    grown = [p for name, p in after.items() if name not in before]
    assert len(grown) == 2
    # The softmax of a task of one class does not depend on it; then only weight decay moves the new head.
    assert not any(torch.equal(p, q) for p, q in zip(grown, new, strict=True))


def begin_without_training(ours):
    """Let the head grow; a copy of its new block."""
    ours.realised.begin([1])
    ours.strategy.context.grow(ours.strategy.model)
    return [p.detach().clone() for p in ours.strategy.model.head.blocks[-1].parameters()]


@pytest.mark.parametrize(
    ("scenario", "protocol", "epochs", "wanted", "spent"),
    [
        ("class", {}, 5, 2, 2),
        ("task", {}, 3, 9, 2),  # one pass is left for everything
        ("class", {}, 1, 1, 0),
        ("domain", {}, 5, 2, 0),  # no output is new
        ("class", FULL, 5, 2, 0),  # nor a block of its own
        ("task", FULL, 5, 2, 0),
    ],
)
def test_the_warm_up_spends_the_budget(scenario, protocol, epochs, wanted, spent):
    ours = walk(LwF(warmup=wanted), scenario, epochs=epochs, **protocol)
    first = ours.step(0)
    assert (first.meter.samples, first.meter.scanned) == (epochs * 33, 0)
    experience = begin(ours, 1)
    assert experience.passes_left == epochs - spent
    for batch in experience.batches():
        ours.strategy.step(batch)
    assert experience.meter.samples == epochs * len(experience)
    assert experience.meter.scanned == len(experience)
    assert experience.meter.loss_steps == experience.meter.steps


@pytest.mark.parametrize("scenario", ["class", "task"])
def test_l4_without_distillation_it_is_a_warm_up_and_finetune_bit_for_bit(scenario):
    rate = {"optimizer": "sgd", "momentum": 0.9, "weight_decay": 0.01, "learning_rate": 0.05}
    ours = walk(LwF(strength=0.0, warmup=1), scenario, epochs=3, **rate, **BATCH_NORM).finish()
    plain = walk(Finetune(), scenario, epochs=3, **rate, **BATCH_NORM)
    plain.step(0)
    for position in (1, 2):
        experience = begin(plain, position)
        model, block = plain.strategy.model, plain.strategy.model.head.blocks[-1]
        optimiser = torch.optim.SGD(block.parameters(), lr=0.05, momentum=0.9, weight_decay=0.01)
        for batch in experience.batches(1):
            with evaluating(model):
                scores = model(batch.x)
            if batch.mask is not None:
                scores = scores.masked_fill(~batch.mask, -torch.inf)
            optimiser.zero_grad()
            F.cross_entropy(scores, batch.y).backward()
            optimiser.step()
        for batch in experience.batches():
            plain.strategy.step(batch)
        plain.strategy.after_experience(experience)
    assert same(ours.parameters(), plain.parameters())


def test_outputs_that_only_look_like_a_block_of_their_own_are_not_warmed_up():
    """Labels need not come in order: here a block of two is added for one new output and one that is not seen yet."""
    ours = walk(LwF(warmup=1), "class", epochs=2)
    ours.step(0)
    ours.realised.begin([1])
    ours.realised.space.begin([frozenset({1, 4})])  # as if class 1 came again, together with output 4
    ours.strategy.context.grow(ours.strategy.model)
    experience = ours.realised.experience([1])
    ours.strategy.before_experience(experience)
    assert experience.passes_left == 2


def test_it_keeps_old_outputs_better_than_finetune():
    drift = []
    for strategy in (Finetune(), LwF(strength=5.0)):
        ours = walk(strategy, "task", epochs=10, **{**HEAVY, "momentum": 0.0, "weight_decay": 0.0})
        ours.step(0)
        x = ours.realised.experience([2]).x
        before = ours.strategy.predict(x)[:, :3].softmax(1)
        ours.finish(1)
        drift.append((ours.strategy.predict(x)[:, :3].softmax(1) - before).abs().mean().item())
    assert drift[1] < drift[0] / 2
