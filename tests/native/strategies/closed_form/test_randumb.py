"""RanDumb: the kernel that features approach, streaming as batch LDA with scikit-learn's shrinkage, and refusals."""

import numpy as np
import pytest
import torch
from clarena_native.backbones.transformers import TextTransformer
from clarena_native.strategies.closed_form.randumb import Fourier, RanDumb, Shrunk, oracle_share
from hypothesis import given
from hypothesis import strategies as st
from sklearn.covariance import OAS
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from tiny import SCENARIOS, walk

from clarena import UsageError
from clarena.checks.tiny import LEVELS


def samples(n=80, d=6, classes=4, seed=0):
    chance = np.random.default_rng(seed)
    y = np.concatenate([np.arange(classes), chance.integers(0, classes, n - classes)])
    return chance.normal(size=(n, d)) @ chance.normal(size=(d, d)) + 2 * chance.normal(size=(classes, d))[y], y


def shown(x, y, cuts=(), shrinkage="oas"):
    head = Shrunk(x.shape[1], shrinkage)
    for part, labels in zip(np.split(x, cuts), np.split(y, cuts), strict=True):
        head.grow(max(head.outputs, labels.max(initial=-1) + 1))
        head.add(torch.from_numpy(part), torch.from_numpy(labels))
    return head


def centred(x, y):
    return np.concatenate([x[y == k] - x[y == k].mean(0) for k in np.unique(y)])


def test_inner_products_approach_the_kernel():
    generator = torch.Generator().manual_seed(0)
    fourier = Fourier((1, 3, 4), 200_000, 1.5, generator)
    x = torch.randn(12, 1, 3, 4)
    found = fourier(x)
    apart = torch.cdist(x.flatten(1), x.flatten(1)).square()
    torch.testing.assert_close(found @ found.T, torch.exp(-1.5 / 12 * apart), rtol=0, atol=0.01)


@given(st.permutations(range(80)), st.lists(st.integers(0, 80), max_size=8))
def test_in_any_order_the_covariance_is_that_of_a_batch_shrunk_as_by_another_library(order, cuts):
    x, y = samples()
    head = shown(x[order], y[order], sorted(cuts))
    theirs = OAS(assume_centered=True).fit(centred(x, y))
    np.testing.assert_allclose(head.shrunk().numpy(), theirs.covariance_, rtol=0, atol=1e-11)
    assert float(oracle_share(head.covariance, head.counts.sum())) == pytest.approx(theirs.shrinkage_)


def test_it_answers_as_linear_discriminant_analysis_of_all_data():
    x, _ = samples(200, classes=1)
    y = np.arange(200) % 4
    x = x + np.random.default_rng(5).normal(size=(4, 6))[y]
    theirs = LinearDiscriminantAnalysis(solver="lsqr", priors=[0.25] * 4, shrinkage=0.2).fit(x, y)
    ours = shown(x, y, [60, 61], shrinkage=0.2)(torch.from_numpy(x)).numpy()
    assert (ours.argmax(1) == theirs.predict(x)).all()
    difference = ours - theirs.decision_function(x)  # the same up to what all classes share
    assert np.ptp(difference, axis=1).max() < 1e-8


def test_where_nothing_varies_within_a_class_it_is_the_nearest_mean():
    x, y = samples(4)
    found = shown(x, y)
    assert torch.equal(found.shrunk(), torch.eye(6, dtype=torch.float64))
    queries = np.random.default_rng(3).normal(size=(30, 6))
    nearest = np.linalg.norm(queries[:, None] - x, axis=2).argmin(1)
    assert (found(torch.from_numpy(queries)).argmax(1).numpy() == y[nearest]).all()


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_a_run_is_a_batch_analysis_of_embedded_inputs(scenario):
    """Whatever backbone the track has; chance is in the embedding alone."""
    ours = walk(RanDumb(embedding=100), scenario).finish()
    model = ours.strategy.model
    parts = [ours.realised.experience([position]) for position in range(3)]
    x = torch.cat([part.x for part in parts]).flatten(1).double()
    angles = x @ model.backbone.frequencies.double() + model.backbone.phases
    z = (np.sqrt(2 / 100) * angles.cos()).numpy()
    expected = shown(z, torch.cat([part.y for part in parts]).numpy())
    torch.testing.assert_close(model.head.means, expected.means, rtol=0, atol=2e-6)
    torch.testing.assert_close(model.head.covariance, expected.covariance, rtol=0, atol=2e-6)
    assert list(model.parameters()) == []
    right = torch.tensor(ours.predict()) == torch.from_numpy(ours.realised.test.labels)
    assert right.float().mean() > 0.8
    other = walk(RanDumb(embedding=100), scenario, seed=1).strategy.model.backbone
    assert not torch.equal(other.frequencies, model.backbone.frequencies)


def test_what_cannot_be_embedded_is_said():
    with pytest.raises(UsageError, match="these inputs are tokens"):
        walk(RanDumb(embedding=10), backbone=TextTransformer, benchmark_options={"levels": LEVELS}).step(0)
