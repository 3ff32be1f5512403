"""Tuning: on training data of the first experiences, under seeds of its own, the same study however it was made."""

import math
from typing import Any

import numpy as np
import pytest
import torch
import troublemakers as trouble
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from tunable import Hopeless, Moody, Peaked, tuned, tuning

from clarena import DataError, Split, Store, Stream, UsageError, evaluate
from clarena.contract.benchmark import same_classes, with_validation
from clarena.contract.data import Data
from clarena.record.record import FIRST_TUNING_SEED, Cell
from clarena.tuning import ROUND, Choice, Range, Trial, Tuned
from clarena.tuning import __name__ as tuning_module
from clarena.tuning.space import grid, suggest


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """A study of six trials that is looked at and not changed, and its path."""
    return tuned(tmp_path_factory.mktemp("shared"))


# --- the validation data -------------------------------------------------------------------------------------------


def stream_of(*sizes):
    """One experience for each list of class sizes, over rows and labels that count up."""
    splits, names, row = [], [], 0
    for classes in sizes:
        labels = torch.cat([torch.full((size,), len(names) + c) for c, size in enumerate(classes)])
        names += [f"class {len(names) + c}" for c in range(len(classes))]
        train = torch.arange(row, row + len(labels))
        row += len(labels)
        splits.append(Split(train, labels, torch.tensor([10**6]), labels[:1]))  # test rows that do not exist
    return Stream(tuple(splits), tuple(names)), row


def held_out(sizes, experiences=9, fraction=0.2, seed=0):
    stream, rows = stream_of(*sizes)
    return stream, with_validation(stream, experiences, fraction, rows, np.random.default_rng(seed))


def counts(y, labels):
    return [int((y == label).sum()) for label in labels]


def test_each_class_gives_up_its_share_rounded_and_never_all():
    """By hand: a fifth of 10, 4, 13, 2 and 1 is 2, 0.8, 2.6, 0.4 and 0.2; at least one and never all."""
    _, ours = held_out([(10, 4, 13, 2, 1)])
    (split,) = ours.splits
    assert counts(split.y_test, range(5)) == [2, 1, 3, 1, 0]
    assert counts(split.y_train, range(5)) == [8, 3, 10, 1, 1]
    assert counts(held_out([(3, 10)], fraction=0.9)[1].splits[0].y_test, range(2)) == [2, 9]


@given(
    st.lists(st.lists(st.integers(1, 12), min_size=1, max_size=4).filter(lambda s: max(s) > 1), min_size=1, max_size=4),
    st.integers(1, 5),
    st.floats(0.01, 0.99),
    st.integers(0, 9),
)
def test_training_and_validation_are_the_training_data_of_the_first_experiences(sizes, experiences, fraction, seed):
    stream, ours = held_out(sizes, experiences, fraction, seed)
    assert len(ours.splits) == min(experiences, len(sizes))
    for before, after in zip(stream.splits, ours.splits):
        label = dict(zip(before.train.tolist(), before.y_train.tolist()))
        together = after.train.tolist() + after.test.tolist()
        assert sorted(together) == before.train.tolist()
        assert [label[row] for row in together] == after.y_train.tolist() + after.y_test.tolist()
        assert after.classes == before.classes
        assert len(after.test) > 0


def test_where_experiences_share_rows_none_is_trained_on_that_is_tested():
    y = torch.arange(60) % 3
    data = Data(torch.rand(60, 2), y, torch.rand(3, 2), torch.arange(3), ("a", "b", "c"))
    for scenario in ("domain", "task"):
        stream = with_validation(same_classes(data, scenario, [None] * 4), 3, 0.2, 60, np.random.default_rng(0))
        trained = {row for split in stream.splits for row in split.train.tolist()}
        tested = [set(split.test.tolist()) for split in stream.splits]
        assert tested[0] == tested[1] == tested[2]
        assert (len(trained), len(tested[0]), trained & tested[0]) == (48, 12, set())


def test_overlapping_experiences_too():
    stream, rows = stream_of((6, 6), (6, 6))
    first, second = stream.splits
    second = Split(torch.arange(3, 15), second.y_train, second.test, second.y_test)
    ours = with_validation(Stream((first, second), stream.output_names), 2, 0.5, rows, np.random.default_rng(1))
    trained = {row for split in ours.splits for row in split.train.tolist()}
    assert not trained & {row for split in ours.splits for row in split.test.tolist()}


