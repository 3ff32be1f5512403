"""Language streams: how text becomes sequences, how it is tested, and which strategies learn from it."""

import json
import math
import os
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from clarena_native.strategies.er import ER
from clarena_native.strategies.ewc import EWC
from clarena_native.strategies.finetune import Finetune
from clarena_native.strategies.lwf import LwF
from clarena_native.transformers import TextTransformer
from clarena_text import language
from clarena_text.language import LanguageStream, OwnTexts, cut, learned_subwords, sequences, single_bytes
from hypothesis import given
from hypothesis import strategies as st
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
from clarena.benchmark import limited, split_by_domain, with_validation
from clarena.errors import DivergedError, PluginError
from clarena.gradients import IGNORED
from clarena.seeding import Seeds

OPTIONS = {
    "benchmark": SMALL,
    "backbone": WIDTH,
    "protocol": {"epochs": 2, "batch_size": 8, "buffer_size": 6, "learning_rate": 0.01},
}


def own(folder: Path, **options: object) -> Benchmark:
    return OwnTexts.of(write(folder).removeprefix("language:"))(**(SMALL | options))


# ---- From text to sequences ----


def test_sequences_by_hand() -> None:
    """Of a b c d e f in twos: ab cd e., whose labels are bc de f-."""
    x, y = sequences(np.arange(1, 7), 2)
    assert x.tolist() == [[1, 2], [3, 4], [5, 0]]
    assert y.tolist() == [[2, 3], [4, 5], [6, -100]]
    x, y = sequences(np.arange(1, 6), 2)  # nothing is left over
    assert (x.tolist(), y.tolist()) == ([[1, 2], [3, 4]], [[2, 3], [4, 5]])
    assert (x.dtype, y.dtype) == (torch.int32, torch.int64)


@given(st.integers(2, 40), st.integers(1, 12))
def test_every_token_but_the_first_is_predicted_once(length: int, context: int) -> None:
    tokens = np.arange(1, length + 1)
    x, y = sequences(tokens, context)
    counted = y != IGNORED
    assert y[counted].tolist() == tokens[1:].tolist()
    assert x[counted].tolist() == tokens[:-1].tolist()  # each from the token before it
    assert bool(counted[:, 0].all())


def test_bytes_are_those_of_utf8() -> None:
    tokens = single_bytes()
    assert tokens.encode("aä\n").tolist() == [0x61, 0xC3, 0xA4, 0x0A]
    assert len(set(tokens.names)) == 256 == sum(tokens.sizes)
    assert (tokens.names[0x61], tokens.names[0x0A]) == ("a", "0x0A")
    assert cut("aäb", 2) == "a"  # no character is divided
    assert cut("aäb", 3) == "aä"
    assert cut("aäb", None) == "aäb"


def test_subwords_write_any_text_and_know_their_bytes() -> None:
    pytest.importorskip("tokenizers")
    text = "the cat and the dog and the bird " * 20
    tokens = learned_subwords(text, 270)
    assert 256 < len(tokens.names) <= 270
    assert len(set(tokens.names)) == len(tokens.names)
    for any_text in ("the cat", "Öl und Käse\n", "日本"):
        numbers = tokens.encode(any_text)
        assert sum(tokens.sizes[n] for n in numbers) == len(any_text.encode())
    assert len(tokens.encode("the dog")) < len("the dog")
    assert learned_subwords(text, 270).names == tokens.names


def test_subwords_are_learned_from_the_first_training_text_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []

    def learn(text: str, size: int) -> language.Tokens:
        seen.append(text)
        return single_bytes()

    monkeypatch.setattr(language, "learned_subwords", learn)
    own(tmp_path, tokens="subwords", train_bytes=100).data()
    assert seen == [("abab" * 50)[:100]]


