"""CLINC150 and BANKING77: the real reading of small files in the published layout, and of the real ones."""

import json
from pathlib import Path

import pytest
from clarena_text import intents
from clarena_text.intents import Banking77, Clinc150

from clarena import DataError, UsageError
from clarena.toolbox.seeding import Seeds


def order(seed: int = 0):
    return Seeds(seed).numpy("class_order")


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Both sets in small, under the data root; their digests are taken for the published ones."""
    domains = {"travel": ["flight", "visa"], "bank": ["balance", "pin"]}
    texts = {
        part: [[f"{part} {intent} {n}", intent] for group in domains.values() for intent in group for n in range(size)]
        for part, size in (("train", 4), ("val", 1), ("test", 2))
    } | {"oos_train": [["nonsense", "oos"]], "oos_test": [["more", "oos"]]}
    (tmp_path / "text" / "clinc150").mkdir(parents=True)
    (tmp_path / "text" / "clinc150" / "data_full.json").write_text(json.dumps(texts))
    (tmp_path / "text" / "clinc150" / "domains.json").write_text(json.dumps(domains))
    (tmp_path / "text" / "banking77").mkdir()
    for part in ("train", "test"):
        lines = [f'"{part} card, please {n}",intent_{n % 3}' for n in range(9)]
        (tmp_path / "text" / "banking77" / f"{part}.csv").write_text("\n".join(["text,category", *lines]))

    def read(path: str, url: str, sha256: str) -> Path:
        assert url.startswith("https://")
        assert len(sha256) == 64
        return tmp_path / path

    monkeypatch.setattr(intents, "fetch", read)
    return tmp_path


def test_clinc_brings_one_domain_after_another(small: Path) -> None:
    made = Clinc150(words=500, length=4)
    data = made.data()
    assert data.class_names == ("balance", "flight", "pin", "visa")
    assert (len(data.y_train), len(data.y_test)) == (16, 8)  # validation and what is out of scope are left out
    stream = made.stream(data, "class", order())
    assert {frozenset(stream.output_names[label] for label in split.classes) for split in stream.splits} == {
        frozenset({"flight", "visa"}),
        frozenset({"balance", "pin"}),
    }
    assert [split.classes for split in stream.splits] == [(0, 1), (2, 3)]
    natural = Clinc150(class_order="natural").stream(data, "class", order())
    assert natural.output_names == ("balance", "pin", "flight", "visa")
    starts = {Clinc150().stream(data, "class", order(seed)).output_names for seed in range(8)}
    assert len(starts) > 2
    assert len(Clinc150(experiences=4).stream(data, "class", order()).splits) == 4
    given = Clinc150(experiences=(3, 1), class_order=("visa", "pin", "flight", "balance"))
    assert given.stream(data, "class", order()).output_names == given.class_order
    for options in ({"class_order": (0, 1, 2, 3)}, {"class_order": "icarl"}, {"first_experience": 2}):
        with pytest.raises(UsageError, match="one domain after another"):
            Clinc150(**options).stream(data, "class", order())


def test_banking_is_read_with_its_commas(small: Path) -> None:
    made = Banking77(experiences=3, length=6)
    data = made.data()
    assert data.class_names == ("intent_0", "intent_1", "intent_2")
    assert (data.x_train[0] > 0).sum() == 5  # train card , please 0
    assert [len(split.train) for split in made.stream(data, "class", order()).splits] == [3, 3, 3]


def test_without_a_network_both_say_where_to_put_the_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLARENA_DATA", str(tmp_path))
    monkeypatch.setattr(intents, "CLINC", "http://127.0.0.1:9")
    monkeypatch.setattr(intents, "BANKING", "http://127.0.0.1:9")
    for benchmark in (Clinc150(), Banking77()):
        with pytest.raises(DataError, match=rf"text/{benchmark.name}/.* is missing.*\n.*set CLARENA_DATA"):
            benchmark.data()


@pytest.mark.data
def test_the_published_files_hold_what_their_papers_say(tmp_path: Path) -> None:
    clinc, banking = Clinc150(), Banking77()
    data = clinc.data()
    assert (data.classes, len(data.y_train), len(data.y_test)) == (150, 15_000, 4_500)
    assert [len(split.classes) for split in clinc.stream(data, "class", order()).splits] == [15] * 10
    data = banking.data()
    assert (data.classes, len(data.y_train), len(data.y_test)) == (77, 10_003, 3_080)
