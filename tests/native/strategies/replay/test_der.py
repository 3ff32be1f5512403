"""DER and DER++: stored scores, the two terms and their draws, and the identities with each other and with ER."""

import pytest
import torch
from clarena_native.backbones.small import Mlp
from clarena_native.strategies.replay.der import DER, DERPlusPlus
from clarena_native.strategies.replay.er import ER
from exact import begin, gradients
from tiny import SCENARIOS, same, walk
from torch.nn import functional as F


class Watched(DERPlusPlus):
    """Writes down which scores each input had in each step, before the update."""

    name = "watched"

    def setup(self, context):
        super().setup(context)
        self.log = []

    def after_step(self, batch):
        for x, scores in zip(batch.x[: batch.fresh], batch.scores[: batch.fresh]):
            self.log.append((x.clone(), scores.detach().clone()))
        super().after_step(batch)


def was_output(row, log):
    """Whether these scores are those of this input in some step, bit for bit, with zeros in columns that came later."""
    x, logits, width = row
    return not logits[width:].any() and any(
        torch.equal(x, other) and len(scores) == width and torch.equal(logits[:width], scores) for other, scores in log
    )


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_d1_stored_scores_are_the_outputs_at_insertion_and_never_change(scenario):
    ours = walk(Watched(), scenario, buffer_size=9, backbone=Mlp, options={"hidden": (16,), "norm": "batch"})
    held = {}
    for position in range(3):
        ours.step(position)
        rows = ours.strategy.buffer.everything()
        assert len(rows["x"]) == 9
        for row in zip(rows["x"], rows["logits"], rows["width"].tolist()):
            assert was_output(row, ours.strategy.log)
            key = row[0].numpy().tobytes(), row[2]
            held.setdefault(key, []).append(row[1][: row[2]])
    if scenario != "domain":
        assert len({width for _, width in held}) > 1  # older ones were kept when the head grew
    assert max(map(len, held.values())) == 3


def test_both_draws_are_random_and_independent():
    ours = walk(DERPlusPlus(replay_size=6), "domain", buffer_size=30)
    ours.step(0)
    experience = begin(ours, 1)
    pairs = []
    for batch in experience.batches():
        joined = ours.strategy.replay(batch)
        first, second = joined.x[joined.fresh : joined.fresh + 6], joined.x[joined.fresh + 6 :]
        assert torch.equal(first, ours.strategy.stored["x"])
        assert len(first) == len(second) == 6
        pairs.append((first.flatten(1).sum(1).sort().values, second.flatten(1).sum(1).sort().values))
    assert not any(torch.equal(a, b) for a, b in pairs)
    assert not all(torch.equal(pairs[0][0], a) for a, _ in pairs[1:])


@pytest.mark.parametrize("distance", ["sum", "mean"])
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_d3_the_loss_by_hand(scenario, distance):
    """CE + α mean ‖z − h‖² over the outputs of insertion time + β CE; and the gradient of the α term."""
    alpha, beta = 0.3, 0.7
    strategy = DERPlusPlus(alpha=alpha, beta=beta, distance=distance, replay_size=10)
    ours = walk(strategy, scenario, buffer_size=10)
    ours.step(0)
    ours.step(1)
    experience = begin(ours, 2)
    batch = strategy.replay(next(experience.batches()))
    assert len(batch) == 8 + 10 + 10
    batch.scores = strategy.model(batch.x).detach().requires_grad_()
    loss = strategy.loss(batch)
    h, stored = batch.scores, strategy.stored

    def entropy(rows):
        scores = h[rows]
        if batch.mask is not None:
            scores = scores.masked_fill(~batch.mask[rows], -torch.inf)
        return F.cross_entropy(scores, batch.y[rows])

    expected = entropy(slice(0, 8)) + beta * entropy(slice(18, 28))
    by_hand = torch.zeros_like(h)
    widths = set()
    for row in range(10):
        width = int(stored["width"][row])
        widths.add(width)
        size = width if distance == "mean" else 1
        difference = h[8 + row, :width] - stored["logits"][row, :width]
        expected = expected + alpha * difference.square().sum() / size / 10
        by_hand[8 + row, :width] = 2 * alpha * difference.detach() / size / 10
    torch.testing.assert_close(loss, expected)
    (found,) = torch.autograd.grad(loss, h)
    torch.testing.assert_close(found[8:18], by_hand[8:18])
    assert widths == ({3} if scenario == "domain" else {3, 4})


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_d2_without_beta_it_is_der_bit_for_bit(scenario):
    walks = [walk(s, scenario).finish() for s in (DER(alpha=0.4), DERPlusPlus(alpha=0.4, beta=0.0))]
    assert same(*(ours.parameters() for ours in walks))
    assert same(*(list(ours.strategy.buffer.everything().values()) for ours in walks))
    other = walk(DERPlusPlus(alpha=0.4, beta=0.5), scenario).finish()
    assert not same(other.parameters(), walks[0].parameters())


class TwiceAveraged(ER):
    """ER with the sum of the two means instead of half of it, where there are two."""

    name = "twice-averaged"

    def loss(self, batch):
        return super().loss(batch) * (1 if batch.fresh == len(batch) else 2)


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_d2_without_alpha_it_is_er_with_separately_averaged_terms(scenario):
    """L_stream + L_memory is twice ER's average of the two, and doubling rounds nothing: the same bits."""
    der = walk(DERPlusPlus(alpha=0.0, beta=1.0), scenario).finish()
    er = walk(TwiceAveraged(loss_weights="averaged"), scenario).finish()
    assert same(der.parameters(), er.parameters())


def test_the_gradient_reaches_the_parameters_and_no_stored_score_has_a_graph():
    ours = walk(DER(alpha=1.0), "class")
    ours.step(0)
    batch = next(begin(ours, 1).batches())
    batch = ours.strategy.replay(batch)
    batch.scores = ours.strategy.model(batch.x)
    assert not ours.strategy.stored["logits"].requires_grad
    *old, weight, bias = gradients(ours, ours.strategy._distance(batch.scores[batch.fresh :]))
    assert all(g.any() for g in old)
    assert not weight.any()  # the new output was not there when the scores were stored
    assert not bias.any()


@pytest.mark.parametrize("strategy", [DER, DERPlusPlus])
def test_no_budget_and_a_head_that_grows(strategy):
    for options in ({"buffer_size": 0}, {}):
        ours = walk(strategy(**options), "class", buffer_size=0 if not options else 12).finish()
        assert len(ours.strategy.buffer) == 0


def test_when_off_nothing_is_stored_or_drawn():
    ours = walk(DERPlusPlus(alpha=0.0, beta=0.0))
    ours.realised.seeds.torch("buffer")
    experience = begin(ours, 0)
    before = ours.realised.seeds.torch("buffer").get_state()
    for batch in experience.batches():
        ours.strategy.step(batch)
    assert torch.equal(ours.realised.seeds.torch("buffer").get_state(), before)
    assert experience.meter.replayed == 0


def test_draws_are_metered_and_not_kept():
    ours = walk(DERPlusPlus(replay_size=5), buffer_size=12, epochs=1)
    experience = ours.step(0)
    assert experience.meter.replayed == 2 * 5 * 4  # none in the first of five steps
    assert "stored" not in vars(ours.strategy)
