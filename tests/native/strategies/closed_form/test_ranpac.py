"""RanPAC: the batch solution in any order, the choice of λ written out, its limits, and adaptation."""

import numpy as np
import pytest
import torch
from clarena_native.backbones.small import Mlp
from clarena_native.strategies.closed_form import features
from clarena_native.strategies.closed_form.features import rounded
from clarena_native.strategies.closed_form.ranpac import Chosen, RanPAC, least_error
from clarena_native.strategies.closed_form.ridge import Regression, Ridge, gaussian
from hypothesis import given
from hypothesis import strategies as st
from tiny import SCENARIOS, same, walk

from clarena import UsageError
from clarena.checks.tiny import TinyTransformer
from clarena.testing import parametrize_with_checks


def samples(n=90, d=8, classes=5, seed=0):
    chance = np.random.default_rng(seed)
    y = np.concatenate([np.arange(classes), chance.integers(0, classes, n - classes)])
    return chance.normal(size=(n, d)) + chance.normal(size=(classes, d))[y], y


def learned(order=slice(None), cuts=(), strength=0.5, width=30, data=None):
    x, y = data or samples()
    x, y = x[order], y[order]
    head = Regression(x.shape[1], gaussian(x.shape[1], width, torch.Generator().manual_seed(3)), False, strength)
    for part, labels in zip(np.split(x, cuts), np.split(y, cuts), strict=True):
        head.grow(max(head.outputs, labels.max(initial=-1) + 1))
        head.add(torch.from_numpy(part), torch.from_numpy(labels))
    return head