def test_an_experience_with_nothing_to_hold_out_is_refused():
    with pytest.raises(DataError, match="Experience 2 has one training sample of each class"):
        held_out([(4, 4), (1, 1)])


def test_each_tuning_seed_holds_out_other_samples():
    first, second = (held_out([(50,)], seed=seed)[1].splits[0].test.tolist() for seed in (0, 1))
    assert first != second


# --- the test data -------------------------------------------------------------------------------------------------


class Shuffled(trouble.Tiny):
    """The same, but the labels of the test data are nonsense."""

    def data(self):
        data = super().data()
        return Data(data.x_train, data.y_train, data.x_test * math.pi, data.y_test.flip(0), data.class_names)


def test_what_the_test_data_say_changes_nothing(tmp_path):
    one, other = (tuned(tmp_path / b.__name__, benchmark=b)[0] for b in (trouble.Tiny, Shuffled))
    assert one.track.digest != other.track.digest  # their fingerprints differ, so the two tracks do
    assert (one.trials, one.chosen) == (other.trials, other.chosen)
    assert len({trial.score for trial in one.trials}) > 1


class Guarded(Data):
    """Data that raise, once armed, where their own test arrays are asked for."""

    armed = False
    secret: tuple[Any, ...] = ()

    def __getattribute__(self, name):
        found = super().__getattribute__(name)
        if Guarded.armed and any(found is each for each in Guarded.secret):
            raise AssertionError(f"{name} was read")
        return found


class GuardedTiny(trouble.Tiny):
    """Tiny, with its test arrays guarded."""

    def data(self):
        data = super().data()
        Guarded.secret = (data.x_test, data.y_test)
        return Guarded(data.x_train, data.y_train, data.x_test, data.y_test, data.class_names)


def test_test_data_are_not_read(tmp_path, monkeypatch):
    ours = tuning(tmp_path, benchmark=GuardedTiny)  # makes the fingerprint, which is of all data
    monkeypatch.setattr(Guarded, "armed", True)
    study = ours.run(3, jobs=1)
    assert [trial.problem for trial in study.trials] == [None] * 3
    with pytest.raises(DataError, match="test was read"):
        evaluate(Peaked, benchmark=GuardedTiny, protocol="smoke", seeds=1, jobs=1, store=tmp_path, track=False)


def test_a_trial_sees_the_first_experiences_and_is_scored_on_what_they_held_out(tmp_path):
    study, path = tuned(tmp_path, trials=2, settings={"protocol": {"tuning_experiences": 2}})
    store = Store(path.parent)
    records = store.records()[0]
    assert len(records) == 4
    for record in records:
        assert [(e.train_samples, e.test_samples) for e in record.experiences] == [(22, 6)] * 2  # 28 samples each
        predictions = store.predictions(record)
        final = predictions.predicted[-1] == predictions.labels
        score = np.mean([final[predictions.experience == j].mean() for j in range(2)])
        trial = next(
            t for t in study.trials if t.values["strength"] == record.cell.strategy.hyperparameters["strength"]
        )
        assert trial.scores[study.seeds.index(record.cell.seed)] == pytest.approx(score)
        assert record.unranked
    assert study.track.protocol.tested_on == "test"
    assert Store(tmp_path).records() == ([], [])  # nothing that a table would show


def test_a_limit_holds_for_validation_data_too(tmp_path):
    _, path = tuned(tmp_path, trials=1, limit=4)
    for record in Store(path.parent).records()[0]:
        assert [(e.train_samples, e.test_samples) for e in record.experiences] == [(4, 4)] * 3


# --- seeds ---------------------------------------------------------------------------------------------------------


def test_seeds_of_tuning_can_be_no_others_and_others_none_of_tuning(tmp_path):
    study, path = tuned(tmp_path, trials=1)
    assert study.seeds == [2**32, 2**32 + 1]
    cell = Store(path.parent).records()[0][0].cell
    for seed, tested_on in ((0, "validation"), (FIRST_TUNING_SEED - 1, "validation"), (FIRST_TUNING_SEED, "test")):
        track = cell.track.model_copy(
            update={"protocol": cell.track.protocol.model_copy(update={"tested_on": tested_on})}
        )
        with pytest.raises(ValidationError, match="seeds from 4294967296 on are for tuning runs"):
            Cell(track=track, strategy=cell.strategy, seed=seed)
    with pytest.raises(UsageError, match="Seeds from 4294967296 on are kept for tuning: 4294967299"):
        evaluate(Peaked, benchmark=trouble.Tiny, seeds=[2**32 + 3], store=tmp_path, track=False)


