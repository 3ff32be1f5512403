"""EASE: the definition in loops, what is put together for old classes, what keeps its bits, and one subspace alone."""

import copy

import numpy as np
import pytest
import torch
from clarena_native.backbones.small import Mlp
from clarena_native.backbones.transformers import ViTTiny
from clarena_native.strategies.adapters.aper import APER
from clarena_native.strategies.adapters.ease import EASE, Subspaces
from clarena_native.strategies.closed_form.ncm import ClassMeans
from tiny import SCENARIOS, same, walk

import clarena
from clarena import UsageError
from clarena.checks.tiny import TinyTransformer

ON = {"backbone": TinyTransformer}
DEEP = {"backbone": ViTTiny, "options": {"patch": 2, "width": 12, "depth": 2, "dropout": 0.3}}


def unit(vector):
    return vector / np.linalg.norm(vector)


def test_prototypes_and_scores_are_those_of_the_paper():
    """All of it again, a class and a sample at a time, from the trained adapters alone."""
    ours = walk(EASE(others=0.3), "class", **ON, epochs=3, learning_rate=0.1).finish()
    model, data = ours.strategy.model, ours.realised.data
    splits = ours.realised.stream.splits

    def phi(x, number):
        with torch.no_grad():
            return model.within(number, x).double().numpy()

    prototypes, own = {}, {}  # by class and subspace
    for n, split in enumerate(splits):
        x, y = data.x_train[split.train], split.y_train.numpy()
        new = sorted(set(y.tolist()))
        old = sorted(own)
        for label in new:
            own[label] = n
            for i in range(n + 1):
                prototypes[label, i] = phi(x, i)[y == label].mean(0)
        for label in old:
            o = own[label]
            near = np.exp([unit(prototypes[label, o]) @ unit(prototypes[j, o]) for j in new])
            assert (near / near.sum()).sum() == pytest.approx(1)
            prototypes[label, n] = sum(w * prototypes[j, n] for w, j in zip(near / near.sum(), new, strict=True))
    x = ours.realised.test.x[:9]
    scores = ours.strategy.predict(x).numpy()
    features = [phi(x, i) for i in range(3)]
    for row in range(9):
        for label, o in own.items():
            cosines = [unit(features[i][row]) @ unit(prototypes[label, i]) for i in range(3)]
            expected = cosines[o] + 0.3 * sum(cosines[i] for i in range(3) if i != o)
            assert scores[row, label] == pytest.approx(expected, abs=1e-5)
    differ = [model.within(i, x) for i in range(3)]
    assert not torch.allclose(differ[0], differ[1], atol=1e-3)  # else nothing is shown
    assert not torch.allclose(differ[1], differ[2], atol=1e-3) or len(set(splits[2].y_train.tolist())) == 1


