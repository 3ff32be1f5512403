"""Trained models answer as the run did that kept them."""

from typing import Any

import numpy as np
import pytest
import torch
from tiny_language import SMALL, TEXTS, WIDTH, own, write
from torch import Tensor
from trained_models import evaluated, rows_of

from clarena import UsageError
from clarena.record.store import Store

CASES: list[tuple[list[str], dict[str, Any]]] = [
    (["finetune", "er", "icarl", "scr", "joint"], {}),
    (["er", "pnn"], {"scenario": "task"}),
    (["er"], {"settings": {"stream": {"blur": 0.3}}}),
    (["er"], {"scenario": "domain"}),
    (["er"], {"benchmark": "permuted-digits", "settings": {"benchmark": {"experiences": 3}}}),
    (["ewc"], {"benchmark": "rotated-digits", "scenario": "task", "settings": {"benchmark": {"experiences": 3}}}),
    (["er"], {"settings": {"protocol": {"boundaries": "hidden"}}}),
    (["ewc+lwf"], {}),
]


@pytest.mark.parametrize(("strategies", "changes"), CASES, ids=lambda value: "-".join(value))
def test_a_model_answers_as_the_last_row_of_its_record_says(strategies, changes, tmp_path):
    results = evaluated(tmp_path, *strategies, **changes)
    for record in results:
        model = results.model(record.cell.strategy.name)
        last = Store(tmp_path / "runs").predictions(record).predicted[-1]
        with_task = record.cell.track.scenario == "task"
        many = record.cell.track.benchmark.name.startswith(("permuted", "rotated"))
        for j, (rows, places) in enumerate(rows_of(record)):
            asked = {"task": j} if with_task else {"experience": j} if many else {}
            answers = model.predict(rows.numpy(), **asked)
            assert answers.tolist() == [record.output_names[label] for label in last[places]]
            scores, probabilities = model.scores(rows, **asked), model.probabilities(rows, **asked)
            assert np.array_equal(np.array(model.class_names)[scores.argmax(-1)], answers)
            expected = np.exp(scores.astype(np.float64) - scores.max(-1, keepdims=True))
            assert probabilities == pytest.approx(expected / expected.sum(-1, keepdims=True), rel=1e-5, abs=1e-12)
            if with_task:
                assert (np.isfinite(scores).sum(-1) == (10 if many else 2)).all()


def test_scores_are_those_of_the_strategy_itself_to_the_bit(tmp_path):
    results = evaluated(tmp_path, "er")
    model, rows = results.model("er"), torch.cat([rows for rows, _ in rows_of(results.records[0])])
    with torch.no_grad():
        expected = model.strategy.predict(rows.float() / 16)
    columns = [results.records[0].output_names.index(name) for name in model.class_names]
    assert np.array_equal(model.scores(rows), expected[:, columns].numpy())
    assert model.scores(rows[:0]).shape == (0, 10)


def test_a_language_model_answers_for_every_token(tmp_path):
    settings = {"benchmark": SMALL, "backbone": WIDTH, "protocol": {"epochs": 20}}
    results = evaluated(tmp_path, "er", benchmark=write(tmp_path), backbone="text-transformer", settings=settings)
    record, data = results.records[0], own(tmp_path).data()
    for name in TEXTS:
        (tmp_path / name).unlink()
    model = results.model("er")
    for position, accuracy in enumerate(record.accuracy_matrix[-1]):
        mine = data.domain_test == position
        answers, y = model.predict(data.x_test[mine]), data.y_test[mine].numpy()
        right = answers == np.array(record.output_names)[y.clip(0)]
        assert right[y >= 0].mean() == pytest.approx(accuracy)
        assert accuracy > 0
    with pytest.raises(UsageError, match="Tokens run from 256 to 256; this model knows 256"):
        model.predict(torch.full((1, 8), 256))


def test_nothing_of_the_caller_changes(tmp_path):
    model = evaluated(tmp_path, "er").model("er")
    rows, state = np.zeros((3, 1, 8, 8), dtype=np.uint8), torch.random.get_rng_state()
    before = {key: value.clone() for key, value in model.strategy.state_dict().items() if isinstance(value, Tensor)}
    torch.set_num_threads(2)
    model.predict(rows)
    assert torch.get_num_threads() == 2
    assert torch.equal(state, torch.random.get_rng_state())
    after = model.strategy.state_dict()
    assert all(torch.equal(value, after[key]) for key, value in before.items())
    assert not rows.any()
