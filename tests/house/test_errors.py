"""A name that is not there: the closest few, and all of them only where one can take them in."""

import pytest
from cli_command import clarena

from clarena.errors import MOST_LISTED, unknown_name

MANY = [f"strategy-{number}" for number in range(40)] + ["ewc", "ewc-online"]


def test_few_are_listed_and_many_are_where_a_command_names_them():
    few = str(unknown_name("thing", "ewd", ["ewc", "lwf"], see="clarena list"))
    assert few == "There is no thing named 'ewd'.\nDid you mean 'ewc'?\nKnown: ewc, lwf."
    many = str(unknown_name("thing", "ewc-onlin", MANY, see="clarena list"))
    assert many.splitlines()[1:] == [
        "Did you mean 'ewc-online'? Also close: 'ewc'.",
        f"clarena list names all {len(MANY)}.",
    ]
    assert str(unknown_name("thing", "zzz", MANY[-3:])).splitlines()[1:] == ["Known: ewc, ewc-online, strategy-39."]


def test_without_a_command_all_are_listed_on_lines_of_a_terminal():
    lines = str(unknown_name("thing", "strategy", MANY)).splitlines()
    assert max(map(len, lines)) <= 80
    assert " ".join(line.strip() for line in lines[2:]) == f"Known: {', '.join(sorted(MANY))}."
    assert str(unknown_name("thing", "x", [])).endswith("\nKnown: none.")


@pytest.mark.parametrize(
    "command",
    [
        ("evaluate", "ewd"),
        ("evaluate", "ewc+lwff"),
        ("evaluate", "ewc", "--benchmark", "mnist"),
        ("evaluate", "ewc", "--backbone", "resnet"),
        ("evaluate", "ewc", "--set", "protocol.epoch=3"),
        ("evaluate", "ewc", "--set", "backbone.hiden=3"),
        ("describe", "ewd"),
        ("check", "ewd"),
        ("tune", "ewd"),
    ],
    ids=" ".join,
)
def test_a_typo_fits_on_a_screen(command):
    outcome = clarena(*command)
    assert outcome.code == 2
    lines = outcome.err.splitlines()
    assert len(lines) <= 7
    assert max(map(len, lines)) <= 80
    assert "Did you mean" in lines[1]
    assert outcome.err.count(",") <= MOST_LISTED or "protocol field" in lines[0]


def test_what_the_host_takes_besides_is_named():
    """Every strategy has a learning rate, though none of its own declares it."""
    assert "learning_rate" in clarena("evaluate", "ewc", "--set", "ewc.lr=1").err
    assert "option of the benchmark" in clarena("evaluate", "ewc", "--set", "benchmark.experience=1").err
    assert "no strategy or part of this track named 'foo'" in clarena("evaluate", "ewc", "--set", "foo.x=1").err
