"""MER, La-MAML and C-MAML: sequential Reptile, and rates that are learned by looking ahead."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from clarena_native.backbones.small import Mlp
from clarena_native.benchmarks.digits import SplitDigits
from clarena_native.strategies.meta.la_maml import CMAML, LaMAML
from clarena_native.strategies.meta.mer import MER, parts
from tiny import SCENARIOS, same, walk
from torch import nn
from torch.func import functional_call, grad

from clarena import Backbone, GradientStrategy, ReplayBuffer, cross_entropy
from clarena.contract.meter import Meter


class Smooth(Backbone):
    """Three hyperbolic tangents: derivatives of every order exist."""

    name = "smooth"

    def __init__(self, input_shape):
        super().__init__()
        self.features = 3
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(16, 3), nn.Tanh())

    def forward(self, x):
        return self.layers(x)


def ready(strategy, samples=8, backbone=Smooth, **options):
    """The strategy before a step on the second experience, in double precision, and a batch of so many samples."""
    walked = walk(strategy, backbone=backbone, options=options)
    walked.step(0)
    walked.realised.begin([1])
    strategy.context.grow(strategy.model)
    experience = walked.realised.experience([1])
    strategy.before_experience(experience)
    strategy.experience = SimpleNamespace(meter=Meter())
    strategy.double().train()
    batch = next(experience.batches())
    batch = replace(
        batch,
        x=batch.x[:samples].double(),
        y=batch.y[:samples],
        index=batch.index[:samples],
        fresh=samples,
    )
    batch._rows = lambda: batch.x
    return strategy, batch


def empty(capacity):
    """A buffer of rows that are inputs already."""
    return ReplayBuffer(capacity, inputs=lambda rows: rows)


def named(strategy):
    """Copies of the parameters by name."""
    return {name: p.detach().clone() for name, p in strategy.model.named_parameters()}


def flat(tensors):
    """As one vector."""
    return torch.cat([t.detach().flatten() for t in tensors])


def loss_of(strategy, x, y, mask):
    """The loss as a function of the parameters by name."""
    return lambda weights: cross_entropy(functional_call(strategy.model, weights, (x,)), y, mask)


def vector(by_name, strategy):
    """As one vector, in the order of the parameters (torch.func sorts by name)."""
    return flat(by_name[name] for name, _ in strategy.model.named_parameters())


# --- MER -------------------------------------------------------------------------------------------------------


class Sequential(GradientStrategy):
    """SGD on one sample after another."""

    name = "sequential"
    needs = MER.needs

    def step(self, batch):
        for x, y, mask in parts(batch.x, batch.y, batch.mask):
            self.optimizer.zero_grad()
            cross_entropy(self.model(x), y, mask).backward()
            self.optimizer.step()


@pytest.mark.parametrize("scenario", SCENARIOS)
@pytest.mark.parametrize("without", [{"buffer_size": 0}, {"draw_size": 1}])
def test_mer_without_its_parts_is_sequential_sgd(scenario, without):
    mer = walk(MER(beta=1.0, gamma=1.0, draws=1, learning_rate=0.02, **without), scenario).finish()
    plain = walk(Sequential(), scenario, learning_rate=0.02, optimizer="sgd").finish()
    assert same(mer.parameters(), plain.parameters())


@pytest.mark.parametrize("still", [{"beta": 0.0}, {"gamma": 0.0}])
def test_mer_does_not_move_for_beta_or_gamma_zero(still):
    mer, batch = ready(MER(draws=2, **still))
    before = named(mer)
    mer.step(batch)
    assert same(list(before.values()), list(mer.model.parameters()))


class Recorded(MER):
    """Writes down what is drawn, and from what."""

    def setup(self, context):
        super().setup(context)
        self.drawn = []

    def draw(self, sample):
        drawn = super().draw(sample)
        self.drawn.append((drawn, list(self.buffer.everything().get("x", [])), sample))
        return drawn


@pytest.mark.parametrize("place", ["first", "last", "random"])
def test_mer_is_algorithm_1(place):
    mer, batch = ready(Recorded(draws=3, draw_size=4, beta=0.4, gamma=0.7, learning_rate=0.1, place=place))
    mer.buffer = empty(12)  # in double precision, and empty
    theta = named(mer)
    mer.drawn.clear()
    mer.step(batch)
    drawn = iter(mer.drawn)
    for n in range(len(batch)):
        theta_a = theta
        for _ in range(3):
            theta_w = theta
            for sample in next(drawn)[0]:
                g = grad(loss_of(mer, *sample))(theta_w)
                theta_w = {name: theta_w[name] - 0.1 * g[name] for name in g}
            theta = {name: theta[name] + 0.4 * (theta_w[name] - theta[name]) for name in theta}
        theta = {name: theta_a[name] + 0.7 * (theta[name] - theta_a[name]) for name in theta}
        drawn_now, stored, sample = mer.drawn[3 * n]
        assert len(drawn_now) == min(4, n + 1)  # itself, and as many of those before it
        assert same(stored, list(batch.x[:n]))
        assert torch.equal(sample[0][0], batch.x[n])
    assert not list(drawn)
    torch.testing.assert_close(flat(mer.model.parameters()), vector(theta, mer), rtol=0, atol=1e-12)
    exemplars = sum(len(one) - 1 for one, _, _ in mer.drawn)
    assert mer.experience.meter.replayed == exemplars == 3 * (0 + 1 + 2 + 3 * 5)


def test_mer_draws_exemplars_once_and_puts_the_sample_in_its_place():
    places = {}
    for place in ("first", "last", "random"):
        mer, batch = ready(Recorded(draw_size=5, place=place))
        mer.buffer = empty(12)
        mer.drawn.clear()
        mer.step(batch)
        places[place] = set()
        for drawn, stored, sample in mer.drawn[4:]:
            rows = [x[0] for x, _, _ in drawn]
            at = [i for i, row in enumerate(rows) if torch.equal(row, sample[0][0])]
            assert len(at) == 1
            places[place].add(at[0])
            others = [
                next(i for i, x in enumerate(stored) if torch.equal(x, row)) for row in rows if row is not rows[at[0]]
            ]
            assert len(set(others)) == 4
    assert places["first"] == {0}
    assert places["last"] == {4}
    assert len(places["random"]) > 1


def test_mer_rewards_gradients_that_agree():
    """Mean over both orders of two steps = θ − a (g₁ + g₂) + a²/2 (H₁ g₂ + H₂ g₁) + O(a³)."""

    def remainder(rate):
        ends = []
        for place in ("first", "last"):
            mer, batch = ready(MER(draw_size=2, beta=1.0), samples=2)
            mer.place, mer.learning_rate = place, rate
            old, new = parts(batch.x, batch.y, None)
            mer.buffer = empty(1)
            mer.buffer.add(torch.Generator(), rows=old[0], y=old[1])
            mask = mer.context.space.exemplar_mask()
            start = named(mer)
            mer.step(
                replace(
                    batch, x=new[0], y=new[1], index=batch.index[1:], mask=mask, fresh=1, _rows=lambda new=new: new[0]
                )
            )
            ends.append(flat(mer.model.parameters()))
        first, second = grad(loss_of(mer, *old[:2], mask)), grad(loss_of(mer, *new[:2], mask))
        g1, g2 = first(start), second(start)
        h1g2 = grad(lambda weights: sum((first(weights)[name] * g2[name]).sum() for name in g2))(start)
        h2g1 = grad(lambda weights: sum((second(weights)[name] * g1[name]).sum() for name in g1))(start)
        theta, g1, g2, h1g2, h2g1 = (vector(d, mer) for d in (start, g1, g2, h1g2, h2g1))
        alignment = rate**2 / 2 * (h1g2 + h2g1)
        rest = sum(ends) / 2 - (theta - rate * (g1 + g2) + alignment)
        return float(rest.norm()), float(alignment.norm())

    (large, _), (small, alignment) = remainder(0.02), remainder(0.01)
    assert 6 < large / small < 10  # of third order: 2³
    assert small < 0.05 * alignment


@pytest.mark.parametrize("scenario", SCENARIOS)
@pytest.mark.parametrize("strategy", [MER, LaMAML, CMAML])
def test_restored_in_the_middle_it_comes_to_the_same_end(strategy, scenario):
    first = walk(strategy, scenario, epochs=1)
    first.step(0)
    second = walk(strategy, scenario, epochs=1)
    second.realised.begin([0])
    second.strategy.load_state_dict(first.strategy.state_dict())
    assert same(first.finish(1).parameters(), second.finish(1).parameters())
    assert len(second.strategy.buffer) == 12


@pytest.mark.parametrize("scenario", SCENARIOS)
@pytest.mark.parametrize("strategy", [MER, LaMAML, CMAML])
def test_no_more_is_kept_than_granted(strategy, scenario):
    for size in (0, 1, 5):
        walked = walk(strategy(buffer_size=size), scenario, epochs=1).finish()
        assert len(walked.strategy.buffer) == size


# --- La-MAML ---------------------------------------------------------------------------------------------------


def meta_loss(maml, weights, alpha, batch):
    return maml.meta_loss(weights, alpha, batch, batch)[0]


def leaves(maml):
    weights = {name: p.requires_grad_() for name, p in named(maml).items()}
    return weights, maml.alpha.detach().clone().requires_grad_()


def gradients(maml, batch):
    """The meta-gradients [parameters] of the weights and of the rates."""
    weights, alpha = leaves(maml)
    *for_weights, for_alpha = torch.autograd.grad(meta_loss(maml, weights, alpha, batch), [*weights.values(), alpha])
    return flat(for_weights), for_alpha


@pytest.mark.parametrize("second_order", [False, True])
def test_after_one_inner_step_the_gradient_of_the_rates_is_a_product(second_order):
    maml, batch = ready(LaMAML(second_order=second_order, inner_steps=1))
    maml.alpha.fill_(0.1)
    theta = named(maml)
    inner = grad(loss_of(maml, batch.x, batch.y, batch.mask))(theta)
    fast = {name: theta[name] - 0.1 * inner[name] for name in theta}
    meta = grad(loss_of(maml, batch.x, batch.y, batch.mask))(fast)
    expected = -vector(meta, maml) * vector(inner, maml)
    torch.testing.assert_close(gradients(maml, batch)[1], expected, rtol=0, atol=1e-15)


def test_second_order_gradients_are_those_of_finite_differences():
    maml, batch = ready(LaMAML(second_order=True, inner_steps=None, learning_rate=0.3), samples=4)
    weights, alpha = leaves(maml)
    generator = torch.Generator().manual_seed(0)
    sizes = [p.numel() for p in weights.values()]

    def at(theta, rates):
        split = {n: t.view_as(p).detach().requires_grad_() for (n, p), t in zip(weights.items(), theta.split(sizes))}
        return meta_loss(maml, split, rates, batch).item()

    theta, rates, step = flat(weights.values()), alpha.detach(), 1e-5
    exact = gradients(maml, batch)
    maml.second_order = False
    approximate = gradients(maml, batch)
    for k, point in enumerate((theta, rates)):
        direction = torch.randn(len(point), generator=generator, dtype=point.dtype)
        up, down = ([theta, rates] for _ in range(2))
        up[k], down[k] = point + step * direction, point - step * direction
        slope = (at(*up) - at(*down)) / (2 * step)
        assert float(exact[k] @ direction) == pytest.approx(slope, rel=1e-7, abs=1e-9)
        assert float(approximate[k] @ direction) != pytest.approx(slope, rel=1e-3)


def test_first_order_gradients_are_those_with_inner_gradients_held_constant():
    maml, batch = ready(LaMAML(inner_steps=4), samples=7)
    maml.alpha.fill_(0.3)
    theta = named(maml)
    moved, for_theta, for_alpha = {name: torch.zeros_like(p) for name, p in theta.items()}, 0, 0
    cut = list(parts(batch.x, batch.y, batch.mask, 2))
    assert len(cut) == 4
    for part in cut:
        fast = {name: theta[name] - 0.3 * moved[name] for name in theta}
        inner = grad(loss_of(maml, *part))(fast)
        moved = {name: moved[name] + inner[name] for name in theta}
        fast = {name: theta[name] - 0.3 * moved[name] for name in theta}
        meta = vector(grad(loss_of(maml, batch.x, batch.y, batch.mask))(fast), maml)
        for_theta += meta / 4
        for_alpha -= meta * vector(moved, maml) / 4
    found = gradients(maml, batch)
    torch.testing.assert_close(found[0], for_theta, rtol=0, atol=1e-13)
    torch.testing.assert_close(found[1], for_alpha, rtol=0, atol=1e-13)


def without_exemplars(maml):
    maml.buffer = empty(0)
    return maml


def test_rates_are_stepped_first_and_weights_follow_at_the_new_ones():
    maml, batch = ready(LaMAML(meta_rate=5.0, clip=None, inner_steps=None))
    without_exemplars(maml)
    theta, alpha = flat(maml.model.parameters()), maml.alpha.clone()
    for_theta, for_alpha = gradients(maml, batch)
    maml.step(batch)
    new = alpha - 5.0 * for_alpha
    assert (new < 0).any()
    torch.testing.assert_close(maml.alpha, new, rtol=0, atol=1e-15)
    end = flat(maml.model.parameters())
    torch.testing.assert_close(end, theta - new.clamp(min=0) * for_theta, rtol=0, atol=1e-14)
    assert not torch.allclose(end, theta - alpha * for_theta, atol=1e-4)


def test_weights_with_a_negative_rate_stay_as_they_are():
    maml, batch = ready(LaMAML(meta_rate=0.5))
    without_exemplars(maml)
    maml.alpha[::3] = -1e-6
    theta, alpha = flat(maml.model.parameters()), maml.alpha.clone()
    for _ in range(3):
        maml.step(batch)
    end = flat(maml.model.parameters())
    assert torch.equal(end[::3], theta[::3])
    assert torch.equal(maml.alpha[::3], alpha[::3])
    assert (end[1::3] != theta[1::3]).any()


@pytest.mark.parametrize("scenario", SCENARIOS)
@pytest.mark.parametrize("second_order", [False, True])
def test_constant_rates_and_sync_are_c_maml(scenario, second_order):
    shared = {"learning_rate": 0.05, "outer_rate": 0.2, "second_order": second_order}
    maml = walk(LaMAML(meta_rate=0.0, **shared), scenario, epochs=1).finish()
    fixed = walk(CMAML(**shared), scenario, epochs=1).finish()
    assert same(maml.parameters(), fixed.parameters())
    learned = walk(LaMAML(meta_rate=0.5, **shared), scenario, epochs=1).finish()
    assert not same(learned.parameters(), fixed.parameters())
    assert torch.equal(fixed.strategy.alpha, torch.full_like(fixed.strategy.alpha, 0.05))


def test_c_maml_moves_weights_at_a_rate_of_its_own():
    maml, batch = ready(CMAML(outer_rate=0.25, clip=None))
    without_exemplars(maml)
    theta = flat(maml.model.parameters())
    for_theta, _ = gradients(maml, batch)
    maml.step(batch)
    torch.testing.assert_close(flat(maml.model.parameters()), theta - 0.25 * for_theta, rtol=0, atol=1e-15)


def test_the_meta_loss_runs_over_batch_and_exemplars():
    maml, batch = ready(LaMAML())
    maml.buffer = empty(5)
    maml.buffer.add(torch.Generator(), rows=batch.x[:5] + 1, y=batch.y[:5] - 1)
    joined = maml.replay(batch)
    assert len(joined) == 8 + 5
    maml.step(batch)
    assert maml.experience.meter.replayed == 5 * 4  # a batch of 8 in 5 parts or fewer: 2 + 2 + 2 + 2
    assert maml.buffer.seen == 5 + 8


def test_gradients_are_clipped_by_their_norms():
    maml, batch = ready(LaMAML(clip=0.01, outer_rate=1.0, meta_rate=1.0))
    without_exemplars(maml)
    theta, alpha = flat(maml.model.parameters()), maml.alpha.clone()
    for_theta, for_alpha = gradients(maml, batch)
    assert for_theta.norm() > 0.01
    maml.step(batch)
    moved = theta - flat(maml.model.parameters())
    torch.testing.assert_close(moved, 0.01 * for_theta / for_theta.norm(), rtol=0, atol=1e-15)
    expected = for_alpha * min(1.0, 0.01 / float(for_alpha.norm()))
    torch.testing.assert_close(alpha - maml.alpha, expected, rtol=0, atol=1e-15)


def test_rates_grow_with_the_head_and_no_optimiser_has_them():
    walked = walk(LaMAML(learning_rate=0.07), epochs=1)
    maml = walked.strategy
    for position in range(3):
        before = maml.alpha.clone()
        walked.realised.begin([position])
        maml.context.grow(maml.model)
        maml.before_experience(None)
        assert len(maml.alpha) == sum(p.numel() for p in maml.model.parameters()) > len(before)
        assert torch.equal(maml.alpha[: len(before)], before)
        assert (maml.alpha[len(before) :] == 0.07).all()
        walked.step(position)
    assert len({id(p) for p in maml.parameters()}) == len(list(maml.model.parameters()))
    assert "alpha" in maml.state_dict()
    assert not maml.alpha.requires_grad


def test_the_default_rates_do_not_make_the_weights_rely_on_looking_ahead():
    """The meta-loss looks at the weights after the inner steps, a test at those before: they must not be far apart."""
    walked = walk(LaMAML, "class", backbone=Mlp, benchmark=SplitDigits, epochs=3, batch_size=32, buffer_size=200)
    for position in range(2):
        walked.step(position)
    test = walked.realised.test
    right = torch.tensor(walked.predict()) == torch.from_numpy(test.labels)
    for experience in (0, 1):
        assert right[torch.from_numpy(test.experience == experience)].float().mean() > 0.8


@pytest.mark.parametrize("second_order", [False, True])
def test_batch_norm_counts_one_batch_per_step(second_order):
    maml, batch = ready(
        LaMAML(second_order=second_order, inner_steps=None), backbone=Mlp, hidden=[6], norm="batch", dropout=0.2
    )
    without_exemplars(maml)
    counts = [value.clone() for name, value in maml.model.named_buffers() if name.endswith("tracked")]
    means = [value.clone() for name, value in maml.model.named_buffers() if name.endswith("mean")]
    maml.step(batch)
    after = dict(maml.model.named_buffers())
    assert [v for n, v in after.items() if n.endswith("tracked")] == [count + 1 for count in counts]
    assert not same(means, [v for n, v in after.items() if n.endswith("mean")])
    assert torch.isfinite(flat(maml.model.parameters())).all()
