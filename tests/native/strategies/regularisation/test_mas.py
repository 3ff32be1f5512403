"""MAS: importances against closed forms and sample-by-sample autograd, and the penalty they make."""

import pytest
import torch
from clarena_native.strategies.regularisation.mas import MAS
from exact import DoubleStream, Flat, Smooth, begin, end, gradients
from tiny import walk
from tiny_language import language_walk
from torch import nn

DOUBLE = {"benchmark": DoubleStream}


@pytest.fixture(autouse=True)
def _double():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def one_by_one(ours, experience, columns):
    """Ω from its definition: the gradient of ‖scores in play‖² of each sample alone, then absolute values."""
    total = 0.0
    for x in experience.x:
        norm = ours.strategy.model(x[None])[:, columns].square().sum()
        total = total + torch.cat([g.flatten() for g in gradients(ours, norm)]).abs()
    return total / len(experience)


def close(a, b):
    torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("scenario", ["class", "task"])
def test_m1_closed_form_of_a_linear_model(scenario):
    """Ω of W is mean 2 |z_c| |x_d|, of b mean 2 |z_c|, for the outputs in play."""
    ours = walk(MAS(), scenario, backbone=Flat, **DOUBLE)
    ours.step(0)
    first = ours.strategy.consolidated.importance
    experience = ours.step(1)
    second = ours.strategy.consolidated.importance - torch.cat([first, first.new_zeros(17)])
    x = experience.x.flatten(1)
    with torch.no_grad():
        z = ours.strategy.model(experience.x).abs() * (1.0 if scenario == "class" else torch.tensor([0, 0, 0, 1.0]))
    weights, biases = 2 * z.T @ x.abs() / len(x), 2 * z.mean(0)
    expected = [weights[:3].flatten(), biases[:3], weights[3:].flatten(), biases[3:]]  # one block of the head each
    close(second, torch.cat(expected))


def test_m2_the_cut_into_batches_does_not_matter():
    estimates = []
    for size in (1, 7, 512):
        ours = walk(MAS(), backbone=Smooth, eval_batch_size=size, **DOUBLE)
        ours.step(0)
        estimates.append(ours.strategy.consolidated.importance)
    close(estimates[0], estimates[2])
    close(estimates[1], estimates[2])


def test_m3_labels_play_no_part():
    estimates = []
    for garbage in (False, True):
        ours = walk(MAS(), "domain", backbone=Smooth, **DOUBLE)
        experience = begin(ours, 0)
        if garbage:
            experience.y = torch.full_like(experience.y, -100)
        end(ours, experience)
        estimates.append(ours.strategy.consolidated.importance)
    assert torch.equal(*estimates)


@pytest.mark.parametrize("scenario", ["class", "domain", "task"])
def test_m4_importances_add_up_each_taken_at_its_own_parameters(scenario):
    ours = walk(MAS(strength=0.5), scenario, backbone=Smooth, **DOUBLE)
    expected = torch.zeros(0)
    for position in range(3):
        experience = ours.step(position)
        columns = ours.realised.space.in_play(experience.task)
        fresh = one_by_one(ours, experience, columns)
        expected = torch.cat([expected, expected.new_zeros(len(fresh) - len(expected))]) + fresh
        close(ours.strategy.consolidated.importance, expected)
        close(ours.strategy.consolidated.anchor, torch.cat([p.flatten() for p in ours.parameters()]))


def test_m6_the_gradient_of_the_penalty_both_ways():
    ours = walk(MAS(strength=3.0), "task", backbone=Smooth, **DOUBLE)
    ours.step(0)
    consolidated, strategy = ours.strategy.consolidated, ours.strategy
    begin(ours, 1)  # the head has grown by 9 parameters, which are free
    with torch.no_grad():
        for p in strategy.model.parameters():
            p.add_(torch.randn_like(p))
            p.grad = torch.ones_like(p)
    theta = torch.cat([p.flatten() for p in ours.parameters()])
    expected = torch.zeros_like(theta)
    held = len(consolidated.anchor)
    assert len(theta) == held + 9
    expected[:held] = 2 * 3.0 * consolidated.importance * (theta[:held] - consolidated.anchor)
    strategy.backward_penalty()
    close(torch.cat([p.grad.flatten() for p in strategy.model.parameters()]), 1 + expected)
    close(torch.cat([g.flatten() for g in gradients(ours, strategy.penalty())]), expected)


