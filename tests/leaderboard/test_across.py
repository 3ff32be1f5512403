"""Across tracks: scores and ranks worked by hand or by scipy and scikit-posthocs; no newcomer moves the others."""

import numpy as np
import pytest
import scipy.stats
from clarena_leaderboard.across import THRESHOLDS, critical_distance, ranks
from hypothesis import given, settings
from hypothesis import strategies as st
from made_up import board, found, row, track

TRACKS = [track(name) for name in "abcde"]


def bounds(at, low=0.2, high=0.8, seeds=3):
    return row("finetune", [low] * seeds, at=at) + row("joint", [high] * seeds, at=at)


def over(tracks, name, accuracies, **changes):
    """A row on each of these tracks."""
    return [run for at, values in zip(tracks, accuracies) for run in row(name, values, at=at, **changes)]


def worked():
    """On a finetune is 0.2 and joint 0.8, on b 0.1 and 0.6."""
    a, b = TRACKS[:2]
    runs = bounds(a, 0.2, 0.8) + bounds(b, 0.1, 0.6)
    runs += over((a, b), "ewc", [[0.5, 0.8, 0.2], [0.35, 0.6, 0.6]])
    return runs + over((a, b), "er", [[0.2, 0.2, 0.2], [0.1, 0.1, 0.1]])


def test_scores_worked():
    """0.5, 1, 0 on a and 0.5, 1, 1 on b; sorted 0, .5, .5, 1, 1, 1: the middle half drops one at each end, 3/4."""
    across = board(worked()).across
    ewc, er = across.aggregates
    a, b = TRACKS[0].digest, TRACKS[1].digest
    assert across.tracks == (a, b)
    assert ewc.scores[a] == pytest.approx((0.5, 1.0, 0.0))
    assert ewc.scores[b] == pytest.approx((0.5, 1.0, 1.0))
    assert (ewc.label, ewc.iqm, er.label, er.iqm) == ("ewc", pytest.approx(0.75), "er", pytest.approx(0, abs=1e-12))
    assert ewc.iqm == pytest.approx(scipy.stats.trim_mean([0, 0.5, 0.5, 1, 1, 1], 0.25))
    assert (er.low, er.high) == pytest.approx((0, 0), abs=1e-12)
    assert ewc.low < 0.75 < ewc.high <= 1 + 1e-12
    assert across.average_ranks == {"ewc": 1.0, "er": 2.0}
    assert (across.critical, across.friedman_p) == ((), None)
    assert "a block is a track" in across.ranks_note
    assert "Too few for a test" in across.ranks_note


def test_the_profile_is_the_share_of_runs_above_each_threshold():
    profiles = board(worked()).across.profiles
    at = dict(zip(THRESHOLDS, profiles["ewc"]))
    assert (at[0.0], at[0.48], at[0.52], at[0.98]) == pytest.approx((5 / 6, 5 / 6, 3 / 6, 3 / 6))
    assert set(profiles) == {"ewc", "er"}


def test_a_track_counts_only_with_both_bounds_in_their_order():
    runs = worked()
    c, d, e = TRACKS[2:]
    runs += bounds(c, 0.5, 0.5) + row("finetune", [0.2] * 3, at=d) + over((c, d, e), "ewc", [[0.5] * 3] * 3)
    across = board(runs).across
    assert across.tracks == (TRACKS[0].digest, TRACKS[1].digest)
    assert across.skipped == {
        "c/class/mlp/standard": "joint is not better than finetune",
        "d/class/mlp/standard": "no complete joint",
        "e/class/mlp/standard": "no complete finetune",
    }
    assert board(bounds(c, 0.5, 0.5) + bounds(d)).across is None


def test_only_what_is_the_same_and_ranked_on_every_track_takes_part():
    a, b = TRACKS[:2]
    runs = [*worked(), *row("half", [0.5] * 3, at=a), *over((a, b), "some", [[0.5] * 3, [0.5] * 2])]
    runs += row("lr", [0.5] * 3, at=a, learning_rate=0.1) + row("lr", [0.5] * 3, at=b, learning_rate=0.2)
    runs += row("src", [0.5] * 3, at=a) + row("src", [0.5] * 3, at=b, source_hash="b" * 64)
    runs += over((a, b), "ewc", [[0.4] * 3] * 2, hyperparameters={"strength": 3})
    across = board(runs).across
    assert [each.label for each in across.aggregates] == ["ewc", "ewc strength=3", "er"]
    other = {"a/class/mlp/standard": "b/class/mlp/standard"}
    missing_b, missing_a = (f"not ranked on {name}" for name in (*other.values(), *other))
    assert across.left_out == {
        "half": missing_b,
        "some": missing_b,
        "lr learning_rate=0.1": missing_b,
        "lr learning_rate=0.2": missing_a,
        "src source=aaaaaaaa": missing_b,
        "src source=bbbbbbbb": missing_a,
    }


def test_where_primary_tracks_are_named_only_they_count():
    runs = worked() + bounds(TRACKS[2])
    assert len(board(runs).across.tracks) == 3
    assert board(runs).across.aggregates == ()
    across = board(runs, primary=["a/class/mlp/standard", "b/class/mlp/standard"]).across
    assert [each.label for each in across.aggregates] == ["ewc", "er"]


def test_bounds_alone_leave_nothing_to_say():
    across = board(bounds(TRACKS[0]) + bounds(TRACKS[1])).across
    assert (across.aggregates, across.coverage, across.average_ranks) == ((), None, None)


