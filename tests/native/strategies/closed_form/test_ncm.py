"""NCM: the same bits in any order, a brute-force mean, and classes that do not touch one another."""

import numpy as np
import pytest
import torch
from clarena_native.strategies.closed_form.features import rounded
from clarena_native.strategies.closed_form.ncm import NCM, ClassMeans
from hypothesis import given
from hypothesis import strategies as st
from tiny import SCENARIOS, walk


def samples(n=60, d=7, classes=5, seed=0):
    chance = np.random.default_rng(seed)
    y = torch.from_numpy(np.concatenate([np.arange(classes), chance.integers(0, classes, n - classes)]))
    return torch.from_numpy(chance.normal(size=(n, d)) * 3 + y.numpy()[:, None]), y


def shown(features, y, cuts=(), **options):
    head = ClassMeans(features.shape[1], **options)
    for part, labels in zip(np.split(features, cuts), np.split(y, cuts), strict=True):
        head.grow(max(head.outputs, int(labels.max(initial=-1)) + 1 if len(labels) else 0))
        head.add(rounded(torch.as_tensor(part)), torch.as_tensor(labels))
    return head


@given(st.permutations(range(60)), st.lists(st.integers(1, 59), max_size=6), st.booleans())
def test_any_order_and_any_batches_give_the_same_bits(order, cuts, normalised):
    features, y = samples()
    whole = shown(features.numpy(), y.numpy(), normalised=normalised)
    streamed = shown(features.numpy()[order], y.numpy()[order], sorted(cuts), normalised=normalised)
    streamed.grow(whole.outputs)
    assert torch.equal(whole.sums, streamed.sums)
    assert torch.equal(whole.counts, streamed.counts)
    assert torch.equal(whole(features), streamed(features))


@pytest.mark.parametrize("normalised", [False, True])
@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
def test_scores_are_those_of_the_definition(distance, normalised):
    features, y = samples()
    head = shown(features.numpy(), y.numpy(), distance=distance, normalised=normalised)
    for i in range(0, 60, 7):
        query = features[i].numpy()
        query = query / np.linalg.norm(query) if normalised else query
        for k in range(5):
            mine = features[y == k].numpy()
            mine = mine / np.linalg.norm(mine, axis=1, keepdims=True) if normalised else mine
            mean = mine.mean(0)
            cosine = query @ mean / np.linalg.norm(query) / np.linalg.norm(mean)
            expected = cosine if distance == "cosine" else -np.square(query - mean).sum()
            assert head(features)[i, k].item() == pytest.approx(expected, abs=1e-5)


def test_a_class_more_changes_no_other_score_and_one_without_samples_never_wins():
    features, y = samples()
    head = shown(features.numpy(), y.numpy())
    before = head(features)
    head.grow(7)
    assert torch.equal(head(features)[:, :5], before)
    assert not torch.isin(head(features).argmax(1), torch.tensor([5, 6])).any()
    assert torch.isfinite(head(features).float()).all()
    head.add(rounded(features[:3] + 100), torch.tensor([5, 5, 6]))
    assert torch.equal(head(features)[:, :5], before)


def test_the_size_of_features_changes_no_cosine():
    features, y = samples()
    one, other = shown(features.numpy(), y.numpy()), shown(8 * features.numpy(), y.numpy())
    torch.testing.assert_close(one(features), other(8 * features), rtol=0, atol=1e-5)


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_a_run_keeps_its_backbone_and_takes_one_pass(scenario):
    ours = walk(NCM, scenario, epochs=3)
    before = [p.clone() for p in ours.strategy.model.backbone.parameters()]
    experience = ours.step(0)
    assert experience.meter.samples == len(experience)
    ours.finish(1)
    assert all(map(torch.equal, before, ours.strategy.model.backbone.parameters()))
    right = torch.tensor(ours.predict()) == torch.from_numpy(ours.realised.test.labels)
    assert right.float().mean() > 0.8


def test_a_batch_of_half_precision_is_answered_in_its_type():
    features, y = samples()
    head = shown(features.numpy(), y.numpy())
    assert head(features.float()).dtype == torch.float32