@pytest.mark.parametrize("scenario", ["class", "task"])
def test_one_experience_is_aper_without_its_frozen_half(scenario):
    ours, theirs = (walk(cls, scenario, **ON, epochs=3) for cls in (EASE, APER))
    experience = ours.step(0)
    theirs.step(0)
    mine, twin = ours.strategy.model, theirs.strategy.model.backbone
    assert same(list(mine.adapters.parameters()), list(twin.tuned.parameters()))
    means = ClassMeans(mine.backbone.features)
    means.grow(mine.head.outputs)
    with torch.no_grad():
        means.add(twin.adapted(experience.x).double(), experience.y)
        expected = means(twin.adapted(ours.realised.test.x))
    task = 0 if scenario == "task" else None
    torch.testing.assert_close(ours.strategy.predict(ours.realised.test.x, task), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_older_adapters_their_prototypes_and_the_backbone_keep_their_bits(scenario):
    ours = walk(EASE(), scenario, **DEEP, optimizer="adam", optimizer_state="kept", weight_decay=0.1, epochs=1)
    model, kept = ours.strategy.model, {}
    for position in range(3):
        before = model.head.prototypes.clone()
        classes = ours.step(position).classes
        now = dict(model.named_parameters())
        assert all(torch.equal(now[name], value) for name, value in kept.items())
        assert not any(p.requires_grad for p in model.parameters())
        assert len(model.adapters.branches) == position + 1
        if position and scenario != "domain":
            older = [row for row in range(len(before)) if row not in classes]
            assert torch.equal(model.head.prototypes[older, :position], before[older])
        newest = model.adapters.branches[position].state_dict()
        assert any(value.any() for name, value in newest.items() if ".up." in name) or len(classes) == 1
        kept = {name: value.clone() for name, value in now.items()}


def shown(*experiences, sharpness=1.0):
    """Subspaces that were shown experiences of samples [n, subspaces, 4], each with labels."""
    head = Subspaces(4, 0.1, sharpness)
    for n, (features, y) in enumerate(experiences):
        if n:
            head.widen()
        head.grow(max(head.outputs, int(y.max()) + 1))
        sums = torch.zeros_like(head.prototypes).index_add(0, y, features.double())
        head.take(sums, torch.bincount(y, minlength=head.outputs))
    return head


def test_an_old_class_that_is_like_a_new_one_takes_its_prototype():
    chance = torch.Generator().manual_seed(0)
    first, second = torch.randn(2, 1, 4, generator=chance), torch.randn(3, 2, 4, generator=chance)
    second[1, 0] = 2.5 * first[0, 0]  # class 3 is in the first subspace where class 0 is
    second[2, 0] = -second[1, 0]
    parts = (first, torch.tensor([0, 1])), (second, torch.tensor([2, 3, 4]))
    torch.testing.assert_close(shown(*parts, sharpness=1e4).prototypes[0, 1], second[1, 1].double())
    plain = shown(*parts)
    weights = plain.similarity(plain.prototypes[:2, 0], plain.prototypes[2:, 0])
    torch.testing.assert_close(weights.sum(1), torch.ones(2).double())
    assert weights.shape == (2, 3)
    assert weights[0].argmax() == 1
    assert weights[0].argmin() == 2
    assert weights.min() > 0.05  # cosines alone tell little apart


def test_a_class_that_comes_again_is_the_mean_of_what_was_seen_of_it():
    chance = torch.Generator().manual_seed(0)
    first, second, third = (torch.randn(5, n, 4, generator=chance) for n in (1, 2, 3))
    labels = torch.tensor([0, 0, 1, 1, 1]), torch.tensor([2, 2, 2, 2, 2]), torch.tensor([0, 0, 0, 2, 2])
    head = shown(*zip((first, second, third), labels))
    assert head.own.tolist() == [0, 0, 1]
    of_first = torch.cat([first[:2, 0], third[:3, 0]]).double().mean(0)
    torch.testing.assert_close(head.prototypes[0, 0], of_first)
    torch.testing.assert_close(head.prototypes[0, 1:], third[:3, 1:].double().mean(0))  # the second was put together
    assert head.counts.tolist() == [[5, 3, 3], [3, 0, 0], [7, 7, 2]]


def test_a_class_without_samples_never_wins():
    head = shown((torch.randn(3, 1, 4), torch.tensor([0, 2, 2])))
    head.grow(5)
    scores = head(torch.randn(50, 1, 4))
    assert set(scores.argmax(1).tolist()) <= {0, 2}
    assert torch.isfinite(scores).all()


def test_before_it_is_trained_an_adapter_leaves_the_frozen_features_bit_for_bit():
    ours = walk(EASE(), **DEEP)
    model, x = ours.strategy.model, ours.realised.test.x
    with torch.no_grad():
        plain = model.backbone(x)
        assert torch.equal(model.features(x)[:, 0], plain)
    ours.step(0)
    with torch.no_grad():
        assert not torch.equal(model.features(x)[:, 0], plain)
        model.adapters.grow()
        assert torch.equal(model.features(x)[:, 1], plain)


def test_dropout_of_the_frozen_backbone_is_off_and_views_do_not_reach_it():
    plain, augmented = (walk(EASE(), **DEEP, augmentation=kind).finish() for kind in (None, "crop-flip"))
    assert same(plain.parameters(), augmented.parameters())
    dry = walk(EASE(), backbone=ViTTiny, options=DEEP["options"] | {"dropout": 0.0}).finish()
    assert same(plain.parameters(), dry.parameters())


def test_a_saved_state_goes_on_with_the_same_bits():
    whole, half = (walk(EASE(), "class", **ON) for _ in range(2))
    half.step(0)
    half.step(1)
    other = walk(EASE(), "class", **ON)
    for position in (0, 1):
        other.realised.begin([position])
    other.strategy.load_state_dict(copy.deepcopy(half.strategy.state_dict()))
    assert other.finish(2).predict() == whole.finish().predict()
    assert same(other.parameters(), whole.parameters())
    assert torch.equal(other.strategy.model.head.prototypes, whole.strategy.model.head.prototypes)


def test_a_pass_is_trained_and_prototypes_are_a_look():
    ours = walk(EASE(), "class", **ON, epochs=2)
    experience = ours.step(0)
    assert (experience.meter.samples, experience.meter.scanned) == (2 * len(experience), len(experience))


def test_a_backbone_without_blocks_and_an_adapter_without_width_are_refused(tmp_path):
    with pytest.raises(UsageError, match=r"Adapters stand at blocks of tokens\. The backbone mlp works on no tokens"):
        walk(EASE(), backbone=Mlp)
    request = {"benchmark": "split-digits", "seeds": 1, "store": tmp_path}
    with pytest.raises(UsageError, match=r"Adapters stand at blocks of tokens\. The backbone mlp works on no tokens"):
        clarena.evaluate("ease", backbone="mlp", **request)
    settings = {"ease": {"bottleneck": 0}, "backbone": {"patch": 2}}
    with pytest.raises(UsageError, match=r"ease\.bottleneck .*greater than or equal to 1"):
        clarena.evaluate("ease", backbone="vit-tiny", settings=settings, **request)
    assert not list(tmp_path.iterdir())