# --- which trials --------------------------------------------------------------------------------------------------


def test_the_best_value_is_found_and_chosen(tmp_path):
    """Noise grows with the distance from 10, so validation accuracy falls with it."""
    study, _ = tuned(tmp_path, trials=15)
    best = study.trials[study.chosen]
    assert best.score == max(trial.score for trial in study.trials)
    assert best.score > study.trials[0].score
    assert 3 < best.values["strength"] < 30


def test_the_default_comes_first_and_wins_a_tie(tmp_path):
    study, _ = tuned(tmp_path, trials=4, space=("mode=plain,wild",))  # which has no effect
    assert study.trials[0].values == {"mode": "plain"}
    assert len({trial.score for trial in study.trials}) == 1
    assert study.chosen == 0


def test_suggestions_learn_from_what_went_before_and_depend_on_nothing_else():
    space = {"strength": Range(low=0.01, high=10_000, log=True), "mode": Choice(options=("a", "b", "c"))}
    scored = []
    for number in range(60):
        values = suggest(space, scored[: number - number % ROUND], number)
        assert values == suggest(space, scored[: number - number % ROUND], number)
        assert all(dimension.holds(values[name]) for name, dimension in space.items())
        assert float(f"{values['strength']:.4g}") == values["strength"]
        scored.append((values, -abs(math.log10(values["strength"] / 10)) - (values["mode"] != "b")))
    early, late = ([score for _, score in part] for part in (scored[:10], scored[-20:]))
    assert np.mean(late) > np.mean(early) + 0.5  # of a score that random values spread over 0 … −4
    assert 5 < max(scored, key=lambda each: each[1])[0]["strength"] < 20


@pytest.mark.parametrize(("strengths", "points"), [("0.1,10,1000", 6), ("0.1,10", 5)])  # with the default or without
def test_each_point_of_a_grid_is_tried_once(tmp_path, strengths, points):
    space = (f"strength={strengths}", "mode=plain,wild")
    study, path = tuned(tmp_path / "whole", trials=50, space=space)
    tried = [tuple(trial.values.values()) for trial in study.trials]
    assert (len(tried), len(set(tried)), tried[0]) == (points, points, (1000.0, "plain"))
    assert study.trials[study.chosen].values["strength"] == 10
    for trials in (2, 4, 20):
        again = tuned(tmp_path / "parts", trials, space=space)[1]
    assert again.read_bytes() == path.read_bytes()


def test_only_a_few_choices_are_a_grid():
    ten = Choice(options=tuple(range(10)))
    assert len(grid({"a": ten, "b": ten})) == 100
    assert grid({"a": ten, "b": Choice(options=tuple(range(11)))}) is None
    assert grid({"a": ten, "b": Range(low=0, high=1)}) is None


def test_a_trial_knows_those_of_earlier_rounds_however_the_study_was_made(tmp_path, monkeypatch):
    heard = {}

    def spy(space, scored, number):
        heard[number] = list(scored)
        return suggest(space, scored, number)

    monkeypatch.setattr(f"{tuning_module}.suggest", spy)
    for trials in (2, 7, 8):
        study, _ = tuned(tmp_path, trials)
    known = [(trial.values, trial.score) for trial in study.trials[:ROUND]]
    assert heard == {1: [], 2: [], 3: [], 4: [], 5: known, 6: known, 7: known}


def test_a_default_outside_the_space_is_tried_but_teaches_nothing(tmp_path):
    inside = suggest({"strength": Range(low=1, high=2)}, [], 12)
    assert suggest({"strength": Range(low=1, high=2)}, [({"strength": 1000.0}, 1.0)] * 12, 12) == inside
    study, _ = tuned(tmp_path, trials=2, space=("strength=5..20",))
    assert study.trials[0].values == {"strength": 1000.0}
    assert 5 <= study.trials[1].values["strength"] <= 20


