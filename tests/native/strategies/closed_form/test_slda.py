"""SLDA: the covariance within classes in any order, and the printed recursion, which is another."""

import numpy as np
import pytest
import torch
from clarena_native.strategies.closed_form.ncm import ClassMeans
from clarena_native.strategies.closed_form.slda import SLDA, Discriminant
from hypothesis import given
from hypothesis import strategies as st
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from tiny import walk


def samples(n=80, d=6, classes=4, seed=0):
    chance = np.random.default_rng(seed)
    y = np.concatenate([np.arange(classes), chance.integers(0, classes, n - classes)])
    means = chance.normal(size=(classes, d)) * 2
    return chance.normal(size=(n, d)) @ chance.normal(size=(d, d)) + means[y], y


def shown(x, y, cuts=(), **options):
    head = Discriminant(x.shape[1], **options)
    for part, labels in zip(np.split(x, cuts), np.split(y, cuts), strict=True):
        head.grow(max(head.outputs, labels.max(initial=-1) + 1))
        head.add(torch.from_numpy(part), torch.from_numpy(labels))
    return head


def within(x, y):
    """The covariance within classes, by definition."""
    centred = np.concatenate([x[y == k] - x[y == k].mean(0) for k in np.unique(y)])
    return centred.T @ centred / len(x)


@given(st.permutations(range(80)), st.lists(st.integers(0, 80), max_size=8))
def test_any_order_and_any_batches_give_the_covariance_within_classes(order, cuts):
    x, y = samples()
    head = shown(x[order], y[order], sorted(cuts))
    np.testing.assert_allclose(head.covariance.numpy(), within(x, y), rtol=0, atol=1e-11)


def test_class_by_class_is_the_same():
    x, y = samples()
    order = np.argsort(y, kind="stable")
    head = shown(x[order], y[order], [10, 11, 40])
    np.testing.assert_allclose(head.covariance.numpy(), within(x, y), rtol=1e-10)


def test_it_answers_as_linear_discriminant_analysis_does():
    x, _ = samples(200, classes=1)
    y = np.arange(200) % 4
    x = x + np.random.default_rng(5).normal(size=(4, 6))[y]
    theirs = LinearDiscriminantAnalysis(solver="lsqr", priors=[0.25] * 4).fit(x, y)
    ours = shown(x, y, [60, 61], shrinkage=1e-12)(torch.from_numpy(x))
    assert (ours.argmax(1).numpy() == theirs.predict(x)).all()
    difference = ours.numpy() - theirs.decision_function(x)  # the same up to what all classes share
    assert np.ptp(difference, axis=1).max() < 1e-5


def test_scores_are_those_of_the_definition():
    x, y = samples()
    head = shown(x, y, shrinkage=0.1)
    precision = np.linalg.inv(0.9 * within(x, y) + 0.1 * np.eye(6))
    for k in range(4):
        mean = x[y == k].mean(0)
        expected = x @ precision @ mean - mean @ precision @ mean / 2
        np.testing.assert_allclose(head(torch.from_numpy(x))[:, k].numpy(), expected, rtol=1e-9, atol=1e-9)


def test_with_the_identity_alone_it_is_the_nearest_mean():
    x, y = samples()
    nearest = ClassMeans(6, "euclidean")
    nearest.grow(4)
    nearest.add(torch.from_numpy(x), torch.from_numpy(y))
    features = torch.from_numpy(x)
    assert torch.equal(shown(x, y, shrinkage=1.0)(features).argmax(1), nearest(features).argmax(1))


def test_the_printed_recursion_is_taken_sample_by_sample_and_ends_elsewhere():
    x, y = samples()
    order = np.random.default_rng(1).permutation(80)
    x, y = x[order], y[order]
    sigma, means, counts = np.zeros((6, 6)), np.zeros((4, 6)), np.zeros(4)
    for t, (z, label) in enumerate(zip(x, y)):
        delta = t * np.outer(z - means[label], z - means[label]) / (t + 1)
        sigma = (t * sigma + delta) / (t + 1)
        means[label] = (counts[label] * means[label] + z) / (counts[label] + 1)
        counts[label] += 1
    for cuts in ([], [1, 2, 30], range(1, 80)):
        printed = shown(x, y, cuts, recursion="printed").covariance.numpy()
        np.testing.assert_allclose(printed, sigma, rtol=1e-9, atol=1e-12)
    off = np.linalg.norm(sigma - within(x, y)) / np.linalg.norm(within(x, y))
    assert off > 0.05


def test_a_class_of_one_sample_and_one_of_none():
    x, y = samples()
    head = shown(np.concatenate([x, x[:1] + 50]), np.append(y, 4))
    head.grow(6)
    scores = head(torch.from_numpy(x))
    assert torch.isfinite(scores).all()
    assert scores.argmax(1).max() < 4
    np.testing.assert_allclose(head.covariance.numpy() * 81, within(x, y) * 80, rtol=1e-9)


@pytest.mark.parametrize("recursion", ["exact", "printed"])
def test_a_run_tells_the_blobs_apart(recursion):
    ours = walk(SLDA(recursion=recursion), "class").finish()
    right = torch.tensor(ours.predict()) == torch.from_numpy(ours.realised.test.labels)
    assert right.float().mean() > 0.8
