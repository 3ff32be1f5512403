"""Tests, families and tiers against examples worked by hand, and their error rates under chance alone."""

import numpy as np
import pytest
from clarena_leaderboard.ranking import against, tiers
from made_up import found, row, table

from clarena.record.statistics import paired_sign_flip, smallest_p

EIGHT = {
    "a": [0.9] * 8,
    "b": [0.8] * 8,
    "c": [0.5] * 4 + [1.0] * 4,  # mean 0.75
    "d": [0.7] * 8,
}


def test_tiers_worked():
    """a against b and d: every seed agrees, p = 2/256. a against c: differences 4 × +0.4 and 4 × -0.1, sum 1.2; as
    large are all 16 patterns with four +0.4, and the 4 with three of them and four +0.1: p = 2 (16 + 4) / 256.
    Holm over 2/256, 40/256, 2/256 gives 6/256, 40/256, 6/256: c stays in tier 1, though b, told apart, has a higher
    mean. Then b against d alone: p = 2/256.
    """
    ranked = table([run for name, values in EIGHT.items() for run in row(name, values)]).ranked
    assert [entry.label for entry in ranked] == ["a", "b", "c", "d"]
    assert [entry.tier for entry in ranked] == [1, 2, 1, 3]
    assert ranked[0].against_best is None
    tests = [entry.against_best for entry in ranked[1:]]
    assert [test.p_value * 256 for test in tests] == pytest.approx([2, 40, 2])
    assert [test.adjusted * 256 for test in tests] == pytest.approx([6, 40, 6])
    assert [test.difference for test in tests] == pytest.approx([-0.1, -0.15, -0.2])
    assert [test.claim for test in tests] == ["worse", "not told apart", "worse"]
    assert {(test.rival, test.n, test.exact) for test in tests} == {("a", 8, True)}


def test_the_two_families_are_corrected_apart():
    """Three rows make two tests against the best and three against finetune."""
    values = {name: EIGHT[name] for name in "abd"}
    runs = [run for name, accuracies in values.items() for run in row(name, accuracies)]
    ranked = table([*runs, *row("finetune", [0.75] * 8), *row("joint", [1.0] * 8)]).ranked
    assert [entry.label for entry in ranked] == ["a", "b", "d"]
    assert [e.against_best.adjusted * 256 for e in ranked[1:]] == pytest.approx([4, 4])
    assert [e.against_finetune.adjusted * 256 for e in ranked] == pytest.approx([6, 6, 6])
    assert [e.against_finetune.claim for e in ranked] == ["better", "better", "worse"]
    assert {e.against_finetune.rival for e in ranked} == {"finetune"}
    assert all(e.against_finetune is None for e in table(runs).ranked)


@pytest.mark.parametrize(
    ("rows", "seeds", "claim"), [(2, 5, "too few seeds"), (2, 6, "worse"), (3, 6, "too few seeds"), (3, 7, "worse")]
)
def test_nothing_is_claimed_where_no_result_could_be_significant(rows, seeds, claim):
    """m tests of n seeds cannot give less than m · 2/2ⁿ: 2/32, 2/64, 4/64, 4/128."""
    runs = [run for i in range(rows) for run in row(f"s{i}", [0.9 - 0.1 * i] * seeds)]
    last = table(runs).ranked[-1]
    assert last.against_best.claim == claim
    assert last.tier == (1 if claim == "too few seeds" else rows)


def test_less_is_better_where_the_metric_says_so():
    ranked = table(
        [*row("low", [0.1] * 8), *row("high", [0.3] * 8), *row("finetune", [0.2] * 8)], sort_key="forgetting"
    ).ranked
    assert [(e.label, e.tier, e.against_finetune.claim) for e in ranked] == [("low", 1, "better"), ("high", 2, "worse")]
    assert ranked[1].against_best.claim == "worse"


def test_more_than_sixteen_seeds_are_sampled_and_say_so():
    ranked = table([*row("a", [0.9] * 17), *row("b", [0.8] * 17)]).ranked
    assert ranked[1].against_best.exact is False
    assert ranked[1].against_best.claim == "worse"
    assert paired_sign_flip([0.9] * 17, [0.8] * 17).p_value >= smallest_p(17) == 2**-16


@pytest.mark.parametrize("n", range(1, 11))
def test_no_exact_p_is_below_the_smallest(n):
    assert paired_sign_flip(np.arange(1, n + 1), np.zeros(n)).p_value == smallest_p(n) == 2 / 2**n


def test_equal_rows_are_one_tier_in_the_order_of_their_labels():
    ranked = table([*row("b", [0.5] * 10), *row("c", [0.5] * 10), *row("a", [0.1, 0.9] * 5)]).ranked
    assert [(entry.label, entry.tier) for entry in ranked] == [("a", 1), ("b", 1), ("c", 1)]


@pytest.mark.parametrize(("rows", "rate"), [(2, 0.05), (8, 0.10)])
def test_equal_strategies_are_told_apart_as_often_as_documented(rows, rate):
    """2,000 boards of equal rows on ten seeds; three standard errors. The best is chosen by what it is tested with."""
    boards = np.random.default_rng(1).normal(0.7, 0.03, (2000, rows, 10))
    wrong = sum(max(tiers(values[np.argsort(-values.mean(axis=1))])) > 1 for values in boards)
    assert wrong / 2000 == pytest.approx(rate, abs=3 * (rate * (1 - rate) / 2000) ** 0.5)


def test_a_row_equal_to_finetune_is_told_from_it_in_at_most_5_percent_of_boards():
    boards = np.random.default_rng(2).normal(0.7, 0.03, (1000, 9, 10))
    wrong = sum(
        any(c.claim == "better" or c.claim == "worse" for c in against("", list(b[1:]), b[0], 1)) for b in boards
    )
    assert wrong / 1000 <= 0.05 + 3 * (0.05 * 0.95 / 1000) ** 0.5


def test_student_t_intervals_hold_the_truth_on_95_percent_of_boards():
    """2,000 boards, one row of ten seeds each, as the board itself shows them: 95 % ± 1.5 points."""
    boards = np.random.default_rng(2).normal(0.7, 0.03, (2000, 10))
    runs = [found(f"s{i}", seed, float(value)) for i, values in enumerate(boards) for seed, value in enumerate(values)]
    shown = [entry.intervals["final_average_accuracy"] for entry in table(runs).ranked]
    assert len(shown) == 2000
    assert {interval.n for interval in shown} == {10}
    assert np.mean([interval.low <= 0.7 <= interval.high for interval in shown]) == pytest.approx(0.95, abs=0.015)
