"""iCaRL: herding, exemplars, the mixed loss and the nearest mean, each against brute force."""

import copy
from collections import Counter

import pytest
import torch
from clarena_native.backbones.small import Cnn
from clarena_native.strategies.replay.icarl import ICaRL, herd
from exact import begin, end
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import walk
from torch import nn
from torch.nn import functional as F

from clarena import Backbone, UsageError
from clarena.checks.tiny import TinyStream

FULL = {"heads": "full", "stream_length": "known"}


def unit_vectors(seed, n, d=4):
    return F.normalize(torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64), dim=1)


def algorithm_4(features, count):
    """Word by word: p_k = argmin over what is not chosen of ‖μ − (φ(x) + Σ_{j<k} φ(p_j)) / k‖."""
    mu = features.mean(0)
    chosen = []
    for k in range(1, count + 1):
        candidates = [i for i in range(len(features)) if i not in chosen]
        sums = {i: features[i] + sum((features[j] for j in chosen), torch.zeros_like(mu)) for i in candidates}
        chosen.append(min(candidates, key=lambda i: (mu - sums[i] / k).norm().item()))
    return chosen


# --- exemplars


@settings(max_examples=40)
@given(st.integers(0, 10_000), st.integers(1, 15), st.integers(0, 20))
def test_i1_herding_is_algorithm_4(seed, n, count):
    """Each choice is a nearest one of those left; where two are equally near, as of two samples, either will do."""
    features = unit_vectors(seed, n)
    chosen = herd(features, count).tolist()
    assert len(chosen) == min(count, n)
    mu, total = features.mean(0), torch.zeros(4, dtype=torch.float64)
    for k, best in enumerate(chosen, 1):
        distances = {i: (mu - (features[i] + total) / k).norm() for i in range(n) if i not in chosen[: k - 1]}
        assert distances[best] <= min(distances.values()) + 1e-12
        total = total + features[best]


@settings(max_examples=20)
@given(st.integers(0, 10_000), st.integers(1, 15))
def test_i2_fewer_exemplars_are_the_first_of_more(seed, n):
    features = unit_vectors(seed, n)
    whole = herd(features, n).tolist()
    assert sorted(whole) == list(range(n))
    for count in range(n):
        assert herd(features, count).tolist() == whole[:count]


def test_equal_features_are_each_chosen_once():
    assert sorted(herd(torch.ones(5, 3), 5).tolist()) == list(range(5))


@pytest.mark.parametrize("scenario", ["class", "task"])
@pytest.mark.parametrize("budget", [0, 1, 3, 5, 6, 17, 1000])
def test_i3_the_budget_and_the_reduction(scenario, budget):
    """⌊K / classes⌋ each (or all there are), the first of those before, all of them real training rows."""
    ours = walk(ICaRL(), scenario, buffer_size=budget)
    rows, kept = {}, {}
    for position, classes in enumerate((3, 4, 6)):
        experience = ours.step(position)
        for x, y in zip(experience.x, experience.y.tolist()):
            rows.setdefault(y, []).append(x)
        strategy, share = ours.strategy, budget // classes
        counts = Counter(strategy.labels.tolist())
        assert counts == Counter({y: min(share, len(own)) for y, own in rows.items() if share})
        for y, own in rows.items():
            mine = strategy.exemplars[strategy.labels == y]
            assert all(any(torch.equal(x, row) for row in own) for x in mine)
            assert torch.equal(mine, kept[y][: len(mine)] if y in kept else mine)
            kept[y] = mine.clone()
        if scenario == "task":
            assert strategy.tasks.tolist() == [0 if y < 3 else 1 if y == 3 else 2 for y in strategy.labels.tolist()]
        assert len(ours.predict()) == len(ours.realised.test.labels)


def test_exemplars_are_those_that_herding_chooses_by_the_present_network():
    ours = walk(ICaRL(), buffer_size=12)
    experience = ours.step(0)
    with torch.no_grad():
        phi = F.normalize(ours.strategy.model.backbone(experience.x), dim=1)
    for label in range(3):
        mine = (experience.y == label).nonzero().flatten()
        expected = experience.x[mine[algorithm_4(phi[mine].double(), 4)]]
        assert torch.equal(ours.strategy.exemplars[ours.strategy.labels == label], expected)


# --- the loss


