"""What the weights of a track have seen: a fact beside the digest, and what of it the benchmark asks for again."""

import json
from pathlib import Path

import pretrained
import pytest
import torch
from typer.testing import CliRunner

import clarena
from clarena.cli import app, commands  # noqa: F401 - the commands add themselves to `app`
from clarena.protocol.pretraining import UNKNOWN
from clarena.protocol.protocol import NamedPart, Track, protocol
from clarena.run.seen import words

DIGITS = [("zero", "0", "nought"), ("3",), ("Seven",)]


class Knowing(pretrained.Pretrained):
    """It says what it was trained on."""

    name = "knowing"
    trained_on = "numbers on houses"

    @classmethod
    def seen_data(cls):
        return [clarena.SeenData(("House numbers",), DIGITS), clarena.SeenData(("Digits", "Split Digits"))]


class Elsewhere(Knowing):
    """It has seen nothing that a benchmark asks for."""

    name = "elsewhere"

    @classmethod
    def seen_data(cls):
        return [clarena.SeenData(("Roads",), [("tarmac",)])]


def track_of(backbone, store: Path, weights: str = "default", strategies=("finetune",)) -> Track:
    results = clarena.evaluate(
        list(strategies), backbone=backbone, seeds=1, limit=8, store=store, track=False, jobs=1,
        settings={"backbone": {"weights": weights}, "protocol": {"epochs": 1}},
    )  # fmt: skip
    assert not results.errors
    (record,), problems = clarena.Store(store).records()
    assert not problems
    return record.cell.track


def test_a_benchmark_is_compared_by_names(tmp_path):
    track = track_of(Knowing, tmp_path)
    first, classes, named = track.seen
    assert first == "Starts from weights trained on numbers on houses."
    assert named.startswith("Overlap")
    assert "trained on Digits" in named
    assert "split-digits" in named
    assert "2 of 10 classes of split-digits have the name of a class of House numbers: 0, 3." in classes
    assert track.pretraining.compared == ("House numbers", "Digits")
    assert [overlap.classes for overlap in track.pretraining.overlaps] == [("0", "3"), ()]


def test_what_is_not_found_is_not_said_to_be_absent(tmp_path):
    assert track_of(Elsewhere, tmp_path).seen[1:] == [
        "No name of split-digits is in Roads; what has another name is not found."
    ]


def test_of_weights_of_ones_own_nothing_is_known(tmp_path):
    own = tmp_path / "own.pt"
    torch.save({"layer": pretrained.matrix(seed=3)}, own)
    track = track_of(Knowing, tmp_path / "runs", str(own))
    assert track.pretraining.trained_on is None
    assert track.seen == [UNKNOWN]


def test_random_weights_have_seen_nothing(tmp_path):
    track = track_of(Knowing, tmp_path, "none")
    assert not track.pretrained
    assert track.pretraining is None
    assert track.seen == []


def test_no_digest_moves_and_old_records_read_as_they_were(tmp_path):
    track = track_of(Knowing, tmp_path)
    before = track.model_copy(update={"pretraining": None})
    assert before.digest == track.digest
    old = before.model_dump(mode="json")
    assert "pretraining" not in old
    assert "pretraining" not in before.model_dump_json()
    assert Track.model_validate(old) == before
    assert before.seen == [UNKNOWN]
    assert Track.model_validate_json(track.model_dump_json()) == track


def test_a_configuration_with_a_fingerprint_is_no_weights():
    part = NamedPart(name="mlp")
    random = NamedPart(name="hf:tiny", options={"weights": "none"}, fingerprint="c" * 64)
    track = Track(benchmark=part, scenario="class", backbone=random, protocol=protocol())
    assert not track.pretrained
    assert track.seen == []


@pytest.mark.parametrize(("name", "said"), [("pickup_truck", "pickup truck"), ("Café-au-lait!", "café au lait")])
def test_names_are_compared_as_words(name, said):
    assert words(name) == said


def test_tables_and_data_say_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plugin = tmp_path / "knowing.py"
    source = Path(pretrained.__file__).read_text()
    seen = '    name = "pretrained"\n    trained_on = "numbers on houses"\n'
    plugin.write_text(source.replace('    name = "pretrained"\n', seen))
    asked = ["finetune", "--backbone", "pretrained", "--plugin", str(plugin), "--limit", "8", "--seeds", "1"]
    asked += ["--set", "protocol.epochs=1", "--no-tracking"]
    printed = CliRunner().invoke(app, ["evaluate", *asked])
    assert "Starts from weights trained on numbers on houses." in printed.output, printed.output
    found = CliRunner().invoke(app, ["results", "--json"])
    (table,) = json.loads(found.output)["tracks"] if "tracks" in found.output else json.loads(found.output)
    assert table["weights_have_seen"][0] == "Starts from weights trained on numbers on houses."
    told = CliRunner().invoke(app, ["describe", "pretrained", "--plugin", str(plugin)])
    assert "nothing, none is declared" in " ".join(told.output.split())
