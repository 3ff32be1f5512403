"""How classes are dealt out: sizes and orders that are given, and those that papers share."""

from itertools import chain, pairwise

import numpy as np
import pytest
from clarena_native.benchmarks.digits import SplitDigits
from clarena_native.benchmarks.families import SplitClasses
from hypothesis import given, settings
from hypothesis import strategies as st

from clarena import UsageError, class_order, class_sizes
from clarena.plugins.parameters import parse
from clarena.run.data import stated

seeds = st.integers(0, 2**32 - 1)
NAMES = tuple("abcdefghij")
ICARL = [68, 56, 78, 8, 23, 84, 90, 65, 74, 76]
"""How the published order begins, as PyCIL prints it (seed 1993)."""


def groups(benchmark: SplitDigits, scenario: str = "class", seed: int = 0) -> list[list[int]]:
    """The digits of each experience, in the order of their labels."""
    data = benchmark.data()
    stream = benchmark.stream(data, scenario, np.random.default_rng(seed))
    found = []
    for split in stream.splits:
        pairs = dict(zip(split.y_train.tolist(), data.y_train[split.train].tolist(), strict=True))
        assert dict(zip(split.y_test.tolist(), data.y_test[split.test].tolist(), strict=True)) == pairs
        found.append([pairs[label] for label in sorted(pairs)])
    return found


@given(
    cuts=st.sets(st.integers(1, 9)),
    order=st.permutations(range(10)),
    scenario=st.sampled_from(SplitDigits.scenarios),
    seed=seeds,
)
@settings(max_examples=40, deadline=None)
def test_given_sizes_cut_a_given_order(cuts, order, scenario, seed):
    ends = [0, *sorted(cuts), 10]
    sizes = tuple(b - a for a, b in pairwise(ends))
    found = groups(SplitDigits(experiences=sizes, class_order=tuple(order)), scenario, seed)
    assert found == [list(order[a:b]) for a, b in pairwise(ends)]


@given(first=st.integers(1, 9), seed=seeds)
@settings(max_examples=20, deadline=None)
def test_a_first_experience_leaves_equal_ones(first, seed):
    found = groups(SplitDigits(experiences=1 + (10 - first), first_experience=first), seed=seed)
    assert [len(group) for group in found] == [first] + [1] * (10 - first)
    assert sorted(chain(*found)) == list(range(10))


@given(classes=st.integers(2, 200), first=st.integers(1, 200), experiences=st.integers(1, 200))
def test_sizes_share_all_classes_or_are_refused(classes, first, experiences):
    others = experiences - 1
    if others >= 1 and classes - first >= others and (classes - first) % others == 0:
        sizes = class_sizes(classes, experiences, first)
        assert (sizes[0], len(sizes), sum(sizes)) == (first, experiences, classes)
        assert len(set(sizes[1:])) == 1
    else:
        with pytest.raises(UsageError):
            class_sizes(classes, experiences, first)


@given(classes=st.integers(1, 200), experiences=st.integers(1, 200))
def test_a_number_of_experiences_shares_as_evenly_as_it_goes(classes, experiences):
    if experiences > classes:
        with pytest.raises(UsageError, match="Cannot split"):
            class_sizes(classes, experiences)
    else:
        sizes = class_sizes(classes, experiences)
        assert sizes == [len(part) for part in np.array_split(np.arange(classes), experiences)]


@given(seed=seeds)
def test_seeds_differ_only_where_the_order_is_theirs(seed):
    def drawn(order):
        return class_order(NAMES, order, np.random.default_rng(seed)).tolist()

    assert drawn("seed") == np.random.default_rng(seed).permutation(10).tolist()
    assert drawn("natural") == list(range(10))
    assert drawn((3, 1, 2, 0, 4, 9, 8, 7, 6, 5)) == [3, 1, 2, 0, 4, 9, 8, 7, 6, 5]
    assert drawn(tuple("dbcaejihgf")) == [3, 1, 2, 0, 4, 9, 8, 7, 6, 5]
    np.random.seed(1993)
    assert drawn("icarl") == np.random.permutation(10).tolist()


def test_the_published_order_of_cifar_100():
    order = class_order([str(n) for n in range(100)], "icarl", np.random.default_rng(0)).tolist()
    assert order[:10] == ICARL
    assert sorted(order) == list(range(100))


def test_b50_is_fifty_classes_and_then_five_times_ten():
    assert class_sizes(100, 6, 50) == [50] + [10] * 5
    assert class_sizes(100, 11, 50) == [50] + [5] * 10


@pytest.mark.parametrize(
    ("classes", "experiences", "first", "message"),
    [
        (10, 5, 10, "leaves 0 for 4 more"),
        (10, 5, 12, "leaves 0 for 4 more"),
        (10, 5, 7, "leaves 3 for 4 more"),
        (10, 1, 5, "leaves 5 for 0 more"),
        (10, 5, 5, r"5 cannot be shared equally by 4 more.*experiences=5,2,1,1,1\."),
        (10, (4, 4), None, "of 4,4 classes are 8 in all, and the data have 10"),
        (10, (4, 4, 4), None, "are 12 in all"),
        (10, (5, 5, 0), None, "every experience has one or more"),
        (10, (5, 5), 5, "leave that of the first out"),
        (10, 11, None, "10 classes into 11"),
    ],
)
def test_sizes_that_do_not_fit(classes, experiences, first, message):
    with pytest.raises(UsageError, match=message):
        class_sizes(classes, experiences, first)


@pytest.mark.parametrize(
    ("order", "message"),
    [
        ((0, 1, 2, 3, 4, 5, 6, 7, 8), "lacks: j"),
        ((0, 1, 2, 3, 4, 5, 6, 7, 8, 8), "repeats: i"),
        ((0, 1, 2, 3, 4, 5, 6, 7, 8, 10), "names what is no class: 10"),
        ((0, 1, 2, 3, 4, 5, 6, 7, 8, -1), "names what is no class: -1"),
        (tuple("abcdefghix"), "names what is no class: x"),
        (tuple("abcdefghii"), "repeats: i"),
        (("a",), "lacks: b,c,d,e,f, …"),
        (("icral",), "Did you mean 'icarl'"),
        ("icral", "Did you mean 'icarl'"),
    ],
)
def test_orders_that_do_not_fit(order, message):
    with pytest.raises(UsageError, match=message):
        class_order(NAMES, order, np.random.default_rng(0))


def test_options_are_read_from_text_and_enter_a_track_only_where_they_are_set():
    def options(**values):
        return stated(SplitDigits, parse(SplitDigits, values, "benchmark"))

    assert options() == {"experiences": 5, "class_order": "seed"}
    assert options(first_experience="6") == {"experiences": 5, "class_order": "seed", "first_experience": 6}
    assert options(experiences="4,4,2")["experiences"] == (4, 4, 2)
    assert options(experiences="4")["experiences"] == 4
    assert options(class_order="3,1,2")["class_order"] == (3, 1, 2)
    assert options(class_order='["a", "b, c"]')["class_order"] == ("a", "b, c")
    assert options(class_order="icarl")["class_order"] == "icarl"
    for wrong in ({"experiences": "0"}, {"experiences": "3,0"}, {"experiences": []}, {"first_experience": "0"}):
        with pytest.raises(UsageError, match="is not valid"):
            options(**wrong)


def test_what_bases_added_later_is_left_out_as_well():
    class Own(SplitClasses):
        added = frozenset({"mirrored"})

        def __init__(self, *, mirrored: bool = False, **options) -> None:
            super().__init__(**options)

    assert stated(Own, parse(Own, {}, "benchmark")) == {"experiences": 5, "class_order": "seed"}
