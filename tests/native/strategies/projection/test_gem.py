"""GEM: the dual, the memories, and what a step may do to them."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from clarena_native.backbones.small import Mlp
from clarena_native.strategies.projection.gem import GEM, multipliers, trained, write_gradient
from clarena_native.strategies.references.finetune import Finetune
from clarena_native.strategies.regularisation.quadratic import flat_gradient
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import nnls
from tiny import SCENARIOS, same, walk
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

from clarena import UsageError, cross_entropy
from clarena.contract.meter import Meter


def projected(g, rows, eps=0.0, **options):
    """g̃ = Gᵀ v + g, and v."""
    v = multipliers(rows @ rows.T + eps * np.eye(len(rows)), rows @ g, **options)
    return rows.T @ v + g, v


def yielding(g, rows, eps):
    """The v ≥ 0 that makes ‖Gᵀ v + g‖² + ε ‖v‖² least, as one problem of least squares."""
    return nnls(np.vstack([rows.T, np.sqrt(eps) * np.eye(len(rows))]), np.concatenate([-g, np.zeros(len(rows))]))[0]


def random_problem(past, parameters=40, seed=0):
    generator = np.random.default_rng(seed)
    return generator.normal(size=parameters), generator.normal(size=(past, parameters))


@given(past=st.sampled_from([1, 3, 8]), seed=st.integers(0, 10**6))
def test_the_dual_is_the_projection(past, seed):  # G1
    g, rows = random_problem(past, seed=seed)
    solution, v = projected(g, rows)
    np.testing.assert_allclose(solution, rows.T @ nnls(rows.T, -g)[0] + g, atol=1e-10)
    assert (v >= 0).all()
    assert (rows @ solution >= -1e-8).all()
    np.testing.assert_allclose(v * (rows @ solution), 0, atol=1e-8)


@given(past=st.sampled_from([1, 3, 8]), seed=st.integers(0, 10**6), eps=st.sampled_from([1e-3, 1.0, 100.0]))
def test_constraints_give_way_by_epsilon(past, seed, eps):  # G2
    g, rows = random_problem(past, seed=seed)
    solution, v = projected(g, rows, eps)
    np.testing.assert_allclose(v, yielding(g, rows, eps), atol=1e-10)
    assert (rows @ solution >= -eps * v - 1e-8).all()
    np.testing.assert_allclose(v * (rows @ solution + eps * v), 0, atol=1e-8)


@given(seed=st.integers(0, 10**6), margin=st.floats(0, 3), eps=st.sampled_from([0.0, 1e-3, 1.0]))
def test_margin(seed, margin, eps):  # G3
    g, rows = random_problem(4, seed=seed)
    plain, bound, added = (
        projected(g, rows, eps, **options)
        for options in ({}, {"margin": margin, "margin_as": "bound"}, {"margin": margin, "margin_as": "added"})
    )
    assert (bound[1] >= margin).all()
    assert (rows @ bound[0] >= -eps * bound[1] - 1e-8).all()
    np.testing.assert_allclose((bound[1] - margin) * (rows @ bound[0] + eps * bound[1]), 0, atol=1e-7)
    np.testing.assert_array_equal(added[1], plain[1] + margin)


@given(seed=st.integers(0, 10**6))
def test_one_constraint_is_a_gem(seed):  # G5
    g, rows = random_problem(1, seed=seed)
    r = rows[0]
    np.testing.assert_allclose(projected(g, rows)[0], g - min(0.0, g @ r) / (r @ r) * r, atol=1e-12)


@pytest.mark.parametrize("case", ["equal", "opposite", "zero", "dependent"])
def test_singular_gram_matrices_are_solved(case):  # G6
    g, rows = random_problem(3)
    g = -np.abs(g)
    rows = np.abs(rows)
    rows[2] = {"equal": rows[1], "opposite": -rows[1], "zero": 0 * rows[1], "dependent": rows[0] + rows[1]}[case]
    solution, v = projected(g, rows)
    assert (v >= 0).all()
    assert (rows @ solution >= -1e-8).all()
    np.testing.assert_allclose(solution, rows.T @ nnls(rows.T, -g)[0] + g, atol=1e-10)


def test_short_gradients_count_as_much_as_long_ones():
    g, rows = random_problem(3)
    np.testing.assert_allclose(projected(g, rows * [[1e-7], [1], [1e5]])[0], projected(g, rows)[0], atol=1e-8)


def test_no_solution_is_no_error():
    assert multipliers(np.full((2, 2), np.inf), np.array([-1.0, 1.0])) is None
    assert multipliers(np.full((2, 2), np.nan), np.array([-1.0, np.nan])) is None
    assert multipliers(np.zeros((2, 2)), np.array([-1e-30, 0.0])) is None


def third_experience(scenario="class", **options):
    """GEM as it stands before its first step on the third experience, in double precision, and a batch."""
    walked = walk(GEM(**{"margin": 0.0, **options}), scenario, learning_rate=0.05)
    walked.step(0)
    walked.step(1)
    gem = walked.strategy
    walked.realised.begin([2])
    experience = walked.realised.experience([2])
    gem.context.grow(gem.model)
    gem.before_experience(experience)
    gem.experience = SimpleNamespace(meter=Meter())
    gem.model.double()
    gem.past = [(x.double(), y, mask) for x, y, mask in gem.past]
    gem.rows = gem.rows.double()
    batch = next(experience.batches())
    batch.x = batch.x.double()
    return gem, batch


def memory_losses(gem):
    gem.model.eval()
    losses = [cross_entropy(gem.model(x), y, mask) for x, y, mask in gem.past]
    gem.model.train()
    return losses


def memory_gradients(gem):
    """By hand, with backward()."""
    rows = []
    for loss in memory_losses(gem):
        gem.model.zero_grad()
        loss.backward()
        rows.append(flat_gradient(trained(gem.model)))
    gem.model.zero_grad()
    return torch.stack(rows)


@pytest.mark.parametrize("eps", [0.0, 0.1])
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_a_step_solves_the_dual_of_every_memory(scenario, eps):
    gem, batch = third_experience(scenario, eps=eps)
    rows = memory_gradients(gem)
    assert len(rows) == 2
    cross_entropy(gem.model(batch.x), batch.y, batch.mask).backward()
    g = flat_gradient(trained(gem.model)) - 2 * rows[0] - rows[1]  # against both
    # In the task scenario the second experience has a single output in play: its loss and its gradient are 0.
    assert ((rows @ g < 0) == rows.any(1)).all()
    assert rows.any(1).tolist() == [True, scenario != "task"]
    write_gradient(trained(gem.model), g)
    gem.adjust_gradients(batch)
    torch.testing.assert_close(gem.rows, rows, rtol=1e-12, atol=1e-14)
    expected = rows.T.numpy() @ yielding(g.numpy(), rows.numpy(), eps) + g.numpy()
    torch.testing.assert_close(flat_gradient(trained(gem.model)), torch.from_numpy(expected), rtol=0, atol=1e-10)
    assert gem.experience.meter.replayed == sum(len(y) for _, y, _ in gem.past)


def test_without_violation_the_gradient_stays_as_it_is():  # G4
    gem, batch = third_experience(margin=0.5)
    rows = memory_gradients(gem)
    write_gradient(trained(gem.model), multipliers_interior(rows))
    before = [p.grad for p in trained(gem.model)]
    bits = [g.clone() for g in before]
    gem.adjust_gradients(batch)
    assert all(p.grad is g for p, g in zip(trained(gem.model), before))
    assert same(before, bits)


def multipliers_interior(rows):
    """A vector with a positive product with every row."""
    return rows.T @ torch.linalg.solve(rows @ rows.T, torch.ones(len(rows), dtype=rows.dtype))


@pytest.mark.parametrize("gradient", [0.0, torch.nan, torch.inf])
def test_zero_and_broken_gradients_pass_through(gradient):
    gem, batch = third_experience()
    for p in trained(gem.model):
        p.grad = torch.full_like(p, gradient)
    gem.adjust_gradients(batch)
    for p in trained(gem.model):
        torch.testing.assert_close(p.grad, torch.full_like(p, gradient), rtol=0, atol=0, equal_nan=True)


def test_perfect_memories_and_absent_gradients_are_safe():
    gem, batch = third_experience()
    with torch.no_grad():  # a loss of exactly 0 on what is remembered
        gem.past = [(x, torch.zeros_like(y), None) for x, y, _ in gem.past]
        for block in gem.model.head.blocks:
            block.bias.fill_(-1e4)
        gem.model.head.blocks[0].bias[0] = 1e4
    assert all(loss == 0 for loss in memory_losses(gem))
    gem.model.zero_grad()
    gem.adjust_gradients(batch)
    assert all(p.grad is None for p in trained(gem.model))
    assert not gem.rows.any()


def test_to_first_order_no_memory_gets_worse():  # G9
    gem, batch = third_experience()
    rows = memory_gradients(gem)
    write_gradient(trained(gem.model), -rows.sum(0) + torch.randn(rows.shape[1], dtype=rows.dtype) * rows.norm() / 30)
    unadjusted = flat_gradient(trained(gem.model))
    gem.adjust_gradients(batch)
    theta = torch.cat([p.detach().flatten() for p in trained(gem.model)])

    def rise(step, rate):
        before = torch.stack(memory_losses(gem))
        torch.nn.utils.vector_to_parameters(theta - rate * step, trained(gem.model))
        after = torch.stack(memory_losses(gem))
        torch.nn.utils.vector_to_parameters(theta, trained(gem.model))
        return (after - before).detach()

    step = flat_gradient(trained(gem.model))
    assert (rise(step, 1e-5) <= 1e-5**2 * 100 * step.norm() ** 2).all()
    assert (rise(unadjusted, 1e-5) > 1e-5**2 * 100 * unadjusted.norm() ** 2).any()  # the bound says something


class Watched(GEM):
    """Writes down what the stream gave, and that the matrix of gradients is written anew in place."""

    def setup(self, context):
        super().setup(context)
        self.given = []

    def before_experience(self, experience):
        super().before_experience(experience)
        self.given.append([])
        self.places = set()

    def after_step(self, batch):
        super().after_step(batch)
        self.places.add(self.rows.data_ptr())
        assert len(self.places) == 1
        assert all(part.grad_fn is None for fields in self.latest for part in fields.values())
        self.given[-1] += [x.numpy().tobytes() for x in batch.x]


def kept(strategy):
    """The exemplars of each experience as bytes."""
    stored = strategy.buffer.everything()
    found = {}
    for x, position in zip(stored["x"], stored["experience"].tolist(), strict=True):
        found.setdefault(position, []).append(x.numpy().tobytes())
    return found


@pytest.mark.parametrize(
    ("size", "protocol", "sizes"),
    [
        (12, {}, [[12], [6, 6], [4, 4, 4]]),
        (13, {}, [[13], [6, 7], [4, 4, 5]]),
        (12, {"stream_length": "known"}, [[4], [4, 4], [4, 4, 4]]),
        (2, {}, [[2], [1, 1], [0, 1, 1]]),
        (100, {}, [[33], [33, 13], [33, 13, 22]]),
        (1, {"stream_length": "known"}, [[1], [0, 1], [0, 0, 1]]),
        (0, {}, [[0], [0, 0], [0, 0, 0]]),
    ],
)
def test_memories_hold_the_last_samples_of_each_experience(size, protocol, sizes):  # G7
    walked = walk(Watched(buffer_size=size), buffer_size=100, **protocol)
    for position, expected in enumerate(sizes):
        walked.step(position)
        found = kept(walked.strategy) if size else {}
        assert [len(found.get(k, ())) for k in range(position + 1)] == expected
        for k, exemplars in found.items():
            assert sorted(exemplars) == sorted(walked.strategy.given[k][-len(exemplars) :])
            assert len(set(exemplars)) == len(exemplars)


def test_constraints_are_on_past_experiences_only():
    class Counted(GEM):
        """Writes down how many constraints there are."""

        def adjust_gradients(self, batch):
            super().adjust_gradients(batch)
            constraints.append((self.experience.position, len(self.past)))

    constraints = []
    walk(Counted()).finish()
    assert set(constraints) == {(0, 0), (1, 1), (2, 2)}


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_without_memory_it_is_finetune(scenario):  # G8
    class Plain(Finetune):
        """Finetune with plain SGD."""

        needs = GEM.needs

    settings = {"momentum": 0.5, "optimizer": "sgd", "learning_rate": 0.03}
    off = walk(GEM(buffer_size=0, learning_rate=0.03), scenario, **settings).finish()
    assert same(off.parameters(), walk(Plain, scenario, **settings).finish().parameters())
    on = walk(GEM(learning_rate=0.03), scenario, **settings).finish()
    assert not same(off.parameters(), on.parameters())


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_restored_in_the_middle_it_comes_to_the_same_end(scenario):
    first = walk(GEM, scenario)
    first.step(0)
    first.step(1)
    state = first.strategy.state_dict()
    second = walk(GEM, scenario)
    for position in (0, 1):
        second.realised.begin([position])
    second.strategy.load_state_dict(state)
    assert same(first.finish(2).parameters(), second.finish(2).parameters())
    assert kept(first.strategy) == kept(second.strategy)


def test_memory_passes_leave_batch_norm_and_chance_alone():
    walked = walk(GEM, backbone=Mlp, options={"hidden": [8], "norm": "batch", "dropout": 0.5})
    gem = walked.strategy
    walked.step(0)
    walked.realised.begin([1])
    gem.experience = walked.realised.experience([1])
    gem.context.grow(gem.model)
    gem.before_experience(gem.experience)
    gem.train()
    before = {name: value.clone() for name, value in gem.model.state_dict().items()}
    chance = torch.get_rng_state()
    gem.adjust_gradients(next(gem.experience.batches()))
    assert same(list(before.values()), list(gem.model.state_dict().values()))
    assert torch.equal(chance, torch.get_rng_state())
    assert all(part.training for part in gem.model.modules())
    assert gem.rows.any()


class Peak(TorchDispatchMode):
    """The most bytes alive at once of storages that were made inside."""

    def __init__(self):
        super().__init__()
        self.alive = {}
        self.peak = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in torch.utils._pytree.tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                self.alive[storage.data_ptr()] = StorageWeakRef(storage), storage.nbytes()
        self.alive = {address: one for address, one in self.alive.items() if not one[0].expired()}
        self.peak = max(self.peak, sum(size for _, size in self.alive.values()))
        return result


def test_memory_is_at_most_that_of_two_gradients_more_than_experiences():
    walked = walk(GEM(buffer_size=8), backbone=Mlp, options={"hidden": [600, 600]}, epochs=1, buffer_size=8)
    gem = walked.strategy
    walked.step(0)
    walked.step(1)
    walked.realised.begin([2])
    experience = walked.realised.experience([2])
    gem.experience = experience
    gem.context.grow(gem.model)
    with Peak() as peak:
        gem.before_experience(experience)
        batch = next(experience.batches())
        cross_entropy(gem.model(batch.x), batch.y, batch.mask).backward()
        for p in gem.model.parameters():
            p.grad.neg_()
        gem.adjust_gradients(batch)
    gradient = 4 * sum(p.numel() for p in trained(gem.model))
    activations = 4 * 10_000
    assert 3 * gradient < peak.peak <= (3 + 2) * gradient + activations


def test_a_buffer_beyond_the_protocol_is_refused():
    with pytest.raises(UsageError, match="buffer_size = 13 exceeds the protocol's limit of 12"):
        walk(GEM(buffer_size=13))
