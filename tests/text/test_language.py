"""Language streams: how text becomes sequences, and the corpora they are read from."""

import os
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from clarena_text import language, vocabulary
from clarena_text.language import LanguageStream, OwnTexts, cut, learned_subwords, sequences, single_bytes
from hypothesis import given
from hypothesis import strategies as st
from tiny_language import SMALL, own, write

from clarena import DataError, UsageError, evaluate
from clarena.contract.benchmark import limited, split_by_domain, with_validation
from clarena.run.data import load
from clarena.toolbox.categorical import IGNORED
from clarena.toolbox.seeding import Seeds

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


@pytest.mark.needs("tokenizers")
def test_subwords_write_any_text_and_know_their_bytes() -> None:
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

    def learn(text: str, size: int) -> vocabulary.Tokens:
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
    assert data.target == "text"
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
    few = limited(first, 2, by_class=False)
    assert [(len(s.train), len(s.test), s.domain) for s in few.splits] == [(2, 2, n) for n in data.domain_names]
    tuned = with_validation(first, 1, 0.2, len(data.x_train), np.random.default_rng(0), by_class=False)
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
    (tmp_path / "link.txt").symlink_to(tmp_path / "good.txt")
    with pytest.raises(UsageError, match="needs two different files or more"):
        OwnTexts.of(f"{tmp_path / 'good.txt'},{tmp_path / 'link.txt'}")
    os.mkfifo(tmp_path / "pipe.txt")
    with pytest.raises(DataError, match=r"pipe.txt is neither a file nor a folder"):
        OwnTexts.of(f"{tmp_path / 'good.txt'},{tmp_path / 'pipe.txt'}")().data()


def test_a_text_that_was_overwritten_is_read_again(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}.txt").write_text(f"{name} text " * 90)
    family = OwnTexts.of(f"{tmp_path / 'a.txt'},{tmp_path / 'b.txt'}")
    first = load(family, {"context": 8})
    assert load(family, {"context": 8}) is first
    (tmp_path / "b.txt").write_text("another words " * 90)
    assert load(family, {"context": 8}).fingerprint != first.fingerprint


def test_a_backbone_of_numbers_does_not_fit(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="takes numbers, and the inputs of language:ab,xyz are tokens"):
        evaluate(
            "finetune", benchmark=write(tmp_path), backbone="mlp", seeds=1, track=False,
            settings={"benchmark": SMALL}, store=tmp_path / "runs",
        )  # fmt: skip


def test_subwords_without_their_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(UsageError, match=r"pip install 'clarena-bench\[text\]'"):
        own(tmp_path, tokens="subwords").data()


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
