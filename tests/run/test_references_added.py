"""References of tracks that start from weights: added, missing by name, and the line below which a row is marked."""

import json
import shlex
from pathlib import Path

import pretrained
import pytest
from clarena_leaderboard.board import load_board
from clarena_leaderboard.site.render import build_site
from clarena_leaderboard.sources import StoreSource
from typer.testing import CliRunner

import clarena
from clarena.cli import app, commands  # noqa: F401 - the commands add themselves to `app`
from clarena.plugins.host import Host
from clarena.record.references import CHEAP, below, command, expected

PLUGIN = str(Path(pretrained.__file__))
HERE = [name for name in CHEAP if name in Host.discover().strategies.names()]
ON = ("--backbone", "pretrained", "--plugin", PLUGIN, "--limit", "40", "--set", "protocol.epochs=1")


def run(*arguments: str) -> str:
    result = CliRunner().invoke(app, list(arguments))
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("references") / "runs"
    run("evaluate", "finetune", *ON, "--seeds", "2", "--store", str(folder), "--no-tracking", "--jobs", "1")
    return folder


def test_they_are_added_and_that_is_said(tmp_path):
    dry = ("evaluate", "finetune", *ON, "--seeds", "1", "--store", str(tmp_path), "--dry-run")
    told = run(*dry)
    assert f"Added, as references of a track that starts from weights: {', '.join(HERE)}" in told
    assert all(f"{name} seed 0" in told for name in HERE)
    assert "Added" not in run(*dry, "--no-references")
    assert "Added" not in run(*dry, "--set", "backbone.weights=none")
    assert "Added" not in run(*dry[:2], *HERE, *dry[2:])


def test_from_python_runs_what_is_named_unless_asked(tmp_path):
    asked = {"backbone": pretrained.Pretrained, "seeds": 1, "limit": 20, "track": False, "jobs": 1}
    asked |= {"settings": {"protocol": {"epochs": 1}}}
    assert len(clarena.evaluate("finetune", store=tmp_path / "a", **asked)) == 1
    more = clarena.evaluate("finetune", store=tmp_path / "b", references=True, **asked)
    assert [record.cell.strategy.name for record in more] == ["finetune", *HERE]
    assert all(record.cell.strategy.reference for record in more)


def test_one_that_cannot_run_is_left_out_with_the_reason(tmp_path):
    """Closed forms need to be told where an experience ends."""
    with pytest.warns(clarena.ClarenaWarning, match="ncm, a reference here, cannot run on this track"):
        results = clarena.evaluate(
            "er", backbone=pretrained.Pretrained, references=True, store=tmp_path, seeds=1, limit=20, track=False,
            jobs=1, settings={"protocol": {"epochs": 1, "boundaries": "hidden"}},
        )  # fmt: skip
    assert [record.cell.strategy.name for record in results] == ["er"]


def test_a_row_below_the_line_is_marked_everywhere(store, tmp_path):
    """One pass of fine-tuning forgets all but the last digits; means of fixed random features do not."""
    text = run("results", "--store", str(store))
    assert "finetune §" in text
    assert "ncm §" not in text
    assert "below nearest class mean (ncm), on the seeds that both have." in " ".join(text.split())
    (told,) = json.loads(run("results", "--store", str(store), "--json"))["tracks"]
    marked = {row["strategy"]: row["below_nearest_class_mean"] for row in told["rows"]}
    assert (marked["finetune"], marked["ncm"]) == (True, False)
    (table,) = load_board(StoreSource(store)).tables
    cautions = {entry.info.name: entry.caution for entry in table.entries}
    assert (cautions["finetune"], cautions["ncm"]) == ("Below nearest class mean", "")
    assert {entry.info.name: entry.standing for entry in table.entries}["ncm"] == (
        "apart" if table.track.unranked else "reference"
    )


def test_what_is_missing_is_said_with_a_command_that_makes_the_same_track(store, tmp_path):
    (told,) = json.loads(run("results", "--store", str(store), "--json"))["tracks"]
    assert told["missing_references"] == [*(name for name in CHEAP if name not in HERE), "joint"]
    assert "joint (joint fine-tuning)" in " ".join(run("results", "--store", str(store)).split())
    record = next(iter(clarena.Store(store).records()[0]))
    typed = shlex.split(command(record.cell.track, ["joint"]))[1:]
    again = run(*typed, "--plugin", PLUGIN, "--dry-run", "--json", "--seeds", "1")
    assert json.loads(again)["track_digest"] == record.track_digest
    source = StoreSource(store)
    build_site(load_board(source), source.load, tmp_path / "site")
    (page,) = (tmp_path / "site" / "track").glob("*.html")
    assert "Missing references:" in page.read_text()
    assert "Starts from weights" in page.read_text()


def test_other_tracks_have_none_of_this(store):
    (record, *_), _ = clarena.Store(store).records()
    track = record.cell.track
    random = track.model_copy(update={"backbone": track.backbone.model_copy(update={"fingerprint": None})})
    assert expected(random) == {}
    frozen = track.backbone.model_copy(update={"options": track.backbone.options | {"frozen": True}})
    assert expected(track.model_copy(update={"backbone": frozen}))["joint"] == "the joint linear probe"


def test_the_line_is_drawn_over_shared_seeds():
    """On seed 1 alone the row is below; on all of its own seeds its mean is above."""
    assert below({0: 0.9, 1: 0.5}, {1: 0.6})
    assert not below({0: 0.9, 1: 0.6}, {1: 0.6})
    assert below({0: 0.5}, {1: 0.6})
    assert not below({}, {1: 0.6})
