"""The change log: no row appears, changes or goes without a word, and the clock has no part in it."""

import pytest
from clarena_leaderboard.changes import Manifest, manifest, read_manifest
from clarena_leaderboard.contents import Submitted
from hypothesis import given, settings
from hypothesis import strategies as st
from made_up import TOY, board, found, row, track

from clarena.errors import StoreError

BASE = [*row("finetune", [0.2] * 3), *row("ewc", [0.5] * 3, day=1)]


def news(before, after, **config):
    """What the second build says that the first did not, as (date, kind, label, why)."""
    first = board(before)
    log = board(after, previous=manifest(first), **config).changes
    assert set(first.changes) <= set(log)
    return [(c.date, c.kind, c.label, c.why) for c in log if c not in first.changes]


def test_the_first_build_tells_of_every_row():
    runs = [*BASE, found("er", 0, 0.6, day=4)]
    assert [(c.date, c.kind, c.track, c.label, c.why) for c in board(runs).changes] == [
        ("2026-03-05", "appeared", TOY.label, "er", "apart: no run for seeds 1, 2"),
        ("2026-03-02", "appeared", TOY.label, "ewc", "ranked, seeds 0–2"),
        ("2026-03-01", "appeared", TOY.label, "finetune", "reference, seeds 0–2"),
    ]


def test_the_same_again_says_nothing_new_byte_by_byte():
    first = manifest(board(BASE))
    again = manifest(board(reversed(BASE), previous=first))
    assert again.model_dump_json() == first.model_dump_json()


def test_a_row_whose_runs_are_gone_went_on_the_day_of_the_newest_record():
    newer = row("er", [0.6] * 3, day=9)
    said = news(BASE, [*BASE[:3], *newer])
    assert said == [
        ("2026-03-10", "appeared", "er", "ranked, seeds 0–2"),
        ("2026-03-10", "went", "ewc", "its runs are gone"),
    ]


def test_everything_may_go():
    assert news(BASE, []) == [
        ("2026-03-02", "went", "ewc", "its runs are gone"),
        ("2026-03-02", "went", "finetune", "its runs are gone"),
    ]


def test_a_row_that_became_incomplete_went_and_comes_back():
    less = BASE[:-1]
    assert news(BASE, less) == [("2026-03-02", "went", "ewc", "no longer ranked; no run for seed 2; seed 2 gone")]
    assert news(less, BASE) == [("2026-03-02", "changed", "ewc", "now ranked; seed 2 added")]


def test_a_track_that_asks_for_other_seeds_says_so():
    finetune = [*BASE, found("finetune", 3, 0.2, day=5)]
    assert news(BASE, finetune) == [
        ("2026-03-06", "went", "ewc", "the track now asks for seeds 0–3; no longer ranked; no run for seed 3"),
        ("2026-03-06", "changed", "finetune", "the track now asks for seeds 0–3; seed 3 added"),
    ]


def test_numbers_that_moved_are_told():
    moved = [*BASE[:5], found("ewc", 2, 0.8, day=7)]
    assert news(BASE, moved) == [
        ("2026-03-08", "changed", "ewc", "seed 2 run again; final average accuracy 50.00 % before, 60.00 % now")
    ]
    again = [*BASE[:5], found("ewc", 2, 0.5, day=7)]
    assert news(BASE, again) == [("2026-03-08", "changed", "ewc", "seed 2 run again")]


def test_another_source_is_another_row_and_says_which_it_follows():
    other = row("ewc", [0.5] * 3, day=2, source_hash="b" * 64)
    assert news(BASE, [*BASE[:3], *other]) == [
        ("2026-03-03", "appeared", "ewc", "ranked, seeds 0–2; its source is bbbbbbbb, where aaaaaaaa was known"),
        ("2026-03-03", "went", "ewc", "its runs are gone"),
    ]


def test_a_badge_and_a_choice_that_changed_are_told():
    chosen = [*BASE[:3], *row("ewc", [0.5] * 3, day=1, chosen="paper")]
    first = board(BASE, submissions={BASE[3].run.row: Submitted("claimed")})
    (said,) = [c.why for c in board(chosen, previous=manifest(first)).changes if c not in first.changes]
    assert said == "not submitted, was claimed; hyper-parameters paper, said to be default before"


def test_another_sort_key_moves_no_number():
    assert news(BASE, BASE, sort_key="forgetting") == []


def test_a_flaw_is_told():
    flawed = [*BASE[:5], found("ewc", 2, 0.5, day=1, flaws=("it lies",))]
    assert news(BASE, flawed) == [("2026-03-02", "went", "ewc", "no longer ranked; seed 2: it lies")]


def test_the_log_grows_newest_first():
    log = None
    for runs in (BASE, BASE[:5], BASE, [*BASE, *row("er", [0.1] * 3, at=track("other"), day=3)]):
        made = board(runs, previous=log)
        log = manifest(made)
    assert [(c.date, c.kind, c.label) for c in made.changes] == [
        ("2026-03-04", "appeared", "er"),
        ("2026-03-02", "changed", "ewc"),
        ("2026-03-02", "went", "ewc"),
        ("2026-03-02", "appeared", "ewc"),
        ("2026-03-01", "appeared", "finetune"),
    ]


ROWS = [run for name in ("a", "b", "c") for run in row(name, [0.5, 0.6])]


@settings(max_examples=40)
@given(st.sets(st.sampled_from(range(len(ROWS)))), st.sets(st.sampled_from(range(len(ROWS)))))
def test_a_row_never_comes_or_goes_without_a_word(before, after):
    """Whatever the builds hold, a row is told of when it comes, and when it is there no more."""
    old, new = [ROWS[i] for i in sorted(before)], [ROWS[i] for i in sorted(after)]
    told = {(kind, label) for _, kind, label, _ in news(old, new)}
    had, has = {f.info.name for f in old}, {f.info.name for f in new}
    assert {label for kind, label in told if kind == "appeared"} == has - had
    assert {label for kind, label in told if kind == "went"} >= had - has


def test_manifests_are_read_back(tmp_path):
    path = tmp_path / "manifest.json"
    assert read_manifest(path) is None
    made = manifest(board(BASE))
    path.write_text(made.model_dump_json(indent=1))
    assert read_manifest(path) == made
    path.write_text(Manifest().model_dump_json())
    assert read_manifest(path) == Manifest()


@pytest.mark.parametrize("text", ["", "[]", '{"version": 2}', '{"rows": 1}'])
def test_a_manifest_that_cannot_be_read_is_not_passed_over(tmp_path, text):
    """It holds the log: to begin anew is for a person to decide."""
    path = tmp_path / "manifest.json"
    path.write_text(text)
    with pytest.raises(StoreError, match="Move it away to begin the change log anew"):
        read_manifest(path)
