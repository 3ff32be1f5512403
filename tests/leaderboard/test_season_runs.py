"""Verified rows on hidden seeds: ranked there beside the references, and those that fall are named."""

from dataclasses import replace

import numpy as np
import pytest
from clarena_leaderboard.contents import SeasonRuns, Submitted
from clarena_leaderboard.season_runs import SIGNIFICANT, falls_by_chance
from made_up import TOY, board, row
from scipy.stats import t as student_t

from clarena.record.statistics import paired_sign_flip

N = 10
LOW, HIGH = np.linspace(0.2, 0.22, N), np.linspace(0.9, 0.92, N)


def told(name, accuracies, *, season="s1", reference=False, day=0):
    """A row on the hidden seeds of a season, as the ledger tells of it."""
    runs = row(name, accuracies, day=day)
    return SeasonRuns(season, TOY.digest, name, reference, tuple(each.run for each in runs))


def bounds(seasons=("s1",)):
    """What the ledger knows of the references that were run beside."""
    made = {}
    for name, values in (("finetune", LOW), ("joint", HIGH)):
        runs = tuple(told(name, values, season=season, reference=True) for season in seasons)
        made[row(name, [0.0])[0].run.row] = Submitted("", runs)
    return made


def key(name):
    return row(name, [0.0])[0].run.row


OWN = [*row("finetune", LOW), *row("joint", HIGH)]
STEADY, FALLEN = np.linspace(0.5, 0.6, N), np.linspace(0.3, 0.4, N)


def shown(**submissions):
    """The table of a board with verified rows that all have the accuracies `STEADY` on their own seeds."""
    runs = [*OWN, *(run for name in submissions for run in row(name, STEADY))]
    known = {key(name): Submitted("verified", (told(name, values),)) for name, values in submissions.items()}
    (table,) = board(runs, submissions=bounds() | known).tables
    return table


def test_verified_rows_are_ranked_on_hidden_seeds_beside_the_references():
    table = shown(good=STEADY, lucky=FALLEN)
    (hidden,) = table.hidden
    assert (hidden.season, hidden.digest, hidden.seeds) == ("s1", table.digest, tuple(range(N)))
    assert [entry.label for entry in hidden.references] == ["joint", "finetune"]
    first, second = hidden.ranked
    assert (first.label, first.tier, second.label, second.tier) == ("good", 1, "lucky", 2)
    expected = paired_sign_flip(FALLEN, LOW)
    assert second.against_finetune.difference == pytest.approx(float(np.mean(FALLEN - LOW)))
    assert second.against_finetune.p_value == expected.p_value == 2 / 2**N
    assert hidden.slug != table.slug
    assert [entry.slug for entry in hidden.ranked] == [e.slug for e in sorted(table.ranked, key=lambda e: e.label)]


def test_only_the_row_that_falls_is_named():
    good, lucky = sorted(shown(good=STEADY - 0.005, lucky=FALLEN).ranked, key=lambda entry: entry.label)
    assert good.caution == ""
    assert lucky.caution.startswith("Worse on hidden seeds: 35.0 ± 2.4 % on those of s1, 55.0 ± 2.4 % on its own")
    assert lucky.caution.endswith("p < 0.001)")
    assert (good.hidden.n, good.hidden.mean) == (N, pytest.approx(0.545))
    (hidden,) = shown(good=STEADY, lucky=FALLEN).hidden
    assert [bool(entry.caution) for entry in hidden.ranked] == [False, True]


@pytest.mark.parametrize("left", ["finetune", "joint"])
def test_without_a_reference_on_hidden_seeds_nothing_is_ranked_there(left):
    known = bounds() | {key("mine"): Submitted("verified", (told("mine", STEADY),))}
    del known[key(left)]
    (hidden,) = board([*OWN, *row("mine", STEADY)], submissions=known).tables[0].hidden
    assert hidden.ranked == ()
    (mine,) = hidden.apart
    assert mine.reason == f"the ledger has no complete {left} on the hidden seeds of s1"


