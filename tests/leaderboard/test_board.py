"""Tables: who is ranked, who is a bound, who stands apart and why; nothing hangs on the order of the input."""

import math
from dataclasses import replace

import pytest
from clarena_leaderboard.config import BoardConfig, read_config
from clarena_leaderboard.contents import Log, Submitted
from clarena_leaderboard.rows import say_seeds, unique_slugs
from hypothesis import given, settings
from hypothesis import strategies as st
from made_up import REFERENCES, TOY, board, found, row, table, track

from clarena.errors import UsageError
from clarena.record.metrics import METRICS
from clarena.record.pooled import POOLED_METRICS
from clarena.record.statistics import Interval, student_t_interval

NAN = float("nan")


def apart(runs, **config):
    """Label -> reason, of what stands apart."""
    return {entry.label: entry.reason for entry in table(runs, **config).apart}


# --- seeds


def test_the_seeds_are_those_that_finetune_finished():
    runs = [*row("finetune", [0.2] * 3), found("finetune", 3, status="failed"), *row("ewc", [0.5] * 5)]
    made = table([*runs, *row("er", [0.5] * 5)])
    assert (made.seeds, made.seeds_rule) == ((0, 1, 2), "those that finetune finished")
    assert [entry.label for entry in made.ranked] == ["er", "ewc"]
    assert [run.seed for run in made.ranked[0].runs] == [0, 1, 2, 3, 4]
    assert made.ranked[0].intervals["forgetting"].n == 3


def test_without_finetune_they_are_those_that_most_rows_finished():
    rows = {"a": (0, 1), "b": (0, 1), "c": (0, 1, 2), "d": (5,), "e": ()}
    runs = [found(name, seed) for name, seeds in rows.items() for seed in seeds]
    made = table([*runs, found("e", 0, status="diverged")])
    assert (made.seeds, made.seeds_rule) == ((0, 1), "those that most rows finished")
    tied = table([found("a", 0), found("a", 1), found("b", 7), found("b", 8), found("c", 3)])
    assert tied.seeds == (0, 1)
    none = table([found("a", 4, status="failed"), found("a", 5, status="diverged")])
    assert (none.seeds, none.seeds_rule) == ((), "no run finished")
    assert none.apart[0].reason == "seed 4 failed; seed 5 diverged"
    assert none.apart[0].intervals == dict.fromkeys((*METRICS, *POOLED_METRICS))


def test_the_settings_decide_first():
    runs = [*row("finetune", [0.2] * 2), *row("ewc", [0.5] * 4)]
    assert table(runs, seeds=3).seeds == (0, 1, 2)
    assert table(runs, seeds=(3, 1)).seeds == (1, 3)
    for name in (TOY.digest[:8], TOY.label):
        made = table(runs, seeds=3, tracks={name: {"seeds": (2, 3)}})
        assert (made.seeds, made.seeds_rule) == ((2, 3), "set for this board")
    assert table(runs, seeds=3, tracks={TOY.digest[:7]: {"seeds": (2, 3)}}).seeds == (0, 1, 2)


def test_of_two_finetunes_the_one_at_the_protocols_learning_rate_counts():
    other = row("finetune", [0.3] * 5, learning_rate=0.1)
    runs = [*other, *row("finetune", [0.2] * 3, day=1), *row("ewc", [0.5] * 5), *row("er", [0.6] * 5)]
    made = table(runs)
    assert made.seeds == (0, 1, 2)
    assert {entry.against_finetune.rival for entry in made.ranked} == {"finetune learning_rate=0.001"}
    assert [entry.label for entry in made.references] == ["finetune learning_rate=0.1", "finetune learning_rate=0.001"]


def test_a_submitted_finetune_moves_neither_seeds_nor_bound():
    own = [*row("finetune", [0.2] * 3), *row("ewc", [0.5] * 3)]
    forged = row("finetune", [0.4] * 9, day=-9, source_hash="f" * 64)
    claimed = {forged[0].run.row: Submitted("claimed")}
    (made,) = board([*own, *forged], submissions=claimed).tables
    assert made.seeds == (0, 1, 2)
    assert made.ranked[0].against_finetune.difference == pytest.approx(0.3)
    (alone,) = board(forged, submissions=claimed).tables
    assert alone.seeds == tuple(range(9))


# --- standing


