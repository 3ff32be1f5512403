"""Batches, budgets, meters, and which outputs are in play: by brute force over scenarios, heads and losses."""

import math
from itertools import product

import numpy as np
import pytest
import torch
from clarena_native.strategies.references.cumulative import Cumulative
from clarena_native.strategies.references.finetune import Finetune
from clarena_native.strategies.references.joint import Joint
from clarena_native.strategies.replay.er import ER
from hypothesis import given
from hypothesis import strategies as st
from tiny import CPU, SCENARIOS, walk

from clarena import Batch, PluginError, cross_entropy
from clarena.contract.experience import EXEMPLAR, Experience
from clarena.contract.outputs import OutputSpace
from clarena.contract.rows import Rows
from clarena.protocol.protocol import Protocol

sizes = st.integers(1, 40)
batch_sizes = st.integers(1, 50)


def experience(samples=10, batch_size=4, epochs=3, eval_batch_size=512, scans=None):
    protocol = Protocol(epochs=epochs, batch_size=batch_size, eval_batch_size=eval_batch_size, scans=scans)
    space = OutputSpace("domain", protocol, 3, CPU)
    space.begin([frozenset({0, 1, 2})])
    return Experience(
        position=0,
        task=None,
        classes=(0, 1, 2),
        outputs=3,
        space=space,
        rows=Rows.of(torch.arange(float(samples))[:, None]),
        y=torch.arange(samples) % 3,
        tasks=None,
        protocol=protocol,
        generator=torch.Generator().manual_seed(7),
        view_generator=torch.Generator().manual_seed(8),
    )


# --- batches, scans, accesses


