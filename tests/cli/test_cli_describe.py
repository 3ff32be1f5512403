"""`clarena describe`, and how docstrings are set for a terminal."""

import textwrap

import pytest
from cli_command import clarena

from clarena.cli.listing import install_command, missing_packages
from clarena.cli.text import numbered, prose, reflow
from clarena.plugins.host import Host, PluginSources
from clarena.plugins.parameters import parameters

NATIVE = Host.discover(PluginSources(third_party=False))


def test_a_strategy_shows_all_that_its_class_declares():
    (facts,) = clarena("describe", "ewc", "--json").data
    cls = NATIVE.strategies.load("ewc")
    assert facts["kind"] == "strategy"
    assert facts["paper"] == cls.reference
    assert facts["scenarios"] == ["class", "domain", "task"]
    assert facts["off"] == {"strength": 0.0}
    assert [each["name"] for each in facts["parameters"]] == list(parameters(cls))
    assert len(facts["differences"]) >= 3
    assert facts["mismatches"] == []
    assert "L(θ)" in facts["text"]


def test_the_page_says_it_in_words():
    page = clarena("describe", "ewc").out
    for said in (
        "strength=0.0 equals finetune, bit for bit",
        "exact | sample | empirical",
        "γ of the online mode",
        "      L(θ) = L_B(θ) + ",  # the equation keeps its place
        "clarena evaluate ewc finetune joint",
    ):
        assert said in page


@pytest.mark.parametrize(
    ("kind", "name", "extra"),
    [
        (r.kind.word, e.name, e.extra)
        for r in (NATIVE.backbones, NATIVE.benchmarks)
        for e in r
        if e.plugin != "avalanche"
    ],
)
def test_backbones_and_benchmarks_show_their_options(kind, name, extra):
    named = clarena("describe", name, "--no-plugins", "--json").data
    (facts,) = [facts for facts in named if facts["kind"] == kind]
    if extra and missing_packages(extra):
        assert facts["problem"].endswith(install_command(extra))
        return
    assert all(each["description"] for each in facts["parameters"])
    assert facts["mismatches"] == []
    assert f"--{kind} {name}" in facts["example"]


@pytest.mark.parametrize("entry", list(NATIVE.targets), ids=lambda entry: entry.name)
def test_targets_show_where_they_make_sense_and_both_halves_are_there(entry):
    (facts,) = clarena("describe", entry.name, "--json").data
    assert (facts["kind"], facts["mismatches"], facts["problem"]) == ("target", [], None)
    assert facts["scenarios"] == (["class", "domain", "task"] if entry.name == "classes" else ["domain"])
    assert f'target="{entry.name}"' in facts["example"]
    assert "Example" in clarena("describe", entry.name).out


def test_a_strategy_of_some_targets_says_so():
    assert clarena("describe", "icarl", "--json").data[0]["targets"] == ["classes"]
    assert clarena("describe", "ewc", "--json").data[0]["targets"] is None
    assert "targets    classes" in clarena("describe", "icarl").out


def test_a_name_that_is_a_strategy_and_a_backbone_shows_both(tmp_path):
    plugin = tmp_path / "both.py"
    plugin.write_text(
        textwrap.dedent("""
        from clarena import Strategy, hookimpl

        class Cnn(Strategy):
            '''Shares its name with a backbone.'''
            name = "cnn"

        @hookimpl
        def clarena_register_strategies(register):
            register(Cnn)
        """)
    )
    pages = clarena("describe", "cnn", "--plugin", plugin, "--json").data
    assert [facts["kind"] for facts in pages] == ["strategy", "backbone"]
    assert pages[0]["example"].endswith(f"--plugin {plugin}")


def test_an_unknown_name_gets_the_closest_one_of_any_kind():
    for typed, meant in (("ewk", "ewc"), ("split-digit", "split-digits"), ("mlpp", "mlp")):
        outcome = clarena("describe", typed)
        assert outcome.code == 2
        assert f"Did you mean '{meant}'?" in outcome.err
        assert "Traceback" not in outcome.err


def test_what_cannot_be_imported_is_still_described(tmp_path):
    plugin = tmp_path / "lazy.py"
    plugin.write_text(
        textwrap.dedent("""
        from clarena import hookimpl

        @hookimpl
        def clarena_register_strategies(register):
            register("no_such_package.module:Method", name="lazy", summary="Never arrives", extra="board")
        """)
    )
    outcome = clarena("describe", "lazy", "--plugin", plugin)
    assert outcome.code == 1
    assert "Never arrives." in outcome.out
    assert "there is no 'no_such_package'" in outcome.out


def test_a_registration_that_disagrees_with_its_class_is_shown(tmp_path):
    plugin = tmp_path / "unlike.py"
    plugin.write_text(
        textwrap.dedent("""
        from clarena import Strategy, hookimpl

        class Method(Strategy):
            '''Says one thing.'''
            name = "method"

        @hookimpl
        def clarena_register_strategies(register):
            register(Method, name="other", summary="Says another")
        """)
    )
    page = clarena("describe", "other", "--plugin", plugin).out
    assert "registered as 'other', but its class has name = 'method'" in page


DOCSTRING = """One sentence that is long enough to be
broken in two.

    x = y + z
    and more

1. An item that goes
   on here.
2. Another."""


def test_reflow_fills_paragraphs_and_items_and_keeps_equations():
    assert reflow(DOCSTRING, 30).splitlines() == [
        "One sentence that is long",
        "enough to be broken in two.",
        "",
        "    x = y + z",
        "    and more",
        "",
        "1. An item that goes on here.",
        "2. Another.",
    ]
    assert reflow("    a = b + c + d", 12).splitlines() == ["    a = b +", "        c +", "        d"]
    assert reflow("1. An item that goes\n   on here.", 20).splitlines() == ["1. An item that goes", "   on here."]


def test_numbered_takes_the_items_without_their_numbers():
    assert numbered(DOCSTRING) == ["An item that goes on here.", "Another."]
    assert numbered("Nothing to count.") == []


def test_prose_leaves_out_sections_on_attributes():
    assert prose("A sentence.\n\nMore.\n\nAttributes:\n    x: a number.") == "A sentence.\n\nMore."


def test_a_benchmark_of_ones_own_data_shows_them_and_the_options_of_their_kind(tmp_path):
    rows = "".join(f"{i},{i * 2},red,{'abc'[i % 3]}\n" for i in range(30))
    (tmp_path / "mine.csv").write_text("x,y,colour,label\n" + rows)
    page = clarena("describe", f"split:{tmp_path / 'mine.csv'}").out
    for said in (
        "24 training and 6 test samples of 3 classes (8 training samples each); 2 float32 from 0 to 58",
        "the column 'colour' is ignored: 'red' in line 2 is no number",
        "standardise",
        f"--benchmark split:{tmp_path / 'mine.csv'}",
    ):
        assert said in page
    (facts,) = clarena("describe", f"split:{tmp_path / 'mine.csv'}", "--json").data
    assert facts["data"]["train"]["labels_by_class"] == [8, 8, 8]
    assert "data" not in clarena("describe", "split:PATH", "--json").data[0]
    refused = clarena("describe", f"split:{tmp_path / 'nix.csv'}")
    assert refused.code == 1
    assert f"There is nothing at {tmp_path / 'nix.csv'}" in refused.err