def test_a_row_that_lacks_something_stands_apart_with_the_reason():
    ten = [0.5] * 10
    runs = [
        *row("finetune", ten),
        *[found("missing", seed) for seed in (1, 5, 6, 7)],
        *[found("bad", seed, status="diverged" if seed == 3 else "failed" if seed > 7 else "finished")
          for seed in range(10)],
        *[found("memory", seed, status="out_of_memory") for seed in range(9)],
        *[found("forged", seed, flaws=("it lies", "twice") if seed in (2, 4) else ()) for seed in range(10)],
        *[found("nan", seed, NAN if seed in (0, 9) else 0.5) for seed in range(10)],
        *row("whole", ten),
    ]  # fmt: skip
    made = table(runs)
    assert [entry.label for entry in made.ranked] == ["whole"]
    assert {entry.label: entry.reason for entry in made.apart} == {
        "missing": "no run for seeds 0, 2–4, 8, 9",
        "bad": "seed 3 diverged; seeds 8, 9 failed",
        "memory": "no run for seed 9; seeds 0–8 out of memory",
        "forged": "seed 2: it lies (and 3 more)",
        "nan": "final average accuracy is undefined for seeds 0, 9",
    }
    entries = {entry.label: entry for entry in made.apart}
    assert all(entry.tier is entry.against_best is entry.against_finetune is None for entry in entries.values())
    assert entries["missing"].intervals["forgetting"] == Interval(0.5, 0.0, 4)
    assert entries["nan"].intervals["final_average_accuracy"] is None
    assert [run.seed for run in entries["bad"].runs] == list(range(10))


def test_an_undefined_metric_hurts_only_where_it_is_the_sort_key():
    runs = [found("new", seed, metrics={"forgetting": NAN}) for seed in range(3)] + row("ewc", [0.5] * 3)
    assert [entry.intervals["forgetting"] for entry in table(runs).ranked if entry.label == "new"] == [None]
    assert apart(runs, sort_key="forgetting") == {"new": "forgetting is undefined for seeds 0–2"}


@pytest.mark.parametrize("name", ["finetune", "joint"])
def test_a_bound_without_the_sort_key_is_still_a_bound(name):
    runs = [found(name, seed, metrics={"forgetting": NAN}) for seed in range(3)] + row("ewc", [0.5] * 3)
    made = table(runs, sort_key="forgetting")
    assert [entry.label for entry in made.references] == [name]
    assert made.ranked[0].against_finetune is None


def test_a_limited_track_ranks_nothing():
    runs = [run for name in ("finetune", "ewc") for run in row(name, [0.5] * 3, at=track("toy", limit=8))]
    made = table(runs)
    assert (made.ranked, made.references) == ((), ())
    assert {entry.reason for entry in made.apart} == {"only 8 samples of each experience were used"}


def test_tuning_runs_make_no_table():
    tuning = row("ewc", [0.9] * 3, at=track("toy", tested_on="validation"))
    assert repr(board([*tuning, found("er")])) == repr(board([found("er")]))
    assert board(tuning).tables == ()


def test_references_are_bounds_and_an_incomplete_one_is_none():
    runs = [run for name in REFERENCES for run in row(name, [0.5] * (3 if name != "cumulative" else 2))]
    made = table([*runs, *row("ewc", [0.1] * 3)])
    assert [entry.label for entry in made.references] == ["finetune", "joint"]
    assert apart([*runs, *row("ewc", [0.1] * 3)]) == {"cumulative": "no run for seed 2"}
    assert all(entry.tier is None and entry.against_best is None for entry in made.references)


def test_one_seed_has_no_interval_and_allows_no_claim():
    made = table([found("finetune", 0, 0.2), found("a", 0, 0.9), found("b", 0, 0.5)])
    interval = made.ranked[0].intervals["forgetting"]
    assert (interval.mean, interval.n) == (0.9, 1)
    assert math.isnan(interval.half_width)
    assert made.ranked[1].against_best.claim == made.ranked[0].against_finetune.claim == "too few seeds"


def test_intervals_are_student_t():
    values = [0.4, 0.5, 0.9]
    (entry,) = table(row("ewc", values)).ranked
    assert entry.intervals["final_average_accuracy"] == student_t_interval(values)


# --- seeds that occur twice