@given(st.permutations(range(90)), st.lists(st.integers(0, 90), max_size=8))
def test_at_a_fixed_strength_any_order_and_split_give_the_joint_solution(order, cuts):
    x, y = samples()
    head = learned(order, sorted(cuts))
    h = np.maximum(x @ head.projection.double().numpy(), 0)
    expected = h @ np.linalg.solve(h.T @ h + 0.5 * np.eye(30), h.T @ np.eye(5)[y])
    scores = head(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(scores, expected, rtol=0, atol=1e-9)
    assert (scores.argmax(1) == expected.argmax(1)).all()


def test_without_a_projection_it_is_ridge():
    for scenario in SCENARIOS:
        ranpac = walk(RanPAC(projection=0, strength=0.1), scenario).finish().strategy.model
        ridge = walk(Ridge(strength=0.1), scenario).finish().strategy.model
        x = torch.randn(9, 1, 4, 4)
        assert torch.equal(ranpac(x), ridge(x))


def test_in_the_limit_of_strength_it_is_the_inner_product_with_sums_over_classes():
    x, y = samples()
    head = learned(strength=1e14)
    h = np.maximum(x @ head.projection.double().numpy(), 0)
    prototypes = np.stack([h[y == k].sum(0) for k in range(5)])  # means times counts
    np.testing.assert_allclose(1e14 * head(torch.from_numpy(x)).numpy(), h @ prototypes.T, rtol=1e-9)


def chosen_by_hand(f, y, w, order):
    """The paper's rule for the features of one experience, in NumPy: the exponent, and all errors."""
    f = rounded(torch.from_numpy(f / np.linalg.norm(f, axis=1, keepdims=True))).numpy()
    h = np.maximum(f @ w, 0) if w.shape[1] else f
    targets = np.eye(y.max() + 1)[y]
    fit, out = order[: int(0.8 * len(y))], order[int(0.8 * len(y)) :]
    u, s, v = np.linalg.svd(h[fit], full_matrices=False)
    errors = []
    for exponent in range(-8, 9):
        weights = v.T @ np.diag(s / (s**2 + 10.0**exponent)) @ u.T @ targets[fit]
        errors.append(np.mean((targets[out] - h[out] @ weights) ** 2))
    return int(np.argmin(errors)) - 8, errors


@pytest.mark.parametrize("block", [6, 2048])
@pytest.mark.parametrize("projection", [0, 12, 300])
def test_the_strength_is_chosen_by_a_held_out_fifth_and_anew_each_time(projection, block, monkeypatch):
    monkeypatch.setattr(features, "BLOCK", block)
    found, expected = [], []
    for seed in range(3):
        ours = walk(RanPAC(projection=projection), seed=seed, stream={"blur": 0.3})
        model = ours.strategy.model
        for position in range(3):
            experience = ours.step(position)
            order = ours.strategy.context.seeds.apart("held out", position)
            order = torch.randperm(len(experience), generator=order).numpy()
            f = model.backbone(experience.x).detach().double()
            hand, errors = chosen_by_hand(
                rounded(f).numpy(), experience.y.numpy(), model.head.projection.double().numpy(), order
            )
            mine = int(model.head.exponent)
            found.append(mine)
            expected.append(hand)
            assert errors[mine + 8] <= min(errors) * (1 + 1e-3)
    assert len(set(found)) > 1
    assert np.mean(np.array(found) == expected) > 0.8  # the least strengths may be as good as each other


def test_the_space_of_few_samples_gives_the_same_choice():
    for seed in range(5):
        x, y = (torch.from_numpy(part) for part in samples(40, seed=seed))
        fit = Regression(8, gaussian(8, 100, torch.Generator().manual_seed(seed)), True, 1.0)
        fit.grow(5)
        fit.add(x[:30], y[:30])
        rows, fitted = fit.expand(x[30:]), fit.expand(x[:30])
        assert least_error(fit, rows, y[30:], fitted) == least_error(fit, rows, y[30:], None)


def test_held_out_samples_are_added_with_the_others():
    chosen = walk(RanPAC(projection=20), "class").finish().strategy.model.head
    fixed = walk(RanPAC(projection=20, strength=1.0), "class").finish().strategy.model.head
    assert torch.equal(chosen.counts, fixed.counts)
    for name in ("gram", "sums"):
        torch.testing.assert_close(getattr(chosen, name), getattr(fixed, name), rtol=1e-12, atol=1e-12)


def test_where_the_choice_is_lost_the_next_strength_is_taken():
    x, y = torch.ones(4, 8, dtype=torch.float64) * 3e5, torch.arange(4)
    head = Chosen(8, torch.empty(8, 0), False)
    head.grow(4)
    head.add(x, y)
    head.exponent = torch.tensor(-8)
    used = [e for e in range(-8, 9) if torch.linalg.cholesky_ex(head.gram + 10.0**e * torch.eye(8)).info == 0]
    assert used[0] > -8
    gram = head.gram + 10.0 ** used[0] * torch.eye(8)
    torch.testing.assert_close(gram @ head.solution, head.sums.T, rtol=1e-3, atol=0)


def test_the_strength_lives_in_the_state_and_one_sample_leaves_it():
    ours = walk(RanPAC(projection=30), limit=1)
    ours.step(1)  # the experience of a single class
    assert int(ours.strategy.model.head.exponent) == 0
    ours = walk(RanPAC(projection=30))
    ours.step(0)
    other = walk(RanPAC(projection=30))
    other.realised.begin([0])
    other.strategy.load_state_dict(ours.strategy.state_dict())
    assert other.predict() == ours.predict()
    assert other.strategy.model.head.exponent == ours.strategy.model.head.exponent


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_a_run_tells_the_blobs_apart(scenario):
    ours = walk(RanPAC(projection=100), scenario).finish()
    right = torch.tensor(ours.predict()) == torch.from_numpy(ours.realised.test.labels)
    assert right.float().mean() > 0.8


# --- phase 1


KINDS = ("adapter", "adapter_after", "lora")


def adapted(kind, **protocol):
    settings = {"epochs": 3, "learning_rate": 0.2, "backbone": TinyTransformer} | protocol
    return walk(RanPAC(projection=50, adaptation=kind, bottleneck=4), **settings)


@pytest.mark.parametrize("kind", KINDS)
def test_the_first_experience_alone_trains_what_is_added(kind):
    ours = adapted(kind)
    model = ours.strategy.model
    first, backbone = ([p.clone() for p in part.parameters()] for part in (model.added, model.backbone))
    x = torch.randn(5, 1, 4, 4)
    with torch.no_grad():
        assert torch.equal(model.features(x), model.backbone(x))  # what is new adds 0
    experience = ours.step(0)
    assert experience.meter.samples == 3 * len(experience)
    assert experience.passes_left == 0
    second = [p.clone() for p in model.added.parameters()]
    assert not any(map(torch.equal, first, second))
    assert not torch.equal(model.features(x), model.backbone(x))
    later = ours.step(1)
    assert later.meter.samples == len(later)
    ours.finish(2)
    assert same(second, list(model.added.parameters()))
    assert same(backbone, list(model.backbone.parameters()))
    assert not any(p.requires_grad for p in model.parameters())


def test_sums_are_of_the_adapted_backbone():
    ours = adapted("lora")
    experience = ours.step(0)
    model = ours.strategy.model
    h = model.head.expand(rounded(model.features(experience.x).detach().double()))
    torch.testing.assert_close(model.head.gram, h.T @ h, rtol=1e-5, atol=1e-4)


class Adapting(RanPAC):
    """RanPAC with LoRA from the first experience."""

    name = "adapting"

    def __init__(self) -> None:
        super().__init__(projection=40, adaptation="lora", bottleneck=2)


@parametrize_with_checks([Adapting], ["class"], TinyTransformer)
def test_adapted_it_conforms(check):
    check()


def test_what_cannot_be_adapted_is_said():
    with pytest.raises(UsageError, match=r"ranpac trains adapters .* single pass. Choose ranpac.adaptation=none"):
        adapted("lora", epochs=1)
    with pytest.raises(UsageError, match="mlp works on no tokens"):
        adapted("adapter", backbone=Mlp, options={"hidden": (8,)})
    with pytest.raises(UsageError, match="mlp has no query and no value to which LoRA could be added"):
        adapted("lora", backbone=Mlp, options={"hidden": (8,)})
