"""`clarena verify` from the outside: what it says, what it writes, and how it ends."""

import pytest
from cli_command import clarena
from submissions import honest, reseal  # noqa: F401 - honest is a fixture

from clarena.cli.verify import plain
from clarena.submission.season import new_season
from clarena.submission.verdict import Verdict


def test_a_bundle_that_was_not_run_is_incomplete(honest, tmp_path):  # noqa: F811
    path = reseal(honest, tmp_path, lambda parts: None)
    outcome = clarena("verify", path, "--out", tmp_path / "verdict.json", "--store", tmp_path / "v")
    assert outcome.code == 5
    assert "--trust was not given" in outcome.out
    assert outcome.out.endswith("mine: incomplete\n")
    assert Verdict.model_validate_json((tmp_path / "verdict.json").read_text()).outcome == "incomplete"
    assert not (tmp_path / "v").exists()


def test_a_forged_bundle_is_invalid_in_words_and_in_json(honest, tmp_path):  # noqa: F811
    path = reseal(honest, tmp_path, lambda parts: parts.update({"records/x/y/record.json": b"{}"}))
    outcome = clarena("verify", path)
    assert outcome.code == 4
    assert "records/x/y/record.json belongs to no claim" in outcome.out
    data = clarena("verify", path, "--json")
    assert data.code == 4
    assert data.data["outcome"] == "invalid"


def test_a_wrong_request_is_said_in_words(honest, tmp_path):  # noqa: F811
    path = reseal(honest, tmp_path, lambda parts: None)
    new_season("s1", 3, tmp_path / "season.toml", tmp_path / "secret")
    season = ("--season", tmp_path / "season.toml")
    for arguments, said in [
        ((tmp_path / "nowhere.zip",), "cannot be read"),
        ((path, "--seeds", 3), "name their season with --season"),
        ((path, "--season", tmp_path / "nowhere.toml"), "There is no season"),
        ((path, *season, "--trust", "--secret", tmp_path / "nowhere"), "its secret cannot be read"),
        ((path, *season, "--trust", "--secret", path), "secret"),
        ((path, "--device", "gpu"), "There is no device"),
    ]:
        outcome = clarena("verify", *arguments)
        assert outcome.code == 2, outcome.out
        assert said in outcome.err
        assert "Traceback" not in outcome.err


def test_a_terminal_obeys_no_stranger():
    assert plain("a\x1b[2J\x07b\u202ec\n") == "a·[2J·b·c·"


@pytest.mark.slow
def test_a_plugin_that_crashes_is_judged_and_not_suffered(honest, tmp_path):  # noqa: F811
    def crash(parts):
        parts["source/mine.py"] = b"import os\nos._exit(9)\n"

    outcome = clarena("verify", reseal(honest, tmp_path, crash), "--trust", "--store", tmp_path / "v")
    assert outcome.code == 4
    assert "the plugin does not load: Its process ended with code 9" in outcome.out