def test_the_same_request_gives_the_same_bytes(shared, tmp_path):
    assert tuned(tmp_path)[1].read_bytes() == shared[1].read_bytes()


@pytest.mark.parametrize("after", [1, 9, 11])
def test_a_tuning_that_was_stopped_ends_as_one_that_was_not(shared, tmp_path, after):
    whole = shared[1].read_bytes()
    finished = 0

    def stop(event):
        nonlocal finished
        finished += event.kind == "done"
        if finished == after:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tuning(tmp_path / "parts").run(6, jobs=1, listener=stop)
    heard = []
    ours = tuning(tmp_path / "parts")
    assert len(ours.study.trials) == (0 if after < 2 * ROUND else ROUND)
    ours.run(6, jobs=1, listener=heard.append)
    assert ours.path.read_bytes() == whole
    assert sum(event.kind == "done" for event in heard) == 12 - after  # what was there was not run again


def test_a_run_that_was_interrupted_is_no_trial_that_failed(tmp_path):
    counted = tmp_path / "learned"  # not in the class, whose content is part of its identity

    class Stopped(Peaked):
        name = "stopped"

        def learn(self, experience):
            with counted.open("a") as file:
                file.write(".")
            if counted.stat().st_size == 5:
                raise KeyboardInterrupt
            super().learn(experience)

    with pytest.raises(KeyboardInterrupt):
        tuned(tmp_path, 2, Stopped)
    ours = tuning(tmp_path, Stopped)
    assert [record.status for record in Store(ours.folder).records()[0]] == ["finished", "interrupted"]
    assert [trial.problem for trial in ours.run(2, jobs=1).trials] == [None, None]
    assert counted.stat().st_size == 5 + 2 + 6  # the second run went on from its first experience


def test_more_trials_add_to_those_that_are_there(shared, tmp_path):
    for trials in (2, 4, 6, 1):
        study, path = tuned(tmp_path, trials=trials)
    assert path.read_bytes() == shared[1].read_bytes()
    assert study.how == "tuned (6 trials)"


# --- trials that fail ----------------------------------------------------------------------------------------------


def test_trials_that_come_to_grief_are_recorded_and_count_as_the_worst(tmp_path):
    study, _ = tuned(tmp_path, 20, Moody, space=("mood", "strength=1..100:log"))
    problems = {trial.values["mood"]: trial.problem for trial in study.trials}
    assert problems == {
        "good": None,
        "raises": "failed: ZeroDivisionError: one over nothing",
        "diverges": "diverged: The scores are not finite.",
        "refuses": "moody refuses these two together.",
    }
    for trial in study.trials:
        assert (trial.score == 0.0) is (trial.problem is not None)
        assert all(map(math.isnan, trial.scores)) is (trial.problem is not None)
    assert study.trials[study.chosen].values["mood"] == "good"
    assert [trial.problem is None for trial in study.ranking] == sorted(
        (trial.problem is None for trial in study.trials), reverse=True
    )


def test_one_seed_that_fails_is_enough():
    assert Trial(number=1, values={}, scores=[0.9, math.nan], problem="diverged: so").score == 0.0
    assert Trial(number=1, values={}, scores=[0.9, 0.5]).score == pytest.approx(0.7)


def test_a_run_that_could_not_be_recorded_is_a_trial_that_failed(tmp_path, monkeypatch):
    def killed(plan, *arguments, listener, **options):
        from clarena.run.evaluation import Results
        from clarena.run.executors import Event

        listener(Event("error", plan.works[0], message="The process of this run was killed."))
        return Results([])

    ours = tuning(tmp_path)
    monkeypatch.setattr(f"{tuning_module}.carry_out", killed)
    study = ours.run(2)
    assert [trial.problem for trial in study.trials] == [
        "not recorded: The process of this run was killed.",
        "not recorded",
    ]
    assert study.chosen is None


def test_where_nothing_finishes_nothing_is_chosen(tmp_path):
    study, path = tuned(tmp_path, 3, Hopeless, space=())
    assert (study.chosen, len(study.trials)) == (None, 3)
    with pytest.raises(UsageError, match="chose nothing: none of its 3 trials finished"):
        Tuned([path], {}, ["hopeless"])
