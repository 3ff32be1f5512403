"""`clarena store pack`, and that every command reads archives as it reads the store they were packed from."""

import json
import shutil
from pathlib import Path

import pytest
from cli_command import clarena, smoke
from records_with_predictions import changed, kept

from clarena.record.store import Store


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store, `runs`, and its rows, `rows`: two finished rows of two seeds."""
    folder = tmp_path_factory.mktemp("packed")
    assert smoke(folder / "runs", "finetune", "joint", "--seeds", 2).code == 0
    packed = clarena("store", "pack", "--store", folder / "runs", "--out", folder / "rows")
    assert (packed.code, packed.err) == (0, "")
    assert packed.out == f"4 runs in 2 archives of {folder / 'rows'}: 2 written, 0 as they were.\n"
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return shutil.copytree(made, tmp_path / "copy")


def test_results_and_compare_say_the_same_of_both(made: Path) -> None:
    for arguments in (("results",), ("results", "--format", "csv"), ("compare", "finetune", "joint")):
        runs, rows = (clarena(*arguments, "--store", made / name) for name in ("runs", "rows"))
        assert (runs.code, runs.out, runs.err) == (0, rows.out, rows.err)
    lines = clarena("results", "--store", made / "rows", "--records", "--json").data["records"]
    assert {Path(line["folder"]).suffix for line in lines} == {".zip"}


def test_the_board_is_the_same_but_for_the_name_of_its_source(folder: Path) -> None:
    for name in ("runs", "rows"):
        built = clarena("leaderboard", "build", "--store", folder / name, "--out", folder / f"site-{name}")
        assert (built.code, built.err) == (0, "")
    pages = {path.relative_to(folder / "site-runs") for path in (folder / "site-runs").rglob("*") if path.is_file()}
    assert pages == {
        path.relative_to(folder / "site-rows") for path in (folder / "site-rows").rglob("*") if path.is_file()
    }
    for page in pages - {Path("manifest.json")}:
        one, other = ((folder / site / page).read_bytes() for site in ("site-runs", "site-rows"))
        assert one.replace(b"store runs", b"store rows") == other, page


def test_sync_gives_mlflow_the_runs_of_archives_once_and_writes_nothing_beside_them(folder: Path) -> None:
    before = sorted((folder / "rows").rglob("*"))
    uri = f"sqlite:///{folder}/mlflow.db"
    first = clarena("sync", "--store", folder / "rows", "--tracking-uri", uri, "--json").data
    again = clarena("sync", "--store", folder / "rows", "--tracking-uri", uri, "--json").data
    assert (first["logged"], first["failed"], again["logged"], again["already"]) == (4, [], 0, 4)
    assert sorted((folder / "rows").rglob("*")) == before
    from_store = clarena("sync", "--store", folder / "runs", "--tracking-uri", uri, "--json").data
    assert (from_store["logged"], from_store["already"]) == (0, 4)  # byte for byte the same records


def test_what_is_packed_is_not_run_again(folder: Path) -> None:
    before = sorted((folder / "rows").rglob("*"))
    again = smoke(folder / "rows", "finetune", "joint", "--seeds", 2)
    assert again.code == 0
    assert sorted((folder / "rows").rglob("*")) == before


def test_an_altered_archive_is_named_by_every_command_and_the_rest_is_shown(folder: Path) -> None:
    (path,) = (folder / "rows").glob("*/joint-*.zip")
    path.write_bytes(path.read_bytes()[:-30])
    results = clarena("results", "--store", folder / "rows")
    assert results.code == 0
    assert "finetune" in results.out
    doctor = clarena("doctor", "--no-plugins", "--store", folder / "rows")
    board = clarena("leaderboard", "build", "--store", folder / "rows", "--out", folder / "site")
    sync = clarena("sync", "--store", folder / "rows", "--tracking-uri", f"sqlite:///{folder}/mlflow.db")
    assert (board.code, sync.code) == (0, 0)
    assert "2 logged" in sync.out
    assert "1 of its records, folders or archives cannot be read" in doctor.out
    for said in (results.err, board.err, sync.err):
        assert path.name in said
        assert "Take a whole copy" in said
    packed = clarena("store", "pack", "--store", folder / "runs", "--out", folder / "rows")
    assert packed.code == 1
    assert str(path) in packed.err
    assert "Traceback" not in packed.err


def test_a_changed_number_is_not_shown(tmp_path: Path) -> None:
    """As it was found: an accuracy of 7.5 in `record.json`, shown as 416.5 ± 4237.0 with exit code 0."""
    store = Store(tmp_path / "runs")
    for seed in range(3):
        kept(store, seed)
    path = sorted(store.path.glob("*/*-seed0-*/record.json"))[0]
    whole = path.read_bytes()
    path.write_text(json.dumps(json.loads(whole) | {"metrics": {"final_average_accuracy": 7.5}}))
    told = clarena("results", "--store", store.path)
    assert f"Damaged: The record {path} was altered: it is not what its SHA-256 was taken of." in told.err
    (row,) = clarena("results", "--store", store.path, "--json").data["tracks"][0]["rows"]
    assert row["seeds"] == [1, 2]
    path.write_bytes(whole)
    changed(path, sealed=False)
    assert "1 of 3 records carry no SHA-256 of their own" in clarena("results", "--store", store.path).err


def test_retry_sets_a_damaged_record_aside_and_runs_it_again(folder: Path) -> None:
    path = sorted((folder / "runs").glob("*/joint-seed1-*/record.json"))[0]
    whole = json.loads(path.read_bytes())
    path.write_bytes(b"[" * 200_000)
    first = smoke(folder / "runs", "finetune", "joint", "--seeds", 2)
    assert first.code == 1
    assert str(path) in first.err
    again = smoke(folder / "runs", "finetune", "joint", "--seeds", 2, "--retry")
    assert again.code == 0
    assert "It is kept as" in again.err
    assert path.with_name("record.damaged-1.json").read_bytes() == b"[" * 200_000
    assert json.loads(path.read_bytes())["accuracy_matrix"] == whole["accuracy_matrix"]
    assert clarena("results", "--store", folder / "runs").err == ""


def test_retry_leaves_a_record_of_a_later_clarena_alone(folder: Path) -> None:
    path = sorted((folder / "runs").glob("*/joint-seed1-*/record.json"))[0]
    changed(path, schema_version=99)
    told = smoke(folder / "runs", "joint", "--seeds", 2, "--retry")
    assert told.code == 1
    assert "has schema 99" in told.err
    assert not list(path.parent.glob("*damaged*"))