@given(sizes, batch_sizes, st.integers(1, 3))
def test_each_pass_visits_every_sample_once(samples, batch_size, epochs):
    data = experience(samples, batch_size, epochs)
    steps = -(-samples // batch_size)
    batches = list(data.batches())
    assert len(batches) == data.meter.steps == epochs * steps
    assert data.meter.samples == epochs * samples
    assert data.passes_left == 0
    orders = []
    for epoch in range(epochs):
        part = batches[epoch * steps : (epoch + 1) * steps]
        assert [len(batch) for batch in part[:-1]] == [batch_size] * (steps - 1)
        assert len(part[-1]) == samples - (steps - 1) * batch_size
        orders.append(torch.cat([batch.index for batch in part]).tolist())
        assert sorted(orders[-1]) == list(range(samples))
    for batch in batches:
        assert batch.fresh == len(batch)
        assert batch.task is batch.mask is batch.scores is None
        assert batch.x[:, 0].tolist() == batch.index.tolist()
        assert torch.equal(batch.y, batch.index % 3)
    if samples >= 20 and epochs > 1:
        assert orders[0] != orders[1]


@given(st.integers(1, 5), st.data())
def test_passes_may_be_taken_in_portions_and_give_the_same_batches(epochs, data):
    whole = [batch.index.tolist() for batch in experience(epochs=epochs).batches()]
    split = experience(epochs=epochs)
    first = data.draw(st.integers(0, epochs))
    portions = [batch.index.tolist() for batch in split.batches(first)]
    assert split.passes_left == epochs - first
    assert portions + [batch.index.tolist() for batch in split.batches()] == whole
    assert list(split.batches()) == []


def test_more_passes_than_are_left_are_refused_before_a_sample_is_seen():
    data = experience(epochs=3)
    with pytest.raises(PluginError, match=r"asked for 4 passes over experience 1, but 3 of 3 are left"):
        next(data.batches(4))
    list(data.batches(2))
    with pytest.raises(PluginError, match=r"asked for 2 passes over experience 1, but 1 of 3 are left"):
        next(data.batches(2))
    assert data.meter.samples == 20
    next(data.batches(1))  # a pass that is broken off is spent
    with pytest.raises(PluginError, match="but 0 of 3"):
        next(data.batches(1))


def test_two_iterations_at_once_share_one_budget():
    data = experience(samples=8, batch_size=8, epochs=3)
    with pytest.raises(PluginError, match="asked for 2 passes over experience 1, but 1 of 3 are left"):
        list(zip(data.batches(), data.batches(), strict=True))
    assert data.meter.samples == 2 * 8


@given(sizes, batch_sizes)
def test_a_scan_is_once_in_order_and_without_chance(samples, batch_size):
    data = experience(samples, eval_batch_size=5)
    globally, ours = torch.get_rng_state(), data.generator.get_state()
    for size in (batch_size, None):
        parts = list(data.scan(size))
        assert torch.cat([part.index for part in parts]).tolist() == list(range(samples))
        assert max(map(len, parts)) == min(samples, size or 5)
    assert data.meter.scanned == 2 * samples
    assert data.meter.samples == data.meter.steps == 0
    assert data.passes_left == 3
    assert torch.equal(torch.get_rng_state(), globally)
    assert torch.equal(data.generator.get_state(), ours)


def test_accesses_of_a_loader_are_counted():
    data = experience(10)
    pairs = data.dataset()
    assert len(pairs) == 10
    assert pairs.targets == [0, 1, 2] * 3 + [0]
    loaded = [(float(x), y) for x, y in (pairs[i] for i in range(7))]
    assert loaded == [(float(i), i % 3) for i in range(7)]
    for _ in torch.utils.data.DataLoader(pairs, batch_size=4):
        pass
    assert data.meter.accesses == 17
    assert pairs.inputs([3, 0, 3]).flatten().tolist() == [3.0, 0.0, 3.0]
    assert data.meter.accesses == 20
    assert data.meter.scanned == data.meter.samples == 0


@given(sizes, batch_sizes, st.integers(0, 3))
def test_scans_are_as_many_as_the_protocol_allows(samples, batch_size, scans):
    data = experience(samples, batch_size, scans=scans)
    for done in range(scans):
        assert data.looks == done
        list(data.scan(batch_size))
        list(data.batches(1))  # training is no look
    with pytest.raises(PluginError, match=rf"experience 1 outside training more often than the {scans} times"):
        list(data.scan(batch_size))
    assert experience(samples).protocol.scans is None


def test_a_scan_that_is_broken_off_counts_what_it_gave():
    data = experience(10, scans=1)
    next(iter(data.scan(4)))
    assert data.looks == 0.4
    next(iter(data.scan(6)))
    assert data.looks == 1
    with pytest.raises(PluginError, match=r"--set protocol\.scans=2, or none"):
        next(iter(data.scan(1)))


def test_a_loader_of_its_own_looks_where_no_pass_is_left_for_it():
    data = experience(10, epochs=2, scans=1)
    pairs = data.dataset()
    for _ in range(2):
        pairs.inputs(list(range(10)))  # the passes of the budget
    assert data.looks == 0
    pairs.inputs(list(range(9)))
    pairs[0]
    assert data.looks == 1
    with pytest.raises(PluginError, match="more often than the 1 times"):
        pairs[0]

    data = experience(10, epochs=2, scans=1)
    data.dataset().inputs(list(range(10)))
    list(data.batches(1))
    assert data.looks == 0
    data.dataset().inputs([0])
    with pytest.raises(PluginError, match="more often"):
        list(data.batches(1))  # so what was read before was no training


def test_the_host_is_told_of_every_step_before_it():
    data = experience(10, batch_size=4, epochs=2)
    told = []
    data.on_step = told.append
    for step, _ in enumerate(data.batches()):
        assert told == list(range(step + 1))


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_the_meter_of_a_run(scenario):
    ours = walk(ER, scenario, epochs=3)
    replayed = []
    for position, samples in enumerate((33, 13, 22)):
        meter = ours.step(position).meter
        steps = 3 * math.ceil(samples / 8)
        assert (meter.steps, meter.samples, meter.scanned, meter.accesses) == (steps, 3 * samples, 0, 0)
        replayed.append(meter.replayed)
    # 12 are stored; each step draws 8 or what there is: nothing at the first step, 8 after it.
    assert replayed == [8 * 14, 8 * 6, 8 * 9]


def test_the_mean_loss_sees_what_is_not_finite():
    meter = experience().meter
    assert meter.mean_loss is None
    for loss in (1.0, 2.0, 6.0):
        meter.observe(torch.tensor(loss, requires_grad=True))
    assert meter.mean_loss == 3.0
    meter.observe(torch.tensor(torch.nan))
    assert math.isnan(meter.mean_loss)


# --- joining exemplars


def batch(rows, mask=None, task=None, fresh=None):
    return Batch(
        x=torch.arange(float(rows))[:, None],
        y=torch.arange(rows) % 4,
        task=None if task is None else torch.full((rows,), task),
        index=torch.arange(rows),
        mask=mask,
        fresh=rows if fresh is None else fresh,
    )


@st.composite
def masks(draw, rows, outputs=4):
    kind = draw(st.sampled_from(["none", "broadcast", "each"]))
    if kind == "none":
        return None
    count = 1 if kind == "broadcast" else rows
    cells = draw(st.lists(st.booleans(), min_size=count * outputs, max_size=count * outputs))
    return torch.tensor(cells, dtype=torch.bool).view(count, outputs)


@given(st.data(), st.integers(1, 5), st.integers(1, 5))
def test_joining_puts_each_row_under_its_own_mask(data, rows, others):
    mine, theirs = data.draw(masks(rows)), data.draw(masks(others))
    first = batch(rows, mine, task=0)
    more = batch(others)
    joined = first.join(more.x + 100, more.y, torch.full((others,), 2), theirs)
    expected = [[True] * 4 if m is None else m[min(i, len(m) - 1)].tolist() for m, n in ((mine, rows), (theirs, others))
                for i in range(n)]  # fmt: skip
    assert len(joined) == rows + others
    assert joined.fresh == rows
    assert joined.index.tolist() == [*range(rows), *[EXEMPLAR] * others]
    assert joined.task.tolist() == [0] * rows + [2] * others
    if mine is theirs is None:
        assert joined.mask is None
    else:
        assert joined.mask.tolist() == expected
    joined.scores = torch.randn(rows + others, 4)
    stream, exemplars = joined.stream(), joined.exemplars()
    assert (len(stream), stream.fresh, len(exemplars), exemplars.fresh) == (rows, rows, others, 0)
    for name in ("x", "y", "task", "index", "scores"):
        parts = [getattr(stream, name), getattr(exemplars, name)]
        assert torch.equal(torch.cat(parts), getattr(joined, name))
    assert stream.x[:, 0].tolist() == list(range(rows))
    assert exemplars.x[:, 0].tolist() == [100.0 + i for i in range(others)]
    if joined.mask is not None and rows + others > 1:
        assert (stream.mask.tolist(), exemplars.mask.tolist()) == (expected[:rows], expected[rows:])


def test_joining_twice_keeps_what_is_of_the_stream_first():
    once = batch(3).join(torch.zeros(2, 1), torch.zeros(2).long(), None, None)
    twice = once.join(torch.ones(1, 1), torch.ones(1).long(), None, torch.tensor([[True, False, True, True]]))
    assert twice.fresh == 3
    assert twice.index.tolist() == [0, 1, 2, -1, -1, -1]
    assert twice.mask.tolist() == [[True] * 4] * 5 + [[True, False, True, True]]


# --- the loss


def brute_force(scores, y, mask):
    """−log of the softmax over the outputs in play, label by label, in double precision."""
    losses = []
    for row, label, allowed in zip(scores.double().tolist(), y.tolist(), mask.tolist(), strict=True):
        if label != -100:
            total = sum(math.exp(score) for score, inside in zip(row, allowed, strict=True) if inside)
            losses.append(math.log(total) - row[label] if allowed[label] else math.inf)
    return losses


@given(st.data(), st.integers(1, 6), st.integers(1, 5))
def test_cross_entropy_is_the_softmax_over_outputs_in_play(data, rows, outputs):
    mask = data.draw(masks(rows, outputs))
    scores = 3 * torch.randn(rows, outputs, generator=torch.Generator().manual_seed(data.draw(st.integers(0, 99))))
    y = torch.tensor(data.draw(st.lists(st.integers(0, outputs - 1), min_size=rows, max_size=rows)))
    full = torch.ones(rows, outputs, dtype=torch.bool) if mask is None else mask.expand(rows, outputs).clone()
    if mask is not None:  # a label is in play; otherwise the loss is infinite
        full[torch.arange(rows), y] = True
        mask = full if len(mask) == rows else full.any(0, keepdim=True)
        full = mask.expand(rows, outputs)
    expected = brute_force(scores, y, full)
    assert cross_entropy(scores, y, mask, "none").tolist() == pytest.approx(expected, abs=1e-5)
    assert float(cross_entropy(scores, y, mask, "sum")) == pytest.approx(sum(expected), abs=1e-4)
    assert float(cross_entropy(scores, y, mask)) == pytest.approx(sum(expected) / rows, abs=1e-5)


def test_cross_entropy_of_sequences_ignores_what_does_not_count():
    scores = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0))
    y = torch.tensor([[0, -100, 3], [2, 2, -100]])
    mask = torch.tensor([[True, False, True, True], [False, True, True, True]])
    expected = [
        loss for s, labels, m in zip(scores, y, mask, strict=True) for loss in brute_force(s, labels, m.expand(3, 4))
    ]
    assert float(cross_entropy(scores, y, mask)) == pytest.approx(sum(expected) / 4, abs=1e-6)
    each = cross_entropy(scores, y, mask, "none")
    assert each.shape == (6,)
    assert each[[1, 5]].tolist() == [0, 0]
    one = cross_entropy(scores, y, mask[:1].logical_or(mask[1:]))
    assert float(one) == pytest.approx(float(cross_entropy(scores, y)), abs=1e-6)


