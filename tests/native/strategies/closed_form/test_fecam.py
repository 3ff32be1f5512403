"""FeCAM: distances written out, covariances of one class in any order, and what shrinkage keeps."""

import numpy as np
import pytest
import torch
from clarena_native.strategies.closed_form.fecam import Covariances, FeCAM
from hypothesis import given
from hypothesis import strategies as st
from tiny import SCENARIOS, walk

from clarena import UsageError
from clarena.checks.tiny import TinyTransformer


def samples(n=80, d=6, classes=4, seed=0):
    chance = np.random.default_rng(seed)
    y = np.concatenate([np.arange(classes), chance.integers(0, classes, n - classes)])
    spread = chance.normal(size=(classes, d, d))
    return np.einsum("nd,nde->ne", chance.normal(size=(n, d)), spread[y]) + 3 * chance.normal(size=(classes, d))[y], y


def shown(x, y, cuts=(), **options):
    head = Covariances(x.shape[1], **options)
    for part, labels in zip(np.split(x, cuts), np.split(y, cuts), strict=True):
        head.grow(max(head.outputs, labels.max(initial=-1) + 1))
        head.add(torch.from_numpy(part), torch.from_numpy(labels))
    return head


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def by_hand(x, y, queries, g1, g2):
    """−D_M, entry by entry as the paper has it."""
    d, scores = x.shape[1], np.zeros((len(queries), y.max() + 1))
    for k in range(y.max() + 1):
        sigma = np.cov(x[y == k].T, bias=True)
        v1 = np.mean([sigma[i, i] for i in range(d)])
        v2 = np.mean([sigma[i, j] for i in range(d) for j in range(d) if i != j])
        s = sigma + g1 * v1 * np.eye(d) + g2 * v2 * (1 - np.eye(d))
        hat = np.array([[s[i, j] / np.sqrt(s[i, i]) / np.sqrt(s[j, j]) for j in range(d)] for i in range(d)])
        for n, query in enumerate(queries):
            away = unit(query) - unit(x[y == k].mean(0))
            scores[n, k] = -away @ np.linalg.inv(hat) @ away
    return scores


@pytest.mark.parametrize(("g1", "g2"), [(1, 0), (1, 1), (0.1, 0.05)])
def test_distances_are_those_of_the_definition(g1, g2):
    x, y = samples()
    head = shown(x, y, [20, 21, 50], diagonal=g1, off_diagonal=g2)
    np.testing.assert_allclose(
        head(torch.from_numpy(x[:9])).numpy(), by_hand(x, y, x[:9], g1, g2), rtol=1e-8, atol=1e-11
    )


@given(st.permutations(range(80)), st.lists(st.integers(0, 80), max_size=8))
def test_any_order_and_any_split_give_the_covariance_of_each_class(order, cuts):
    x, y = samples()
    head = shown(x[order], y[order], sorted(cuts))
    for k in range(4):
        np.testing.assert_allclose(head.covariance(k).numpy(), np.cov(x[y == k].T, bias=True), rtol=0, atol=1e-11)


def test_later_experiences_leave_a_class_its_bits_and_its_scores():
    x, y = samples()
    head = shown(x[y < 2], y[y < 2])
    before, asked = head.scatter.clone(), head(torch.from_numpy(x))
    head.grow(4)
    head.add(torch.from_numpy(x[y >= 2]), torch.from_numpy(y[y >= 2]))
    assert torch.equal(head.scatter[:2], before)
    assert torch.equal(head(torch.from_numpy(x))[:, :2], asked)
    head.grow(6)
    assert (head(torch.from_numpy(x)).argmax(1) < 4).all()


def test_the_diagonal_of_correlations_is_1_and_they_are_positive():
    x, y = samples(20, d=30)  # fewer samples than features
    for g2 in (0.0, 0.7):
        head = shown(x, y, off_diagonal=g2)
        for k in range(4):
            correlations = head.normalised(k)
            assert torch.equal(correlations.diagonal(), torch.ones(30, dtype=torch.float64))
            assert torch.equal(correlations, correlations.T)
            assert torch.linalg.eigvalsh(correlations).min() > 0


def test_with_the_identity_it_is_euclids_distance_of_unit_vectors():
    away = np.concatenate([np.eye(6), -np.eye(6)])  # of covariance I / 6
    means = np.random.default_rng(1).normal(size=(3, 6)) * 4
    x, y = np.concatenate([away + mean for mean in means]), np.repeat(np.arange(3), 12)
    queries = np.random.default_rng(2).normal(size=(20, 6))
    expected = -np.square(unit(queries)[:, None] - unit(means)).sum(2)
    for options in ({}, {"off_diagonal": 1.0}, {"diagonal": 1e-3}):
        found = shown(x, y, **options)(torch.from_numpy(queries)).numpy()
        np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-12)


def test_so_it_is_of_a_class_of_one_sample():
    x, y = samples()
    head = shown(np.concatenate([x, x[:1] + 50]), np.append(y, 4))
    assert torch.equal(head.normalised(4), torch.eye(6, dtype=torch.float64))
    found = head(torch.from_numpy(x)).numpy()[:, 4]
    np.testing.assert_allclose(found, -np.square(unit(x) - unit(x[:1] + 50)).sum(1), rtol=1e-10)


def test_sizes_of_features_say_nothing():
    x, y = samples()
    one, other = shown(x, y), shown(8 * x, y)
    assert torch.equal(one(torch.from_numpy(x)), other(torch.from_numpy(8 * x)))


def test_tukeys_power_comes_before_means_and_covariances():
    x, y = samples()
    x = np.abs(x)
    queries = torch.from_numpy(np.concatenate([x, [[-1.0, 1, 1, 1, 1, 1]]]))
    powered, plain = shown(x, y, tukey=0.5), shown(np.sqrt(x), y)
    np.testing.assert_allclose(powered(queries), plain(queries.clamp(min=0).sqrt()), rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(powered.means, plain.means, rtol=0, atol=2**-20)


@pytest.mark.parametrize("scenario", SCENARIOS)
@pytest.mark.parametrize("options", [{}, {"off_diagonal": 1.0, "tukey": 0.5}])
def test_a_run_tells_the_blobs_apart(scenario, options):
    ours = walk(FeCAM(**options), scenario)
    before = [p.clone() for p in ours.strategy.model.backbone.parameters()]
    ours.finish()
    assert all(map(torch.equal, before, ours.strategy.model.backbone.parameters()))
    right = torch.tensor(ours.predict()) == torch.from_numpy(ours.realised.test.labels)
    assert right.float().mean() > 0.8


def test_what_cannot_be_is_said():
    with pytest.raises(UsageError, match=r"fecam.off_diagonal = 2 is more than fecam.diagonal = 1"):
        walk(FeCAM(off_diagonal=2.0))
    with pytest.raises(UsageError, match=r"negative features.* Leave fecam.tukey out"):
        walk(FeCAM(tukey=0.5), backbone=TinyTransformer).step(0)
    with pytest.raises(UsageError, match=r"cannot be inverted in float64. Set a larger fecam.diagonal"):
        walk(FeCAM(diagonal=1e-300)).step(0)