def test_accuracy_is_scored_whatever_the_tables_are_ordered_by():
    runs = worked() + over(TRACKS[:2], "odd", [[0.5] * 3] * 2, metrics={"final_average_accuracy": float("nan")})
    by_forgetting = board(runs, sort_key="forgetting")
    assert [len(each.ranked) for each in by_forgetting.tables] == [3, 3]
    assert by_forgetting.across == board(worked()).across


def test_one_seed_has_no_bootstrap_interval():
    a, b = TRACKS[:2]
    runs = bounds(a, seeds=1) + bounds(b, seeds=1) + over((a, b), "ewc", [[0.5], [0.5]])
    across = board(runs).across
    assert across.coverage is None
    assert across.aggregates[0].iqm == pytest.approx(0.5)
    assert np.isnan(across.aggregates[0].low)


scores = st.lists(st.floats(0, 1), min_size=3, max_size=3)


@settings(max_examples=30)
@given(scores, scores, st.booleans())
def test_a_newcomer_moves_nobody(on_a, on_b, reference):
    """Whatever it scores, and even if it is another, later finetune with better numbers."""
    before = board(worked()).across
    changes = {"learning_rate": 0.5, "day": 3} if reference else {}
    newcomer = over(TRACKS[:2], "finetune" if reference else "new", [on_a, on_b], **changes)
    after = board([*worked(), *newcomer]).across
    others = [each for each in after.aggregates if each.label != "new"]
    assert others == list(before.aggregates)
    assert {label: after.profiles[label] for label in before.profiles} == before.profiles
    assert (after.coverage, after.tracks) == (before.coverage, before.tracks)


# --- ranks


def test_the_critical_distance_of_demsar():
    """Demšar 2006, section 3.2.3: four classifiers on 14 data sets, CD = 2.569 sqrt(4·5 / (6·14)) = 1.25."""
    assert critical_distance(4, 14) == pytest.approx(1.25, abs=5e-3)


def test_ranks_worked():
    """Three rows in the same order on each of six tracks: 12·6/(3·4) ((1-2)² + 0 + (3-2)²) = 12, p = exp(-6)."""
    made = ranks({"c": np.full(6, 0.1), "a": np.arange(6) / 10 + 0.4, "b": np.arange(6) / 10 + 0.35})
    assert made.average == {"a": 1.0, "b": 2.0, "c": 3.0}
    assert list(made.average) == ["a", "b", "c"]
    assert made.p == pytest.approx(np.exp(-6))
    assert made.distance == pytest.approx(2.343 * (3 * 4 / (6 * 6)) ** 0.5, abs=2e-3)  # q_0.05 for three, from tables
    assert made.groups == (("a", "b"), ("b", "c"))


def test_rows_that_friedman_does_not_tell_apart_are_one_group():
    made = ranks({"a": np.array([0.1, 0.2, 0.3]), "b": np.array([0.2, 0.3, 0.1]), "c": np.array([0.3, 0.1, 0.2])})
    assert made.average == dict.fromkeys("abc", 2.0)
    assert made.groups == (("a", "b", "c"),)
    same = ranks({name: np.array([0.5, 0.5, 0.5]) for name in "abc"})
    assert (same.average, same.groups) == (dict.fromkeys("abc", 2.0), (("a", "b", "c"),))


@settings(max_examples=15)
@given(st.integers(3, 8), st.integers(3, 9), st.integers(0, 10**6))
def test_ranks_and_groups_are_those_of_scipy_and_scikit_posthocs(rows, tracks, seed):
    import scikit_posthocs

    values = np.round(np.random.default_rng(seed).random((rows, tracks)) + 0.3 * np.arange(rows)[:, None], 1)
    names = [f"s{i}" for i in range(rows)]
    made = ranks(dict(zip(names, values)))
    expected = scipy.stats.rankdata(-values, axis=0).mean(axis=1)
    assert made.average == pytest.approx(dict(zip(names, expected)))
    p = scipy.stats.friedmanchisquare(*values).pvalue
    assert made.p == pytest.approx(p)
    if p > 0.05:
        assert made.groups == (tuple(made.average),)
        return
    nemenyi = scikit_posthocs.posthoc_nemenyi_friedman(values.T).to_numpy()
    for i in range(rows):
        for j in range(i):
            together = any({names[i], names[j]} <= set(group) for group in made.groups)
            assert together == (nemenyi[i, j] >= 0.05)
    assert not any(set(one) < set(other) for one in made.groups for other in made.groups)


@pytest.mark.parametrize(("rows", "tracks"), [(3, 4), (5, 6)])
def test_equal_rows_are_told_apart_on_at_most_5_percent_of_boards(rows, tracks):
    """With so few tracks the chi-squared and range distributions are approximations: 600 boards, three errors."""
    boards = np.random.default_rng(0).random((600, rows, tracks))
    wrong = sum(len(ranks(dict(zip(map(str, range(rows)), values))).groups) != 1 for values in boards)
    assert wrong / 600 <= 0.05 + 3 * (0.05 * 0.95 / 600) ** 0.5


def test_an_unfinished_row_has_no_rank():
    runs = [*worked(), found("er", 0, 0.9, at=TRACKS[0], flaws=("it lies",), day=-1)]
    across = board(runs).across
    assert [each.label for each in across.aggregates] == ["ewc"]
    assert across.left_out == {"er": "not ranked on a/class/mlp/standard"}
    assert across.ranks_note.startswith("Ranks need at least two rows")