def test_the_stream_has_a_domain_for_each_text(tmp_path: Path) -> None:
    made = own(tmp_path)
    assert made.name == "language:ab,xyz"
    data = made.data()
    data.validate()
    assert data.per_token
    assert (data.classes, made.vocabulary) == (256, 256)
    found = made.stream(data, "domain", Seeds(0).numpy("class_order"))
    found.validate(data, made.name)
    assert found.output_names == data.class_names
    assert [split.classes for split in found.splits] == [(97, 98), (32, 120, 121, 122)]
    assert [len(split.train) for split in found.splits] == [23, 23]  # 179 of 180 tokens in eights
    assert [len(split.test) for split in found.splits] == [3, 3]  # 19 of 20
    orders = {
        own(tmp_path, order="seed").stream(data, "domain", Seeds(s).numpy("class_order")).splits[0].classes
        for s in range(8)
    }
    assert len(orders) == 2
    first = split_by_domain(data, "domain", "natural", np.random.default_rng(0))
    few = limited(first, 2)
    assert [(len(s.train), len(s.test), s.domain) for s in few.splits] == [(2, 2, n) for n in data.domain_names]
    tuned = with_validation(first, 1, 0.2, len(data.x_train), np.random.default_rng(0))
    (only,) = tuned.splits
    assert (len(only.train), len(only.test)) == (18, 5)
    assert not set(only.train.tolist()) & set(only.test.tolist())
    assert only.y_test.shape == (5, 8)