@pytest.mark.parametrize(("scenario", "protocol"), [("class", {}), ("class", FULL), ("task", {}), ("task", FULL)])
def test_i4_the_loss_by_hand(scenario, protocol):
    """Mean over samples and outputs seen: old classes follow σ of the network before, new ones the label."""
    ours = walk(ICaRL(), scenario, buffer_size=9, **protocol)
    ours.step(0)
    before = copy.deepcopy(ours.strategy.model).eval()
    experience = begin(ours, 1)
    with torch.no_grad():  # the network must differ from what it was
        for p in ours.strategy.model.parameters():
            p.add_(0.1 * torch.randn_like(p))
    batch = ours.strategy.replay(next(experience.batches()))
    assert (batch.fresh, len(batch)) == (8, 8 + 4)  # 9 exemplars over two steps
    assert set(batch.y[8:].tolist()) <= {0, 1, 2}
    batch.scores = ours.strategy.model(batch.x).detach().requires_grad_()
    loss = ours.strategy.loss(batch)
    with torch.no_grad():
        q = before(batch.x).sigmoid()
    total, gradient = 0.0, torch.zeros_like(batch.scores)
    for n in range(12):
        for c in range(4):
            target = q[n, c].item() if c < 3 else float(batch.y[n] == c)
            p = batch.scores[n, c].sigmoid()
            total = total - (target * p.log() + (1 - target) * (1 - p).log())
            gradient[n, c] = (p.detach() - target) / (12 * 4)
    torch.testing.assert_close(loss, total / (12 * 4))
    torch.testing.assert_close(torch.autograd.grad(loss, batch.scores)[0], gradient, rtol=1e-4, atol=1e-7)


def test_i4_while_the_network_is_what_it_was_old_outputs_have_no_gradient():
    ours = walk(ICaRL(), buffer_size=9)
    ours.step(0)
    experience = begin(ours, 1)
    batch = ours.strategy.replay(next(experience.batches()))
    batch.scores = ours.strategy.model(batch.x).detach().requires_grad_()
    (found,) = torch.autograd.grad(ours.strategy.loss(batch), batch.scores)
    assert found[:, :3].abs().max() < 1e-8  # of rounding: batches are cut otherwise
    assert found[:, 3].abs().min() > 1e-4


def test_targets_stay_and_every_pass_deals_each_exemplar_once():
    ours = walk(ICaRL(), buffer_size=7, epochs=3)
    ours.step(0)
    experience = begin(ours, 1)
    targets = ours.strategy.recorded.clone(), ours.strategy.exemplar_targets.clone()
    dealt = []
    for batch in experience.batches():
        ours.strategy.step(batch)
        dealt += ours.strategy.dealt.tolist()
    assert all(map(torch.equal, targets, (ours.strategy.recorded, ours.strategy.exemplar_targets)))
    assert [sorted(dealt[i : i + 6]) for i in (0, 6, 12)] == [list(range(6))] * 3
    assert experience.meter.replayed == 18
    end(ours, experience)
    assert not {"targets", "exemplar_targets", "dealer", "dealt", "old", "seen"} & vars(ours.strategy).keys()


# --- the nearest mean


def test_i5_the_nearest_mean_by_brute_force():
    ours = walk(ICaRL(), buffer_size=24).finish()
    strategy, x = ours.strategy, ours.realised.test.x
    backbone = copy.deepcopy(strategy.model.backbone).double()
    with torch.no_grad():
        phi, of_exemplars = (F.normalize(backbone(t.double()), dim=1) for t in (x, strategy.exemplars))
    means = [of_exemplars[strategy.labels == label].mean(0) for label in range(6)]
    means = [mean / mean.norm() for mean in means]
    for row, scores in zip(phi, strategy.predict(x).double()):
        expected = torch.stack([-(row - mean).norm() for mean in means])
        torch.testing.assert_close(scores, expected, rtol=1e-4, atol=1e-5)


def test_i5_the_scale_of_features_does_not_matter():
    """Every feature times 8, before they are normalised: ReLU is homogeneous, and 8 is a power of two."""
    ours = walk(ICaRL(), buffer_size=24).finish()
    x = ours.realised.test.x
    before = ours.strategy.predict(x)
    with torch.no_grad():
        for p in ours.strategy.model.backbone.parameters():
            p.mul_(8)
    torch.testing.assert_close(ours.strategy.predict(x), before, rtol=0, atol=1e-6)


def test_i6_other_names_of_classes_only_permute_columns():
    permutation = torch.tensor([2, 0, 1])
    scores = []
    for renamed in (False, True):
        ours = walk(ICaRL(), buffer_size=9)
        experience = begin(ours, 0)
        ours.strategy.dealt = ours.strategy.dealer.next()
        if renamed:
            experience.y = permutation[experience.y]
        end(ours, experience)
        scores.append(ours.strategy.predict(ours.realised.test.x))
    assert torch.equal(scores[1][:, permutation], scores[0])