def test_batched_takes_the_absolute_value_last():
    for size in (None, 5, 1):
        ours = walk(MAS(estimator="batched", estimator_batch=size), backbone=Smooth, **DOUBLE)
        experience = ours.step(0)
        total = 0.0
        for x in experience.x.split(size or len(experience)):
            norm = ours.strategy.model(x).square().sum()
            total = total + torch.cat([g.flatten() for g in gradients(ours, norm)]).abs()
        close(ours.strategy.consolidated.importance, total / len(experience))
        exact = one_by_one(ours, experience, slice(None))
        if size == 1:
            close(ours.strategy.consolidated.importance, exact)
        else:  # signs cancel
            assert (ours.strategy.consolidated.importance <= exact + 1e-12).all()
            assert ours.strategy.consolidated.importance.sum() < 0.9 * exact.sum()


def test_the_gradient_of_all_samples_is_added_up_in_parts():
    """Without `estimator_batch` all are one batch, but no forward pass is larger than one of the test."""
    sizes = []

    def estimate(eval_batch_size):
        ours = walk(MAS(estimator="batched"), backbone=Smooth, eval_batch_size=eval_batch_size, **DOUBLE)
        experience = begin(ours, 0)
        ours.strategy.model.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
        end(ours, experience)
        return ours.strategy.consolidated.importance

    torch.testing.assert_close(estimate(4), estimate(512))
    assert sizes == [4] * 8 + [1, 33]


def test_batched_looks_at_the_outputs_in_play_only():
    ours = walk(MAS(estimator="batched"), "task", backbone=Flat, **DOUBLE)
    ours.step(0)
    before = ours.strategy.consolidated.importance
    ours.step(1)
    assert torch.equal(ours.strategy.consolidated.importance[: len(before)], before)


class HalfFrozen(Smooth):
    """A backbone that comes with frozen parameters, between trainable ones."""

    name = "half-frozen"

    def __init__(self, input_shape):
        super().__init__(input_shape)
        self.layers = nn.Sequential(*self.layers, nn.Linear(8, 8), nn.Linear(8, 8))
        self.layers[3].requires_grad_(False)


@pytest.mark.parametrize("estimator", ["per_sample", "batched"])
def test_parameters_that_are_frozen_have_no_importance_and_shift_no_other(estimator):
    """What is frozen takes part in the alignment of the vectors."""
    strategy = MAS(estimator=estimator, estimator_batch=1)
    ours = walk(strategy, "task", backbone=HalfFrozen, **DOUBLE)
    experience = ours.step(0)
    trained = [p for p in strategy.model.parameters() if p.requires_grad]
    expected = [torch.zeros_like(p) for p in trained]
    for x in experience.x:
        found = torch.autograd.grad(strategy.model(x[None]).square().sum(), trained)
        expected = [e + g.abs() / len(experience) for e, g in zip(expected, found)]
    sizes = [p.numel() for p in strategy.model.parameters()]
    by_parameter = dict(zip(strategy.model.parameters(), strategy.consolidated.importance.split(sizes)))
    for p, importance in by_parameter.items():
        if p.requires_grad:
            close(importance.view_as(p), expected.pop(0))
        else:
            assert not importance.any()
    ours.finish(1)


def test_without_sensitivity_there_is_no_penalty():
    """All importances zero: scores that do not depend on any parameter."""

    class Dead(Flat):
        name = "dead"

        def forward(self, x):
            return x.flatten(1) * 0

    ours = walk(MAS(strength=100.0), "domain", backbone=Dead, **DOUBLE)
    with torch.no_grad():
        ours.strategy.model.head.blocks[0].bias.zero_()
    experience = begin(ours, 0)
    end(ours, experience)
    assert not ours.strategy.consolidated.importance.any()
    ours.finish(1)
    assert torch.isfinite(torch.cat(ours.parameters()[1:])).all()


@pytest.mark.parametrize("estimator", ["per_sample", "batched"])
def test_padding_plays_no_part(estimator, tmp_path):
    """Ω of sequences is of the scores at tokens that count, from its definition; the last sequence is half empty."""
    ours = language_walk(MAS(estimator=estimator), tmp_path)
    experience = ours.step(0)
    assert bool((experience.y == -100).any())
    alone = []
    for x, y in zip(experience.x, experience.y):
        norm = ours.strategy.model(x[None])[0][y != -100].square().sum()
        alone.append(torch.cat([g.flatten() for g in gradients(ours, norm)]))
    each = torch.stack(alone)
    expected = each.abs().mean(0) if estimator == "per_sample" else each.mean(0).abs()
    close(ours.strategy.consolidated.importance, expected)