def test_a_text_is_held_out_at_its_end_and_cut_at_its_beginning(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("0123456789" * 10)
    (tmp_path / "b").write_text("abcdefghij" * 10)
    made = OwnTexts.of(f"{tmp_path / 'a'},{tmp_path / 'b'}")(context=4, test_share=0.2, train_bytes=12, test_bytes=7)
    data = made.data()
    mine = data.domain_train == 0
    assert bytes(data.x_train[mine].flatten().tolist()) == b"01234567890\0"
    assert data.y_train[mine].flatten().tolist()[-2:] == [ord("1"), IGNORED]
    assert bytes(data.x_test[data.domain_test == 1].flatten().tolist()) == b"abcdef\0\0"


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
        return Data(x, y, x, y, ("a", "bb", "ccc"), domain, domain, ("first", "second"), (1, 2, 3))

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
    test = ours.arena.test
    predicted, likely = test.answers(ours.strategy, ours.arena.space)
    assert sorted(zip(test.experience, test.labels, test.text_bytes, strict=True)) == [
        (0, 0, 1), (0, 1, 2), (0, 2, 3), (1, 0, 1), (1, 0, 1),
    ]  # fmt: skip
    assert predicted.tolist() == [0] * 5
    assert likely is not None
    assert likely.dtype == np.float32
    bits = -likely / math.log(2)
    assert bits.tolist() == pytest.approx([1.0 if label == 0 else 2.0 for label in test.labels])
    from clarena.records import Predictions

    rows = {"predicted": np.stack([predicted] * 3), "log_probability": np.stack([likely] * 3)}
    kept = Predictions(**rows, labels=test.labels, experience=test.experience, text_bytes=test.text_bytes)
    assert kept.accuracy_matrix().tolist() == [[1 / 3, 1.0]] * 3
    np.testing.assert_allclose(kept.bits_per_byte(), [[5 / 6, 1.0]] * 3, rtol=1e-6)
    found = kept.summary(["a", "bb", "ccc"])
    assert found["metrics"]["final_bits_per_byte"] == pytest.approx((5 / 6 + 1) / 2, rel=1e-6)
    assert found["confusion_matrix"] == [[3, 0, 0], [1, 0, 0], [1, 0, 0]]
    assert "confusion_matrix" not in kept.summary(["token"] * 256)  # a table that nobody can read


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
        (lambda d: {"y_train": d.y_train[:, :1]}, r"labels of shape \(3, 1\) for inputs \(3, 2\)"),
        (
            lambda d: {"y_test": torch.full_like(d.y_test, -100)},
            "test set has a sequence without any label, first number 0",
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
            "gdumb",
            {},
            "gdumb cannot learn language:ab,xyz, where every token has a label.*'greedy' needs integer labels",
        ),
        ("er", {"er": {"policy": "class_balanced"}}, "er cannot learn.*'class_balanced' needs integer labels"),
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
    from clarena.runner import Run
    from clarena.store import Store

    whole = run(tmp_path, "whole")
    assert whole.status == "finished"
    assert np.array(whole.bits_per_byte).shape == (3, 2)
    assert 6 < whole.bits_per_byte[0][0] < 11  # it has learned nothing yet: some 8 bits
    assert whole.metrics["final_bits_per_byte"] < 7
    assert (whole.class_report, whole.confusion_matrix) == ({}, [])
    kept = Store(tmp_path / "whole").predictions(whole)
    assert kept.log_probability is not None
    assert kept.log_probability.dtype == np.float32
    assert kept.summary(whole.output_names)["bits_per_byte"] == whole.bits_per_byte
    with np.load(next((tmp_path / "whole").glob("*/*/predictions.npz"))) as arrays:
        assert arrays["predicted"].dtype == np.int16
        assert arrays["predicted"].shape == (3, 38)  # 19 tokens of each text

    learn, learned = Run._learn, []

    def interrupted(self, arena, strategy, positions):
        if learned:
            raise KeyboardInterrupt
        learned.append(positions)
        learn(self, arena, strategy, positions)

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


# ---- Own texts that cannot be used ----


def refused(folder: Path, content: bytes, **options: object) -> str:
    (folder / "good.txt").write_text("good text " * 30)
    (folder / "bad.txt").write_bytes(content)
    with pytest.raises((DataError, UsageError)) as caught:
        OwnTexts.of(f"{folder / 'good.txt'},{folder / 'bad.txt'}")(**({"context": 8} | options)).data()
    return str(caught.value)


def test_texts_that_cannot_be_used(tmp_path: Path) -> None:
    assert "bad.txt cannot be read as UTF-8 text" in refused(tmp_path, "Käse".encode("latin-1") * 50)
    assert "bad.txt is empty" in refused(tmp_path, b" \n")
    says = "training text of bad.txt has 8 tokens, and a sequence takes 8 and the one after them"
    assert says in refused(tmp_path, b"12345678", test_share=0.1)
    assert "test text of bad.txt has 5 tokens" in refused(tmp_path, b"0123456789" * 5)
    with pytest.raises(UsageError, match="needs two different files or more"):
        OwnTexts.of(str(tmp_path / "good.txt"))
    with pytest.raises(UsageError, match="needs two different files or more"):
        OwnTexts.of(f"{tmp_path / 'good.txt'},{tmp_path / 'good.txt'}")
    with pytest.raises(DataError, match="cannot be read as UTF-8 text"):
        OwnTexts.of(f"{tmp_path / 'good.txt'},{tmp_path / 'absent.txt'}")().data()


def test_a_backbone_of_numbers_does_not_fit(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="takes numbers, and the inputs of language:ab,xyz are tokens"):
        evaluate(
            "finetune", benchmark=write(tmp_path), backbone="mlp", seeds=1, track=False,
            settings={"benchmark": SMALL}, store=tmp_path / "runs",
        )  # fmt: skip


# ---- The published corpora ----


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The corpora in small, in the published layout and encodings."""
    (tmp_path / "lm" / "nltk").mkdir(parents=True)
    for folder, name, text in (
        ("tiny_shakespeare", "input", "To be, or not to be. "),
        ("wikitext-2", "valid", "= Valid = "),
        ("wikitext-2", "test", "= Test = "),
    ):
        (tmp_path / "lm" / folder).mkdir(exist_ok=True)
        (tmp_path / "lm" / folder / f"{name}.txt").write_text(text * 40)
    with zipfile.ZipFile(tmp_path / "lm/nltk/genesis.zip", "w") as archive:
        archive.writestr("genesis/finnish.txt", ("tyhjä " * 40).encode("latin-1"))
        archive.writestr("genesis/swedish.txt", ("öde " * 40).encode("cp850"))
        archive.writestr("genesis/README", "not a text")
    with zipfile.ZipFile(tmp_path / "lm/nltk/inaugural.zip", "w") as archive:
        archive.writestr("inaugural/2005-Bush.txt", ("“freedom” " * 20).encode("big5"))
        archive.writestr("inaugural/1789-Washington.txt", ("Fellow—Citizens " * 20).encode())

    def read(path: str, url: str, sha256: str) -> Path:
        assert url.startswith("https://raw.githubusercontent.com/")
        assert url.endswith(path.rpartition("/")[2])
        assert len(sha256) == 64
        return tmp_path / path

    monkeypatch.setattr(language, "fetch", read)
    return tmp_path


def test_corpora_are_read_in_their_own_encodings(small: Path) -> None:
    names = ("shakespeare", "wikitext-2", "inaugural", "genesis-finnish", "genesis-swedish")
    texts = {text.name: text for text in LanguageStream(domains=names, test_share=0.25).texts()}
    assert texts["genesis-finnish"].train.startswith("tyhjä tyhjä")
    assert texts["genesis-swedish"].test.endswith("öde ")
    assert texts["inaugural"].train.startswith("Fellow—Citizens")
    assert texts["inaugural"].test.endswith("“freedom” ")
    assert texts["wikitext-2"] == ("wikitext-2", "= Valid = " * 40, "= Test = " * 40)
    whole = "To be, or not to be. " * 40
    assert texts["shakespeare"].train + texts["shakespeare"].test == whole
    assert len(texts["shakespeare"].test) == len(whole) // 4
    with pytest.raises(UsageError, match="named twice"):
        LanguageStream(domains=("shakespeare", "shakespeare")).texts()


@pytest.mark.data
@pytest.mark.skipif(
    not (Path(os.environ.get("CLARENA_DATA", "nowhere")) / "lm").is_dir(), reason="CLARENA_DATA has no lm"
)
def test_the_real_corpora() -> None:
    names = language.Corpus.__args__  # type: ignore[attr-defined]
    texts = {t.name: t for t in LanguageStream(domains=names, test_share=0.1).texts()}
    assert len(texts["shakespeare"].train + texts["shakespeare"].test) == 1_115_394
    assert sum(len((t.train + t.test).encode()) for t in texts.values()) > 7_000_000
    assert "tyhjä, pimeys" in texts["genesis-finnish"].train
    assert "Jorden var öde" in texts["genesis-swedish"].train.replace("jorden", "Jorden")
    assert not any("\ufffd" in t.train + t.test for t in texts.values())
    data = LanguageStream(train_bytes=2000, test_bytes=500, order="natural").data()
    data.validate()
    assert data.domain_names == ("shakespeare", "wikitext-2", "inaugural", "genesis-german", "genesis-finnish")
    assert (
        bytes(data.x_train[0].tolist()).decode()
        == "First Citizen:\nBefore we proceed any further, hear me speak.\n\nAl"[:64]
    )


# ---- What others see of it ----


def test_a_record_without_likelihoods_is_written_as_it_always_was() -> None:
    path = next((Path(__file__).parents[1] / "leaderboard" / "runs").glob("*/er-seed0-*/record.json"))
    from clarena.store import read_record

    again = read_record(path).model_dump_json(indent=1)
    assert list(json.loads(again)) == list(json.loads(path.read_bytes()))


def test_tables_and_mlflow_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from clarena.cli.table import print_table
    from clarena.summary import rows
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


def test_subwords_without_their_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(UsageError, match=r"pip install 'clarena-bench\[text\]'"):
        own(tmp_path, tokens="subwords").data()


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
    ours.arena.begin([1])
    experience, lwf = ours.arena.experience([1]), ours.strategy
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
