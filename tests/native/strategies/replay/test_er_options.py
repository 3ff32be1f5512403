"""ER's options: which buffer, drawn or dealt, and how the two losses are weighed."""

from collections import Counter

import pytest
import torch
from clarena_native.strategies.exemplars import Dealer
from clarena_native.strategies.replay.er import ER
from exact import begin
from scipy.stats import chi2
from tiny import SCENARIOS, same, walk
from torch.nn import functional as F


def rows_of(x):
    return [row.numpy().tobytes() for row in x]


# --- buffers


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_balanced_random_keeps_equal_shares_of_experiences(scenario):
    ours = walk(ER(policy="balanced_random"), scenario, buffer_size=14)
    seen = []
    for position, shares in enumerate(([14], [7, 7], [4, 5, 5])):
        experience = ours.step(position)
        seen.append(set(rows_of(experience.x)))
        stored = ours.strategy.buffer.everything()
        assert Counter(stored["experience"].tolist()) == dict(enumerate(shares))
        for row, i in zip(rows_of(stored["x"]), stored["experience"].tolist()):
            assert row in seen[i]
        assert len(set(rows_of(stored["x"]))) == 14  # each once


def test_balanced_random_is_a_uniform_choice_in_every_experience():
    """Inclusion counts over seeds: N p (1 − p) is their variance, so the scaled sum of squares is chi-square."""
    counts, seeds = Counter(), 400
    for seed in range(seeds):
        ours = walk(ER(policy="balanced_random"), "domain", seed=seed, buffer_size=8)
        for position in (0, 1):
            ours.realised.begin([position])
            experience = ours.realised.experience([position])
            experience.x = torch.arange(len(experience)).view(-1, 1, 1, 1).expand(-1, 1, 4, 4).float()
            ours.strategy.after_experience(experience)
        stored = ours.strategy.buffer.everything()
        counts.update(zip(stored["experience"].tolist(), stored["x"][:, 0, 0, 0].int().tolist()))
    for i, size in ((0, 33), (1, 13)):  # four of each; the first four of experience 1 were eight before
        p = 4 / size
        squares = sum((counts[i, row] - seeds * p) ** 2 for row in range(size))
        assert chi2.sf(squares / (seeds * p * (1 - p)) * (size - 1) / size, size - 1) > 1e-3


@pytest.mark.parametrize(("policy", "expected"), [("ring", [2, 2, 2, 2, 2, 2]), ("class_balanced", [2] * 6)])
def test_policies_that_look_at_classes(policy, expected):
    ours = walk(ER(policy=policy), buffer_size=12).finish()
    stored = Counter(ours.strategy.buffer.everything()["y"].tolist())
    assert [stored[label] for label in range(6)] == expected


@pytest.mark.parametrize("policy", ["reservoir", "class_balanced", "ring", "balanced_random"])
def test_a_buffer_smaller_than_the_classes_works(policy):
    for capacity in (1, 4):
        ours = walk(ER(policy=policy), buffer_size=capacity).finish()
        assert len(ours.strategy.buffer) == capacity
        assert set(ours.predict()) <= set(range(6))


# --- dealt out over a pass


