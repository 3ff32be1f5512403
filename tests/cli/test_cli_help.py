"""The help and `clarena list`: light, whatever is installed."""

import subprocess
import sys
from pathlib import Path

import pytest
from cli_command import clarena

from clarena.cli import listing

FAULTY = Path(__file__).parents[1] / "faulty_plugins"
COMMANDS = ("evaluate", "tune", "results", "sync", "list", "describe", "new", "check", "reproduce", "doctor")

SPY = """
import sys
from clarena.cli import main
sys.argv = ["clarena", *sys.argv[1:]]
try:
    main()
except SystemExit as end:
    assert not end.code, end.code
heavy = {"numpy", "torch", "mlflow", "pandas", "matplotlib", "sklearn", "torchvision"}
print("HEAVY", sorted(heavy & set(sys.modules)))
"""


@pytest.mark.parametrize(
    ("arguments", "heavy"),
    [(("--help",), []), (("list",), []), (("evaluate", "--help"), []), (("results", "--store", "."), ["numpy"])],
)
def test_what_should_be_light_imports_nothing_heavy(arguments, heavy, tmp_path):
    spied = subprocess.run(
        [sys.executable, "-c", SPY, *arguments], capture_output=True, text=True, cwd=tmp_path, check=True
    )
    assert spied.stdout.endswith(f"HEAVY {heavy}\n")


def test_help_names_every_command():
    shown = clarena("--help")
    assert shown.code == 0
    assert [name for name in COMMANDS if f"│ {name} " in shown.out] == list(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example(command):
    shown = clarena(command, "--help")
    assert shown.code == 0
    assert "Example" in shown.out


def test_an_unknown_command_is_a_usage_error():
    outcome = clarena("evalute")
    assert outcome.code == 2
    assert "No such command 'evalute'" in outcome.err


def test_list_names_everything_with_a_sentence():
    listed = clarena("list", "--no-plugins", "--json").data
    assert list(listed) == ["strategies", "backbones", "benchmarks", "targets", "protocols", "broken"]
    strategies = {each["name"]: each for each in listed["strategies"]}
    assert {"finetune", "joint", "cumulative", "ewc", "er"} <= set(strategies)
    assert strategies["ewc"]["plugin"] == "native"
    assert strategies["ewc"]["summary"].startswith("Elastic weight consolidation")
    text = clarena("list", "--no-plugins").out
    for group in (listed["strategies"], listed["backbones"], listed["benchmarks"]):
        for each in group:
            # In a pipe an entry is one line, and nothing is cut off.
            lines = [line for line in text.splitlines() if line.startswith(f"{each['name']} ")]
            assert any(each["summary"] in line for line in lines)


def test_in_a_narrow_terminal_a_summary_gets_lines_of_its_own(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    lines = clarena("list", "--no-plugins").out.splitlines()
    assert max(map(len, lines)) <= 80
    at = lines.index("continuum/transformation-incremental:PATH  continuum")
    assert lines[at + 1].startswith("    Continuum's TransformationIncremental: the same samples")
    monkeypatch.setenv("COLUMNS", "160")
    wide = clarena("list", "--no-plugins").out
    assert any(line.startswith("ewc ") and "Elastic weight consolidation" in line for line in wide.splitlines())


def test_list_says_which_extra_is_missing(monkeypatch):
    listing.missing_packages.cache_clear()
    monkeypatch.setattr(listing, "is_installed", lambda name: name != "torchvision")
    try:
        listed = clarena("list", "--no-plugins", "--json").data
        text = clarena("list", "--no-plugins").out
    finally:
        listing.missing_packages.cache_clear()
    needs = {each["name"]: each["needs_extra"] for each in listed["benchmarks"]}
    assert needs["split-mnist"] == "vision"
    assert needs["split-digits"] is None
    assert "pip install 'clarena-bench[vision]'" in text


def test_broken_plugins_are_listed_with_their_reasons_and_hurt_nothing():
    listed = clarena("list", "--plugins-dir", FAULTY, "--json")
    assert listed.code == 0
    reasons = {each["plugin"]: each["reason"] for each in listed.data["broken"]}
    assert "No module named 'package_that_is_not_installed'" in reasons["missing_dependency"]
    assert len(reasons) == len(list(FAULTY.glob("*.py"))) - 1
    assert "good" in {each["name"] for each in listed.data["strategies"]}
    text = clarena("list", "--plugins-dir", FAULTY).out
    assert "did you mean clarena_register_strategies?" in text
    assert clarena("--help").code == 0


def test_a_broken_plugin_from_the_environment_leaves_the_help_alone(monkeypatch):
    monkeypatch.setenv("CLARENA_PLUGINS", str(FAULTY / "exits_at_import.py"))
    assert clarena("--help").code == 0
    assert [each["plugin"] for each in clarena("list", "--json").data["broken"]] == ["exits_at_import"]


def test_a_plugin_file_that_is_not_there_is_a_usage_error(tmp_path):
    outcome = clarena("list", "--plugin", tmp_path / "absent.py")
    assert outcome.code == 2
    assert "No plugin at" in outcome.err
    assert "Traceback" not in outcome.err


def test_traceback_shows_the_exception(tmp_path, monkeypatch):
    from clarena.errors import UsageError

    monkeypatch.setenv("CLARENA_TRACEBACK", "")  # so that what the option sets is taken back
    with pytest.raises(UsageError, match="No plugin at"):
        clarena("--traceback", "list", "--plugin", tmp_path / "absent.py")
