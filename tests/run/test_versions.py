"""Old records joined to today's code: by the bytes of its file, or by running two seeds of each row again."""

import json
import shutil

import pytest

from clarena import Store, UsageError, evaluate
from clarena.plugins.host import Host, PluginSources
from clarena.record.aliases import IDENTITIES, with_code
from clarena.record.record import Record
from clarena.record.store import RECORD
from clarena.run.versions import attest, upgrade

PLUGIN = """
from typing import Annotated

from clarena import GradientStrategy, hookimpl


class Mine(GradientStrategy):
    '''Shrinks its weights.'''

    name = "mine"
    reference = "none"

    def __init__(self, *, strength: Annotated[float, "How much."] = 1.0) -> None:
        super().__init__()
        self.strength = strength

    def penalty(self):
        return self.strength * sum((p**2).sum() for p in self.model.parameters())


@hookimpl
def clarena_register_strategies(register):
    register(Mine)
"""
AMOUNT = "self.strength * sum((p**2).sum() for p in self.model.parameters())"
HELPER = f"    def amount(self):\n        return {AMOUNT}\n\n    def penalty"
SAME = PLUGIN.replace(AMOUNT, "self.amount()").replace("    def penalty", HELPER)
OTHER = PLUGIN.replace("self.strength *", "self.strength * 1.5 *")
SETTINGS = {"protocol": "smoke", "jobs": 1, "track": False}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A plugin's file, and the store of two rows on each of two tracks."""
    folder = tmp_path_factory.mktemp("finished")
    (folder / "mine.py").write_text(PLUGIN)
    plugins = PluginSources(files=[folder / "mine.py"], third_party=False)
    for scenario in ("class", "task"):
        for strength in (1.0, 2.0):
            evaluate(
                ["mine", "finetune"] if strength == 1.0 else "mine",
                plugins=plugins,
                scenario=scenario,
                seeds=3,
                store=folder / "runs",
                settings={"mine": {"strength": strength}},
                **SETTINGS,
            )
    return folder


@pytest.fixture
def place(tmp_path, finished):
    shutil.copytree(finished, tmp_path / "here")
    return tmp_path / "here"


def host(place):
    return Host.discover(PluginSources(files=[place / "mine.py"], third_party=False))


def without_identities(store):
    """As the records of before there were any: they have the hash of the bytes alone."""
    for path in list(store.path.glob(f"*/*/{RECORD}")):
        held = Record.model_validate_json(path.read_text())
        info = held.cell.strategy.model_copy(update={"identity": ""})
        cell = held.cell.model_copy(update={"strategy": info})
        path.parent.rename(store.folder(cell))
        content = held.model_copy(update={"cell": cell, "cell_id": cell.id}).model_dump(mode="json")
        del content["cell"]["strategy"]["identity"], content["sha256"]
        (store.folder(cell) / RECORD).write_text(json.dumps(content))


def test_records_of_todays_bytes_are_joined_and_the_others_named(place):
    store = Store(place / "runs")
    without_identities(store)
    report = upgrade(store, host(place))
    assert (report.joined, report.earlier, report.today) == ({"finetune": 6, "mine": 12}, {}, {})
    assert upgrade(store, host(place)).today == {"finetune": 6, "mine": 12}
    assert len((store.path / IDENTITIES).read_text().splitlines()) == 2
    results = evaluate(
        ["mine", "finetune"], plugins=PluginSources(files=[place / "mine.py"]), seeds=3, store=store.path, **SETTINGS
    )
    assert len(results) == 6
    assert len(store.records()[0]) == 18


def test_records_of_other_bytes_and_of_nobody_are_not_joined(place):
    store = Store(place / "runs")
    without_identities(store)
    (place / "mine.py").write_text(SAME)
    report = upgrade(store, host(place))
    assert (report.joined, report.earlier) == ({"finetune": 6}, {"mine": 12})
    report = upgrade(store, Host.discover(PluginSources(third_party=False)))
    assert list(report.unknown) == ["mine"]
    assert report.today == {"finetune": 6}


def test_a_rewrite_that_predicts_the_same_is_proven_for_all_its_rows(place):
    store = Store(place / "runs")
    (place / "mine.py").write_text(SAME)
    found = attest(store, host(place), "mine", jobs=1)
    assert found.differences == ()
    assert (len(found.rows), found.runs) == (4, 8)
    (alias,) = store.aliases().all
    assert alias.evidence.kind == "attested"
    assert all(run.old_predictions == run.new_predictions for run in alias.evidence.runs)
    assert len({(run.track, run.seed) for run in alias.evidence.runs}) == 4
    heard = []
    plugins = PluginSources(files=[place / "mine.py"], third_party=False)
    evaluate("mine", plugins=plugins, seeds=3, store=store.path, listener=heard.append, **SETTINGS)
    assert not heard
    # A row that was not there is not proven, and is run.
    new = evaluate(
        "mine",
        plugins=plugins,
        seeds=1,
        store=store.path,
        settings={"mine": {"strength": 9.0}},
        listener=heard.append,
        **SETTINGS,
    )
    assert heard
    unproven = with_code(new.records[0].cell, alias.old)
    assert store.aliases().newest(unproven) == unproven
    with pytest.raises(UsageError, match="nothing to attest"):
        attest(store, host(place), "mine", jobs=1)


def test_one_row_is_named_by_its_digest(place):
    store = Store(place / "runs")
    (place / "mine.py").write_text(SAME)
    wanted = next(r.cell for r in store.records()[0] if r.cell.strategy.hyperparameters.get("strength") == 2.0)
    found = attest(store, host(place), wanted.row[:12], jobs=1)
    assert (len(found.rows), found.differences) == (2, ())  # that row on both tracks
    with pytest.raises(UsageError, match=r"has no row 'nobody'\. Name a strategy"):
        attest(store, host(place), "nobody", jobs=1)


def test_a_rewrite_that_predicts_otherwise_is_not_proven_and_it_says_where(place):
    store = Store(place / "runs")
    (place / "mine.py").write_text(OTHER)
    found = attest(store, host(place), "mine", jobs=1)
    assert found.differences
    assert any("seed 0: " in line and "predictions differ after experience" in line for line in found.differences)
    assert not (store.path / IDENTITIES).exists()


def test_what_cannot_be_run_again_is_said_and_nothing_is_entered(place):
    store = Store(place / "runs")
    (place / "mine.py").write_text(
        SAME.replace("strength: ", "other: ").replace("self.strength = strength", "self.strength = other")
    )
    found = attest(store, host(place), "mine", jobs=1)
    assert len(found.differences) == 4
    assert all("cannot be run again: " in line for line in found.differences)
    assert not (store.path / IDENTITIES).exists()
