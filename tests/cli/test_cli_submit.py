"""`clarena submit` from the outside."""

import pytest
from cli_command import clarena
from submissions import write_plugin

from clarena.submission.bundle import read_bundle

WHO = ("--author", "Ada Lovelace", "--licence", "MIT")


def submit(tmp_path, *arguments):
    return clarena("submit", *arguments, "--no-tracking", "--jobs", 1, "--store", tmp_path / "runs")


def test_what_is_wrong_is_said_before_anything_runs(tmp_path):
    plugin = write_plugin(tmp_path / "p")
    track = ("--track", "split-digits/class")
    for arguments, said in [
        ((plugin, *track), "Not said: authors, licence."),
        ((tmp_path / "nowhere.py", *track, *WHO), "is no plugin"),
        ((plugin, *WHO), "--track"),
        ((plugin, "--track", "split-digits", *WHO), "cannot be read"),
        ((plugin, *track, *WHO, "--seeds", 4), "4 seeds are too few"),
        ((plugin, *track, *WHO, "--seeds", "3-9"), "the seeds are not 0, 1, … without a gap"),
        ((plugin, "--track", "split-digits/class/mlp/smoke", *WHO), "only 64 samples of each experience were used"),
        ((plugin, *track, *WHO, "--set", "mine.strenght=1"), "Did you mean 'strength'?"),
        ((plugin, *track, *WHO, "--set", "protocol.limit=9"), "only 9 samples"),
        ((plugin, *track, *WHO, "--timeout", 0), "timeout = 0.0 is not valid"),
    ]:
        outcome = submit(tmp_path, *arguments)
        assert outcome.code == 2, outcome.err
        assert said in outcome.err
        assert "Traceback" not in outcome.err
    assert not (tmp_path / "runs").exists()


def test_a_plugin_that_breaks_a_rule_is_not_submitted(tmp_path):
    plugin = write_plugin(tmp_path / "p")
    plugin.write_text(plugin.read_text().replace("self.strength = strength", "self.strengths = strength"))
    outcome = submit(tmp_path, plugin, "--track", "split-digits/class", *WHO)
    assert outcome.code == 2
    assert "mine breaks rules of the contract, so it cannot be submitted" in outcome.err
    assert "parameters" in outcome.err
    assert not (tmp_path / "runs").exists()


def test_a_run_that_takes_too_long_is_ended_and_not_submitted(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plugin = write_plugin(tmp_path / "p")
    outcome = submit(tmp_path, plugin, "--track", "split-digits/class", *WHO, "--seeds", 5, "--timeout", 0.001)
    assert outcome.code == 2, outcome.err
    assert "timed out" in outcome.err
    assert not (tmp_path / "mine.zip").exists()


@pytest.mark.slow
def test_from_a_file_to_a_bundle_twice_the_same(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plugin = write_plugin(tmp_path / "p")
    plugin.with_suffix(".toml").write_text('authors = ["Ada Lovelace"]\nlicence = "MIT"\n')
    tracks = ("--track", "split-digits/class", "--track", "split-digits/domain")
    small = ("--set", "protocol.epochs=1", "--set", "benchmark.experiences=2", "--set", "mine.strength=0.001")
    first = submit(tmp_path, plugin, *tracks, *small, "--seeds", 5, "--chosen", "paper")
    assert first.code == 0, first.err
    assert "mine.zip" in first.out
    assert "joint" in first.out
    content = (tmp_path / "mine.zip").read_bytes()
    manifest = read_bundle(tmp_path / "mine.zip").manifest
    assert [claim.track.scenario for claim in manifest.claims] == ["class", "domain"]
    assert [claim.seeds for claim in manifest.claims] == [[0, 1, 2, 3, 4]] * 2
    assert (manifest.chosen, manifest.hyperparameters, manifest.authors) == (
        "paper",
        {"strength": 0.001},
        ["Ada Lovelace"],
    )
    again = submit(tmp_path, plugin, *tracks, *small, "--seeds", 5, "--chosen", "paper", "--out", "again.zip")
    assert again.code == 0, again.err
    assert "0 runs" in again.err
    assert (tmp_path / "again.zip").read_bytes() == content
    checked = clarena("verify", tmp_path / "mine.zip")
    assert checked.code == 5, checked.out
    assert "mine: incomplete" in checked.out
