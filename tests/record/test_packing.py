"""Packing rows into archives: nothing is lost or altered, and what is damaged is named while the rest is shown."""

import json
import random
import shutil
import tomllib
import zipfile
from pathlib import Path

import numpy as np
import pytest
from records_with_predictions import TRACK, changed, kept, made_predictions, made_record, summary

from clarena.errors import StoreError
from clarena.protocol.protocol import NamedPart
from clarena.record.aliases import Alias, Attested, AttestedRun, add_aliases, read_aliases
from clarena.record.archive import Archive, Run, archive_of
from clarena.record.ledger import BEGINNING, LEDGER, entered
from clarena.record.packing import pack_store
from clarena.record.record import Record
from clarena.record.store import PREDICTIONS, RECORD, Store

OTHER = TRACK.model_copy(update={"benchmark": NamedPart(name="other")})


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Two rows on one track and a row on another, of three seeds each."""
    held = Store(tmp_path / "runs")
    for seed in range(3):
        kept(held, seed)
        kept(held, seed, "er++")
        kept(held, seed, track=OTHER)
    return held


@pytest.fixture
def rows(store: Store, tmp_path: Path) -> Store:
    """The same, packed."""
    packed = pack_store(store, tmp_path / "rows")
    assert (len(packed.written), packed.runs, packed.left_out) == (3, 9, ())
    return Store(tmp_path / "rows")


def files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def as_json(records: list[Record]) -> list[str]:
    return [record.model_dump_json() for record in records]


def assert_the_same(one: Store, other: Store) -> None:
    """Records, files and arrays of two stores, bit by bit."""
    records, damaged = one.records()
    again, damaged_again = other.records()
    assert (damaged, damaged_again) == ([], [])
    assert as_json(records) == as_json(again)
    for record in records:
        assert one.files(record.cell) == other.files(record.cell)
        (a, b) = (each.at(each.folder(record.cell).relative_to(each.path).as_posix()) for each in (one, other))
        assert a.content == b.content
        assert (a.predictions is None) == (b.predictions is None)
        if a.predictions is not None and b.predictions is not None:
            x, y = a.predictions.arrays, b.predictions.arrays
            assert list(x) == list(y)
            for name, array in x.items():
                assert array.dtype == y[name].dtype
                np.testing.assert_array_equal(array, y[name])


def test_what_is_packed_comes_back_bit_by_bit(store: Store, rows: Store) -> None:
    assert_the_same(store, rows)
    assert sorted(path.suffix for path in rows.path.rglob("*") if path.is_file()) == sorted(
        ["", ".jsonl", *[".toml"] * 3, *[".zip"] * 3]  # the lock, the ledger, and two files a row
    )


def test_every_kind_of_run_comes_back(tmp_path: Path) -> None:
    store = Store(tmp_path / "runs")
    kept(store, 0, "text", language=True)
    kept(store, 1, "text", language=True)
    for name in ("many", "wide"):
        kept(store, 0, name, classes=300)
    record, _ = made_record(0, "lost", status="failed", reason="it fell", accuracy_matrix=[], metrics={}, costs=[])
    bare = {"confusion_matrix": [], "class_report": {}, "predictions": None}
    store.write(record.model_copy(update=bare), None)
    half = made_predictions(1)
    half.predicted[-1] = -1
    facts = summary(half, [f"class {number}" for number in range(6)])
    diverged, _ = made_record(1, "lost", status="diverged", costs=[], **bare)
    store.write(diverged.model_copy(update=facts), half)
    assert pack_store(store, tmp_path / "rows").runs == 6
    assert_the_same(store, Store(tmp_path / "rows"))


def test_what_does_not_follow_from_the_arrays_is_kept_as_it_is(tmp_path: Path) -> None:
    """An older version may have left a report out, or added averages in another order."""
    store = Store(tmp_path / "runs")
    for seed, report in enumerate(({}, {"macro avg": 1e-12})):
        record = kept(store, seed)
        path = store.folder(record.cell) / RECORD
        whole = json.loads(path.read_text())["class_report"]
        recall = whole["macro avg"]["recall"] + report.get("macro avg", 0)
        changed(path, class_report=whole | {"macro avg": whole["macro avg"] | {"recall": recall}} if report else {})
    pack_store(store, tmp_path / "rows")
    one, other = store.records()[0], Store(tmp_path / "rows").records()[0]
    assert as_json(one) == as_json(other)


def test_the_same_runs_give_the_same_bytes_in_any_order_and_are_written_once(store: Store, rows: Store) -> None:
    before = files(rows.path)
    again = pack_store(store, rows.path)
    assert (len(again.written), len(again.kept), files(rows.path)) == (0, 3, before)
    for path in rows.path.glob("*/*.zip"):
        archive = Archive(path)
        runs = [archive.run(number) for number in range(len(archive.lines))]
        assert archive_of(runs[::-1]) == path.read_bytes()


def test_archives_only_grow(store: Store, rows: Store, tmp_path: Path) -> None:
    before = files(rows.path)
    more = Store(tmp_path / "more")
    kept(more, 3)
    packed = pack_store(more, rows.path)
    assert (len(packed.written), packed.runs) == (1, 4)
    kept(store, 3)
    assert_the_same(store, rows)
    after = files(rows.path)
    assert after["ledger.jsonl"].startswith(before["ledger.jsonl"])
    assert len(after["ledger.jsonl"].splitlines()) == 4
    assert sum(before[name] != after[name] for name in before) == 3  # archive, summary, ledger
    for record in store.records()[0]:
        changed(store.folder(record.cell) / RECORD, command="another")
    contradicted = pack_store(store, rows.path)
    assert len(contradicted.left_out) == 10
    assert "holds another record of ewc seed 0" in contradicted.left_out[0].reason
    assert files(rows.path) == after


def test_damaged_runs_are_left_out_and_named(store: Store, tmp_path: Path) -> None:
    damaged = sorted(store.path.glob("*/*/record.json"))[0]
    damaged.write_text("{")
    packed = pack_store(store, tmp_path / "rows")
    assert packed.runs == 8
    assert str(damaged) in packed.left_out[0].reason


def test_a_summary_says_what_a_reviewer_needs(rows: Store) -> None:
    (path,) = rows.path.glob("toy-*/ewc-*.toml")
    told = tomllib.loads(path.read_text())
    archive = Archive(path.with_suffix(".zip"))
    assert told["sha256"] == archive.sha256
    assert told["bytes"] == path.with_suffix(".zip").stat().st_size
    assert (told["strategy"], told["seeds"], told["statuses"]) == ("ewc", [0, 1, 2], "3 finished")
    assert told["track"] == TRACK.label
    assert told["hyperparameters"] == {"strength": 1e-5, "kept": "none"}
    accuracies = [archive.record(number)[0].metrics["final_average_accuracy"] for number in range(3)]
    assert told["metrics"]["final_average_accuracy"].startswith(f"{np.mean(accuracies):.4f} ± ")
    assert told["metrics"]["forward_transfer"] == "undefined"
    assert told["costs"]["parameters"] == 1234
    assert len(path.read_text().splitlines()) <= 50


def test_a_record_is_found_in_an_archive_and_its_folder_counts_where_both_hold_it(store: Store, rows: Store) -> None:
    record = store.records()[0][0]
    found = rows.find(record.cell)
    assert found is not None
    assert found.model_dump_json() == record.model_dump_json()
    assert rows.home(record.cell).suffix == ".zip"
    np.testing.assert_array_equal(rows.predictions(record).predicted, store.predictions(record).predicted)
    folder = rows.folder(record.cell)
    shutil.copytree(store.folder(record.cell), folder)
    changed(folder / RECORD, command="the folder's")
    records, damaged = rows.records()
    assert (len(records), damaged) == (9, [])
    assert [each.command for each in records if each.cell_id == record.cell_id] == ["the folder's"]
    assert rows.home(record.cell) == folder
    unknown, _ = made_record(77)
    assert rows.find(unknown.cell) is None


@pytest.mark.parametrize("ledger", [True, False])
def test_a_truncated_or_altered_archive_is_named_with_a_remedy_and_hides_no_other(ledger: bool, rows: Store) -> None:
    (path,) = rows.path.glob("toy-*/ewc-*.zip")
    if not ledger:
        (rows.path / "ledger.jsonl").unlink()
    whole, rng, before = path.read_bytes(), random.Random(5), as_json(rows.records()[0])
    for number in range(60):
        place = rng.randrange(len(whole))
        flipped = whole[:place] + bytes([whole[place] ^ (1 << rng.randrange(8))]) + whole[place + 1 :]
        path.write_bytes(whole[:place] if number % 3 == 0 else flipped)
        records, damaged = rows.records()
        if damaged:
            assert {each.path for each in damaged} == {path}
            assert all(str(path) in each.reason and "a whole copy" in each.reason for each in damaged)
            assert all(line in before for line in as_json(records))
            assert len(records) >= 6
        else:  # a bit of the zip that says nothing, such as a time
            assert not ledger
            assert as_json(records) == before
    path.write_bytes(whole)
    assert as_json(rows.records()[0]) == before


def test_archive_and_ledger_must_agree(rows: Store, tmp_path: Path) -> None:
    (path,) = rows.path.glob("toy-*/ewc-*.zip")
    stranger = path.with_name("stranger-00000000.zip")
    record, predictions = made_record(5, "stranger")
    stranger.write_bytes(archive_of([Run(json.loads(record.model_dump_json()), predictions)]))
    assert "it is not in there" in rows.records()[1][0].reason
    stranger.unlink()
    path.rename(tmp_path / "away.zip")
    assert f"The archive {path} is missing" in rows.records()[1][0].reason
    (tmp_path / "away.zip").rename(path)
    ledger = rows.path / "ledger.jsonl"
    lines = ledger.read_text().splitlines()
    for damage in ([lines[1], lines[0], lines[2]], lines[1:], ["no entry", *lines[1:]], ['{"number": []}', *lines[1:]]):
        ledger.write_text("\n".join(damage))
        assert any(str(ledger) in each.reason for each in rows.records()[1])
    ledger.write_bytes(b"\xff")
    assert "cannot be read" in rows.records()[1][0].reason


def test_a_separator_within_a_text_ends_no_line(store: Store, tmp_path: Path) -> None:
    """In the table of identities, and in a ledger that another hand has written."""
    row, code = store.records()[0][0].cell.row, ["a" * 64, "b" * 64]
    runs = [AttestedRun(track=row, seed=0, old_predictions=row, new_predictions=row)]
    evidence = Attested(rows=[row], runs=runs, environment={"by": "Ada\u2028Love\u0085lace\u2029"})
    add_aliases(store.path, [Alias(strategy="ewc", old=code[0], new=code[1], evidence=evidence)])
    for _ in range(2):
        pack_store(store, tmp_path / "rows")
        assert read_aliases(tmp_path / "rows").all == read_aliases(store.path).all
    ledger = tmp_path / "other" / LEDGER
    ledger.parent.mkdir()
    entry = {"number": 1, "archive": "a\u2028b.zip", "sha256": row, "previous": BEGINNING}
    ledger.write_text(json.dumps(entry, ensure_ascii=False) + "\n", encoding="utf-8")
    assert entered(ledger.parent) == ({"a\u2028b.zip": row}, [])


def test_nothing_is_packed_beside_a_damaged_ledger_and_what_a_kill_left_is_entered(store: Store, rows: Store) -> None:
    ledger, before = rows.path / "ledger.jsonl", files(rows.path)
    ledger.write_text("no entry\n" + ledger.read_text().split("\n", 1)[1])
    with pytest.raises(StoreError, match=r"Line 1 of .* is no entry"):
        pack_store(store, rows.path)
    ledger.write_bytes(before["ledger.jsonl"])
    (path,) = rows.path.glob("toy-*/ewc-*.zip")
    content = path.read_bytes()
    path.unlink()
    with pytest.raises(StoreError, match="is missing"):
        pack_store(store, rows.path)
    path.write_bytes(content)
    ledger.write_text("".join(before["ledger.jsonl"].decode().splitlines(keepends=True)[:2]))
    pack_store(store, rows.path)
    assert files(rows.path) == before


def test_an_archive_with_a_forged_record_is_checked_like_any_other(rows: Store) -> None:
    """Whoever can pack can enter what he likes in the ledger; numbers are recomputed all the same."""
    (path,) = rows.path.glob("toy-*/ewc-*.zip")
    archive = Archive(path)
    run = archive.run(0)
    metrics = run.content["metrics"] | {"final_average_accuracy": 0.99}
    content = {name: value for name, value in run.content.items() if name != "sha256"} | {"metrics": metrics}
    path.write_bytes(archive_of([Run(content, run.predictions)]))
    (rows.path / "ledger.jsonl").unlink()
    records, (damaged,) = rows.records()
    assert len(records) == 6
    assert "final_average_accuracy is 0.99 in its record" in damaged.reason


def test_an_archive_is_a_zip_that_numpy_opens(rows: Store) -> None:
    (path,) = rows.path.glob("toy-*/ewc-*.zip")
    with zipfile.ZipFile(path) as parts:
        assert sorted(parts.namelist()) == ["answers.npy", "records.jsonl", "track.json"]
        assert parts.testzip() is None
    with np.load(path) as arrays:
        answers = arrays["answers"].reshape(3, 60, 6)  # runs, samples, (experience, label, 4 rows)
    np.testing.assert_array_equal(answers[2][:, 1], made_predictions(2).labels)
    np.testing.assert_array_equal(answers[2][:, 2:].T, made_predictions(2).predicted)


def test_a_run_without_its_array_file_is_packed_with_its_matrix(store: Store, tmp_path: Path) -> None:
    record = store.records()[0][0]
    (store.folder(record.cell) / PREDICTIONS).unlink()
    pack_store(store, tmp_path / "rows")
    rows = Store(tmp_path / "rows")
    assert as_json(rows.records()[0]) == as_json(store.records()[0])
    with pytest.raises(StoreError, match="holds no predictions of"):
        rows.predictions(record)