def test_no_gradient_reaches_an_output_that_is_not_in_play():
    scores = torch.randn(3, 5, requires_grad=True)
    mask = torch.tensor([[True, False, True, False, True]])
    cross_entropy(scores, torch.tensor([0, 2, 4]), mask).backward()
    assert torch.count_nonzero(scores.grad[:, [1, 3]]) == 0
    assert torch.isfinite(scores.grad).all()
    assert cross_entropy(scores, torch.tensor([1, 0, 0]), mask).isinf()


# --- outputs in play

GROUPS = [{0, 1}, {2, 3, 4}, {5}, {1, 6}]  # the last comes back to a label seen before
FULL = 8
HEADS = [("growing", "unknown"), ("full", "known")]


def expected_sets(scenario, heads, loss_over, position, steps):
    """(stream sample of task t, exemplar of task t, prediction for task t) by definition, as sets of outputs."""
    seen = set().union(*GROUPS[: position + 1])
    width = FULL if heads == "full" or scenario == "domain" else max(seen) + 1
    every = set(range(width))
    if scenario == "domain":
        return width, lambda t: every, lambda t: every, lambda t: every
    if scenario == "task":
        return (width, *[lambda t: set(GROUPS[t])] * 3)
    current = set().union(*(GROUPS[i] for i in steps))
    stream = {"seen": seen, "current": current, "all": every}[loss_over]
    exemplar = every if loss_over == "all" else seen
    return width, lambda t: stream, lambda t: exemplar, lambda t: seen