def test_i7_features_averaged_with_those_of_the_mirror_image():
    images = {"backbone": Cnn, "options": {"widths": [4], "features": 8}}
    ours = walk(ICaRL(flip=True), buffer_size=12, **images)
    experience = ours.step(0)
    backbone, strategy = ours.strategy.model.backbone, ours.strategy
    with torch.no_grad():
        both = [F.normalize(backbone(x), dim=1) for x in (experience.x, experience.x.flip(3))]
    for label in range(3):
        mine = [phi[experience.y == label] for phi in both]
        order = algorithm_4((mine[0] + mine[1]).double() / 2, 4)
        rows = experience.x[experience.y == label][order]
        assert torch.equal(strategy.exemplars[strategy.labels == label], rows)
        expected = F.normalize((mine[0][order].mean(0) + mine[1][order].mean(0)) / 2, dim=0)
        torch.testing.assert_close(strategy.means[label], expected)
    plain = walk(ICaRL(), buffer_size=12, **images)
    plain.step(0)
    assert not torch.equal(plain.strategy.means, strategy.means)


class Vectors(TinyStream):
    name = "vectors"

    def inputs(self, x):
        return x.flatten(1).float()


def test_only_images_can_be_mirrored():
    with pytest.raises(UsageError, match=r"icarl\.flip mirrors images .* inputs have shape \(16,\)"):
        walk(ICaRL(flip=True), benchmark=Vectors)
    walk(ICaRL(), benchmark=Vectors).finish()


# --- when there are no means


@pytest.mark.parametrize("budget", [0, 5])
def test_with_fewer_exemplars_than_classes_the_head_predicts(budget):
    ours = walk(ICaRL(), buffer_size=budget)
    for position, classes in enumerate((3, 4, 6)):
        ours.step(position)
        x = ours.realised.test.x
        with torch.no_grad():
            head = ours.strategy.model(x)
        uses_head = budget < classes
        assert torch.equal(ours.strategy.predict(x), head) is uses_head


@pytest.mark.parametrize("protocol", [{}, FULL])
def test_while_learning_the_head_predicts_and_scores_are_finite(protocol):
    ours = walk(ICaRL(), buffer_size=12, **protocol)
    ours.step(0)
    experience = begin(ours, 1)
    x = ours.realised.test.x
    for batch in experience.batches(1):
        ours.strategy.step(batch)
        scores = ours.strategy.predict(x)[:, ours.realised.space.in_play()]
        assert torch.isfinite(scores).all()
    end(ours, experience)
    assert torch.isfinite(ours.strategy.predict(x)[:, ours.realised.space.in_play()]).all()


class Reversed(TinyStream):
    """The experience of a single class comes first."""

    name = "single-first"

    def stream(self, data, scenario, generator):
        stream = super().stream(data, scenario, generator)
        first, second, third = stream.splits
        to = torch.tensor([1, 2, 3, 0])
        first, second = (type(s)(s.train, to[s.y_train], s.test, to[s.y_test]) for s in (first, second))
        return type(stream)((second, first, third), stream.output_names)


def test_a_first_experience_with_one_class_and_one_smaller_than_a_batch():
    ours = walk(ICaRL(), benchmark=Reversed, buffer_size=12, batch_size=64)
    ours.step(0)
    x = ours.realised.test.x
    assert ours.strategy.predict(x).shape == (len(x), 1)
    assert len(ours.strategy.labels) == 12
    ours.finish(1)
    predicted = torch.tensor(ours.predict())
    right = (predicted == torch.as_tensor(ours.realised.test.labels)).float().mean()
    assert right > 0.5


class Tokens(TinyStream):
    """Inputs that are whole numbers, as of text."""

    name = "tokens"

    def inputs(self, x):
        return (x.flatten(1) > 0).long()


class Embedded(Backbone):
    name = "embedded"

    def __init__(self, input_shape):
        super().__init__()
        self.features = 8
        self.table = nn.Embedding(2, 8)

    def forward(self, x):
        return (self.table(x) * torch.linspace(-1, 1, 16)[:, None]).sum(1)


@pytest.mark.parametrize("budget", [0, 12])
def test_inputs_keep_their_type(budget):
    ours = walk(ICaRL(), benchmark=Tokens, backbone=Embedded, buffer_size=budget).finish()
    inputs = ours.strategy.context.inputs(ours.strategy.exemplars)
    assert (len(inputs), inputs.dtype) == (12, torch.long) if budget else not len(inputs)
    assert len(ours.predict()) == len(ours.realised.test.labels)
