"""SI: the path integral against hand-worked steps, task-only gradients and real displacements."""

import copy

import pytest
import torch
from clarena_native.strategies.regularisation.si import SI
from exact import DoubleStream, Smooth, begin, end, gradients
from tiny import walk
from torch.nn import functional as F

from clarena import cross_entropy

DOUBLE = {"benchmark": DoubleStream, "backbone": Smooth}


@pytest.fixture(autouse=True)
def _double():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def flat(tensors):
    return torch.cat([t.detach().flatten() for t in tensors])


def close(a, b):
    torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-14)


def test_s1_one_step_of_sgd_by_hand():
    rate, damping = 0.1, 0.02
    ours = walk(SI(damping=damping), "domain", optimizer="sgd", learning_rate=rate, epochs=1, batch_size=100, **DOUBLE)
    model = copy.deepcopy(ours.strategy.model)
    experience = ours.step(0)
    loss = F.cross_entropy(model(experience.x), experience.y)
    g = flat(torch.autograd.grad(loss, list(model.parameters())))
    close(ours.strategy.consolidated.importance, rate * g**2 / (rate**2 * g**2 + damping))


def test_s2_the_path_adds_up_to_the_fall_of_the_loss():
    """Σ ω = L(start) − L(end) to first order in the learning rate, for steps on all the data."""
    errors = []
    for rate, steps in ((0.02, 20), (0.01, 40)):
        ours = walk(SI(), "domain", optimizer="sgd", learning_rate=rate, epochs=steps, batch_size=100, **DOUBLE)
        experience = begin(ours, 0)
        losses = []
        for batch in experience.batches():
            losses.append(F.cross_entropy(ours.strategy.model(batch.x), batch.y).item())
            ours.strategy.step(batch)
        final = F.cross_entropy(ours.strategy.model(experience.x), experience.y).item()
        fall = losses[0] - final
        assert fall > 0.2
        errors.append(ours.strategy.path.sum().item() / fall - 1)
    assert abs(errors[1]) < 1e-2
    assert errors[1] == pytest.approx(errors[0] / 2, rel=0.1)  # of first order


OPTIMISERS = {
    "sgd": {"optimizer": "sgd", "learning_rate": 0.05},
    "momentum": {"optimizer": "sgd", "learning_rate": 0.05, "momentum": 0.9, "weight_decay": 0.01},
    "adam": {"optimizer": "adam", "learning_rate": 0.01, "optimizer_state": "kept"},
}


@pytest.mark.parametrize("scenario", ["class", "domain", "task"])
@pytest.mark.parametrize("optimiser", OPTIMISERS)
def test_s3_s5_task_gradients_times_real_displacements_under_a_strong_penalty(optimiser, scenario):
    """ω from gradients of the task loss alone and differences of parameters, both taken outside the strategy."""
    damping = 0.05
    ours = walk(SI(strength=50.0, damping=damping), scenario, **OPTIMISERS[optimiser], **DOUBLE)
    strategy = ours.strategy
    expected = torch.zeros(0)
    for position in range(3):
        experience = begin(ours, position)
        start = flat(ours.parameters())
        path = torch.zeros_like(start)
        for batch in experience.batches():
            task = flat(gradients(ours, cross_entropy(strategy.model(batch.x), batch.y, batch.mask)))
            before = flat(ours.parameters())
            strategy.step(batch)
            path -= task * (flat(ours.parameters()) - before)
        end(ours, experience)
        theta = flat(ours.parameters())
        fresh = path / ((theta - start) ** 2 + damping)
        grown = torch.cat([expected, torch.zeros(len(theta) - len(expected))])
        expected = grown + fresh.clamp(min=0)
        close(strategy.consolidated.importance, expected)
        assert torch.equal(strategy.consolidated.anchor, theta)
    assert (strategy.consolidated.importance >= 0).all()


def test_a_loss_that_rose_along_the_path_counts_as_nothing():
    ours = walk(SI(damping=0.1), "domain", **DOUBLE)
    ours.step(0)
    before = ours.strategy.consolidated.importance
    experience = begin(ours, 1)
    for batch in experience.batches(1):
        ours.strategy.step(batch)
    ours.strategy.path = torch.linspace(-1, 1, len(before))
    moved = flat(ours.parameters()) - ours.strategy.start
    end(ours, experience)
    added = ours.strategy.consolidated.importance - before
    half = len(added) // 2
    assert not added[:half].any()
    close(added[half:], torch.linspace(-1, 1, len(added))[half:].clamp(min=0) / (moved[half:] ** 2 + 0.1))


def test_the_gradient_of_the_penalty_both_ways():
    ours = walk(SI(strength=3.0), "task", **DOUBLE)
    ours.step(0)
    begin(ours, 1)
    held = ours.strategy.consolidated
    with torch.no_grad():
        for p in ours.strategy.model.parameters():
            p.add_(torch.randn_like(p))
            p.grad = torch.zeros_like(p)
    theta = flat(ours.parameters())
    expected = torch.zeros_like(theta)
    expected[: len(held.anchor)] = 2 * 3.0 * held.importance * (theta[: len(held.anchor)] - held.anchor)
    ours.strategy.backward_penalty()
    close(flat(p.grad for p in ours.strategy.model.parameters()), expected)
    close(flat(gradients(ours, ours.strategy.penalty())), expected)


def test_nothing_of_the_path_is_carried_on():
    ours = walk(SI(), **DOUBLE)
    ours.step(0)
    assert not {"path", "start", "before", "task_gradient"} & vars(ours.strategy).keys()
    assert sum(b.numel() for b in ours.strategy.consolidated.buffers()) == 2 * len(flat(ours.parameters()))


def test_a_loss_that_is_exactly_zero_adds_no_importance():
    """A task of one class: the softmax over one output is 1, whatever the weights."""
    ours = walk(SI(), "task", **DOUBLE)
    ours.step(0)
    before = ours.strategy.consolidated.importance
    experience = ours.step(1)
    assert experience.meter.mean_loss == 0
    assert torch.equal(ours.strategy.consolidated.importance[: len(before)], before)
    assert not ours.strategy.consolidated.importance[len(before) :].any()