def as_sets(mask, rows, width):
    if mask is None:
        return [set(range(width))] * rows
    assert mask.dtype == torch.bool
    assert mask.shape[1] == width
    return [set(row.nonzero().flatten().tolist()) for row in mask.expand(rows, width)]


@pytest.mark.parametrize("union", ["each", "cumulative", "joint"])
@pytest.mark.parametrize(("heads", "length"), HEADS)
@pytest.mark.parametrize(("scenario", "loss_over"), list(product(SCENARIOS, ["seen", "current", "all"])))
def test_outputs_in_play(scenario, loss_over, heads, length, union):
    if loss_over == "all" and heads == "growing":
        return  # the protocol refuses it: see test_protocol
    space = OutputSpace(scenario, Protocol(heads=heads, loss_over=loss_over, stream_length=length), FULL, CPU)
    assert space.in_play() == (list(range(FULL)) if scenario == "domain" else [])
    assert space.width == (FULL if heads == "full" or scenario == "domain" else 0)
    last = len(GROUPS) - 1
    for position in [last] if union == "joint" else range(len(GROUPS)):
        steps = [position] if union == "each" else list(range(position + 1))
        space.begin([frozenset(GROUPS[i]) for i in steps])
        width, stream, exemplar, predicted = expected_sets(scenario, heads, loss_over, position, steps)
        assert space.width == width
        tasks = torch.tensor(steps * 2) if scenario == "task" else None
        rows = len(steps) * 2
        assert as_sets(space.mask(tasks), rows, width) == [stream(t) for t in steps * 2]
        past = torch.arange(position + 1) if scenario == "task" else None
        assert as_sets(space.exemplar_mask(past), position + 1, width) == [exemplar(t) for t in range(position + 1)]
        for task in range(position + 1):
            asked = task if scenario == "task" else None
            assert space.in_play(asked) == sorted(predicted(task))


@pytest.mark.parametrize("strategy", [Finetune, Cumulative, Joint])
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_every_label_is_in_play_in_its_own_batch_and_scan(scenario, strategy):
    ours = walk(strategy, scenario)
    for steps in ours.realised.steps:
        ours.realised.begin(steps)
        data = ours.realised.experience(steps)
        assert data.outputs == ours.realised.space.width
        for part in [*data.batches(), *data.scan()]:
            allowed = as_sets(part.mask, len(part), data.outputs)
            assert all(label in inside for label, inside in zip(part.y.tolist(), allowed, strict=True))
            if scenario == "task":
                own = [set(ours.realised.stream.splits[t].classes) for t in part.task.tolist()]
                assert allowed == own
            assert (part.task is None) is (scenario != "task")


def test_the_experience_holds_the_data_of_its_splits_alone():
    ours = walk(Finetune, "class")
    seen = set()
    for position, split in enumerate(ours.realised.stream.splits):
        ours.realised.begin([position])
        data = ours.realised.experience([position])
        assert torch.equal(data.x, ours.realised.data.x_train[split.train])
        assert torch.equal(data.y, split.y_train)
        assert not seen & set(data.classes)
        seen |= set(data.classes)
        data.x.zero_()
        data.y.zero_()
        again = ours.realised.experience([position])  # what a strategy does to its copy does not come back
        assert torch.equal(again.x, ours.realised.data.x_train[split.train])
        assert torch.equal(again.y, split.y_train)
    assert np.array_equal(sorted(seen), range(6))
