"""`clarena results` and `clarena sync`: what a store holds, with what went wrong in it."""

import csv
import io
import shutil
import textwrap

import pytest
from cli_command import clarena, smoke

PLUGIN = """
from clarena import GradientStrategy, hookimpl

class Raises(GradientStrategy):
    '''Gives up.'''
    name = "raises"

    def before_experience(self, experience):
        raise RuntimeError("no more [patience] than this")

class Diverges(GradientStrategy):
    '''Runs away.'''
    name = "diverges"

    def loss(self, batch):
        return super().loss(batch) * float("inf")

@hookimpl
def clarena_register_strategies(register):
    register(Raises)
    register(Diverges)
"""


@pytest.fixture(scope="module")
def held(tmp_path_factory):
    """A store with two tracks; two finished rows, a failed and a diverged run."""
    folder = tmp_path_factory.mktemp("results")
    plugin = folder / "faulty.py"
    plugin.write_text(textwrap.dedent(PLUGIN))
    assert smoke(folder / "runs", "finetune", "joint", "--seeds", 2).code == 0
    assert smoke(folder / "runs", "raises", "diverges", "--seeds", 1, "--plugin", plugin).code == 1
    assert smoke(folder / "runs", "finetune", "--seeds", 1, "--scenario", "domain").code == 0
    return folder / "runs"


@pytest.fixture
def store(held, tmp_path):
    """A copy that a test may damage."""
    return shutil.copytree(held, tmp_path / "runs")


def test_a_table_for_each_track_hides_nothing(held):
    outcome = clarena("results", "--store", held)
    assert outcome.code == 0
    assert outcome.out.count("final accuracy %") == 2
    assert "1 failed" in outcome.out
    assert "1 diverged" in outcome.out
    assert "raises seed 0: failed: RuntimeError: no more [patience] than this" in outcome.out


def test_json_and_csv_hold_the_same_rows(held):
    tracks = clarena("results", "--store", held, "--json").data["tracks"]
    assert [len(track["rows"]) for track in tracks] == [4, 1]
    lines = list(csv.DictReader(io.StringIO(clarena("results", "--store", held, "--format", "csv").out)))
    rows = [row for track in tracks for row in track["rows"]]
    assert [(line["strategy"], line["track_digest"]) for line in lines] == [
        (row["strategy"], row["track_digest"]) for row in rows
    ]
    for line, row in zip(lines, rows, strict=True):
        mean = row["final_average_accuracy"]
        assert line["final_average_accuracy"] == ("" if mean is None else str(mean))


def test_records_are_one_line_each(held):
    records = clarena("results", "--store", held, "--records", "--json").data["records"]
    assert sorted((each["strategy"], each["seed"], each["status"]) for each in records) == [
        ("diverges", 0, "diverged"),
        ("finetune", 0, "finished"),
        ("finetune", 0, "finished"),
        ("finetune", 1, "finished"),
        ("joint", 0, "finished"),
        ("joint", 1, "finished"),
        ("raises", 0, "failed"),
    ]
    table = clarena("results", "--store", held, "--format", "csv", "--records").out
    lines = list(csv.DictReader(io.StringIO(table)))
    assert [line["cell"] for line in lines] == [each["cell"] for each in records]
    text = clarena("results", "--store", held, "--records").out
    assert sum(" finished " in line for line in text.splitlines()) == 5


def test_tracks_and_strategies_can_be_chosen(held):
    tracks = clarena("results", "--store", held, "--json").data["tracks"]
    digest = tracks[1]["track_digest"][:10]
    for chosen in (digest, "/domain/"):
        found = clarena("results", "--store", held, "--track", chosen, "--json").data["tracks"]
        assert found == tracks[1:]
    rows = clarena("results", "--store", held, "--strategy", "joint", "--json").data["tracks"][0]["rows"]
    assert [row["strategy"] for row in rows] == ["joint"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--track", "split-mnist"), "There is no track"),
        (("--strategy", "jont"), "Did you mean 'joint'?"),
        (("--format", "xml"), "xml"),
        (("--json", "--format", "csv"), "exclude each other"),
    ],
)
def test_a_wrong_choice_is_a_usage_error(arguments, said, held):
    outcome = clarena("results", "--store", held, *arguments)
    assert outcome.code == 2
    assert said in outcome.err


def test_a_damaged_record_is_shown_with_its_reason_and_hides_no_other(store):
    damaged = sorted(store.rglob("joint-seed0-*/record.json"))[0]
    damaged.write_bytes(damaged.read_bytes()[:200])
    outcome = clarena("results", "--store", store)
    assert outcome.code == 0
    assert f"Damaged: The record {damaged} cannot be read" in outcome.err
    (joint,) = [line.split() for line in outcome.out.splitlines() if line.startswith("joint")]
    assert joint[2] == "1"  # n, after the mean of a single seed
    (entry,) = clarena("results", "--store", store, "--json").data["damaged"]
    assert entry["path"] == str(damaged)


def test_a_store_that_is_empty_or_absent_is_told_apart(tmp_path):
    empty = clarena("results", "--store", tmp_path)
    assert (empty.code, empty.out) == (0, "")
    assert "holds no record" in empty.err
    assert clarena("results", "--store", tmp_path, "--json").data == {"tracks": [], "damaged": [], "unsealed": 0}
    assert clarena("results", "--store", tmp_path, "--format", "csv").out == ""
    for command in ("results", "sync"):
        absent = clarena(command, "--store", tmp_path / "absent")
        assert absent.code == 2
        assert "There is no store at" in absent.err


def test_sync_logs_once_and_says_what_failed(store):
    for damaged in sorted(store.rglob("record.json"))[2:]:
        damaged.write_text("{")
    uri = f"sqlite:///{store.parent}/mlflow.db"
    first = clarena("sync", "--store", store, "--tracking-uri", uri, "--json")
    assert first.code == 0
    assert (first.data["logged"], first.data["already"], len(first.data["damaged"])) == (2, 0, 5)
    again = clarena("sync", "--store", store, "--tracking-uri", uri)
    assert again.code == 0
    assert again.out.startswith("0 logged, 2 there already, 0 failed.")
    assert "cannot be read" in again.err


def test_sync_fails_in_words_where_mlflow_cannot_be_reached(store):
    (store.parent / "mlflow.db").write_text("this is no database, but long enough to be taken for one " * 9)
    outcome = clarena("sync", "--store", store, "--tracking-uri", f"sqlite:///{store.parent}/mlflow.db")
    assert outcome.code == 1
    assert "7 failed" in outcome.out
    assert "file is not a database" in outcome.err
    assert "Traceback" not in outcome.err
