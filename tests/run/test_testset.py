"""Testing: what is asked and when, in which order, what counts, and what a strategy may not return."""

import numpy as np
import pytest
import torch
from clarena_native.strategies.references.finetune import Finetune
from hypothesis import given
from hypothesis import strategies as st
from tiny import SCENARIOS, walk

from clarena import PluginError, Strategy
from clarena.errors import DivergedError
from clarena.run.testset import UNDEFINED

HEADS = [{}, {"heads": "full", "stream_length": "known"}]
TESTED = [60, 20, 40]  # samples of the tiny stream's experiences, 20 of each class


class Oracle(Strategy):
    """Knows the answers by heart, and writes down what it is asked."""

    name = "oracle"

    def setup(self, context):
        self.context = context
        self.answers, self.calls, self.change = {}, [], lambda scores: scores

    def learn(self, experience):
        pass

    def predict(self, x, task=None):
        self.calls.append((len(x), task, x.clone()))
        width = self.context.space.width
        scores = torch.full((len(x), width), -5.0)
        for row, sample in enumerate(x):
            label = self.answers[sample.numpy().tobytes()]
            if label < width:
                scores[row, label] = 1.0
        return self.change(scores)


def oracle(scenario, **protocol):
    ours = walk(Oracle, scenario, **protocol)
    test = ours.realised.test
    ours.strategy.answers = {x.numpy().tobytes(): int(y) for x, y in zip(test.x, test.labels.tolist(), strict=True)}
    return ours


@pytest.mark.parametrize("heads", HEADS)
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_which_cells_are_defined_and_that_they_are_right(scenario, heads):
    ours = oracle(scenario, **heads)
    test = ours.realised.test
    for done in range(4):
        if done:
            ours.realised.begin([done - 1])
        predicted = np.array(ours.predict())
        always = scenario == "domain" or (scenario == "task" and heads)
        known = test.experience < (3 if always else done)
        assert (predicted[known] == test.labels[known]).all()
        assert (predicted[~known] == UNDEFINED).all()


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_outputs_that_are_not_in_play_are_never_chosen(scenario):
    """A strategy that favours outputs of the future, or of another task, gains and loses nothing."""
    ours = oracle(scenario, heads="full", stream_length="known")
    splits = ours.realised.stream.splits

    def favour(scores):
        task = ours.strategy.calls[-1][1]
        asked = [splits[task]] if scenario == "task" else splits[:done] if scenario == "class" else splits
        hidden = set(range(scores.shape[1])) - {label for split in asked for label in split.classes}
        return scores.index_fill(1, torch.tensor(sorted(hidden), dtype=torch.long), 1e9)

    for done in (1, 2, 3):
        ours.realised.begin([done - 1])
        honest = ours.predict()
        ours.strategy.change = favour
        assert ours.predict() == honest
        ours.strategy.change = lambda scores: scores


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_samples_arrive_mixed_where_no_task_is_told_and_alone_where_it_is(scenario):
    ours = oracle(scenario, eval_batch_size=30)
    for position in range(3):
        ours.realised.begin([position])
    ours.strategy.calls.clear()
    ours.predict()
    sizes = [size for size, _, _ in ours.strategy.calls]
    tasks = [task for _, task, _ in ours.strategy.calls]
    test = ours.realised.test
    origin = {x.numpy().tobytes(): int(e) for x, e in zip(test.x, test.experience, strict=True)}
    origins = [{origin[sample.numpy().tobytes()] for sample in x} for _, _, x in ours.strategy.calls]
    if scenario == "task":
        assert tasks == [0, 0, 1, 2, 2]
        assert sizes == [30, 30, 20, 30, 10]
        assert origins == [{task} for task in tasks]
        assert {type(task) for task in tasks} == {int}
    else:
        assert tasks == [None] * 4
        assert sizes == [30] * 4
        assert all(found == {0, 1, 2} for found in origins)


