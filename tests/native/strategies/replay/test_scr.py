"""SCR: the contrastive loss, its two views, and the nearest mean of exemplars, each against brute force."""

import copy
import math

import pytest
import torch
from clarena_native.backbones.small import Cnn
from clarena_native.strategies.replay.scr import SCR, supervised_contrastive
from exact import begin
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import same, walk
from torch.nn import functional as F

from clarena import UsageError, evaluate
from clarena.contract.augmentation import augmented
from clarena.plugins.host import Host, PluginSources

HOST = Host.discover(PluginSources(third_party=False))


def unit_vectors(seed, n, d=5):
    return F.normalize(torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64), dim=1)


def equation_3(z, y, temperature):
    """Word by word, over every anchor and every positive; the mean over anchors."""
    total = 0.0
    for i in range(len(z)):
        others = [a for a in range(len(z)) if a != i]
        positives = [p for p in others if y[p] == y[i]]
        below = sum(math.exp(float(z[i] @ z[a]) / temperature) for a in others)
        logs = [math.log(math.exp(float(z[i] @ z[p]) / temperature) / below) for p in positives]
        total -= sum(logs) / len(positives)
    return total / len(z)


# --- the loss


@settings(max_examples=50)
@given(st.integers(0, 10_000), st.lists(st.integers(0, 3), min_size=1, max_size=8), st.sampled_from([0.07, 0.1, 1.0]))
def test_the_loss_is_equation_3(seed, labels, temperature):
    y = torch.tensor(labels).repeat(2)
    z = unit_vectors(seed, len(y))
    assert math.isclose(supervised_contrastive(z, y, temperature).item(), equation_3(z, y, temperature), rel_tol=1e-9)


def test_its_gradient_is_that_of_finite_differences():
    z, y = unit_vectors(3, 8).requires_grad_(), torch.tensor([0, 1, 0, 2]).repeat(2)
    assert torch.autograd.gradcheck(lambda z: supervised_contrastive(z, y, 0.5), (z,))


def test_the_order_of_samples_and_the_names_of_classes_do_not_matter():
    z, y = unit_vectors(4, 12), torch.tensor([0, 1, 2, 0, 1, 2]).repeat(2)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(1))
    loss = supervised_contrastive(z, y, 0.1)
    torch.testing.assert_close(supervised_contrastive(z[order], (7 - 2 * y)[order], 0.1), loss)


@pytest.mark.parametrize("samples", [1, 2, 9])
def test_of_one_class_only_it_is_finite_and_of_one_sample_nothing(samples):
    """All others are positives; where there is one other, its share is 1."""
    z = unit_vectors(5, 2 * samples).float().requires_grad_()
    loss = supervised_contrastive(z, torch.zeros(2 * samples, dtype=torch.long), 0.01)
    loss.backward()
    assert loss.isfinite()
    assert z.grad.isfinite().all()
    if samples == 1:
        assert loss.item() == 0
        assert not z.grad.any()


def test_the_least_loss_is_of_classes_that_have_drawn_together():
    """Two classes at opposite poles: each anchor shares all among its own three, −ln(1/3)."""
    pole = F.normalize(torch.ones(4, 5, dtype=torch.float64), dim=1)
    z, y = torch.cat([pole, -pole]), torch.tensor([0, 0, 0, 0, 1, 1, 1, 1])
    assert math.isclose(supervised_contrastive(z, y, 0.05).item(), math.log(3), rel_tol=1e-9)


@pytest.mark.parametrize(
    ("view", "protocol"),
    [
        (None, {}),
        ("flip", {"own_views": True}),
        ("contrastive", {"own_views": True}),
        (None, {"augmentation": "crop-flip"}),
    ],
)
def test_a_step_contrasts_stream_and_exemplars_with_one_view_of_each(view, protocol):
    ours = walk(SCR(view=view, temperature=0.2), **protocol)
    ours.step(0)
    experience = begin(ours, 1)
    batch = ours.strategy.replay(next(experience.batches()))
    assert (batch.fresh, len(batch)) == (8, 8 + 8)
    drawn = torch.Generator()
    drawn.set_state(experience.view_generator.get_state())
    batch.scores = ours.strategy.model(batch.x)
    loss = ours.strategy.loss(batch)
    kind = view or protocol.get("augmentation")
    other = batch.x if kind is None else augmented(batch.x, kind, drawn)
    backbone = copy.deepcopy(ours.strategy.model.backbone).eval()  # sees what it is given
    with torch.no_grad():
        z = torch.cat([batch.scores, F.normalize(ours.strategy.model.head.layers(backbone(other)), dim=1)])
    assert math.isclose(loss.item(), equation_3(z, batch.y.tolist() * 2, 0.2), rel_tol=1e-4)
    assert experience.meter.viewed == len(batch)


@pytest.mark.parametrize("scenario", ["class", "domain", "task"])
@pytest.mark.parametrize("accumulation", [1, 2])
def test_each_sample_that_is_trained_on_is_viewed_once(scenario, accumulation):
    ours = walk(SCR(), scenario, accumulation=accumulation, views=1)
    for position in range(3):
        meter = ours.step(position).meter
        assert meter.viewed == meter.samples + meter.replayed
        assert bool(meter.replayed) or not position


# --- the prediction


def nearest_mean(strategy, x):
    """The class whose exemplars' mean feature has the greatest cosine, one sample and one class at a time."""
    stored = strategy.buffer.everything()
    model = copy.deepcopy(strategy.model).eval()
    with torch.no_grad():
        unit = [F.normalize(model.backbone(row[None]).double(), dim=1)[0] for row in stored["x"]]
        features = [F.normalize(model.backbone(row[None]).double(), dim=1)[0] for row in x]
    means = {}
    for label in sorted(set(stored["y"].tolist())):
        mine = [u for u, y in zip(unit, stored["y"].tolist()) if y == label]
        mean = sum(mine) / len(mine)
        means[label] = mean / mean.norm()
    return [{label: float(feature @ mean) for label, mean in means.items()} for feature in features]


