"""Buffers: exact sampling laws, the budget, bit-equal rows, and a state that is all there is."""

import io
import pickle
import subprocess
import sys
from collections import Counter
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.stats import chi2
from torch import Generator, Tensor, nn

from clarena import PluginError
from clarena.toolbox.buffer import DRAW, Policy, ReplayBuffer
from clarena.toolbox.structure import STRUCTURE, prepare, structure_of

POLICIES: tuple[Policy, ...] = ("reservoir", "class_balanced", "greedy", "ring")
STREAMS = 2000

policies = st.sampled_from(POLICIES)
capacities = st.integers(0, 12)
labels = st.lists(st.integers(0, 5), max_size=60)
batch_sizes = st.integers(1, 20)


def generator(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


def feed(buffer: ReplayBuffer, y: list[int], batch: int, chance: Generator, start: int = 0) -> ReplayBuffer:
    """Add a stream of labels in batches; field `x` is the position of a sample in the stream."""
    for first in range(0, len(y), batch):
        part = torch.tensor(y[first : first + batch])
        buffer.add(chance, x=torch.arange(len(part)) + start + first, y=part)
    return buffer


def contents(buffer: ReplayBuffer) -> list[int]:
    return sorted(buffer.everything()["x"].tolist()) if buffer.seen else []


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def uniform_p(counts: list[int], stored: int) -> float:
    """The p-value that each of n items is in a sample of `stored` without replacement equally often.

    Counts of a simple random sample have variance N p (1 - p) and covariance -N p (1 - p) / (n - 1), so the
    scaled sum of squares below is chi-square with n - 1 degrees of freedom.
    """
    n, p = len(counts), stored / len(counts)
    squares = sum((count - STREAMS * p) ** 2 for count in counts)
    return float(chi2.sf(squares / (STREAMS * p * (1 - p)) * (n - 1) / n, n - 1))


# --- which samples are stored


@pytest.mark.parametrize("batch", [1, 7, 40])
@pytest.mark.parametrize(("capacity", "length"), [(1, 2), (3, 5), (10, 40)])  # short ones show off-by-one
def test_reservoir_stores_every_sample_with_equal_probability(capacity: int, length: int, batch: int) -> None:
    chance, counts = generator(batch), Counter[int]()
    for _ in range(STREAMS):
        counts.update(contents(feed(ReplayBuffer(capacity), [0] * length, batch, chance)))
    assert uniform_p([counts[i] for i in range(length)], capacity) > 1e-3


@given(st.integers(1, 12), st.integers(1, 60), batch_sizes)
def test_a_reservoir_is_algorithm_r_draw_by_draw(capacity: int, length: int, batch: int) -> None:
    slots: list[int] = []  # what Vitter's algorithm does with the same draws
    for sample, draw in enumerate(torch.randint(DRAW, (length,), generator=generator()).tolist()):
        place = draw % (sample + 1)
        if sample < capacity:
            slots.append(sample)
        elif place < capacity:
            slots[place] = sample
    buffer = feed(ReplayBuffer(capacity), [0] * length, batch, generator())
    assert buffer.everything()["x"].tolist() == slots
    assert buffer.seen == length


def test_class_balanced_is_uniform_within_each_class() -> None:
    chance, counts = generator(), Counter[int]()
    for _ in range(STREAMS):  # class 1 takes half the places, then each has a reservoir of its own
        buffer = feed(ReplayBuffer(6, "class_balanced"), [0] * 12 + [1] * 6, 5, chance)
        counts.update(contents(buffer))
    assert uniform_p([counts[i] for i in range(12)], 3) > 1e-3
    assert uniform_p([counts[i] for i in range(12, 18)], 3) > 1e-3


@pytest.mark.parametrize("policy", ["class_balanced", "greedy"])
def test_each_of_several_largest_classes_loses_equally(policy: Policy) -> None:
    chance, lost = generator(), Counter[int]()
    for _ in range(STREAMS):
        buffer = feed(ReplayBuffer(4, policy), [0, 0, 1, 1, 2], 5, chance)
        lost.update({0, 1, 2, 3, 4} - set(contents(buffer)))
    assert lost[4] == 0
    assert uniform_p([lost[i] for i in range(4)], 1) > 1e-3


@given(capacities, st.integers(0, 60), batch_sizes)
def test_reservoir_holds_as_many_as_it_can(capacity: int, length: int, batch: int) -> None:
    buffer = feed(ReplayBuffer(capacity), [0] * length, batch, generator())
    assert len(buffer) == min(length, capacity)
    assert buffer.seen == length


@given(policies, capacities, labels, batch_sizes)
def test_budget_is_kept_and_rows_are_real(policy: Policy, capacity: int, y: list[int], batch: int) -> None:
    buffer, chance = ReplayBuffer(capacity, policy), generator()
    for first in range(0, len(y), batch):
        feed(buffer, y[first : first + batch], batch, chance, start=first)
        rows = buffer.everything()
        assert len(buffer) == len(rows["x"]) == len(set(rows["x"].tolist())) <= capacity
        assert [y[i] for i in rows["x"]] == rows["y"].tolist()
        assert buffer.stored_x.shape == (capacity,)
    assert buffer.seen == len(y)


@given(st.integers(1, 12), labels, batch_sizes)
def test_class_balanced_is_as_balanced_as_the_stream_allows(capacity: int, y: list[int], batch: int) -> None:
    buffer = feed(ReplayBuffer(capacity, "class_balanced"), y, batch, generator())
    assert len(buffer) == min(len(y), capacity)
    offered, stored = Counter(y), Counter(y[i] for i in contents(buffer))
    for label, count in offered.items():
        assert stored[label] == count or stored[label] >= max(stored.values()) - 1


@given(capacities, labels)
def test_every_step_of_greedy_is_one_of_algorithm_1(capacity: int, y: list[int]) -> None:
    buffer, chance = ReplayBuffer(capacity, "greedy"), generator()
    seen: set[int] = set()
    before: set[int] = set()
    for i, label in enumerate(y):
        feed(buffer, [label], 1, chance, start=i)
        after, counts = set(contents(buffer)), Counter(y[j] for j in before)
        if capacity == 0 or (label in seen and counts[label] >= capacity / len(seen)):
            assert after == before
        else:
            assert after - before == {i}
            lost = [y[j] for j in before - after]
            assert lost in (
                [[c] for c in counts if counts[c] == max(counts.values())] if len(before) == capacity else [[]]
            )
        seen.add(label)
        before = after


def test_greedy_ends_with_equal_shares_however_uneven_the_stream() -> None:
    buffer = feed(ReplayBuffer(12, "greedy"), [0] * 50 + [1] * 9 + [2] * 4 + [3] * 2, 7, generator())
    counts = Counter(buffer.everything()["y"].tolist())
    assert counts[3] == 2  # all there are; the other ten places are shared as evenly as the order allows
    assert sorted(counts.values()) == [2, 3, 3, 4]


def latest_of_each_class(y: list[int], capacity: int) -> list[int]:
    """What a ring must hold in the end, from the definition and the whole stream."""
    order = list(dict.fromkeys(y))
    share, left_over = divmod(capacity, max(len(order), 1))
    kept = []
    for age, label in enumerate(reversed(order)):
        mine = [i for i, other in enumerate(y) if other == label]
        quota = share + 1 if age < left_over else share
        kept += mine[len(mine) - min(quota, len(mine)) :]
    return sorted(kept)


@given(capacities, labels, batch_sizes)
def test_ring_holds_exactly_the_latest_of_each_class(capacity: int, y: list[int], batch: int) -> None:
    buffer = feed(ReplayBuffer(capacity, "ring"), y, batch, generator())
    assert contents(buffer) == latest_of_each_class(y, capacity)


def test_ring_worked_by_hand() -> None:
    buffer, chance = ReplayBuffer(5, "ring"), generator()
    assert contents(feed(buffer, [7] * 6, 6, chance)) == [1, 2, 3, 4, 5]
    assert contents(feed(buffer, [3], 1, chance, start=6)) == [4, 5, 6]  # two places for 7, three for 3
    assert contents(feed(buffer, [3, 3, 3], 3, chance, start=7)) == [4, 5, 7, 8, 9]
    assert contents(feed(buffer, [7, 9], 2, chance, start=10)) == [8, 9, 10, 11]  # one, two and two places


@given(capacities, labels, batch_sizes)
def test_another_field_can_be_the_key(capacity: int, groups: list[int], batch: int) -> None:
    buffer = ReplayBuffer(capacity, "ring", key="group")
    for first in range(0, len(groups), batch):
        part = torch.tensor(groups[first : first + batch])
        buffer.add(generator(), x=torch.arange(len(part)) + first, y=torch.zeros_like(part), group=part)
    assert contents(buffer) == latest_of_each_class(groups, capacity)
    fresh = ReplayBuffer(capacity, "ring", key="group")
    load(fresh, state_of(buffer))
    assert same(fresh.everything(), buffer.everything())


def test_the_key_has_to_be_among_the_fields() -> None:
    with pytest.raises(ValueError, match=r"Policy 'ring' needs integer labels group \[batch\]"):
        ReplayBuffer(3, "ring", key="group").add(generator(), x=torch.zeros(2), y=torch.zeros(2, dtype=torch.long))


# --- chance


@given(policies, capacities, labels, batch_sizes, batch_sizes)
def test_cuts_into_batches_do_not_matter(policy: Policy, capacity: int, y: list[int], a: int, b: int) -> None:
    one = feed(ReplayBuffer(capacity, policy), y, a, generator())
    other = feed(ReplayBuffer(capacity, policy), y, b, generator())
    assert same(one.everything(), other.everything())


@pytest.mark.parametrize("policy", POLICIES)
def test_with_no_budget_nothing_is_drawn(policy: Policy) -> None:
    chance = generator()
    before = chance.get_state()
    feed(ReplayBuffer(0, policy), [0, 1, 2], 2, chance)
    assert torch.equal(chance.get_state(), before)


@pytest.mark.parametrize("policy", POLICIES)
def test_global_random_numbers_are_neither_used_nor_consumed(policy: Policy) -> None:
    y, outcomes = [i % 3 for i in range(50)], []
    for seed in (1, 2):
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        buffer = feed(ReplayBuffer(8, policy), y, 6, generator(5))
        outcomes += [buffer.everything() | {"drawn": buffer.sample(4, generator(6))["x"]}]
        assert torch.equal(torch.get_rng_state(), before)
    assert same(*outcomes)


def test_sampling_is_uniform_without_replacement_and_in_random_order() -> None:
    buffer, chance = feed(ReplayBuffer(6), [0] * 6, 6, generator()), generator(1)
    drawn, first = Counter[int](), Counter[int]()
    for _ in range(STREAMS):
        x = buffer.sample(3, chance)["x"].tolist()
        assert len(set(x)) == 3
        drawn.update(x)
        first[x[0]] += 1
    assert uniform_p([drawn[i] for i in range(6)], 3) > 1e-3
    assert uniform_p([first[i] for i in range(6)], 1) > 1e-3


@given(policies, capacities, labels, st.integers(0, 15))
@example("ring", 4, [0, 0, 0, 1], 3)  # a new class has left a place free among those in use
def test_samples_are_of_stored_rows(policy: Policy, capacity: int, y: list[int], n: int) -> None:
    buffer = feed(ReplayBuffer(capacity, policy), [0, *y], 4, generator())
    drawn = buffer.sample(n, generator())
    assert len(drawn["x"]) == min(n, len(buffer))
    assert set(drawn["x"].tolist()) <= set(contents(buffer))
    assert [[0, *y][i] for i in drawn["x"]] == drawn["y"].tolist()
    order = torch.randperm(len(buffer), generator=generator())[:n]  # what is drawn never depends on how
    assert torch.equal(drawn["x"], buffer.everything()["x"][order])


# --- what is stored


@pytest.mark.parametrize("policy", POLICIES)
def test_rows_are_bit_equal_copies_of_every_type(policy: Policy) -> None:
    noise = torch.randint(-(2**31), 2**31, (30, 2, 3), generator=generator(3), dtype=torch.int32)
    stream = {
        "x": noise.view(torch.float32),  # any bits at all, NaN and subnormal ones too
        "y": torch.arange(30) % 4,
        "half": noise[:, 0].to(torch.bfloat16),
        "byte": noise.to(torch.uint8),
        "flag": noise[:, 0, 0] > 0,
    }
    given_rows = {name: tensor.clone() for name, tensor in stream.items()} | {"index": torch.arange(30)}
    buffer, chance = ReplayBuffer(9, policy), generator()
    for first in range(0, 30, 7):
        buffer.add(chance, **{name: tensor[first : first + 7] for name, tensor in given_rows.items()})
    for tensor in given_rows.values():
        tensor.zero_()
    for rows in (buffer.everything(), buffer.sample(5, generator())):
        index = rows.pop("index")
        for name, tensor in rows.items():
            expected = stream[name][index]
            assert tensor.dtype == expected.dtype
            assert torch.equal(tensor.view(torch.uint8), expected.view(torch.uint8))
            tensor.zero_()  # must not reach the buffer
    assert buffer.everything()["half"].any()


def test_gradients_are_not_stored() -> None:
    buffer = ReplayBuffer(2)
    buffer.add(generator(), logits=torch.ones(2, 3, requires_grad=True) * 2)
    assert not buffer.everything()["logits"].requires_grad


def test_widen_keeps_what_is_stored_and_fills_the_rest() -> None:
    buffer, chance = ReplayBuffer(4), generator()
    buffer.widen("logits", 9)  # nothing is stored yet, so nothing to do
    logits = torch.randn(3, 2, generator=generator(1))
    buffer.add(chance, logits=logits)
    buffer.widen("logits", 5, fill=-1.0)
    wider = torch.randn(1, 5, generator=generator(2))
    buffer.add(chance, logits=wider)
    expected = torch.cat([torch.cat([logits, torch.full((3, 3), -1.0)], 1), wider])
    assert torch.equal(buffer.everything()["logits"], expected)
    storage = buffer.stored_logits
    buffer.widen("logits", 5)
    assert buffer.stored_logits is storage  # nothing is copied where nothing is missing
    with pytest.raises(ValueError, match="5 wide and cannot shrink to 4"):
        buffer.widen("logits", 4)
    with pytest.raises(ValueError, match="No field 'scores'"):
        buffer.widen("scores", 9)


def test_before_the_first_write_and_with_no_budget() -> None:
    assert ReplayBuffer(3).sample(2, generator()) == ReplayBuffer(3).everything() == {}
    for policy in POLICIES:
        none = feed(ReplayBuffer(0, policy), [0, 1, 0], 2, generator())
        assert (len(none), none.seen, none.capacity) == (0, 3, 0)
        assert none.sample(2, generator())["x"].shape == (0,)


# --- the state


def continued(buffer: ReplayBuffer) -> dict[str, Tensor]:
    """The same future for every copy: what it holds, and draws, after more of the stream."""
    chance = generator(11)
    feed(buffer, [3, 0, 4, 1, 1, 4, 0, 2, 3, 3] * 3, 4, chance, start=100)
    return buffer.everything() | {"drawn": buffer.sample(5, chance)["x"]}


def state_of(module: nn.Module) -> dict[str, Any]:
    """Its state with its structure, as that of a strategy."""
    return dict(module.state_dict()) | {STRUCTURE: structure_of(module)}


def load(module: nn.Module, state: dict[str, Any]) -> None:
    module.load_state_dict(prepare(module, state))


def reloaded(buffer: ReplayBuffer) -> ReplayBuffer:
    file = io.BytesIO()
    torch.save(state_of(buffer), file)
    file.seek(0)
    fresh = ReplayBuffer(buffer.capacity, buffer.policy).to(next(buffer.buffers()).device)
    load(fresh, torch.load(file, weights_only=True))
    return fresh


@settings(max_examples=50)
@given(policies, capacities, labels)
def test_every_copy_of_the_state_goes_on_alike(policy: Policy, capacity: int, y: list[int]) -> None:
    buffer = feed(ReplayBuffer(capacity, policy), y, 5, generator())
    used = feed(ReplayBuffer(capacity, policy), [5, 0], 2, generator(9))
    load(used, deepcopy(state_of(buffer)))
    copies = [reloaded(buffer), deepcopy(buffer), pickle.loads(pickle.dumps(buffer)), used]
    expected = continued(buffer)
    for copy in copies:
        assert copy.seen == len(y)
        assert same(continued(copy), expected)


def test_a_new_process_goes_on_alike(tmp_path: Path) -> None:
    buffers = {policy: feed(ReplayBuffer(7, policy), [0, 1, 2, 1] * 5, 3, generator()) for policy in POLICIES}
    torch.save({policy: state_of(buffer) for policy, buffer in buffers.items()}, f"{tmp_path}/before.pt")
    script = f"""
import torch
from clarena.toolbox.buffer import ReplayBuffer
from clarena.toolbox.structure import prepare
after = {{}}
for policy, state in torch.load("{tmp_path}/before.pt", weights_only=True).items():
    buffer = ReplayBuffer(7, policy)
    buffer.load_state_dict(prepare(buffer, state))
    chance = torch.Generator().manual_seed(4)
    buffer.add(chance, x=torch.arange(20, 40), y=torch.arange(20) % 4)
    after[policy] = buffer.everything() | {{"drawn": buffer.sample(5, chance)["x"]}}
torch.save(after, "{tmp_path}/after.pt")
"""
    subprocess.run([sys.executable, "-c", script], check=True)
    for policy, after in torch.load(f"{tmp_path}/after.pt", weights_only=True).items():
        chance = generator(4)
        buffers[policy].add(chance, x=torch.arange(20, 40), y=torch.arange(20) % 4)
        assert same(after, buffers[policy].everything() | {"drawn": buffers[policy].sample(5, chance)["x"]})


def test_the_state_holds_in_a_larger_module_and_keeps_types() -> None:
    old, new = ReplayBuffer(3, "ring"), ReplayBuffer(3, "ring")
    old.add(generator(), x=torch.ones(2, 2, dtype=torch.float64), y=torch.tensor([1, 0]))
    load(nn.ModuleList([nn.Linear(2, 2), new]), state_of(nn.ModuleList([nn.Linear(2, 2), old])))
    assert same(new.everything(), old.everything())
    assert new.everything()["x"].dtype == torch.float64


def test_extra_state_is_a_snapshot() -> None:
    buffer = feed(ReplayBuffer(4, "ring"), [0, 1], 2, generator())
    before = buffer.get_extra_state()
    kept = deepcopy(before)
    continued(buffer)
    assert before == kept


@pytest.mark.parametrize(("capacity", "policy"), [(5, "ring"), (4, "reservoir")])
def test_a_state_of_another_kind_of_buffer_is_refused(capacity: int, policy: Policy) -> None:
    buffer = feed(ReplayBuffer(4, "ring"), [0, 1], 2, generator())
    with pytest.raises(PluginError, match="ring buffer of 4 samples"):
        load(ReplayBuffer(capacity, policy), state_of(buffer))


# --- a capacity that grows


class Room:
    """A capacity that is asked for at every write."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity

    def __call__(self) -> int:
        return self.capacity


growths = st.lists(st.tuples(st.integers(0, 6), labels), min_size=1, max_size=4)


@settings(max_examples=60)
@given(policies, growths, batch_sizes)
def test_a_buffer_that_grows_keeps_what_it_holds_and_what_it_may(
    policy: Policy, growths: list[tuple[int, list[int]]], batch: int
) -> None:
    room, chance, offered = Room(0), generator(), 0
    buffer = ReplayBuffer(room, policy)
    for more, y in growths:
        held = contents(buffer)
        room.capacity += more
        assert buffer.capacity == room.capacity
        assert contents(buffer) == held
        feed(buffer, y, batch, chance, start=offered)
        offered += len(y)
        assert len(buffer) == len(set(contents(buffer))) <= room.capacity
        assert buffer.seen == offered
        if y:
            assert buffer.state_dict()["stored_x"].shape == (room.capacity,)
        free = room.capacity - len(held) if y else 0
        if policy in ("reservoir", "class_balanced"):  # the next samples fill all that is free, and none goes before
            assert len(buffer) == min(room.capacity, len(held) + len(y))
            if len(y) <= free:
                assert set(held) <= set(contents(buffer))


@settings(max_examples=30)
@given(policies, growths, batch_sizes)
def test_a_buffer_that_grows_goes_on_from_its_state(
    policy: Policy, growths: list[tuple[int, list[int]]], batch: int
) -> None:
    room, straight = Room(0), generator()
    whole = ReplayBuffer(room, policy)
    for number, (more, y) in enumerate(growths):
        room.capacity += more
        state, chance = deepcopy(state_of(whole)), generator()
        chance.set_state(straight.get_state())
        resumed = ReplayBuffer(Room(room.capacity), policy)
        load(resumed, state)
        feed(whole, y, batch, straight, start=100 * number)
        feed(resumed, y, batch, chance, start=100 * number)
        assert same(whole.everything(), resumed.everything())
        assert whole.get_extra_state() == resumed.get_extra_state()


@pytest.mark.parametrize("policy", POLICIES)
def test_a_capacity_that_never_grows_is_a_number(policy: Policy) -> None:
    y = [i % 3 for i in range(30)]
    fixed, asked = ReplayBuffer(5, policy), ReplayBuffer(Room(5), policy)
    assert same(*(feed(buffer, y, 4, generator()).everything() for buffer in (fixed, asked)))
    assert same(*(buffer.sample(3, generator(1)) for buffer in (fixed, asked)))


def test_a_reservoir_that_has_grown_is_algorithm_r_from_there_on() -> None:
    room, counts = Room(3), [0] * 20
    chance = generator()
    for _ in range(STREAMS):
        room.capacity = 3
        buffer = feed(ReplayBuffer(room), [0] * 5, 2, chance)
        room.capacity = 6
        for position in contents(feed(buffer, [0] * 15, 4, chance, start=5)):
            counts[position] += 1
    # Samples 5 to 7 fill the three new places; from sample 8 on, number n is stored with probability 6 / n, and each
    # stored one stays with (n - 1) / n: so after 20, those of 8 to 19 with 6 / 20, those of 5 to 7 with 8 / 20.
    expected = [3 / 5 * 8 / 20] * 5 + [8 / 20] * 3 + [6 / 20] * 12
    assert counts == pytest.approx([STREAMS * p for p in expected], abs=5 * (STREAMS / 4) ** 0.5)
    assert sum(counts) == 6 * STREAMS


# --- what is refused

X, Y = torch.zeros(2, 3), torch.zeros(2, dtype=torch.long)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "no fields"),
        ({"x": X}, "needs integer labels"),
        ({"x": X, "y": Y.float()}, "needs integer labels"),
        ({"x": X, "y": Y[:1]}, "same first dimension"),
        ({"x": X[0, 0], "y": Y}, "same first dimension"),
        ({"x": X, "y": Y, "task": Y}, "stores x, y, and was given task, x, y"),
        ({"x": X[:, :2], "y": Y}, "call widen"),
        ({"x": X.double(), "y": Y}, "float32 .* given was torch.float64"),
    ],
)
def test_fields_that_do_not_fit_change_nothing(fields: dict[str, Tensor], message: str) -> None:
    buffer = ReplayBuffer(4, "ring")
    buffer.add(generator(), x=X, y=Y)
    before = buffer.get_extra_state()
    with pytest.raises(ValueError, match=message):
        buffer.add(generator(), **fields)
    assert buffer.get_extra_state() == before


def test_arguments_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match="capacity is -1"):
        ReplayBuffer(-1)
    with pytest.raises(ValueError, match="no policy 'fifo'; choose from reservoir, class_balanced, greedy, ring"):
        ReplayBuffer(1, "fifo")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="n is -2"):
        ReplayBuffer(1).sample(-2, generator())


# --- on a GPU


@pytest.mark.needs("gpu")
@pytest.mark.parametrize("policy", POLICIES)
def test_a_gpu_stores_the_same_samples_and_never_waits(policy: Policy) -> None:
    y = [i % 3 for i in range(40)]
    expected = continued(feed(ReplayBuffer(8, policy), y, 6, generator()))
    buffer = ReplayBuffer(8, policy).cuda()
    feed(buffer, y, 6, generator())
    buffer = reloaded(buffer)
    outcome = continued(buffer)
    assert all(tensor.is_cuda for tensor in outcome.values())
    assert same({name: tensor.cpu() for name, tensor in outcome.items()}, expected)
    if policy == "reservoir":
        x, mode = torch.arange(5).cuda(), torch.cuda.get_sync_debug_mode()
        torch.cuda.set_sync_debug_mode("error")
        try:
            buffer.add(generator(), x=x, y=x)
            buffer.sample(4, generator())
        finally:
            torch.cuda.set_sync_debug_mode(mode)
