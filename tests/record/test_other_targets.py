"""Records of a target that is a plugin's: kept, packed, read, and shown from the stored matrix where it is gone."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from made_targets import Numbers, installed, made_numbers
from records_with_predictions import changed, made_record

from clarena.errors import StoreError
from clarena.record import plots
from clarena.record.archive import Archive, archive_of
from clarena.record.notebook import record_html
from clarena.record.packing import pack_store
from clarena.record.reader import read_record
from clarena.record.recomputation import check, recompute
from clarena.record.record import Record
from clarena.record.store import PREDICTIONS, RECORD, Store
from clarena.record.summary import by_track, legend, rows, table_texts


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path / "runs")
    for seed in range(3):
        store.write(*made_numbers(seed))
    return store


def folder(store: Store) -> Path:
    return next(store.path.glob("*/*/")).resolve()


def test_its_record_names_target_score_unit_and_chance(store: Store) -> None:
    with installed(Numbers):
        (record, *_), damaged = store.records()
    told = json.loads((store.folder(record.cell) / RECORD).read_text())
    assert (told["schema_version"], told["target"], told["score"], told["unit"]) == (
        2,
        "made-up numbers",
        "fit",
        "degrees",
    )
    assert len(told["chance"]) == 3
    assert np.shape(told["score_matrix"]) == (4, 3)
    assert "final_average_score" in told["metrics"]
    assert not {"accuracy_matrix", "bits_per_byte"} & told.keys()
    assert np.shape(told["further"]["error"]) == (4, 3)
    assert told["metrics"]["final_error"] == pytest.approx(np.mean(told["further"]["error"][-1]))
    assert damaged == []
    assert record.outcome.startswith("finished, fit ")
    assert record.metric("final_average_accuracy") == record.metrics["final_average_score"]


def test_its_arrays_come_back_in_the_smallest_types(store: Store) -> None:
    record, given = made_numbers(0)
    back = store.predictions(record.model_copy(update={"predictions": read(store, record).predictions}))
    assert back.digest == given.digest
    with np.load(store.folder(record.cell) / PREDICTIONS) as arrays:
        kinds = {name: arrays[name].dtype for name in arrays.files}
    assert kinds == {"experience": "int16", "answers/value": "float32", "truth/site": "int16", "truth/value": "float32"}


def read(store: Store, record: Record) -> Record:
    return read_record(store.folder(record.cell) / RECORD)


@pytest.mark.parametrize("there", [True, False], ids=["installed", "not installed"])
def test_its_archive_is_the_same_bytes_and_gives_each_file_back(store: Store, tmp_path: Path, there: bool) -> None:
    if there:
        with installed(Numbers):
            pack_store(store, tmp_path / "rows")
    else:
        pack_store(store, tmp_path / "rows")
    (path,) = (tmp_path / "rows").glob("*/*.zip")
    archive = Archive(path)
    runs = [archive.run(number) for number in range(3)]
    assert archive_of(runs[::-1]) == path.read_bytes()
    rows_of = Store(tmp_path / "rows")
    for seed in range(3):
        cell = made_numbers(seed)[0].cell
        assert rows_of.files(cell) == store.files(cell)


def test_where_it_is_installed_every_number_is_recomputed(store: Store) -> None:
    path = folder(store) / RECORD
    told = json.loads(path.read_text())
    changed(
        path,
        score_matrix=[[0.5] * 3] * 4,
        further={"error": [[0.5] * 3] * 4},
        metrics=told["metrics"] | {"final_average_score": 0.99},
    )
    with installed(Numbers):
        _, (damaged,) = store.records()
    assert "its matrix of scores is not what its predictions give" in damaged.reason
    assert "its further matrices are not what its predictions give" in damaged.reason
    assert "final_average_score is 0.99 in its record" in damaged.reason
    assert store.records()[1][0].reason.count("final_average_score is 0.99 in its record") == 1  # of its matrix


def test_where_it_is_not_metrics_are_those_of_the_stored_matrix(store: Store) -> None:
    record, predictions = made_numbers(0)
    values, flaws = recompute(record, predictions)
    assert flaws == []
    assert "final_pooled_score" not in values  # these need the predictions: what the record says is not taken for it
    assert values["final_average_score"] == pytest.approx(np.mean(record.score_matrix[-1]))


def test_a_table_says_so(store: Store) -> None:
    table = rows(store.records()[0])
    titles, lines = table_texts(table)
    assert titles[1] == "final fit %"
    assert lines[0][0] == "ewc † ‡"
    assert "CLARENA_PLUGINS, offers the target made-up numbers." in legend(table)
    (line,) = [row.as_dict() for row in table]
    assert (line["score"], line["unit"], line["recomputed"]) == ("fit", "degrees", False)
    assert "final_average_accuracy" not in line
    assert 0 < line["final_average_score_low"] < line["final_average_score"]
    with installed(Numbers):
        titles, lines = table_texts(rows(store.records()[0]))
        assert (lines[0][0], titles[-1]) == ("ewc †", "error in degrees")
        assert re.fullmatch(r"\d\.\d\d ± \d\.\d\d", lines[0][-1])
        assert "not recomputed" not in legend(rows(store.records()[0]))


def test_chance_is_said_below_a_table(store: Store) -> None:
    records = store.records()[0]
    mean = np.mean([record.chance for record in records])
    assert f"without looking at an input: {100 * mean:.1f} %" in legend(rows(records))


def test_two_scores_share_no_table(store: Store) -> None:
    other, _ = made_record(0, "er")
    lost, _ = made_record(1, "er", status="failed", accuracy_matrix=[], metrics={}, costs=[])
    records = [*store.records()[0], other, lost]
    one, two = by_track(records)
    assert [record.cell.strategy.name for record in one] == ["ewc", "ewc", "ewc", "er"]
    assert two == [other]


def test_pictures_and_pages_name_the_score(store: Store) -> None:
    record, _ = made_numbers(0)
    assert b"fit on experience" in plots.accuracy_matrix(record, "svg").replace(b"<!-- ", b"").replace(b" -->", b"")
    assert "final average score" in record_html(record)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"score": "accuracy"}, "its matrix is not one of accuracy"),
        ({"unit": "metres"}, "that of made-up numbers is fit of degrees"),
        ({"score_matrix": [[0.5] * 3] * 3}, "not 4 rows of 3"),
        ({"score_matrix": [[1.5] * 3] * 4}, "score_matrix: 1.5 is not within"),
        ({"chance": [0.5, 0.5]}, "chance: it is of 2 experiences, of 3"),
        ({"chance": [0.5, 0.5, 7]}, "chance: 7 is not within"),
        ({"further": {"x": [[0.0]]}}, "further.x: it is not 4 rows of 3"),
        ({"metrics": {"final_average_accuracy": 0.5}}, "is none that this CLArena knows"),
        ({"metrics": {"final_average_score": 1.5}}, "final_average_score: 1.5 is not within"),
    ],
)
def test_what_no_run_of_it_can_have_measured_is_refused(store: Store, fields: dict, said: str) -> None:
    path = folder(store) / RECORD
    changed(path, **fields)
    with installed(Numbers), pytest.raises(StoreError, match=said):
        read_record(path)


def test_metrics_of_a_stranger_are_numbers_while_it_is_not_installed(store: Store) -> None:
    path = folder(store) / RECORD
    told = json.loads(path.read_text())["metrics"]
    changed(path, metrics=told | {"calibration": 12.5})
    assert read_record(path).metrics["calibration"] == 12.5
    changed(path, metrics=told | {"forgetting": -2})
    with pytest.raises(StoreError, match=r"forgetting: -2 is not within"):
        read_record(path)


# ---- Before targets had names ----


def old(store: Store, *, language: bool) -> Path:
    """A record of schema 1 with its predictions."""
    record, predictions = made_record(0, "old", language=language)
    metrics = {name: value for name, value in record.metrics.items() if "pooled" not in name}
    record = store.write(record.model_copy(update={"schema_version": 1, "metrics": metrics}), predictions)
    return store.folder(record.cell) / RECORD


@pytest.mark.parametrize("language", [False, True])
def test_schema_1_is_read_sealed_and_given_pooled_scores(tmp_path: Path, language: bool) -> None:
    store = Store(tmp_path)
    path = old(store, language=language)
    told = json.loads(path.read_text())
    assert not {"target", "score", "unit", "chance", "score_matrix", "further"} & told.keys()
    assert told["schema_version"] == 1
    record = read_record(path)
    assert record.target == ("text" if language else "classes")
    assert record.unit == ("tokens" if language else "samples")
    assert record.model_dump_json(indent=1).encode() == path.read_bytes()
    ((given,), damaged) = store.records()
    assert damaged == []
    assert 0 < given.metrics["final_pooled_accuracy"] < 1
    assert "final_pooled_accuracy" not in record.metrics
    bare = check(record, None, "", [], sealed=True)
    assert "final_pooled_accuracy" not in {**bare.metrics, **bare.record.metrics}  # missing, and not a default
