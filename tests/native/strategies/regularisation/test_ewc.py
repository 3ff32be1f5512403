"""EWC: the penalty, its merging, its fixed point, and a consolidation that leaves no trace."""

import copy
import random

import numpy as np
import pytest
import torch
from clarena_native.backbones.small import Cnn, Mlp
from clarena_native.strategies.references.finetune import Finetune
from clarena_native.strategies.regularisation.ewc import EWC
from clarena_native.strategies.regularisation.quadratic import QuadraticPenalty, flat, grown
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import SCENARIOS, Walk, same, walk
from torch import nn
from torch.nn import functional as F

from clarena import Model, fisher_diagonal

SGD = {"optimizer": "sgd", "learning_rate": 0.05}
KINDS = ["exact", "sample", "empirical"]


def linear_model(numbers):
    """A model whose parameters are one vector of these numbers."""
    model = Model(nn.Identity(), nn.Linear(len(numbers), 1, bias=False))
    with torch.no_grad():
        model.head.weight.copy_(torch.tensor([numbers]))
    return model.double()


def penalty_gradient(walked):
    """The closed form's gradient at the present parameters, as one vector."""
    for p in walked.strategy.model.parameters():
        p.grad = torch.zeros_like(p)
    walked.strategy.backward_penalty()
    return torch.cat([p.grad.flatten() for p in walked.strategy.model.parameters()])


