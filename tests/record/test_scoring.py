"""What answers are worth: pooled scores worked by hand and by brute force, targets of one's own, and chance."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_targets import Numbers, Tags, installed, numbers

from clarena.record.catalogue import ACCURACY_METRICS, named, named_metrics, unnamed
from clarena.record.metrics import METRICS, average_incremental_accuracy, final_average_accuracy
from clarena.record.pooled import POOLED_METRICS, average_incremental_pooled_accuracy, final_pooled_accuracy
from clarena.record.predictions import Predictions
from clarena.record.scoring import Scoring, metrics_of, offer, scoring, search_with
from clarena.record.scorings import BUILT_IN, Classes, Text

NAN = math.nan
CLASSES, TEXT = BUILT_IN["classes"], BUILT_IN["text"]

# Four test samples of experience 1 (labels 0 and 1) and one of experience 2 (label 2).
OWNER, LABELS = [0, 0, 0, 0, 1], [0, 0, 1, 1, 2]
WORKED = Predictions.of_classes([[-1] * 5, [0, 0, 1, 0, -1], [2, 2, 2, 1, 2]], LABELS, OWNER)
"""After experience 1, 3 of its 4 are right; at the end 1 of the 4, and the one of experience 2."""


# ---- Pooled ----


def test_the_worked_example_weighs_every_sample_the_same():
    assert CLASSES.score_matrix(WORKED)[1:].tolist()[1] == [1 / 4, 1.0]
    pooled = CLASSES.pooled(WORKED)
    assert pooled.tolist() == [3 / 4, 2 / 5]
    assert final_pooled_accuracy(pooled) == 0.4  # the mean over experiences is 0.625
    assert average_incremental_pooled_accuracy(pooled) == pytest.approx((0.75 + 0.4) / 2)


def test_what_was_not_asked_leaves_the_pooled_score_undefined():
    """Joint knows an end only; a run that stopped knows none."""
    joint = Predictions.of_classes([[-1] * 5, [-1] * 5, LABELS], LABELS, OWNER)
    assert np.array_equal(CLASSES.pooled(joint), [NAN, 1.0], equal_nan=True)
    assert math.isnan(average_incremental_pooled_accuracy([NAN, 1.0]))
    half = Predictions.of_classes([[-1] * 5, LABELS, [*LABELS[:4], -1]], LABELS, OWNER)
    assert np.array_equal(CLASSES.pooled(half), [1.0, NAN], equal_nan=True)


def test_an_experience_without_test_samples_adds_none():
    bare = Predictions.of_classes([[-1] * 4, [0, 0, 1, 0], [0, 0, 1, 1]], LABELS[:4], OWNER[:4])
    assert CLASSES.pooled(bare).tolist() == [0.75, 1.0]


@pytest.mark.parametrize("metric", POOLED_METRICS.values(), ids=lambda metric: metric.name)
@pytest.mark.parametrize("pooled", [[], [[0.5]], [1.5], [-0.1]])
def test_what_can_be_no_pooled_scores(metric, pooled):
    with pytest.raises(ValueError, match=r"Pooled scores|fraction"):
        metric.function(pooled)


@st.composite
def runs(draw, sizes=None):
    """Predictions of classes that know, after each experience, what was seen."""
    sizes = draw(st.lists(st.integers(1, 6), min_size=1, max_size=4) if sizes is None else sizes)
    owner = np.repeat(np.arange(len(sizes)), sizes)
    numbers = st.lists(st.integers(0, 2), min_size=owner.size, max_size=owner.size)
    labels = np.array(draw(numbers))
    rows = np.array([draw(numbers) for _ in range(len(sizes) + 1)])
    rows[owner[None] >= np.arange(len(sizes) + 1)[:, None]] = -1
    order = np.array(draw(st.permutations(range(owner.size))))
    return Predictions.of_classes(rows[:, order], labels[order], owner[order])


@given(runs())
def test_pooled_is_what_counting_sample_by_sample_gives(predictions):
    seen = []
    for i in range(1, predictions.experiences + 1):
        right = [
            bool(predictions.predicted[i, n] == predictions.labels[n])
            for n in range(predictions.labels.size)
            if predictions.experience[n] < i
        ]
        seen.append(sum(right) / len(right))
    values = CLASSES.values(predictions)[1]
    assert values["final_pooled_accuracy"] == seen[-1]
    assert values["average_incremental_pooled_accuracy"] == pytest.approx(sum(seen) / len(seen), abs=1e-12)


@given(runs(st.tuples(st.integers(1, 5), st.integers(1, 4)).map(lambda of: [of[0]] * of[1])))
def test_pooled_is_the_mean_where_experiences_are_of_one_size(predictions):
    values = CLASSES.values(predictions)[1]
    for name in ("final_{}accuracy", "average_incremental_{}accuracy"):
        plain = values[name.format("average_" if name.startswith("final") else "")]
        assert values[name.format("pooled_")] == pytest.approx(plain, abs=1e-12)


def test_the_pooled_score_of_another_target_is_that_of_all_samples_and_no_mean_of_cells():
    predictions, target = numbers(), Numbers()
    value, owner = predictions.truth["value"], predictions.experience
    variance = value.astype(float).var(axis=0)
    for i, found in enumerate(target.pooled(predictions), 1):
        error = (predictions.answers["value"][i, owner < i].astype(float) - value[owner < i]) ** 2
        assert found == pytest.approx((1 / (1 + error.mean(axis=0) / variance)).mean(), rel=1e-12)


# ---- A target of one's own ----


class Slow(Classes):
    """Classes, cell by cell, as any other target is scored."""

    score_matrix = Scoring.score_matrix


@given(runs())
def test_cells_one_by_one_are_those_of_all_at_once(predictions):
    np.testing.assert_array_equal(Slow().score_matrix(predictions), CLASSES.score_matrix(predictions))


def test_the_right_answer_scores_1_and_the_order_of_samples_does_not_matter():
    predictions, target = numbers(), Numbers()
    value = predictions.truth["value"]
    gold = Predictions({"value": np.stack([value] * 4)}, predictions.truth, predictions.experience)
    assert target.score_matrix(gold).tolist() == np.ones((4, 3)).tolist()
    order = np.random.default_rng(5).permutation(30)
    mixed = Predictions(
        {name: array[:, order] for name, array in predictions.answers.items()},
        {name: array[order] for name, array in predictions.truth.items()},
        predictions.experience[order],
    )
    np.testing.assert_allclose(target.score_matrix(mixed), target.score_matrix(predictions), rtol=1e-12)


def test_metrics_of_another_score_are_the_same_functions_under_its_name():
    matrices, values = Numbers().values(numbers())
    assert list(values) == [*METRICS_OF_FIT, *(named(name, "fit") for name in POOLED_METRICS), "final_error"]
    assert values["final_error"] == matrices["error"][-1].mean()
    assert values["final_average_score"] == final_average_accuracy(matrices["score"])
    assert values["average_incremental_score"] == average_incremental_accuracy(matrices["score"])
    assert unnamed(values, "fit").keys() == {*METRICS, *POOLED_METRICS, "final_error"}
    assert named_metrics("entity F1")["learning_score"].title == "Learning entity F1"
    assert named_metrics("accuracy") == ACCURACY_METRICS


METRICS_OF_FIT = [
    "final_average_score", "average_incremental_score", "learning_score", "worst_experience_score", "forgetting",
    "backward_transfer", "forward_transfer",
]  # fmt: skip


def test_cells_by_output_are_taken_over_all_samples_from_when_their_outputs_exist():
    """Labels 0 and 1 belong to experience 1, label 2 to experience 2; both samples may have any."""
    given = [[[-1] * 3] * 2, [[1, 0, 0], [0, 0, 0]], [[1, 1, 1], [0, 0, 0]]]
    tags = Predictions({"given": np.array(given)}, {"true": np.array([[1, 0, 1], [0, 1, 0]])}, np.array([0, 1]))
    told = ["a", "b", "c"], [[0, 1], [2]]
    found = Tags().score_matrix(tags, *told)
    assert np.array_equal(found, [[NAN, NAN], [2 / 3, NAN], [2 / 4, 1.0]], equal_nan=True)
    assert Tags().pooled(tags, *told).tolist() == [2 / 3, 4 / 6]
    assert Tags().score_matrix(tags, told[0])[2].tolist() == [4 / 5, 0.0]  # by sample, as in the domain scenario


@pytest.mark.parametrize(
    ("predictions", "said"),
    [
        (WORKED, "the answers of made-up numbers are value, not predicted"),
        (
            Predictions({"value": [[[0.1]]] * 2}, {"value": [[1.0]]}, [0]),
            "the truth of made-up numbers are value, site",
        ),
        (Predictions({"value": [[0], [0]]}, {"value": [0.5], "site": [0]}, [0]), "value holds no fractions"),
        (Predictions({"value": [[0.5], [0.1]]}, {"value": [0.5], "site": [0.5]}, [0]), "site holds no whole numbers"),
        (Predictions({"value": [[0.5], [0.1]]}, {"value": [0.5, 1], "site": [0]}, [0]), r"value has shape \[2\]"),
        (Predictions({"value": [[0.5], [0.1]]}, {"value": [0.5], "site": [0]}, [1]), "an experience in 0..0"),
        (Predictions({"value": [[0.5]]}, {"value": [0.5], "site": [0]}, [0]), "an experience in"),
    ],
)
def test_arrays_that_are_not_the_targets_are_refused(predictions, said):
    for method in (Numbers().score_matrix, Numbers().pooled):
        with pytest.raises(ValueError, match=said):
            method(predictions)


def test_a_cell_of_which_only_some_were_asked_is_refused():
    half = numbers()
    half.answers["value"][2, 0] = NAN
    with pytest.raises(ValueError, match="After experience 2, only some test samples of experience 1 were asked"):
        Numbers().score_matrix(half)


def test_classes_that_do_not_exist_are_refused():
    with pytest.raises(ValueError, match="none of the 2 classes"):
        CLASSES.score_matrix(WORKED, ["a", "b"])


def test_answers_are_numbers_and_files_hold_answers_with_the_truth():
    with pytest.raises(ValueError, match="are numbers, not <U1"):
        Predictions.of_classes([["a"]], [0], [0])
    with pytest.raises(ValueError, match="no answers with the truth: 'predicted', 'experience'"):
        Predictions.of_arrays({"predicted": np.zeros((2, 1), int), "experience": np.zeros(1, int)})
    with pytest.raises(KeyError):
        Predictions.of_arrays({"predicted": np.zeros((2, 1), int), "labels": np.zeros(1, int)})


# ---- Looking one up ----


def test_a_target_is_known_by_name_while_it_is_installed():
    assert (scoring("classes"), scoring("nothing")) == (CLASSES, None)
    with installed(Numbers):
        assert isinstance(scoring("made-up numbers"), Numbers)
        assert "final_average_score" in metrics_of("made-up numbers", "fit")
    assert scoring("made-up numbers") is None
    assert metrics_of("made-up numbers", "fit") == named_metrics("fit")


def test_plugins_are_looked_for_once_when_an_unknown_name_is_asked_for():
    found = []

    def look():
        found.append("looked")
        offer("made-up numbers", lambda: Numbers)

    with installed():
        search_with(look)
        assert scoring("classes") is CLASSES
        assert found == []
        assert isinstance(scoring("made-up numbers"), Numbers)
        assert scoring("made-up otherwise") is None
        assert found == ["looked"]
    with installed(Numbers):
        pass


def test_one_that_cannot_be_loaded_is_not_installed():
    with installed(Numbers):
        offer("made-up numbers", lambda: 1 / 0)
        assert scoring("made-up numbers") is None


# ---- Chance ----


def test_chance_of_classes_is_the_commonest_training_label():
    """Label 1 is the commonest of all; told the experience, it is label 0 for the first and 2 for the second."""
    train = [{"labels": np.array([0, 0, 1])}, {"labels": np.array([2, 2, 1, 1])}]
    assert CLASSES.chance(train, WORKED, told=False) == [0.5, 0.0]
    assert CLASSES.chance([train[0], {"labels": np.array([2, 2, 1])}], WORKED, told=True) == [0.5, 1.0]


def test_chance_of_numbers_is_half_where_training_and_test_are_alike():
    """The mean's squared error is the variance: 1 / (1 + 1), were every experience the whole."""
    predictions = numbers(samples=3000)
    chance = Numbers().chance([predictions.truth] * 3, predictions, told=False)
    assert chance == pytest.approx([0.5] * 3, abs=0.03)
    tags = Predictions({"given": [[[0]]] * 2}, {"true": [[0]]}, [0])
    assert Tags().chance([tags.truth], tags, told=True) == []  # it says nothing of chance


def test_chance_of_a_text_says_nothing_of_bits():
    """The array of likelihoods is not needed for a score, and none is made up."""
    text = Predictions.of_classes(WORKED.predicted, LABELS, OWNER, np.full((3, 5), -1.0), [1] * 5)
    assert isinstance(TEXT, Text)
    assert TEXT.chance([{"labels": np.array([2]), "text_bytes": np.array([1])}], text, told=False) == [0.0, 1.0]
