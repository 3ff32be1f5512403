"""Seeds: named streams that do not touch each other, reseeded by experience, and a fork that leaves no trace."""

import random

import numpy as np
import pytest
import torch
from clarena_native.strategies.references.finetune import Finetune
from hypothesis import given
from hypothesis import strategies as st
from tiny import SCENARIOS, same, walk

from clarena.toolbox.seeding import BEFORE_LEARNING, Seeds, forked

NAMES = ("class_order", "init", "data", "buffer", "strategy", "evaluation")
names = st.sampled_from(NAMES)
seeds = st.integers(0, 2**70)
experiences = st.integers(BEFORE_LEARNING, 200)


def draw(generator, n=8):
    return torch.randint(2**62, (n,), generator=generator).tolist()


def everywhere():
    """One number of each global generator."""
    return int(torch.randint(2**62, ())), int(np.random.randint(2**31)), random.random()


def states():
    kind, keys, position, *rest = np.random.get_state()
    return torch.get_rng_state().tolist(), (kind, keys.tolist(), position, *rest), random.getstate()


@given(seeds, experiences, names)
def test_a_stream_depends_on_seed_name_and_experience_alone(seed, experience, name):
    one, other = Seeds(seed), Seeds(seed)
    one.start(experience)
    draw(one.torch("data"))
    other.start(3)
    other.start(experience)
    for busy in set(NAMES) - {name, "data"}:
        draw(other.torch(busy), 5)
    with other.scope("nobody"):
        everywhere()
    fresh = Seeds(seed)
    fresh.start(experience)
    expected = draw(fresh.torch(name))
    assert draw(other.torch(name)) == expected
    assert (draw(one.torch(name)) == expected) is (name != "data")
    assert one.numpy(name).integers(2**62, size=4).tolist() == fresh.numpy(name).integers(2**62, size=4).tolist()


@given(st.lists(st.tuples(seeds, names, experiences), min_size=2, max_size=6, unique=True))
def test_no_two_streams_are_alike(keys):
    drawn = []
    for seed, name, experience in keys:
        chance = Seeds(seed)
        chance.start(experience)
        drawn.append(tuple(draw(chance.torch(name), 2)))
    assert len(set(drawn)) == len(keys)


def test_asking_again_goes_on_and_starting_goes_back():
    chance = Seeds(5)
    chance.start(2)
    first, second = draw(chance.torch("data")), draw(chance.torch("data"))
    assert first != second
    chance.start(2)
    assert draw(chance.torch("data"), 16) == first + second
    chance.start(3)
    assert draw(chance.torch("data")) != first


def test_the_streams_are_the_ones_they_have_always_been():
    """Other numbers here are other results everywhere: raise clarena.protocol.REVISION with them."""
    chance = Seeds(0)
    assert chance.numpy("class_order").permutation(10).tolist() == [5, 6, 2, 7, 8, 4, 3, 0, 1, 9]
    chance.start(0)
    assert torch.randperm(10, generator=chance.torch("data")).tolist() == [2, 5, 8, 7, 9, 0, 4, 6, 3, 1]
    assert everywhere() == (377481675945421193, 1161631125, 0.9551836491049143)


def test_global_generators_start_anew_with_each_experience():
    chance = Seeds(1)
    chance.start(0)
    expected = everywhere()
    chance.start(1)
    assert everywhere() != expected
    Seeds(1).start(0)
    assert everywhere() == expected
    Seeds(2).start(0)
    assert everywhere() != expected


@given(st.integers(0, 2**62), st.booleans())
def test_a_fork_leaves_no_trace(seed, fails):
    before = states()
    seen = []
    for _ in range(2):
        try:
            with forked(seed):
                seen.append(everywhere())
                if fails:
                    raise ValueError
        except ValueError:
            pass
        assert states() == before
    assert seen[0] == seen[1]


def test_a_scope_draws_from_its_stream_and_from_nothing_else():
    chance = Seeds(4)
    before = states()
    with chance.scope("init"):
        first = torch.randn(3)
    with chance.scope("init"):
        second = torch.randn(3)
    assert states() == before
    assert not torch.equal(first, second)
    again = Seeds(4)
    draw(again.torch("data"), 100)
    everywhere()
    with again.scope("init"):
        assert torch.equal(torch.randn(3), first)


class Wasteful(Finetune):
    """Draws from every generator that is its own, wherever it can."""

    name = "wasteful"

    def waste(self, *_):
        everywhere()
        draw(self.context.generator("strategy"))
        draw(self.context.generator("buffer"))

    def predict(self, x, task=None):
        self.waste()
        return super().predict(x, task)

    before_experience = after_backward = adjust_gradients = after_step = after_experience = waste


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_extra_draws_of_a_strategy_change_no_batch_and_no_weight(scenario):
    plain, wasteful = (walk(cls, scenario, optimizer="sgd") for cls in (Finetune, Wasteful))
    for position in range(3):
        plain.step(position)
        wasteful.step(position)
        assert wasteful.predict() == plain.predict()
        assert same(wasteful.parameters(), plain.parameters())


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_testing_changes_nothing_that_is_learned(scenario):
    """Predict may draw from the global generators (dropout left on, say): it runs under forked ones."""

    class Noisy(Finetune):
        name = "noisy"

        def after_backward(self, batch):
            for p in self.model.parameters():
                p.grad += 0.1 * torch.randn_like(p)  # learning depends on the global generator, too

        def predict(self, x, task=None):
            return super().predict(x, task) + 1e-3 * torch.randn(len(x), 1)

    tested, untested = walk(Noisy, scenario), walk(Noisy, scenario)
    for position in range(3):
        untested.step(position)
        tested.realised.begin([position])
        experience = tested.realised.experience([position])
        experience.on_step = lambda step: tested.predict() if step else None
        tested.strategy.learn(experience)
        assert same(tested.parameters(), untested.parameters())
        assert tested.predict() == tested.predict()