@pytest.mark.parametrize("scenario", ["class", "domain"])
def test_the_prediction_is_the_nearest_mean_of_the_buffers_exemplars(scenario):
    ours = walk(SCR(), scenario, buffer_size=20).finish()
    x = ours.realised.test.x
    scores = ours.strategy.predict(x)
    for row, cosines in zip(scores, nearest_mean(ours.strategy, x), strict=True):
        for label, cosine in cosines.items():
            assert math.isclose(row[label].item(), -math.sqrt(max(0.0, 2 - 2 * cosine)), abs_tol=1e-3)
        without = set(range(len(row))) - cosines.keys()
        assert all(row[label] < min(row[known] for known in cosines) for label in without)


def test_a_class_without_exemplars_is_farther_than_any_other_and_finite():
    ours = walk(SCR(), buffer_size=2).finish()
    scores = ours.strategy.predict(ours.realised.test.x)
    kept = ours.strategy.buffer.everything()["y"].unique().tolist()
    assert scores.shape[1] == 6
    assert scores.isfinite().all()
    assert set(scores.argmax(1).tolist()) <= set(kept)
    assert (scores[:, kept] >= -2.001).all()
    assert (scores[:, [c for c in range(6) if c not in kept]] <= -3).all()


def test_the_projection_is_absent_at_test_and_grows_with_no_class():
    ours = walk(SCR(projection=7))
    sizes = []
    for position in range(3):
        ours.step(position)
        sizes.append(sum(p.numel() for p in ours.strategy.parameters()))
    assert len(set(sizes)) == 1
    assert ours.strategy.model(ours.realised.test.x).shape[1] == 7
    before = ours.strategy.predict(ours.realised.test.x)
    with torch.no_grad():
        for p in ours.strategy.model.head.parameters():
            p.fill_(torch.nan)
    ours.strategy.means = None
    assert torch.equal(ours.strategy.predict(ours.realised.test.x), before)


@pytest.mark.parametrize("options", [{"norm": "none"}, {"norm": "batch"}])
def test_a_prediction_does_not_depend_on_the_rest_of_the_batch(options):
    ours = walk(SCR(), backbone=Cnn, benchmark_options={"scale": 2}, options={"widths": [4], "features": 8} | options)
    ours.finish()
    x = ours.realised.test.x[:30]
    whole = ours.strategy.predict(x)
    parts = torch.cat([ours.strategy.predict(part) for part in x.split(7)])
    torch.testing.assert_close(parts, whole, rtol=1e-4, atol=1e-5)


def test_means_are_those_of_the_network_and_the_buffer_of_the_moment():
    """Asked before, within and after experiences, and of a state that was loaded."""
    ours = walk(SCR(), "class")
    asked = 0

    def ask(step):
        nonlocal asked
        scores = ours.strategy.predict(ours.realised.test.x)
        fresh = copy.deepcopy(ours.strategy)
        fresh.means = None
        assert torch.equal(scores, fresh.predict(ours.realised.test.x))
        asked += 1

    for position in range(3):
        ours.realised.begin([position])
        experience = ours.realised.experience([position])
        experience.on_step = ask
        ours.strategy.learn(experience)
        ask(-1)
    other = walk(SCR(), "class")
    other.step(0)
    other.predict()
    for position in (1, 2):
        other.realised.begin([position])
    other.strategy.load_state_dict(copy.deepcopy(ours.strategy.state_dict()))
    assert torch.equal(other.strategy.predict(ours.realised.test.x), ours.strategy.predict(ours.realised.test.x))
    assert asked > 10


def test_the_same_where_boundaries_are_hidden(tmp_path):
    protocol = {"epochs": 1, "limit": 16, "optimizer_state": "kept"}
    told, untold = (
        evaluate("scr", settings={"protocol": protocol | more}, seeds=1, jobs=1, store=tmp_path, track=False).records[0]
        for more in ({}, {"boundaries": "hidden"})
    )
    assert told.status == untold.status == "finished"
    for record in (told, untold):
        assert [cost.viewed for cost in record.costs] == [16 + cost.replayed for cost in record.costs]


# --- what does not go together


def test_what_is_refused_before_anything_runs(tmp_path):
    def run(name="scr", **settings):
        return evaluate(name, settings=settings, seeds=1, protocol="smoke", store=tmp_path / "runs", track=False)

    with pytest.raises(UsageError, match="'contrastive' would be the strategy's own"):
        run(scr={"view": "contrastive"})
    with pytest.raises(UsageError, match=r"scr cannot learn on this track.*protocol\.views=1"):
        run(protocol={"views": 0})
    lacking = "cannot say whether this processor has arithmetic in bfloat16"  # older releases of torch
    with pytest.raises(UsageError, match=f"scr trains in float32 alone|{lacking}"):
        run(protocol={"precision": "bf16"})
    with pytest.raises(UsageError, match=r"scr cannot be part of ewc\+scr: it has its own predict"):
        run("ewc+scr")
    with pytest.raises(UsageError, match="scr keeps exemplars, and is granted none"):
        run(protocol={"buffer_size": 0})
    assert not (tmp_path / "runs").exists()
    assert HOST.strategy("scr").targets == {"classes"}


def test_the_same_seed_gives_the_same_bits_and_another_view_others():
    first, again, other = (
        walk(SCR(view=view), own_views=True).finish() for view in ("contrastive", "contrastive", "flip")
    )
    assert same(first.parameters(), again.parameters())
    assert not same(first.parameters(), other.parameters())
