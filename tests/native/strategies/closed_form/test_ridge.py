"""Ridge: the recursion of the paper and the batch solution, in any order, and what it says where λ is lost."""

import numpy as np
import pytest
import torch
from clarena_native.strategies.closed_form import features
from clarena_native.strategies.closed_form.features import rounded
from clarena_native.strategies.closed_form.ridge import Regression, Ridge, gaussian
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import Ridge as SklearnRidge
from tiny import SCENARIOS, walk

from clarena import UsageError


def samples(n=90, d=8, classes=5, seed=0):
    chance = np.random.default_rng(seed)
    y = np.concatenate([np.arange(classes), chance.integers(0, classes, n - classes)])
    return chance.normal(size=(n, d)) + chance.normal(size=(classes, d))[y], y


def head(d=8, hidden=0, normalised=False, strength=0.1):
    return Regression(d, gaussian(d, hidden, torch.Generator().manual_seed(7)), normalised, strength)


def shown(x, y, cuts=(), **options):
    found = head(x.shape[1], **options)
    for part, labels in zip(np.split(x, cuts), np.split(y, cuts), strict=True):
        found.grow(max(found.outputs, labels.max(initial=-1) + 1))
        found.add(torch.from_numpy(part), torch.from_numpy(labels))
    return found


def expanded(x, hidden):
    w = gaussian(x.shape[1], hidden, torch.Generator().manual_seed(7)).double().numpy()
    return np.maximum(x @ w, 0) if hidden else x


def close(found, expected, rtol):
    assert np.abs(found - expected).max() <= rtol * np.abs(expected).max()


@given(st.permutations(range(90)), st.lists(st.integers(0, 90), max_size=8), st.sampled_from([0, 40]))
def test_any_order_and_any_split_give_the_batch_solution(order, cuts, hidden):
    x, y = samples()
    found = shown(x[order], y[order], sorted(cuts), hidden=hidden)
    h = expanded(x, hidden)
    close(found.solution.numpy(), np.linalg.solve(h.T @ h + 0.1 * np.eye(h.shape[1]), h.T @ np.eye(5)[y]), 1e-8)


def recursion(parts, width, strength):
    """The paper's, experience by experience; columns come with the classes."""
    r, w = np.eye(width) / strength, np.zeros((width, 0))
    for x, y in parts:
        w = np.concatenate([w, np.zeros((width, max(0, y.max() + 1 - w.shape[1])))], axis=1)
        r = r - r @ x.T @ np.linalg.inv(np.eye(len(x)) + x @ r @ x.T) @ x @ r
        w = w + r @ x.T @ (np.eye(w.shape[1])[y] - x @ w)
    return w


@pytest.mark.parametrize("hidden", [0, 40])
def test_it_is_the_recursion_also_where_columns_appear_later(hidden):
    x, y = samples()
    order = np.argsort(y, kind="stable")
    cuts = np.searchsorted(y[order], [2, 3])
    x, y = x[order], y[order]
    parts = [(expanded(part, hidden), labels) for part, labels in zip(np.split(x, cuts), np.split(y, cuts))]
    found = shown(x, y, cuts, hidden=hidden)
    close(found.solution.numpy(), recursion(parts, found.features, 0.1), 1e-6)
    again = parts + parts[:1]  # a class that comes again
    later = np.concatenate([x, x[: cuts[0]]]), np.concatenate([y, y[: cuts[0]]])
    close(shown(*later, [*cuts, 90], hidden=hidden).solution.numpy(), recursion(again, found.features, 0.1), 1e-6)


def test_scores_are_those_of_another_library():
    x, y = samples()
    theirs = SklearnRidge(alpha=0.3, fit_intercept=False, solver="svd").fit(x, np.eye(5)[y]).predict(x)
    np.testing.assert_allclose(shown(x, y, strength=0.3)(torch.from_numpy(x)).numpy(), theirs, rtol=0, atol=1e-10)


def test_normalised_features_have_no_size():
    x, y = samples()
    ours = shown(x, y, normalised=True)
    unit = rounded(torch.from_numpy(x / np.linalg.norm(x, axis=1, keepdims=True))).numpy()
    close(ours.solution.numpy(), shown(unit, y).solution.numpy(), 1e-12)
    assert torch.equal(ours(torch.from_numpy(4 * x)), ours(torch.from_numpy(x)))


def test_the_solution_follows_the_sums():
    x, y = samples()
    found = shown(x, y)
    before = found(torch.from_numpy(x))
    assert found.solution is found.solution
    found.add(torch.from_numpy(x[:5]) + 1, torch.from_numpy(y[:5]))
    assert not torch.equal(found(torch.from_numpy(x)), before)
    other = head()
    other.grow(5)
    assert not torch.equal(other(torch.from_numpy(x)), before)
    other.load_state_dict(shown(x, y).state_dict())
    assert torch.equal(other(torch.from_numpy(x)), before)
    other.grow(7)  # no class without samples is chosen
    assert other(torch.from_numpy(x)).argmax(1).max() < 5


def test_a_strength_that_is_lost_is_said():
    x = np.ones((4, 8)) * 1e6
    with pytest.raises(UsageError, match=r"strength of 1e-12 is lost .* Set a larger strength"):
        _ = shown(x, np.arange(4), strength=1e-12).solution


@pytest.mark.parametrize("hidden", [0, 64])
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_a_run_tells_the_blobs_apart(scenario, hidden):
    ours = walk(Ridge(hidden=hidden), scenario, epochs=3)
    before = [p.clone() for p in ours.strategy.model.backbone.parameters()]
    experience = ours.step(0)
    assert experience.meter.samples == len(experience)
    ours.finish(1)
    assert all(map(torch.equal, before, ours.strategy.model.backbone.parameters()))
    right = torch.tensor(ours.predict()) == torch.from_numpy(ours.realised.test.labels)
    assert right.float().mean() > 0.8


def test_seeds_draw_other_projections_and_a_seed_the_same():
    one, two, other = (walk(Ridge(hidden=9), seed=seed).strategy.model.head.projection for seed in (0, 0, 1))
    assert torch.equal(one, two)
    assert not torch.equal(one, other)


def test_blocks_of_any_size_add_up_to_the_same(monkeypatch):
    whole = walk(Ridge(), batch_size=5).finish().strategy.model.head
    monkeypatch.setattr(features, "BLOCK", 7)  # two batches, and a rest
    parts = walk(Ridge(), batch_size=5).finish().strategy.model.head
    assert torch.equal(whole.counts, parts.counts)
    close(parts.gram.numpy(), whole.gram.numpy(), 1e-13)
    close(parts.sums.numpy(), whole.sums.numpy(), 1e-13)