@given(st.integers(0, 50))
def test_the_order_depends_on_the_seed_alone(seed):
    first, again = walk(Finetune, seed=seed), walk(Finetune, seed=seed, epochs=7, batch_size=3)
    other = walk(Finetune, seed=seed + 1)
    assert first.realised.test.experience.tolist() == again.realised.test.experience.tolist()
    assert torch.equal(first.realised.test.x, again.realised.test.x)
    assert first.realised.test.experience.tolist() != other.realised.test.experience.tolist()
    assert np.bincount(first.realised.test.experience).tolist() == TESTED


def test_every_sample_keeps_its_label_and_its_experience():
    for scenario in SCENARIOS:
        realised = walk(Finetune, scenario, seed=5).realised
        expected = []
        for e, split in enumerate(realised.stream.splits):
            rows = zip(realised.data.x_test[split.test], split.y_test.tolist(), strict=True)
            expected += [(x.numpy().tobytes(), y, e) for x, y in rows]
        test = realised.test
        found = zip((x.numpy().tobytes() for x in test.x), test.labels.tolist(), test.experience.tolist(), strict=True)
        assert sorted(found) == sorted(expected)


def test_test_inputs_cannot_be_changed():
    ours = oracle("domain")
    whole = ours.realised.test.x.clone()
    answers = ours.predict()

    def spoil(x, task=None):
        scores = Oracle.predict(ours.strategy, x, task)
        x.zero_()
        return scores

    ours.strategy.predict = spoil
    assert ours.predict() == answers
    assert torch.equal(ours.realised.test.x, whole)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda s: s.numpy(), "predict returned ndarray; it must return a tensor of scores"),
        (lambda s: None, "predict returned NoneType"),
        (lambda s: s.argmax(1), r"shape (50,) for 50 inputs; it must return [50, outputs] with 3 to 6 outputs"),
        (lambda s: s[:-1], "shape (49, 3) for 50 inputs"),
        (lambda s: s[:, :2], "shape (50, 2) for 50 inputs"),
        (lambda s: s.repeat(1, 3), "shape (50, 9) for 50 inputs"),
        (lambda s: s[:, None], "shape (50, 1, 3) for 50 inputs"),
        (lambda s: s.to("meta"), "predict returned scores on meta; inputs and model are on cpu"),
    ],
)
def test_what_is_no_score_is_refused(change, says):
    ours = oracle("class", eval_batch_size=50)
    ours.realised.begin([0])
    ours.strategy.change = change
    with pytest.raises(PluginError) as caught:
        ours.predict()
    assert says in str(caught.value)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_scores_that_are_not_finite_diverged(value):
    ours = oracle("class", eval_batch_size=7)
    ours.realised.begin([0])
    ours.realised.begin([1])

    def one(scores):
        if len(ours.strategy.calls) == 3:
            scores[-1, 2] = value
        return scores

    ours.strategy.calls.clear()
    ours.strategy.change = one
    with pytest.raises(DivergedError):
        ours.predict()
    assert len(ours.strategy.calls) == 12  # one wait for the device, at the end: all 80 were asked


def test_what_is_not_in_play_may_be_anything():
    ours = oracle("class", heads="full", stream_length="known")
    ours.realised.begin([0])
    honest = ours.predict()
    ours.strategy.change = lambda scores: torch.cat([scores[:, :3], scores[:, 3:] * torch.nan], 1)
    assert ours.predict() == honest


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_scores_of_another_precision_count(dtype):
    ours = oracle("domain")
    honest = ours.predict()
    ours.strategy.change = lambda scores: scores.to(dtype).requires_grad_()
    assert ours.predict() == honest


def test_a_limit_cuts_every_experience():
    ours = oracle("class", limit=6)
    assert np.bincount(ours.realised.test.experience).tolist() == [6, 6, 6]
    ours.realised.begin([0])
    assert len(ours.realised.experience([0])) == 6
    assert [(e.train_samples, e.test_samples) for e in ours.realised.experiences()] == [(6, 6)] * 3
