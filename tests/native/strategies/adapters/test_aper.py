"""APER: untuned it decides as NCM, the definition in loops, what is tuned and when, and the order of samples."""

import copy

import numpy as np
import pytest
import torch
from clarena_native.backbones.small import Cnn, Mlp
from clarena_native.backbones.transformers import ViTTiny
from clarena_native.strategies.adapters.aper import APER
from clarena_native.strategies.closed_form.ncm import NCM
from tiny import SCENARIOS, same, walk
from torch.nn import functional as F

import clarena
from clarena import UsageError
from clarena.checks.tiny import TinyTransformer

ON = {"backbone": TinyTransformer}
TUNED = ("adapter", "lora", "full")
DEEP = {"backbone": ViTTiny, "options": {"patch": 2, "width": 12, "depth": 2, "dropout": 0.3}}


def untuned(**options):
    strategy = APER(**options)
    strategy._tune = lambda experience: None
    return strategy


@pytest.mark.parametrize("tuned", TUNED)
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_untuned_both_halves_are_the_same_bits_and_it_decides_as_ncm(tuned, scenario):
    ours, theirs = walk(untuned(tuned=tuned), scenario, **ON), walk(NCM(), scenario, **ON)
    for position in range(3):
        ours.step(position)
        theirs.step(position)
        with torch.no_grad():
            given, adapted = ours.strategy.model.backbone(ours.realised.test.x).chunk(2, dim=1)
            assert torch.equal(given, adapted)
            assert torch.equal(given, theirs.strategy.model.backbone(ours.realised.test.x))
        assert ours.predict() == theirs.predict()


@pytest.mark.parametrize("tuned", TUNED)
def test_scores_are_those_of_the_definition_the_first_experience_included(tuned):
    ours = walk(APER(tuned=tuned), "class", **ON, epochs=3).finish()
    model, data, space = ours.strategy.model, ours.realised.data, ours.realised.space

    def phi(x):
        with torch.no_grad():
            halves = [model.backbone.given(x), model.backbone.adapted(x)]
        assert not torch.equal(*halves)
        return np.concatenate([half.double().numpy() for half in halves], axis=1)

    queries = phi(ours.realised.test.x[:7])
    scores = ours.strategy.predict(ours.realised.test.x[:7]).numpy()
    for split in ours.realised.stream.splits:
        features = phi(data.x_train[split.train])
        for label in split.y_train.unique().tolist():
            prototype = features[split.y_train.numpy() == label].mean(0)
            cosines = queries @ prototype / np.linalg.norm(queries, axis=1) / np.linalg.norm(prototype)
            np.testing.assert_allclose(scores[:, label], cosines, atol=1e-5)
    assert scores.shape[1] == len(space.seen)


@pytest.mark.parametrize("tuned", TUNED)
def test_only_what_is_tuned_moves_and_after_the_first_experience_nothing_does(tuned):
    ours = walk(APER(tuned=tuned), "class", **DEEP, epochs=2, optimizer="adam", weight_decay=0.1)
    model = ours.strategy.model
    start = {name: value.clone() for name, value in model.named_parameters()}
    first = ours.step(0)
    moved = {name for name, value in model.named_parameters() if not torch.equal(value, start[name])}
    assert moved
    assert all(name.startswith("backbone.tuned.") for name in moved)
    if tuned != "full":
        assert moved == {name for name in start if name.startswith("backbone.tuned.")}
    assert (first.meter.samples, first.meter.scanned) == (2 * len(first), len(first))
    kept = {name: value.clone() for name, value in model.backbone.state_dict().items()}
    for position in (1, 2):
        later = ours.step(position)
        assert (later.meter.samples, later.meter.scanned, later.meter.loss_steps) == (len(later), 0, 0)
    assert all(torch.equal(value, kept[name]) for name, value in model.backbone.state_dict().items())
    assert not any(p.requires_grad for p in model.parameters())


