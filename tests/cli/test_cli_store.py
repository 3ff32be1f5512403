"""`clarena store upgrade` and `clarena results attest`: old records joined to today's rows."""

import json
import shutil

import pytest
from cli_command import clarena, smoke

from clarena import Store
from clarena.record.record import Record
from clarena.record.store import RECORD

PLUGIN = """
from clarena import GradientStrategy, hookimpl

class Mine(GradientStrategy):
    '''Is finetune.'''
    name = "mine"
    factor = 1.0

    def loss(self, batch):
        return super().loss(batch) * self.factor

@hookimpl
def clarena_register_strategies(register):
    register(Mine)
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A plugin, and a store whose records are of before there were identities."""
    folder = tmp_path_factory.mktemp("upgrade")
    (folder / "mine.py").write_text(PLUGIN)
    assert smoke(folder / "runs", "mine", "--seeds", 2, "--plugin", folder / "mine.py").code == 0
    store = Store(folder / "runs")
    for path in list(store.path.glob(f"*/*/{RECORD}")):
        content = json.loads(path.read_text())
        del content["cell"]["strategy"]["identity"], content["sha256"]
        cell = Record.model_validate(content | {"cell_id": ""}).cell
        path.parent.rename(store.folder(cell))
        (store.folder(cell) / RECORD).write_text(json.dumps(content | {"cell_id": cell.id}))
    return folder


@pytest.fixture
def place(made, tmp_path):
    return shutil.copytree(made, tmp_path / "here")


def command(place, *arguments):
    return clarena(*arguments, "--store", place / "runs", "--plugin", place / "mine.py")


def dry(place):
    """What is left to be run."""
    options = ("--seeds", 2, "--plugin", place / "mine.py", "--dry-run")
    return smoke(place / "runs", "mine", *options).out.splitlines()[-1]


def test_old_records_are_marked_until_they_are_joined(place):
    table = clarena("results", "--store", place / "runs")
    assert "mine †" in table.out
    assert "†: of an earlier version" in table.out
    assert clarena("results", "--store", place / "runs", "--json").data["tracks"][0]["rows"][0]["earlier_version"]
    doctor = clarena("doctor", "--store", place / "runs", "--no-plugins")
    assert "2 of its records are of an earlier version" in doctor.out
    joined = command(place, "store", "upgrade")
    assert (joined.code, joined.out) == (0, "2 records joined to today's code now: the same bytes.\n  mine 2\n")
    assert command(place, "store", "upgrade").out == "2 records of today's code.\n  mine 2\n"
    assert "†" not in clarena("results", "--store", place / "runs").out
    assert dry(place) == "0 of 2 cells to run."
    assert "of an earlier version" not in clarena("doctor", "--store", place / "runs", "--no-plugins").out


def test_a_rewritten_strategy_is_attested_or_not(place):
    (place / "mine.py").write_text(PLUGIN.replace("factor = 1.0", "factor = 1.0 + 0.0"))
    told = command(place, "store", "upgrade")
    assert told.out.startswith(
        "2 records of an earlier version: to prove that it does the same, clarena results attest NAME."
    )
    assert dry(place) == "2 of 2 cells to run."
    (place / "mine.py").write_text(PLUGIN.replace("factor = 1.0", "factor = -1.0"))
    refused = command(place, "results", "attest", "mine", "--jobs", 1)
    assert refused.code == 1
    assert "mine is not proven to be the same; nothing was changed." in refused.err
    assert "seed 0: " in refused.err
    (place / "mine.py").write_text(PLUGIN.replace("factor = 1.0", "factor = 1.0 + 0.0"))
    proven = command(place, "results", "attest", "mine", "--jobs", 1)
    assert (proven.code, proven.err) == (0, "")
    assert (
        "all predictions of 2 runs are the same bits; 1 rows of an earlier version are today's from now on"
        in proven.out
    )
    assert dry(place) == "0 of 2 cells to run."


def test_the_store_may_be_named_before_attest_as_well(place):
    told = clarena("results", "--store", place / "runs", "attest", "nobody", "--plugin", place / "mine.py")
    assert told.code == 2
    assert "has no row 'nobody'. Name a strategy (mine)" in told.err
    damaged = place / "runs" / "identities.jsonl"
    damaged.write_text("nonsense\n")
    for told in (clarena("results", "--store", place / "runs"), command(place, "store", "upgrade")):
        assert told.code == 1
        assert "identities.jsonl, line 1: " in told.err