def move(walked, seed=0):
    """Put the parameters elsewhere; return where, as one vector."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in walked.strategy.model.parameters():
            p.add_(torch.randn(p.shape, generator=generator))
    return flat(walked.strategy.model).detach().clone()


def consolidations(scenario, **hyperparameters):
    """EWC through the tiny stream, and what it found after each experience: (θ*, its Fisher, by brute force)."""
    walked, found = walk(EWC(**hyperparameters), scenario, **SGD), []
    for position in range(3):
        experience = walked.step(position)
        model = walked.strategy.model
        total = torch.zeros_like(flat(model))
        for batch in experience.scan(1):
            scores = model(batch.x)
            allowed = range(scores.shape[1]) if batch.mask is None else batch.mask[0].nonzero().flatten().tolist()
            log_p = scores[0, list(allowed)].log_softmax(0)
            for c in range(len(log_p)):
                gradient = torch.autograd.grad(log_p[c], list(model.parameters()), retain_graph=True)
                total += log_p[c].exp().detach() * torch.cat([g.flatten() for g in gradient]).square()
        found.append((flat(model).detach().clone(), total.detach() / len(experience)))
    return walked, found


# --- E3, E4: the penalty


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_the_penalty_is_nothing_at_its_centre_and_a_spring_elsewhere(scenario):
    walked = walk(EWC(strength=3.0), scenario, **SGD)
    walked.step(0)
    importance = walked.strategy.consolidated.importance
    centre = walked.strategy.consolidated.anchor.clone()
    assert torch.equal(centre, flat(walked.strategy.model))
    assert (importance >= 0).all()
    assert importance.count_nonzero() > len(importance) / 2
    assert walked.strategy.penalty().item() == 0
    assert penalty_gradient(walked).count_nonzero() == 0
    theta = move(walked)
    torch.testing.assert_close(penalty_gradient(walked), 3.0 * importance * (theta - centre))
    expected = 1.5 * (importance * (theta - centre) ** 2).sum()
    torch.testing.assert_close(walked.strategy.penalty(), expected)
    by_autograd = torch.autograd.grad(walked.strategy.penalty(), list(walked.strategy.model.parameters()))
    torch.testing.assert_close(torch.cat([g.flatten() for g in by_autograd]), penalty_gradient(walked))


def padded(vector, length):
    return F.pad(vector, (0, length - len(vector)))


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_separate_penalties_merged_pull_like_their_sum(scenario):
    walked, found = consolidations(scenario, strength=2.0)
    theta = move(walked)
    n = len(theta)
    expected = sum(2.0 * padded(fisher, n) * (theta - padded(centre, n)) for centre, fisher in found)
    torch.testing.assert_close(penalty_gradient(walked), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_online_importances_decay_and_the_penalty_carries_the_decay(scenario):
    decay = 0.6
    walked, found = consolidations(scenario, strength=2.0, mode="online", decay=decay)
    n = len(found[-1][0])
    importance = torch.zeros(n)
    for _, fisher in found:
        importance = decay * importance + padded(fisher, n)
    torch.testing.assert_close(walked.strategy.consolidated.importance, importance, rtol=1e-4, atol=1e-8)
    assert torch.equal(walked.strategy.consolidated.anchor, found[-1][0])
    theta = move(walked)
    expected = 2.0 * decay * importance * (theta - found[-1][0])
    torch.testing.assert_close(penalty_gradient(walked), expected, rtol=1e-4, atol=1e-6)


def test_online_without_decay_sums_importances_like_separate_but_moves_the_centre():
    separate, _ = consolidations("domain")
    online, found = consolidations("domain", mode="online", decay=1.0)
    first = walk(EWC(mode="separate"), "domain", **SGD)
    other = walk(EWC(mode="online", decay=1.0), "domain", **SGD)
    for walked in (first, other):
        walked.step(0)
    assert same(first.parameters(), other.parameters())  # one past experience: one and the same penalty
    assert torch.equal(first.strategy.consolidated.importance, other.strategy.consolidated.importance)
    assert torch.equal(online.strategy.consolidated.anchor, found[-1][0])
    assert not torch.allclose(separate.strategy.consolidated.anchor, flat(separate.strategy.model))


numbers = st.lists(st.floats(-3, 3, width=32), min_size=4, max_size=4)
weights = st.lists(st.floats(0, 5, width=32), min_size=4, max_size=4)


@given(st.lists(st.tuples(weights, numbers), min_size=1, max_size=4), numbers)
def test_merging_is_exact_up_to_a_constant(terms, theta):
    """Σ ½ Fₖ (θ − cₖ)² and the merged penalty differ by a constant: their differences between two points agree."""
    model, origin = linear_model(theta), linear_model([0.0] * 4)
    merged = EWC(strength=1.0)
    merged.consolidated = QuadraticPenalty(torch.device("cpu")).double()
    for importance, centre in terms:
        merged.model = linear_model(centre)
        merged._per_sample = lambda experience, f=importance: torch.tensor(f, dtype=torch.float64)
        merged.after_experience(None)
    expected = sum(
        0.5 * f * ((t - c) ** 2 - c**2)
        for importance, centre in terms
        for f, c, t in zip(importance, centre, theta, strict=True)
    )
    found = merged.consolidated.value(model) - merged.consolidated.value(origin)
    assert float(found.detach()) == pytest.approx(expected, abs=1e-6)
    assert torch.isfinite(merged.consolidated.anchor).all()


# --- E5: where gradient descent comes to rest


@settings(max_examples=30)
@given(weights, numbers, weights, numbers, st.floats(0, 10))  # so the condition number is at most 58 / 3
def test_descent_rests_between_the_task_and_the_anchor(curvature, target, importance, anchor, strength):
    """On ½ h (θ − b)² the fixed point is (h b + λ F θ*) / (h + λ F)."""
    h, b = torch.tensor(curvature, dtype=torch.float64) + 3, torch.tensor(target, dtype=torch.float64)
    f, centre = torch.tensor(importance, dtype=torch.float64), torch.tensor(anchor, dtype=torch.float64)
    model = linear_model([0.0] * 4)
    penalty = QuadraticPenalty(torch.device("cpu"))
    penalty.set(f, centre)
    weight = model.head.weight
    optimiser = torch.optim.SGD([weight], lr=1 / float((h + strength * f).max()))
    for _ in range(400):
        weight.grad = (h * (weight.detach()[0] - b))[None]
        penalty.add_gradient(model, strength)
        optimiser.step()
    torch.testing.assert_close(weight[0].detach(), (h * b + strength * f * centre) / (h + strength * f))


# --- E6: off, and without a trace


@pytest.mark.parametrize("state", ["reset", "kept"])
@pytest.mark.parametrize("optimiser", [SGD | {"momentum": 0.9}, {"optimizer": "adam"}])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_at_strength_zero_it_is_finetune_bit_for_bit(scenario, kind, optimiser, state):
    plain, off = (
        walk(s, scenario, optimizer_state=state, **optimiser) for s in (Finetune, EWC(strength=0, fisher=kind))
    )
    for position in range(3):
        plain.step(position)
        off.step(position)
        assert same(off.parameters(), plain.parameters())
        assert off.predict() == plain.predict()


def world(walked):
    """All that consolidation must not change."""
    strategy = walked.strategy
    seeds = walked.realised.seeds
    kept = {name: value.clone() for name, value in strategy.model.state_dict().items()}
    moments = copy.deepcopy(strategy.optimizer.state_dict())
    modes = [part.training for part in strategy.modules()]
    grads = [None if p.grad is None else p.grad.clone() for p in strategy.model.parameters()]
    streams = {name: g.get_state().tolist() for name, g in seeds._generators.items() if name != "strategy"}
    chance = torch.get_rng_state().tolist(), np.random.get_state()[1].tolist(), random.getstate()
    return kept, moments, modes, grads, streams, chance


def equal(a, b):
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(equal, a, b))
    return a == b


@pytest.mark.parametrize("kind", [*KINDS, "argmax", "batched"])
@pytest.mark.parametrize("norm", ["none", "batch", "group"])
def test_consolidation_leaves_no_trace(kind, norm):
    class Watched(EWC):
        def after_experience(self, experience):
            before, spent = world(walked), self.context.generator("strategy").get_state()
            super().after_experience(experience)
            after = world(walked)
            names = ("weights and running statistics", "optimiser", "modes", "gradients", "streams", "globals")
            for name, a, b in zip(names, before, after, strict=True):
                assert equal(a, b), name
            drew = not torch.equal(self.context.generator("strategy").get_state(), spent)
            assert drew is (kind == "sample")
            assert (experience.meter.scanned, experience.meter.samples) == (len(experience), 2 * len(experience))

    backbone = {"backbone": Mlp, "options": {"hidden": (8,), "norm": norm, "dropout": 0.5}}
    walked = walk(Watched(fisher=kind), "class", **backbone)
    walked.finish()


# --- outputs in play, and growth


def test_the_fisher_sees_the_outputs_in_play_alone():
    """With a full head, outputs of the future take no part: no importance, and the softmax is over the others."""
    walked = walk(EWC(strength=1.0), "class", heads="full", stream_length="known", **SGD)
    for position, seen in enumerate((3, 4, 6)):
        walked.step(position)
        importance = walked.strategy.consolidated.importance
        head = importance[-(32 * 6 + 6) :]
        weight, bias = head[: 32 * 6].view(6, 32), head[32 * 6 :]
        assert weight[seen:].count_nonzero() == bias[seen:].count_nonzero() == 0
        assert (bias[:seen] > 0).all()


def test_each_task_is_important_for_its_own_outputs_alone():
    walked = walk(EWC(), "task", **SGD)
    found = []
    for position in range(3):
        experience = walked.step(position)
        fresh = fisher_diagonal(walked.strategy.model, ((b.x, b.y, b.mask) for b in experience.scan()))
        found.append([int(block.count_nonzero()) > 0 for block in fresh[3::2]])  # biases of the head's blocks
    # The second task has a single class: its softmax is constant, so nothing matters for it.
    assert found == [[True], [False, False], [False, False, True]]


@pytest.mark.parametrize(("scenario", "lengths"), [("class", (3, 4, 6)), ("task", (3, 4, 6)), ("domain", (3, 3, 3))])
def test_importance_grows_with_the_head_and_new_outputs_are_free(scenario, lengths):
    walked = walk(EWC(strength=50.0), scenario, **SGD)
    for position, outputs in enumerate(lengths):
        before = len(walked.strategy.consolidated.importance)
        walked.realised.begin([position])
        walked.strategy.context.grow(walked.strategy.model)
        gradient = penalty_gradient(walked)
        assert gradient[before:].count_nonzero() == 0
        walked.step(position)
        sizes = {len(walked.strategy.consolidated.importance), len(walked.strategy.consolidated.anchor)}
        assert sizes == {16 * 32 + 32 + 33 * outputs}
        assert len(gradient) == 16 * 32 + 32 + 33 * outputs


def test_growing_a_vector_keeps_it_and_adds_zeros():
    assert grown(torch.tensor([1.0, 2.0]), 4).tolist() == [1, 2, 0, 0]
    assert grown(torch.zeros(0), 0).tolist() == []


# --- on real networks


@pytest.mark.parametrize("scenario", SCENARIOS)
@pytest.mark.parametrize("norm", ["none", "batch", "group", "layer"])
@pytest.mark.parametrize(("backbone", "options"), [(Mlp, {"hidden": (16,)}), (Cnn, {"widths": (4,), "features": 16})])
def test_it_runs_on_every_backbone_and_holds_on(backbone, options, norm, scenario):
    """The stronger it is, the less what mattered has moved when the second experience is over."""
    moved = []
    for strength in (0.0, 100.0):
        walked: Walk = walk(
            EWC(strength=strength), scenario, backbone=backbone, options=options | {"norm": norm}, **SGD
        )
        walked.step(0)
        importance = walked.strategy.consolidated.importance
        anchor = walked.strategy.consolidated.anchor
        assert torch.isfinite(importance).all()
        assert importance.sum() > 0
        experience = walked.step(1)
        assert np.isfinite(experience.meter.mean_loss)
        theta = flat(walked.strategy.model).detach()[: len(anchor)]
        moved.append(float((importance * (theta - anchor).square()).sum()))
        walked.step(2)
        assert set(walked.predict()) <= set(range(6))
    if scenario == "task":
        assert moved == pytest.approx([0, 0], abs=1e-12)  # a task of one class has no loss
    else:
        assert moved[1] < moved[0]
