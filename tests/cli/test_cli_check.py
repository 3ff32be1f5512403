"""`clarena check`: what it takes, what it says, and its exit code."""

import textwrap

from cli_command import clarena

TWO = """
from clarena import GradientStrategy, hookimpl

class Sound(GradientStrategy):
    '''Fine-tunes.'''
    name = "sound"
    reference = "Nobody 2020"

class Careless(GradientStrategy):
    '''Fine-tunes, and writes into its data.'''
    name = "careless"
    reference = "Nobody 2020"

    def learn(self, experience):
        super().learn(experience)
        experience.x.zero_()

@hookimpl
def clarena_register_strategies(register):
    register(Sound)
    register(Careless)
"""


def plugin(folder, text):
    path = folder / "two.py"
    path.write_text(textwrap.dedent(text))
    return path


def test_a_file_is_checked_with_all_that_it_holds(tmp_path):
    outcome = clarena("check", plugin(tmp_path, TWO), "--scenario", "class", "--json")
    assert outcome.code == 1
    reports = {report["strategy"]: report for report in outcome.data}
    assert set(reports) == {"sound", "careless"}
    assert reports["sound"]["ok"]
    failed = {each["name"] for each in reports["careless"]["results"] if each["outcome"] == "failed"}
    assert "data_untouched" in failed
    assert {each["scenario"] for each in reports["careless"]["results"]} == {None, "class"}


def test_each_rule_has_a_line_and_each_failure_its_message(tmp_path):
    outcome = clarena("check", "careless", "--plugin", plugin(tmp_path, TWO), "--scenario", "domain")
    assert outcome.code == 1
    lines = [line.split() for line in outcome.out.splitlines()]
    assert ["careless", "domain"] in lines
    assert ["learns", "ok"] in lines
    assert ["data_untouched", "FAILED"] in lines
    assert "failed: data_untouched (domain)" in outcome.out


def test_a_backbone_is_named_with_its_options():
    on = ("--scenario", "task", "--backbone", "mlp", "--set", "backbone.hidden=8", "--set", "backbone.norm=batch")
    outcome = clarena("check", "den", *on, "--json")
    assert outcome.code == 0
    (report,) = outcome.data
    told = {each["message"] for each in report["results"] if each["name"] == "runs"}
    assert len(told) == 1
    assert "backbone 'mlp' cannot serve: its `layers` hold BatchNorm" in told.pop()


def test_what_cannot_be_checked_is_a_usage_error_or_a_broken_plugin(tmp_path):
    path = plugin(tmp_path, TWO)
    cases = [
        (("ewk",), 2, "Did you mean 'ewc'?"),
        (("ewc", "--scenario", "clas"), 2, "Did you mean 'class'?"),
        ((tmp_path / "absent.py",), 2, "No plugin at"),
        (("ewc", "--backbone", "mpl"), 2, "Did you mean 'mlp'?"),
        (("ewc", "--backbone", "mlp", "--set", "backbone.nrom=batch"), 2, "norm"),
        (("ewc", "--set", "ewc.strength=1"), 2, "Only the backbone has options here"),
    ]
    for arguments, code, said in cases:
        outcome = clarena("check", *arguments)
        assert (outcome.code, said in outcome.err) == (code, True), outcome.err
    path.write_text("import no_such_package\n")
    broken = clarena("check", path)
    assert broken.code == 1
    assert "No module named 'no_such_package', neither beside two.py nor installed (at line 1 of two.py)" in broken.err
    assert "Traceback" not in broken.err
