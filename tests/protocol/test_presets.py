"""Protocols by name, papers' among them: both sides of a track by one name, and what does not go together."""

import subprocess
import sys
from pathlib import Path

import pytest
from cli_command import clarena as command
from records_of_matrices import NAN, make_record

import clarena
from clarena import ClarenaError, UsageError
from clarena.protocol.presets import NAMED
from clarena.protocol.protocol import HIDDEN, PRESETS, NamedPart, Protocol, Track, protocol
from clarena.record.catalogue import ACCURACY_METRICS
from clarena.record.summary import legend, rows, table_texts

PAPERS = {name: preset for name, preset in NAMED.items() if preset.on}


def track(name: str, options: dict[str, object] | None = None, **changes: object) -> Track:
    given = {**PAPERS[name].benchmark, **(options or {})}
    return Track(
        benchmark=NamedPart(name="split-cifar100", options=given),
        scenario="class",
        backbone=NamedPart(name="resnet18"),
        protocol=PRESETS[name].model_copy(update=changes),
    )


def test_a_preset_is_what_its_source_says():
    """As PyCIL's models/icarl.py and exps/*.json, and ER-ACE's main.py have it."""
    inc = PRESETS["b0-inc10"]
    assert (inc.epochs, inc.batch_size, inc.optimizer, inc.learning_rate) == (170, 128, "sgd", 0.1)
    assert (inc.schedule, inc.milestones, inc.gamma) == ("milestones", (80, 120), 0.1)
    assert (inc.momentum, inc.weight_decay, inc.augmentation, inc.buffer_size) == (0.9, 2e-4, "crop-flip", 2000)
    assert PRESETS["b50-inc10"] == PRESETS["b50-inc5"]
    assert (PRESETS["b50-inc5"].exemplars_per_class, PRESETS["b50-inc5"].loss_over) == (20, "seen")
    online = PRESETS["online-cifar100"]
    assert (online.epochs, online.batch_size, online.learning_rate, online.momentum) == (1, 10, 0.1, 0.0)
    assert (online.buffer_size, PRESETS["online-cifar10"].buffer_size) == (2000, 200)
    assert all(preset.source and preset.summary.endswith(".") for preset in PAPERS.values())


@pytest.mark.parametrize("name", PAPERS)
def test_a_papers_preset_is_named_by_both_its_sides(name):
    assert track(name).preset == name
    assert track(name, {"mean": 0.5}).preset == name  # what it says nothing of is open
    assert track(name, batch_size=3).preset == "custom"
    assert track(name, {"experiences": 4}).preset == "custom"
    if PRESETS[name].schedule == "constant":  # a schedule over a stream of unknown length is refused
        assert track(name, **HIDDEN).preset == f"{name}+hidden"
    assert Track.model_validate_json(track(name).model_dump_json()).label == f"split-cifar100/class/resnet18/{name}"


def test_a_track_names_its_headline():
    assert {track(name).headline for name in PAPERS if name.startswith("b")} == {"average_incremental_pooled_accuracy"}
    assert track("online-cifar10").headline == track("b0-inc10", batch_size=3).headline == "final_average_accuracy"
    assert track("online-cifar10", **HIDDEN).headline == "final_average_accuracy"
    assert {preset.headline for preset in NAMED.values()} <= set(ACCURACY_METRICS)


def test_a_table_is_in_the_order_of_its_tracks_headline(monkeypatch):
    """Of two rows, the one with the better headline comes first; the final average comes beside it."""
    matrices = {"one": [[NAN, NAN], [0.9, NAN], [0.1, 0.9]], "two": [[NAN, NAN], [0.5, NAN], [0.3, 0.9]]}
    records = [make_record(matrix, strategy=name) for name, matrix in matrices.items()]
    table = rows(records)
    assert [row.info.name for row in table] == ["two", "one"]
    assert table_texts(table)[0][:2] == ["strategy", "final accuracy %"]
    monkeypatch.setattr(Track, "headline", property(lambda self: "average_incremental_accuracy"))
    table = rows(records)
    assert [row.info.name for row in table] == ["one", "two"]
    titles, lines = table_texts(table)
    assert titles[:3] == ["strategy", "headline %", "final accuracy %"]
    assert [line[1] for line in lines] == ["70.0", "55.0"]
    assert [line[2] for line in lines] == ["50.0", "60.0"]
    assert "by which the track's paper compares: average incremental accuracy." in legend(table)
    assert table[0].as_dict()["headline"] == "average_incremental_accuracy"