def test_it_is_tuned_by_a_linear_classifier_of_the_tuned_features():
    """One step of SGD on the whole first experience, by hand."""
    ours = walk(APER(tuned="full"), "class", **ON, epochs=1, batch_size=100, optimizer="sgd", momentum=0)
    context = ours.strategy.context
    network = copy.deepcopy(ours.strategy.model.backbone.given).requires_grad_(True)
    ours.realised.begin([0])
    experience = ours.realised.experience([0])
    with context.seeds.scope("init"):
        pass  # the sums grow
    with context.seeds.scope("init"):
        head = torch.nn.Linear(network.features, 3)
    ours.realised.begin([0])
    F.cross_entropy(head(network(experience.x)), experience.y).backward()
    ours.step(0)
    for found, p in zip(ours.strategy.model.backbone.tuned.parameters(), network.parameters(), strict=True):
        torch.testing.assert_close(found, p.detach() - 0.01 * p.grad, rtol=1e-4, atol=1e-6)


def test_from_the_second_experience_on_the_order_of_samples_does_not_matter():
    """One sample at a time, so that the arithmetic of a forward pass is the same."""
    first = walk(APER(), "class", **ON, batch_size=1, epochs=1)
    first.step(0)
    ends = []
    for seed in (0, 1):
        ours = copy.deepcopy(first)
        for position in (1, 2):
            ours.realised.begin([position])
            experience = ours.realised.experience([position])
            experience.generator.manual_seed(seed)
            ours.strategy.learn(experience)
        ends.append(ours.strategy.model.head)
    assert torch.equal(ends[0].sums, ends[1].sums)
    assert torch.equal(ends[0].counts, ends[1].counts)


def test_the_halves_are_normalised_together():
    ours = walk(APER(), **ON)
    head = ours.strategy.model.head
    head.grow(2)
    one, other = torch.eye(2, dtype=torch.float64)
    # Of class 0 the first half is known and the second says nothing of it; of class 1 it is the other way round.
    d = head.features // 2
    rows = [F.pad(one, (0, d - 2)), F.pad(one, (0, d - 2)), F.pad(other, (0, d - 2)), F.pad(other, (0, d - 2))]
    head.add(torch.stack([torch.cat([rows[0], 3 * rows[1]]), torch.cat([rows[2], 3 * rows[3]])]), torch.tensor([0, 1]))
    x = torch.cat([2 * rows[0], 3 * rows[2]])[None]
    torch.testing.assert_close(head(x), torch.tensor([[2.0, 9.0]]).double() / (13 * 10) ** 0.5)


@pytest.mark.parametrize("tuned", TUNED)
def test_a_saved_state_goes_on_with_the_same_bits(tuned):
    whole, half = (walk(APER(tuned=tuned), "task", **ON) for _ in range(2))
    half.step(0)
    other = walk(APER(tuned=tuned), "task", **ON)
    other.realised.begin([0])
    other.strategy.load_state_dict(copy.deepcopy(half.strategy.state_dict()))
    assert other.finish(1).predict() == whole.finish().predict()
    assert same(other.parameters(), whole.parameters())
    assert torch.equal(other.strategy.model.head.sums, whole.strategy.model.head.sums)


def test_on_what_has_no_blocks_everything_can_be_tuned_and_adapters_are_refused():
    ours = walk(APER(tuned="full"), "class", backbone=Cnn, options={"widths": (4,), "features": 8}).finish()
    right = torch.tensor(ours.predict()) == torch.from_numpy(ours.realised.test.labels)
    assert right.float().mean() > 0.5
    with pytest.raises(UsageError, match=r"Adapters stand at blocks of tokens\. The backbone mlp works on no tokens"):
        walk(APER(), backbone=Mlp)
    with pytest.raises(UsageError, match="mlp has no query and no value to which LoRA could be added"):
        walk(APER(tuned="lora"), backbone=Mlp)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"bottleneck": 0}, r"aper\.bottleneck .*greater than or equal to 1"),
        ({"rank": 0}, r"aper\.rank .*greater than or equal to 1"),
        ({"tuned": "ssf"}, r"aper\.tuned .*'adapter', 'lora' or 'full'"),
    ],
)
def test_what_would_add_nothing_is_refused_before_anything_runs(tmp_path, settings, message):
    with pytest.raises(UsageError, match=message):
        clarena.evaluate(
            "aper",
            benchmark="split-digits",
            backbone="vit-tiny",
            settings={"aper": settings, "backbone": {"patch": 2}},
            seeds=1,
            store=tmp_path,
        )
    assert not list(tmp_path.iterdir())