def test_a_reference_that_lacks_a_hidden_seed_is_missing():
    known = bounds() | {key("mine"): Submitted("verified", (told("mine", STEADY),))}
    known[key("joint")] = Submitted("", (told("joint", HIGH[:-1], reference=True),))
    (hidden,) = board([*OWN, *row("mine", STEADY)], submissions=known).tables[0].hidden
    reasons = {entry.label: entry.reason for entry in hidden.apart}
    assert reasons == {
        "joint": "no run for seed 9",
        "mine": "the ledger has no complete joint on the hidden seeds of s1",
    }


def test_each_season_has_its_table_and_references_alone_have_none():
    known = bounds(("s1", "s2", "s3"))
    known[key("mine")] = Submitted("verified", (told("mine", FALLEN), told("mine", STEADY, season="s2")))
    (table,) = board([*OWN, *row("mine", STEADY)], submissions=known).tables
    assert [hidden.season for hidden in table.hidden] == ["s1", "s2"]
    assert len({hidden.slug for hidden in table.hidden}) == 2
    assert table.ranked[0].caution == ""  # the latest season counts
    (bare,) = board(OWN, submissions=bounds()).tables
    assert bare.hidden == ()


def test_references_that_were_verified_beside_a_row_still_set_the_seeds():
    known = bounds() | {key("mine"): Submitted("verified", (told("mine", STEADY),))}
    runs = [*OWN, *row("mine", [0.5] * 5), *row("other", [0.4] * 5), *row("third", [0.4] * 5)]
    (table,) = board(runs, submissions=known).tables
    assert (table.seeds, table.seeds_rule) == (tuple(range(N)), "those that finetune finished")


def test_a_row_of_another_track_is_in_no_hidden_table():
    elsewhere = replace(told("mine", STEADY), track="0" * 64)
    known = bounds() | {key("mine"): Submitted("verified", (elsewhere,))}
    assert board([*OWN, *row("mine", STEADY)], submissions=known).tables[0].hidden == ()


def test_welch_by_hand():
    # means 0.6 and 0.4, variances 0.01 each, n = 3: t = 0.2 / sqrt(0.02 / 3) = sqrt(6), and four degrees of freedom;
    # P(T > t) with df = 4 is 1/2 - (t / sqrt(t² + 4)) (1 + 2 / (t² + 4)) / 2
    t = np.sqrt(6)
    expected = 0.5 - t / np.sqrt(t**2 + 4) * (1 + 2 / (t**2 + 4)) / 2
    assert falls_by_chance([0.5, 0.6, 0.7], [0.3, 0.4, 0.5]) == pytest.approx(expected)
    assert falls_by_chance([0.3, 0.4, 0.5], [0.5, 0.6, 0.7]) == pytest.approx(1 - expected)


def test_welch_where_number_and_scatter_differ():
    own, hidden = [0.5, 0.7, 0.6, 0.8, 0.4], [0.41, 0.42, 0.43]
    parts = [np.var(values, ddof=1) / len(values) for values in (own, hidden)]
    t = (np.mean(own) - np.mean(hidden)) / np.sqrt(sum(parts))
    freedom = sum(parts) ** 2 / (parts[0] ** 2 / 4 + parts[1] ** 2 / 2)  # Welch-Satterthwaite
    assert falls_by_chance(own, hidden) == pytest.approx(student_t.sf(t, freedom))


@pytest.mark.parametrize(
    ("own", "hidden", "p"),
    [
        ([0.5], [0.1, 0.1], 1),
        ([0.5, 0.5], [0.1], 1),
        ([0.5, 0.5], [0.1, 0.1], 0),
        ([0.1, 0.1], [0.1, 0.1], 1),
        ([], [], 1),
    ],
)
def test_where_nothing_scatters_or_nothing_is_there(own, hidden, p):
    assert falls_by_chance(own, hidden) == p


def test_an_honest_row_is_seldom_under_suspicion():
    draws = np.random.default_rng(0).normal(0.6, 0.03, (2000, 2, N))
    share = np.mean([falls_by_chance(own, hidden) <= SIGNIFICANT for own, hidden in draws])
    assert 0.004 < share < 0.018  # 0.01 ± 3.5 standard errors over 2,000 draws
