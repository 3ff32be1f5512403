"""Language models: how they are tested, which strategies learn them, and what a run keeps and shows."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from clarena_native.backbones.transformers import TextTransformer
from clarena_native.strategies.distillation.lwf import LwF
from clarena_native.strategies.projection.agem import AGEM
from clarena_native.strategies.references.finetune import Finetune
from clarena_native.strategies.regularisation.ewc import EWC
from clarena_native.strategies.replay.der import DER, DERPlusPlus
from clarena_native.strategies.replay.er import ER
from clarena_native.strategies.replay.gdumb import GDumb
from records_with_predictions import summary
from tiny import same, walk
from tiny_language import SMALL, WIDTH, language_walk, write

from clarena import (
    Benchmark,
    Data,
    DataError,
    GradientStrategy,
    Model,
    Strategy,
    Stream,
    UsageError,
    evaluate,
    fisher_diagonal,
)
from clarena.contract.benchmark import split_by_domain
from clarena.errors import DivergedError, PluginError
from clarena.toolbox.categorical import IGNORED

OPTIONS = {
    "benchmark": SMALL,
    "backbone": WIDTH,
    "protocol": {"epochs": 2, "batch_size": 8, "buffer_size": 6, "learning_rate": 0.01},
}


# ---- Testing, by hand ----


class Three(Benchmark):
    """Two experiences over three tokens, of 1, 2 and 3 bytes."""

    name = "three"
    scenarios = ("domain", "class")
    vocabulary = 3

    def data(self) -> Data:
        x, y = torch.zeros(3, 2, dtype=torch.int32), torch.tensor([[0, 1], [2, -100], [0, 0]])
        x[2] = 1
        domain = torch.tensor([0, 0, 1])
        return Data(x, y, x, y, ("a", "bb", "ccc"), domain, domain, ("first", "second"), (1, 2, 3), target="text")

    def stream(self, data: Data, scenario: str, generator: np.random.Generator) -> Stream:
        return split_by_domain(data, "domain", "natural", generator)

    def inputs(self, x: torch.Tensor) -> torch.Tensor:
        return x.long()


class Halves(Strategy):
    """Gives each token 1/2, 1/4 and 1/4, whatever it has seen."""

    name = "halves"

    def learn(self, experience: object) -> None:
        pass

    def predict(self, x: torch.Tensor, task: int | None = None) -> torch.Tensor:
        return torch.tensor([2.0, 1.0, 1.0]).log().expand(*x.shape, 3)


@pytest.mark.parametrize("batch", [1, 2, 3])
def test_likelihoods_and_accuracies_by_hand(batch: int) -> None:
    """Experience 1 has the tokens a, bb, ccc: 1 + 2 + 2 bits for 6 bytes, and a is right. Experience 2 has a, a."""
    ours = walk(Halves, "domain", benchmark=Three, backbone=TextTransformer, options=WIDTH, eval_batch_size=batch)
    test = ours.realised.test
    answers = test.answers(ours.strategy, ours.realised.space)
    predicted, likely = answers["predicted"], answers["log_probability"]
    assert sorted(zip(test.experience, test.labels, test.truth["text_bytes"], strict=True)) == [
        (0, 0, 1), (0, 1, 2), (0, 2, 3), (1, 0, 1), (1, 0, 1),
    ]  # fmt: skip
    assert predicted.tolist() == [0] * 5
    assert likely.dtype == np.float32
    bits = -likely / math.log(2)
    assert bits.tolist() == pytest.approx([1.0 if label == 0 else 2.0 for label in test.labels])
    from clarena.record.predictions import Predictions

    rows = {"predicted": np.stack([predicted] * 3), "log_probability": np.stack([likely] * 3)}
    told = {"labels": test.labels, "experience": test.experience, "text_bytes": test.truth["text_bytes"]}
    kept = Predictions.of_classes(**rows, **told)
    found = summary(kept, ["a", "bb", "ccc"])
    assert found["accuracy_matrix"] == [[1 / 3, 1.0]] * 3
    np.testing.assert_allclose(found["bits_per_byte"], [[5 / 6, 1.0]] * 3, rtol=1e-6)
    assert found["metrics"]["final_bits_per_byte"] == pytest.approx((5 / 6 + 1) / 2, rel=1e-6)
    assert found["confusion_matrix"] == [[3, 0, 0], [1, 0, 0], [1, 0, 0]]
    assert "confusion_matrix" not in summary(kept, ["token"] * 256)  # a table that nobody can read


def test_scores_of_whole_sequences_are_refused_and_infinite_ones_diverged() -> None:
    ours = walk(Halves, "domain", benchmark=Three, backbone=TextTransformer, options=WIDTH)
    honest = ours.strategy.predict
    ours.strategy.predict = lambda x, task=None: honest(x)[:, 0]
    with pytest.raises(PluginError, match=r"shape \(3, 3\) for 3 inputs; it must return \[3, 2, outputs\] with 3"):
        ours.predict()
    ours.strategy.predict = lambda x, task=None: honest(x) * torch.inf
    with pytest.raises(DivergedError):
        ours.predict()


def test_labels_per_token_are_of_the_domain_scenario() -> None:
    with pytest.raises(UsageError, match="--scenario domain"):
        walk(Halves, "class", benchmark=Three, backbone=TextTransformer, options=WIDTH)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda d: {"y_train": d.y_train[:, :1]}, r"labels of a sample are \[1\] of int64, its inputs \[2\] of int32"),
        (
            lambda d: {"y_test": torch.full_like(d.y_test, -100)},
            "test labels have a sequence without any label, first number 0",
        ),
        (lambda d: {"y_train": d.y_train.clamp(min=1) + 1}, "run from 2 to 3"),
        (lambda d: {"y_test": torch.full_like(d.y_test, -1)}, "run from -1 to -1"),
        (lambda d: {"class_bytes": (1, 2)}, "for each of the 3 classes"),
    ],
)
def test_labels_that_do_not_fit_are_refused(change, says: str) -> None:
    from dataclasses import replace

    data = Three().data()
    data.validate()
    with pytest.raises(DataError, match=says):
        replace(data, **change(data)).validate()


# ---- Strategies ----


@pytest.mark.parametrize("strategy", [ER(buffer_size=0), EWC(strength=0.0, fisher="sample")], ids=lambda s: s.name)
def test_without_its_mechanism_a_strategy_is_finetune(strategy: Strategy, tmp_path: Path) -> None:
    plain = language_walk(Finetune, tmp_path).finish()
    other = language_walk(strategy, tmp_path).finish()
    assert same(plain.parameters(), other.parameters())
    assert plain.predict() == other.predict()


def test_mechanisms_change_what_is_learned(tmp_path: Path) -> None:
    plain = language_walk(Finetune, tmp_path).finish()
    for strategy in (ER(), EWC(strength=1e4, fisher="sample")):
        assert not same(plain.parameters(), language_walk(strategy, tmp_path).finish().parameters())


def test_what_is_replayed_are_sequences_with_their_labels(tmp_path: Path) -> None:
    ours = language_walk(ER(), tmp_path)
    experience = ours.step(0)
    kept = ours.strategy.buffer.everything()
    assert kept["y"].shape == (12, 8)
    known = {(tuple(x), tuple(y)) for x, y in zip(experience.x.tolist(), experience.y.tolist(), strict=True)}
    assert {(tuple(x), tuple(y)) for x, y in zip(kept["x"].tolist(), kept["y"].tolist(), strict=True)} <= known


def test_a_fisher_sample_is_a_sequence(tmp_path: Path) -> None:
    """By autograd, sequence by sequence: the square of the gradient of the sum of ln p over its tokens."""
    model = Model(TextTransformer((4,), 11, True, **WIDTH)).double().eval()
    model.head.grow(11)
    model.double()
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randint(11, (5, 4), generator=generator), torch.randint(11, (5, 4), generator=generator)
    y[1, 2:] = IGNORED
    parameters = list(model.parameters())
    expected = [torch.zeros_like(p) for p in parameters]
    for sequence, labels in zip(x, y, strict=True):
        likely = model(sequence[None])[0].log_softmax(-1)
        total = sum(likely[t, label] for t, label in enumerate(labels.tolist()) if label != IGNORED)
        for place, gradient in zip(expected, torch.autograd.grad(total, parameters), strict=True):
            place += gradient.square() / len(x)
    found = fisher_diagonal(model, [(x[:2], y[:2], None), (x[2:], y[2:], None)], kind="empirical")
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize(
    ("strategy", "settings", "says"),
    [
        (
            "er",
            {"er": {"policy": "class_balanced"}},
            "er cannot learn language:ab,xyz, whose target is text, as it is set: .*'class_balanced' needs integer",
        ),
        ("ewc", {"ewc": {"fisher": "argmax"}}, "here text are asked for.*fisher=sample"),
        ("ewc", {}, "ewc cannot learn.*exact Fisher sums over all labels.*Choose `sample`"),
        ("icarl", {}, "icarl does not run in the domain scenario"),
    ],
)
def test_what_a_strategy_cannot_learn_is_said_at_planning(strategy, settings, says, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=f"(?s){says}"):
        evaluate(
            strategy, benchmark=write(tmp_path), backbone="text-transformer", seeds=1, track=False,
            settings=OPTIONS | settings, store=tmp_path / "runs",
        )  # fmt: skip
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("strategy", [DER, DERPlusPlus, AGEM, GDumb])
def test_what_balances_classes_or_keeps_scores_learns_a_text_as_well(strategy, tmp_path: Path) -> None:
    ours = language_walk(strategy(), tmp_path).finish()
    assert len(ours.strategy.buffer) == 12
    assert ours.strategy.buffer.policy == "reservoir"
    assert min(ours.predict()) >= 0


@pytest.mark.parametrize("distance", ["sum", "mean"])
def test_der_measures_the_positions_that_count(distance, tmp_path: Path) -> None:
    """By hand, token by token: the squared distance between stored and present scores, the mean over labelled ones."""
    ours = language_walk(DER(distance=distance), tmp_path)
    ours.step(0)
    der = ours.strategy
    der.stored = der.buffer.everything()
    der.stored["y"][0, 3:] = IGNORED
    scores = der.stored["logits"] + torch.randn(der.stored["logits"].shape, generator=torch.Generator().manual_seed(0))
    squares = [
        (scores[n, t] - der.stored["logits"][n, t]).square().sum() / (256 if distance == "mean" else 1)
        for n, labels in enumerate(der.stored["y"].tolist())
        for t, label in enumerate(labels)
        if label != IGNORED
    ]
    torch.testing.assert_close(der._distance(scores), torch.stack(squares).mean())


# ---- Distillation ----


def test_lwf_without_its_mechanism_is_finetune(tmp_path: Path) -> None:
    plain = language_walk(Finetune, tmp_path).finish()
    off = language_walk(LwF(strength=0.0, warmup=0), tmp_path).finish()
    assert same(plain.parameters(), off.parameters())
    assert not same(plain.parameters(), language_walk(LwF(), tmp_path).finish().parameters())


def test_lwf_distils_every_token_that_counts(tmp_path: Path) -> None:
    """By hand, token by token: cross-entropy between softened softmaxes, the mean over labelled tokens."""
    ours = language_walk(LwF(strength=1.5, temperature=2.0), tmp_path, batch_size=23)
    ours.step(0)
    ours.realised.begin([1])
    experience, lwf = ours.realised.experience([1]), ours.strategy
    lwf.before_experience(experience)
    (batch,) = experience.batches(1)
    teacher = lwf.model(batch.x).detach()
    batch.scores = teacher + torch.randn(teacher.shape, generator=torch.Generator().manual_seed(0))
    assert (batch.y == IGNORED).sum() == 5
    terms = [
        -(teacher[n, t] / 2).softmax(0) @ (batch.scores[n, t] / 2).log_softmax(0)
        for n in range(len(batch))
        for t in range(8)
        if batch.y[n, t] != IGNORED
    ]
    assert len(terms) == 179
    assert lwf.distil(batch).item() == pytest.approx(1.5 * float(torch.stack(terms).mean()), rel=1e-5)


# ---- Whole runs ----


def run(folder: Path, store: str, strategy: str = "er"):
    results = evaluate(
        strategy, benchmark=write(folder), backbone="text-transformer", seeds=[3], jobs=1, track=False,
        settings=OPTIONS, store=folder / store,
    )  # fmt: skip
    assert not results.errors
    return results.records[0]


def told(record: object) -> dict[str, object]:
    """What must not depend on whether a run was interrupted."""
    data = record.model_dump(mode="json", include={"accuracy_matrix", "bits_per_byte", "metrics", "predictions"})
    return data | {"losses": [cost.mean_loss for cost in record.costs]}


def test_a_run_keeps_likelihoods_and_resumes_exactly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from clarena.record.store import Store
    from clarena.run.runner import Run

    whole = run(tmp_path, "whole")
    assert whole.status == "finished"
    assert np.array(whole.bits_per_byte).shape == (3, 2)
    assert 6 < whole.bits_per_byte[0][0] < 11  # it has learned nothing yet: some 8 bits
    assert whole.metrics["final_bits_per_byte"] < 7
    assert (whole.class_report, whole.confusion_matrix) == ({}, [])
    kept = Store(tmp_path / "whole").predictions(whole)
    assert kept.log_probability is not None
    assert kept.log_probability.dtype == np.float32
    assert summary(kept, whole.output_names)["bits_per_byte"] == whole.bits_per_byte
    with np.load(next((tmp_path / "whole").glob("*/*/predictions.npz"))) as arrays:
        assert arrays["predicted"].dtype == np.int16
        assert arrays["predicted"].shape == (3, 38)  # 19 tokens of each text

    learn, learned = Run._learn, []

    def interrupted(self, realised, strategy, positions):
        if learned:
            raise KeyboardInterrupt
        learned.append(positions)
        learn(self, realised, strategy, positions)

    monkeypatch.setattr(Run, "_learn", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, "cut")
    (record,) = Store(tmp_path / "cut").records()[0]
    assert record.status == "interrupted"
    assert np.isfinite(record.bits_per_byte[1]).all()
    assert np.isnan(record.bits_per_byte[2]).all()  # not reached
    monkeypatch.setattr(Run, "_learn", learn)
    again = evaluate(
        "er", benchmark=write(tmp_path), backbone="text-transformer", seeds=[3], jobs=1, track=False, retry=True,
        settings=OPTIONS, store=tmp_path / "cut",
    ).records[0]  # fmt: skip
    assert again.resumed == [1]
    assert told(again) == told(whole)


def test_joint_has_a_last_row_of_bits_only(tmp_path: Path) -> None:
    record = run(tmp_path, "runs", "joint")
    assert np.isnan(record.bits_per_byte).all(1).tolist() == [False, True, False]
    assert math.isfinite(record.metrics["final_bits_per_byte"])
    assert math.isnan(record.metrics["bits_per_byte_forgetting"])


# ---- What others see of it ----


def test_a_record_without_likelihoods_is_written_as_it_always_was() -> None:
    from clarena import Store

    rows = Store(Path(__file__).parents[2] / "leaderboard" / "rows")
    place = next(place for place in rows.places()[0] if "/er-seed0-" in place.address)
    written = rows.at(place.address).content
    again = json.loads(place.read().record.model_dump_json(indent=1))
    assert list(again) == list(written)


def test_tables_and_mlflow_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from clarena.cli.table import print_table
    from clarena.record.summary import rows
    from clarena.tracking import content

    record = run(tmp_path, "runs", "finetune")
    points = {(name, step): value for name, value, step in content.metrics(record)}
    assert points["bits_per_byte/exp_1", 2] == record.bits_per_byte[2][0]
    assert points["final_bits_per_byte", 0] == record.metrics["final_bits_per_byte"]
    table = rows([record])
    print_table(record.cell.track, table)
    shown = capsys.readouterr().out
    assert "bits per byte" in shown
    assert f"{record.metrics['final_bits_per_byte']:.2f}" in shown
    assert table[0].as_dict()["final_bits_per_byte"] == record.metrics["final_bits_per_byte"]


class TakesTimeForOutputs(GradientStrategy):
    """Looks at the outputs in the dimension of time, which goes unnoticed where there are as many of both."""

    name = "takes-time-for-outputs"

    def loss(self, batch):
        every = torch.arange(self.context.space.width)
        return super().loss(batch) + 0 * batch.scores[:, every].sum()


def test_one_dimension_is_not_taken_for_the_other(tmp_path: Path) -> None:
    paths = [tmp_path / "a", tmp_path / "b"]
    for path in paths:
        path.write_text("ab" * 2000)
    with pytest.raises(UsageError, match=r"takes-time-for-outputs cannot learn language:a,b.*IndexError"):
        evaluate(
            TakesTimeForOutputs, benchmark=f"language:{paths[0]},{paths[1]}", backbone="text-transformer", seeds=1,
            track=False, settings={"benchmark": {"context": 256}, "backbone": WIDTH}, store=tmp_path / "runs",
        )  # fmt: skip