def test_of_two_records_of_a_seed_the_first_that_finished_counts():
    twice = [found("ewc", 0, 0.5, day=2, origin="late"), found("ewc", 0, day=1, status="failed", origin="early")]
    same = found("ewc", 0, 0.5, day=3, origin="copy")
    made = board([*twice, same, found("ewc", 3), found("ewc", 3, day=1)], seeds=1)
    assert made.problems == (
        "ewc on toy/class/mlp/standard has more than one record of seeds 0, 3, such as early and late: "
        "of each seed the first that finished counts, else the last.",
    )
    (entry,) = made.tables[0].ranked
    assert entry.runs[0].origin == "late"


def test_two_records_of_a_seed_that_disagree_are_a_flaw():
    made = board([found("ewc", 0, 0.5, origin="one"), found("ewc", 0, 0.6, day=1, origin="two"), found("er", 0)])
    (entry,) = made.tables[0].apart
    assert entry.reason == "seed 0: another record of seed 0 has other numbers (two)"
    assert entry.intervals["forgetting"].mean == 0.5
    assert [entry.label for entry in made.tables[0].ranked] == ["er"]


def test_of_records_that_did_not_finish_the_last_counts():
    made = board([found("ewc", 0, status="failed"), found("ewc", 0, day=1, status="diverged"), found("er", 0)])
    assert made.tables[0].apart[0].reason == "seed 0 diverged"
    assert len(made.problems) == 1


# --- order, labels, pages


def test_rows_are_in_the_order_of_the_sort_key():
    runs = [*row("b", [0.5] * 2), *row("a", [0.5] * 2), *row("c", [0.9] * 2), *row("none", [NAN] * 2)]
    runs += [*row("joint", [0.8] * 2), *row("finetune", [0.1] * 2), found("half", 0, 0.7)]
    up, down = table(runs), table(runs, sort_key="forgetting")
    assert [entry.label for entry in up.entries] == ["joint", "finetune", "c", "a", "b", "half", "none"]
    assert [entry.label for entry in down.entries] == ["finetune", "joint", "a", "b", "c", "half", "none"]
    assert (down.sort_key, down.seeds) == ("forgetting", (0, 1))


def test_rows_of_one_name_are_told_apart():
    kinds = [{"strength": 1}, {"strength": 1.0}, {"strength": 2}, {}]
    runs = [found("ewc", 0, hyperparameters=kind) for kind in kinds] + [found("ewc", 0, source_hash="b" * 64)]
    labels = [entry.label for entry in table(runs).entries]
    assert len(set(labels)) == 5
    assert "ewc strength=2" in labels
    assert sum("source=bbbbbbbb" in label for label in labels) == 1


def test_tables_are_told_apart_and_the_primary_ones_come_first():
    tracks = [track("b"), track("a"), track("a", epochs=3), track("a", epochs=4), track("c")]
    made = board([found(at=each) for each in tracks], primary=[track("c").label, track("b").digest])
    labels = [each.label for each in made.tables]
    assert labels[:3] == ["c/class/mlp/standard", "b/class/mlp/standard", "a/class/mlp/custom [" + labels[2][-9:]]
    assert labels[4] == "a/class/mlp/standard"
    assert len({each.slug for each in made.tables}) == 5


def test_page_names_are_plain_and_unique():
    names = ["../../etc/passwd", "<script>", "ünïcode", "", "A" * 300, "con:1"]
    runs = [found(name, 0, at=at) for name in names for at in (TOY, track("other"))]
    slugs = [entry.slug for each in board(runs).tables for entry in each.entries]
    assert len(set(slugs)) == 12
    assert all(set(slug) <= set("abcdefghijklmnopqrstuvwxyz0123456789-") and len(slug) < 80 for slug in slugs)
    assert unique_slugs([("a", "1" * 64), ("b", "1" * 8 + "2" * 56)]) == {
        "1" * 64: "a-111111111111",
        "1" * 8 + "2" * 56: "b-111111112222",
    }


@pytest.mark.parametrize(
    ("seeds", "words"), [([3], "seed 3"), ([4, 0, 1, 2], "seeds 0–2, 4"), ([7, 8], "seeds 7, 8"), ([], "seeds ")]
)
def test_seeds_in_words(seeds, words):
    assert say_seeds(seeds) == words


