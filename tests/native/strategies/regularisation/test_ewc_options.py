"""EWC's other estimators: the squared mean gradient of a batch, and predicted labels."""

import pytest
import torch
from clarena_native.strategies.regularisation.ewc import EWC
from exact import DoubleStream, Flat, Smooth, begin, end, gradients
from tiny import SCENARIOS, walk
from torch.nn import functional as F

DOUBLE = {"benchmark": DoubleStream, "backbone": Smooth}


@pytest.fixture(autouse=True)
def _double():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def close(a, b):
    torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-16)


def masked(scores, experience, space):
    hidden = [c for c in range(scores.shape[1]) if c not in space.in_play(experience.task)]
    return scores.index_fill(1, torch.tensor(hidden, dtype=torch.long), -torch.inf)


@pytest.mark.parametrize("scenario", SCENARIOS)
@pytest.mark.parametrize("size", [1, 7, 100])
def test_batched_is_the_mean_of_squared_batch_gradients(size, scenario):
    ours = walk(EWC(fisher="batched", strength=1.0), scenario, batch_size=size, **DOUBLE)
    expected = torch.zeros(0)
    for position in range(2):
        experience = ours.step(position)
        squares = []
        for x, y in zip(experience.x.split(size), experience.y.split(size)):
            loss = F.cross_entropy(masked(ours.strategy.model(x), experience, ours.realised.space), y)
            squares.append(torch.cat([g.flatten() for g in gradients(ours, loss)]) ** 2)
        fresh = torch.stack(squares).mean(0)
        expected = torch.cat([expected, expected.new_zeros(len(fresh) - len(expected))]) + fresh
        close(ours.strategy.consolidated.importance, expected)


def test_batched_with_batches_of_one_is_the_empirical_fisher_and_shrinks_with_larger_ones():
    def estimate(fisher, size):
        ours = walk(EWC(fisher=fisher), "domain", batch_size=size, **DOUBLE)
        experience = begin(ours, 0)  # no training: the same parameters whatever the batch
        end(ours, experience)
        return ours.strategy.consolidated.importance

    close(estimate("batched", 1), estimate("empirical", 8))
    sums = [estimate("batched", size).sum().item() for size in (1, 3, 11, 33)]
    assert sums == sorted(sums, reverse=True)
    assert sums[3] < sums[0] / 3


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_argmax_takes_the_predicted_label(scenario):
    """Closed form of a linear model: F[W_cd] = mean (p_c − 1[c = ŷ])² x_d², with ŷ among the outputs in play."""
    ours = walk(EWC(fisher="argmax", strength=1.0), scenario, backbone=Flat, benchmark=DoubleStream)
    ours.step(0)
    first = ours.strategy.consolidated.importance
    experience = ours.step(1)
    grown = torch.cat([first, first.new_zeros(0 if scenario == "domain" else 17)])
    fresh = ours.strategy.consolidated.importance - grown
    x = experience.x.flatten(1)
    with torch.no_grad():
        scores = masked(ours.strategy.model(experience.x), experience, ours.realised.space)
    error = scores.softmax(1) - F.one_hot(scores.argmax(1), scores.shape[1])
    weights, biases = (error**2).T @ x**2 / len(x), (error**2).mean(0)
    expected = [weights[:3].flatten(), biases[:3], weights[3:].flatten(), biases[3:]]
    torch.testing.assert_close(fresh, torch.cat(expected), rtol=1e-10, atol=1e-15)


@pytest.mark.parametrize("fisher", ["exact", "sample", "empirical", "argmax", "batched"])
def test_an_all_zero_fisher_anchors_at_the_present_parameters(fisher):
    """A task of one class has no gradient at all; merging divides by no importance."""
    ours = walk(EWC(fisher=fisher), "task", **DOUBLE)
    ours.step(0)
    begin(ours, 1)
    held = ours.strategy.consolidated
    held.set(torch.zeros_like(held.importance), torch.zeros_like(held.anchor))
    ours.step(1)
    theta = torch.cat([p.flatten() for p in ours.parameters()])
    assert not ours.strategy.consolidated.importance.any()
    assert torch.equal(ours.strategy.consolidated.anchor, theta)
    assert torch.isfinite(torch.cat([p.flatten() for p in ours.finish(2).parameters()])).all()