@pytest.mark.parametrize(("total", "batch_size"), [(7, 8), (40, 8), (1, 5), (33, 40), (12, 1)])
def test_every_pass_deals_everything_once_in_a_new_order(total, batch_size):
    ours = walk(ER(), batch_size=batch_size)
    ours.realised.begin([0])
    experience = ours.realised.experience([0])
    dealer = Dealer(total, experience, ours.strategy.context)
    steps = -(-33 // batch_size)
    orders = []
    for _ in range(3):
        dealt = [dealer.next() for _ in range(steps)]
        sizes = [len(part) for part in dealt]
        assert max(sizes) - min(sizes) <= 1  # spread evenly over the steps
        orders.append(torch.cat(dealt).tolist())
        assert sorted(orders[-1]) == list(range(total))
    assert total < 5 or orders[0] != orders[1] != orders[2]


@pytest.mark.parametrize("scenario", SCENARIOS)
@pytest.mark.parametrize("policy", ["reservoir", "balanced_random"])
def test_pass_dealing_covers_the_buffer_and_about_matches_the_stream(policy, scenario):
    ours = walk(ER(policy=policy, draw="pass"), scenario, buffer_size=5)
    first = ours.step(0)
    assert first.meter.replayed == 0
    held = rows_of(ours.strategy.buffer.everything()["x"])
    experience = begin(ours, 1)  # 13 samples: two repeats of five exemplars
    assert len(held) == 5
    replayed = Counter()
    for batch in experience.batches(1):
        joined = ours.strategy.replay(batch)
        replayed.update(rows_of(joined.x[joined.fresh :]))
        assert (joined.index[joined.fresh :] == -1).all()
    assert replayed == dict.fromkeys(held, 2)
    second = ours.step(1)
    assert second.meter.replayed == 2 * 5 * 2  # two passes
    assert ours.strategy.dealer is None
    assert "stored" not in vars(ours.strategy)


def test_what_is_dealt_is_fixed_when_the_experience_begins():
    ours = walk(ER(draw="pass"), buffer_size=5)
    ours.step(0)
    held = set(rows_of(ours.strategy.buffer.everything()["x"]))
    experience = begin(ours, 1)
    dealt = set()
    for batch in experience.batches():
        joined = ours.strategy.replay(batch)
        dealt |= set(rows_of(joined.x[joined.fresh :]))
        joined.scores = ours.strategy.model(joined.x)
        ours.strategy.after_step(joined)
    assert dealt == held
    assert set(rows_of(ours.strategy.buffer.everything()["x"])) != held


def test_setup_after_an_interruption_starts_over():
    ours = walk(ER(draw="pass"), buffer_size=5)
    ours.step(0)
    begin(ours, 1)
    assert ours.strategy.dealer is not None
    ours.realised.set_up(ours.strategy)
    assert ours.step(0).meter.replayed == 0


# --- the two losses


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_averaged_is_the_mean_of_two_means(scenario):
    strategy = ER(loss_weights="averaged", replay_size=5)
    ours = walk(strategy, scenario)
    ours.step(0)
    batch = strategy.replay(next(begin(ours, 1).batches()))
    batch.scores = strategy.model(batch.x)
    assert (batch.fresh, len(batch)) == (8, 13)
    scores = batch.scores if batch.mask is None else batch.scores.masked_fill(~batch.mask, -torch.inf)
    terms = F.cross_entropy(scores, batch.y, reduction="none")
    torch.testing.assert_close(strategy.loss(batch), terms[:8].mean() / 2 + terms[8:].mean() / 2)
    joined = ER()
    joined.context = strategy.context
    torch.testing.assert_close(joined.loss(batch), terms.mean())


def test_averaged_without_exemplars_is_the_plain_loss():
    walks = [walk(ER(loss_weights=how), "class") for how in ("averaged", "joined")]
    for ours in walks:
        begin(ours, 0)
    batches = [next(ours.realised.experience([0]).batches()) for ours in walks]
    for ours, batch in zip(walks, batches):
        batch.scores = ours.strategy.model(batch.x)
    assert same(*([ours.strategy.loss(batch)] for ours, batch in zip(walks, batches)))


@pytest.mark.parametrize("draw", ["step", "pass"])
@pytest.mark.parametrize("policy", ["reservoir", "class_balanced", "ring", "balanced_random"])
def test_with_no_buffer_no_chance_is_used(policy, draw):
    """So a part that is switched off changes no draw of another part."""
    ours = walk(ER(policy=policy, draw=draw, buffer_size=0), "class")
    for position in range(2):
        experience = begin(ours, position)
        before = ours.realised.seeds.torch("buffer").get_state()
        for batch in experience.batches():
            ours.strategy.step(batch)
        ours.strategy.after_experience(experience)
        assert torch.equal(ours.realised.seeds.torch("buffer").get_state(), before)
        assert experience.meter.replayed == 0