def test_what_is_known_of_submissions_is_shown():
    runs = [*row("ewc", [0.5] * 2, chosen="tuned (50 trials)", family="regularisation"), *row("er", [0.6] * 2)]
    log = Log("ewc-00000000", "0" * 64, "2026-03-01", ("Ada",), "MIT", "", "tuned (50 trials)")
    made = board(runs, submissions={runs[0].run.row: Submitted("claimed", log=log)}).tables[0].ranked
    er, ewc = made
    assert (er.badge, er.hidden, er.chosen, er.log) == ("", None, "default", None)
    assert (ewc.badge, ewc.hidden, ewc.chosen, ewc.family) == ("claimed", None, "tuned (50 trials)", "regularisation")
    assert ewc.log == log


def test_an_empty_source_makes_an_empty_board():
    made = board([])
    assert (made.tables, made.across, made.changes) == ((), None, ())
    assert made.problems == ("There is no readable run in a list.",)


# --- invariants

SOME = [
    *row("finetune", [0.2, 0.3, 0.25]), *row("joint", [0.9, 0.8, 0.85]), *row("ewc", [0.5, 0.4, 0.6]),
    *row("ewc", [0.5, 0.5, 0.5], hyperparameters={"strength": 2}), *row("er", [0.5, 0.5, 0.5]),
    found("er", 1, 0.7, day=2), found("lwf", 0, status="failed"), found("mas", 2, NAN),
    *row("finetune", [0.1, 0.2], at=track("other")), *row("joint", [0.8, 0.9], at=track("other")),
    *row("ewc", [0.5, 0.6], at=track("other")),
]  # fmt: skip


@settings(max_examples=30)
@given(st.permutations(SOME))
def test_the_order_of_runs_does_not_matter(order):
    assert repr(board(order)) == repr(board(SOME))


@settings(max_examples=30)
@given(st.lists(st.floats(0, 1), min_size=3, max_size=3))
def test_a_newcomer_moves_no_interval_and_no_order(accuracies):
    def shown(entries):
        return [(entry.id, entry.intervals, entry.standing) for entry in entries if entry.info.name != "new"]

    before, after = board(SOME).tables[-1], board([*SOME, *row("new", accuracies)]).tables[-1]
    assert repr(shown(after.entries)) == repr(shown(before.entries))
    assert after.seeds == before.seeds


# --- settings


def test_settings_are_read(tmp_path):
    path = tmp_path / "board.toml"
    path.write_text(
        'title = "Ours"\nseeds = 10\nprimary = ["a/class/mlp/standard"]\n[tracks."0123abcd"]\nseeds = [1, 2]\n'
    )
    assert read_config(path) == BoardConfig(
        title="Ours", seeds=10, primary=("a/class/mlp/standard",), tracks={"0123abcd": {"seeds": (1, 2)}}
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("titel = 'x'", "titel"),
        ("seeds = -1", "seeds"),
        ("seeds = []", "seeds"),
        ("sort_key = 'accuracy'", "There is no metric named 'accuracy'"),
        ("not toml", "cannot be read"),
        (None, "cannot be read"),
    ],
)
def test_settings_that_mean_nothing_are_refused(tmp_path, text, said):
    path = tmp_path / "board.toml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UsageError, match=said):
        read_config(path)


def test_training_times_are_averaged_within_the_newest_metering_and_what_is_left_out_is_counted():
    def at(metering, one, seconds):
        return replace(one, run=replace(one.run, metering=metering, train_seconds=seconds))

    mixed = [at(1, one, 9.0) for one in row("mixed", [0.5] * 3)] + [at(2, found("mixed", 3, 0.5), 1.0)]
    older = [at(1, one, 9.0) for one in row("older", [0.4] * 4)]
    made = table([*mixed, *older])
    first, second = sorted(made.entries, key=lambda entry: entry.label)
    assert (first.mean("train_seconds"), first.earlier_metering) == (1.0, 3)
    assert math.isnan(second.mean("train_seconds"))
    assert first.mean("state_bytes") == second.mean("state_bytes") == 100
    assert made.earlier_metering == 7
    alone = table(older)
    assert (alone.entries[0].mean("train_seconds"), alone.earlier_metering) == (9.0, 0)


def test_a_run_whose_time_was_up_is_told_like_any_other_that_did_not_finish():
    runs = [*row("finetune", [0.5] * 3), *[found("slow", seed, status="timed_out") for seed in range(3)]]
    assert apart(runs) == {"slow": "seeds 0–2 timed out"}
