"""`clarena tune` from the outside: a study, a table, and the command that evaluates what was chosen."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time

import pytest
from cli_command import clarena

QUICK = ("--protocol", "smoke", "--limit", 16, "--seeds", 1)


def tune(store, *arguments):
    """Tune on very little data, in this process."""
    return clarena("tune", *arguments, *QUICK, "--jobs", 1, "--store", store)


def study(store):
    """The study in a store, without the command that began it."""
    (path,) = store.glob("tuning/*/study.json")
    return {key: value for key, value in json.loads(path.read_text()).items() if key != "command"}


def test_the_command_that_is_printed_evaluates_what_was_chosen(tmp_path):
    outcome = tune(tmp_path, "l2", "--trials", 3, "--scenario", "task", "--set", "protocol.epochs=2")
    assert (outcome.code, outcome.err.count("\n")) == (0, 3)
    lines = outcome.out.splitlines()
    assert "l2, 3 trials × 1 seeds, on 20 % of the training data of the first 3 experiences" in lines[0]
    assert lines[1:3] == ["  strength = 0.01..100:log", "  learning_rate = 1e-05..0.1:log"]
    assert "The best 3 of 3 trials" in outcome.out
    assert "0 (default)" in outcome.out
    command = shlex.split(lines[-1])
    assert command[:3] == ["clarena", "evaluate", "l2"]
    made = study(tmp_path)
    evaluated = clarena(*command[1:-1], "2", "--jobs", 1, "--no-tracking", "--json")
    assert evaluated.code == 0
    (track,) = evaluated.data["tracks"]
    assert track["track"] == "split-digits/task/mlp/custom"
    (row,) = track["rows"]
    best = made["trials"][made["chosen"]]["values"]
    assert (row["hyperparameters"]["strength"], row["learning_rate"]) == (best["strength"], best["learning_rate"])
    records = [json.loads(path.read_text()) for path in tmp_path.glob("*/*/record.json")]
    assert {record["cell"]["strategy"]["chosen"] for record in records} == {"tuned (3 trials)"}
    assert {record["cell"]["seed"] for record in records} == {0, 1}


def test_what_is_there_is_not_tried_again(tmp_path):
    first = tune(tmp_path, "l2", "--trials", 2, "--json").data
    again = tune(tmp_path, "l2", "--trials", 2, "--json")
    more = tune(tmp_path, "l2", "--trials", 3, "--json").data
    assert (again.code, again.data) == (0, first)
    assert (more["trials"][:2], len(more["trials"]), more["how"]) == (first["trials"], 3, "tuned (3 trials)")
    assert more["path"].endswith("study.json")


def test_the_gain_over_the_default_is_paired_and_has_an_interval(tmp_path):
    arguments = ("l2", "--trials", 3, "--space", "learning_rate=0.001..0.1:log", *QUICK[:4], "--seeds", 2, "--jobs", 1)
    too_small = ("--scenario", "task", "--set", "protocol.learning_rate=0.0000001", "--set", "protocol.epochs=9")
    outcome = clarena("tune", *arguments, *too_small, "--store", tmp_path)
    made = study(tmp_path)
    assert made["chosen"] != 0
    a, b = (100 * (x - y) for x, y in zip(made["trials"][made["chosen"]]["scores"], made["trials"][0]["scores"]))
    half_width = 12.7062 * abs(a - b) / 2  # t of one degree of freedom at 97.5 %, times s / √2
    assert f"flattered, {(a + b) / 2:.1f} ± {half_width:.1f} points over the default" in outcome.out


def test_a_dry_run_shows_the_space_and_writes_nothing(tmp_path):
    outcome = tune(tmp_path / "runs", "er", "--dry-run", "--space", "policy=ring,reservoir")
    assert outcome.code == 0
    assert outcome.out.splitlines()[1:] == [
        "  policy = ring,reservoir",
        "A grid of 2 settings, the default among them; none is tried twice.",
    ]
    assert "er, 2 trials × 1 seeds" in outcome.out  # not the 20 that stand for a range
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_a_tuning_that_was_killed_goes_on_and_ends_the_same_with_any_number_of_jobs(tmp_path):
    arguments = ("l2", "--trials", "6", "--space", "strength=0.1..1000:log")
    assert tune(tmp_path / "whole", *arguments).code == 0
    store = tmp_path / "killed"
    command = [sys.executable, "-c", "from clarena.cli import main; main()", "tune", *arguments, *map(str, QUICK)]
    with open(tmp_path / "log", "w") as log:
        process = subprocess.Popen(
            [*command, "--jobs", "1", "--store", str(store)], stdout=log, stderr=log, env=os.environ
        )
        while process.poll() is None and not list(store.glob("tuning/*/*/*/record.json")):
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert process.returncode == -signal.SIGKILL, (tmp_path / "log").read_text()
    assert not list(store.glob("tuning/*/study.json"))  # it is written after a round of five
    there = {path: path.stat().st_mtime_ns for path in store.glob("tuning/*/*/*/record.json")}
    assert clarena("tune", *arguments, *QUICK, "--jobs", 2, "--store", store).code == 0
    assert study(store) == study(tmp_path / "whole")
    assert {path: path.stat().st_mtime_ns for path in there} == there


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("ecw",), ["no strategy named 'ecw'", "Did you mean 'ewc'?"]),
        (("ewc", "--space", "strenght=1..2"), ["no hyper-parameter of ewc to tune", "Did you mean 'strength'?"]),
        (("ewc", "--space", "strength=2..1"), ["is empty"]),
        (("ewc", "--space", "strength=-1..1"), ["ewc.strength = -1.0 is not valid", "λ"]),
        (("ewc", "--space", "strength"), []),
        (("ewc", "--set", "ewc.strenght=1"), ["Did you mean 'strength'?"]),
        (("ewc", "--set", "protocol.tested_on=validation"), ["no protocol field named 'tested_on'"]),
        (("er", "--space", "buffer_size=100..201"), ["exceeds the protocol's limit of 200 exemplars"]),
        (("finetune", "--set", "finetune.learning_rate=0.1"), ["There is nothing to tune in finetune"]),
        (("ewc", "--trials", "0"), ["--trials"]),
        (("ewc", "--benchmark", "split-digit"), ["Did you mean 'split-digits'?"]),
        (("ewc", "--set", "protocol.validation_fraction=2"), ["Share of each class's training data"]),
    ],
)
def test_a_wrong_request_is_said_in_words(arguments, said, tmp_path):
    outcome = tune(tmp_path / "runs", *arguments, "--dry-run")
    assert outcome.code == (2 if said else 0)
    assert [words for words in said if words not in outcome.err] == []
    assert "Traceback" not in outcome.err
    assert not (tmp_path / "runs").exists()


def test_a_file_that_is_no_study_is_said_in_words(tmp_path):
    outcome = clarena("evaluate", "ewc", "--tuned", tmp_path / "none.json", "--store", tmp_path / "runs")
    assert outcome.code == 1
    assert "Name a study.json of `clarena tune`" in outcome.err
    tune(tmp_path, "l2", "--trials", 1)
    (path,) = tmp_path.glob("tuning/*/study.json")
    outcome = clarena("evaluate", "l2", "--tuned", path, "--store", tmp_path / "runs")
    assert outcome.code == 2
    assert "tuned l2 for the track split-digits/class/mlp/custom" in outcome.err
    assert not (tmp_path / "runs").exists()


def test_where_no_trial_finishes_the_command_fails_and_says_so(tmp_path):
    plugin = tmp_path / "broken.py"
    plugin.write_text(
        "from clarena import GradientStrategy, hookimpl\n\n\n"
        "class Broken(GradientStrategy):\n    '''Cannot learn.'''\n\n    name = 'broken'\n\n"
        "    def loss(self, batch):\n        raise ValueError('no [bold]loss[/bold]')\n\n\n"
        "@hookimpl\ndef clarena_register_strategies(register):\n    register(Broken)\n"
    )
    outcome = tune(tmp_path / "runs", "broken", "--plugin", plugin, "--trials", 2)
    assert outcome.code == 1
    assert "failed: ValueError: no [bold]loss[/bold]" in outcome.out
    assert "No trial finished, so nothing is chosen." in outcome.out
    assert "clarena evaluate" not in outcome.out
    assert [trial["scores"] for trial in study(tmp_path / "runs")["trials"]] == [[None], [None]]