def test_streams_of_one_protocol_are_told_apart():
    assert len({track(name).digest for name in PAPERS}) == len(PAPERS)
    assert track("b50-inc10").preset != track("b50-inc5").preset


def test_exemplars_of_a_preset_are_counted_in_one_way():
    assert protocol("b0-inc10", {"exemplars_per_class": 20}) == PRESETS["b50-inc10"]
    with pytest.raises(UsageError, match="buffer_size=2000 counts exemplars in total"):
        protocol("b50-inc10", {"buffer_size": 2000})
    total = protocol("b50-inc10", {"buffer_size": 2000, "exemplars_per_class": "none"})
    assert total == PRESETS["b0-inc10"]


def test_one_name_gives_both_sides(tmp_path):
    settings = {
        "benchmark": {"experiences": 3, "first_experience": 6},
        "protocol": {"limit": 8, "epochs": 1, "schedule": "constant", "milestones": "none"},
    }
    (record,) = clarena.evaluate(
        "er", protocol="b50-inc10", settings=settings, seeds=1, jobs=1, store=tmp_path / "runs", track=False,
        backbone="cnn",
    )  # fmt: skip
    assert record.status == "finished"
    assert record.cell.track.benchmark.options == {"experiences": 3, "first_experience": 6, "class_order": "icarl"}
    assert [len(each.classes) for each in record.experiences] == [6, 2, 2]
    assert record.cell.track.protocol.exemplars_per_class == 20
    assert record.cell.track.preset == "custom"


@pytest.mark.parametrize(
    ("benchmark", "message"),
    [
        ("permuted-digits", "b50-inc10 says how classes are split .class_order, first_experience.*clarena list"),
        ("split-digits", "A first experience of 50 of 10 classes leaves 0 for 5 more"),
    ],
)
def test_a_benchmark_that_it_does_not_fit_is_refused(benchmark, message, tmp_path):
    with pytest.raises(ClarenaError, match=message):
        clarena.evaluate("er", protocol="b50-inc10", benchmark=benchmark, store=tmp_path / "runs", track=False)
    assert not (tmp_path / "runs").exists()


def test_they_are_listed_and_described():
    listed = command("list", "--no-plugins", "--json").data["protocols"]
    assert [each["name"] for each in listed] == list(PRESETS)
    lines = command("list", "--no-plugins").out.splitlines()
    for each in listed:
        assert any(line.startswith(f"{each['name']} ") and each["summary"] in line for line in lines)
    (facts,) = command("describe", "b50-inc10", "--json").data
    assert (facts["kind"], facts["name"]) == ("protocol", "b50-inc10")
    assert facts["settings"]["benchmark.first_experience"] == 50
    fields = {key.removeprefix("protocol."): v for key, v in facts["settings"].items() if key.startswith("protocol.")}
    assert Protocol(**fields) == PRESETS["b50-inc10"]
    page = command("describe", "b50-inc10").out
    assert "benchmark.first_experience" in page
    assert "PyCIL" in page
    assert "--protocol b50-inc10 --benchmark split-cifar100" in page
    assert "Leaves every field at its default" in command("describe", "standard").out
    refused = command("describe", "b50-inc11")
    assert refused.code == 2
    assert "Did you mean 'b50-inc10'?" in refused.err


def test_naming_them_takes_no_torch():
    code = "import sys; from clarena.protocol.protocol import PRESETS; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])
