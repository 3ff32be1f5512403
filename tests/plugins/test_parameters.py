"""Hyper-parameters: what the signature says, what text may mean, and what is refused with which words."""

import math
from typing import Annotated, Any, Literal, Optional

import pytest
from clarena_native.backbones.small import Cnn, Mlp
from clarena_native.benchmarks.digits import RotatedDigits, SplitDigits
from clarena_native.strategies.regularisation.ewc import EWC
from clarena_native.strategies.replay.er import ER
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field

from clarena import PluginError, UsageError
from clarena.errors import UnknownNameError
from clarena.plugins.parameters import defaults, parameters, parse
from clarena.protocol.protocol import digest


class Everything:
    """One parameter of each kind."""

    def __init__(
        self,
        x: int = 0,
        *,
        strength: Annotated[float, Field(ge=0, le=10, description="How strong.")] = 1,  # an int for a float
        passes: Annotated[int, Field(gt=0, lt=9, description="How often.")] = 3,
        nesterov: Annotated[bool, Field(description="Whether to look ahead.")] = False,
        kind: Annotated[Literal["exact", "none"], Field(description="Which one.")] = "exact",
        level: Annotated[Literal[1, 2], Field(description="Which level.")] = 1,
        hidden: Annotated[tuple[int, ...], Field(min_length=1, description="Sizes.")] = (400, 400),
        rates: Annotated[tuple[float, float], "A pair, described by a bare string."] = (0.0, 1.0),
        size: Annotated[int | None, Field(ge=1, description="How many.")] = None,
        label: Annotated[Optional[str], Field(description="A word.")] = None,  # noqa: UP045
        plain: str = "none",
        untyped=5,
    ) -> None:
        raise AssertionError("reading a signature calls nothing")


def read(**values):
    return parse(Everything, values, "everything")


def test_types_as_a_person_would_write_them():
    assert {name: p.type_name for name, p in parameters(Everything).items()} == {
        "strength": "float, ≥ 0, ≤ 10",
        "passes": "int, > 0, < 9",
        "nesterov": "bool",
        "kind": "exact | none",
        "level": "1 | 2",
        "hidden": "tuple[int, …]",
        "rates": "tuple[float, float]",
        "size": "int | none, ≥ 1",
        "label": "str | none",
        "plain": "str",
        "untyped": "Any",
    }
    assert parameters(Everything)["rates"].description == "A pair, described by a bare string."
    assert parameters(Everything)["strength"].description == "How strong."
    assert parameters(object) == {}


def test_the_real_ones_all_have_a_type_a_sentence_and_a_default():
    for cls in (EWC, ER, Mlp, Cnn, SplitDigits, RotatedDigits):
        for name, parameter in parameters(cls).items():
            assert parameter.annotation is not Any, name
            assert parameter.description.endswith("."), name
        assert parse(cls, {}, cls.name) == defaults(cls)


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("strength", "0.5", 0.5),
        ("strength", "1e-3", 0.001),
        ("strength", "7", 7.0),
        ("passes", "8", 8),
        ("nesterov", "true", True),
        ("nesterov", "False", False),
        ("nesterov", "0", False),
        ("kind", "none", "none"),
        ("level", "2", 2),
        ("hidden", "100", (100,)),
        ("hidden", "100,", (100,)),
        ("hidden", "100, 50", (100, 50)),
        ("hidden", "(100, 50)", (100, 50)),
        ("hidden", "[100]", (100,)),
        ("rates", "0.5,1", (0.5, 1.0)),
        ("size", "4", 4),
        ("size", "none", None),
        ("size", "None", None),
        ("size", "null", None),
        ("label", "none", None),
        ("label", "5", "5"),
        ("label", "a,b", "a,b"),
        ("plain", "none", "none"),
        ("plain", "null", "null"),
        ("plain", "true", "true"),
    ],
)
def test_what_text_means(name, text, value):
    parsed = read(**{name: text})[name]
    assert parsed == value
    assert type(parsed) is type(value)


@given(st.floats(0, 10), st.integers(1, 8), st.booleans(), st.lists(st.integers(-(10**6), 10**6), min_size=1))
def test_text_of_a_value_is_the_value(strength, passes, nesterov, hidden):
    given_values = {"strength": strength, "passes": passes, "nesterov": nesterov, "hidden": tuple(hidden)}
    texts = {name: str(value) for name, value in given_values.items()}
    assert read(**texts) == read(**given_values)
    assert read(hidden=",".join(map(str, hidden)))["hidden"] == tuple(hidden)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("strength", -1),
        ("strength", "11"),
        ("strength", "strong"),
        ("strength", "1,2"),
        ("strength", "nan"),
        ("strength", "inf"),
        ("strength", math.nan),
        ("strength", None),
        ("passes", "0"),
        ("passes", "9"),
        ("passes", "2.5"),
        ("nesterov", "maybe"),
        ("kind", "exactly"),
        ("level", "3"),
        ("hidden", ""),
        ("hidden", "wide"),
        ("hidden", "3.5"),
        ("rates", "1"),
        ("rates", "nan,1"),
        ("rates", (0.0, math.inf)),
        ("size", "0"),
        ("plain", 3),
    ],
)
def test_what_does_not_fit_is_refused_with_name_type_default_and_sentence(name, value):
    with pytest.raises(UsageError) as caught:
        read(**{name: value})
    parameter = parameters(Everything)[name]
    message = str(caught.value)
    assert message.startswith(f"everything.{name} = {value!r} is not valid: ")
    assert f"{name} ({parameter.type_name}, default {parameter.default!r}): {parameter.description}" in message


def test_an_unknown_name_brings_the_closest():
    with pytest.raises(UnknownNameError, match="Did you mean 'strength'") as caught:
        read(strenght=1)
    assert "hyper-parameter of everything named 'strenght'" in str(caught.value)
    assert "hidden, kind, label, level" in str(caught.value)
    with pytest.raises(UnknownNameError):
        read(x=1)  # positional arguments are the host's


def test_a_default_is_the_same_hyper_parameter_as_its_value_when_set():
    """Else one row would have two identities, 1 and 1.0."""
    assert digest(read()) == digest(read(strength=1)) == digest(read(strength="1.0"))
    assert type(read()["strength"]) is float


def test_options_that_are_passed_on_are_those_of_the_next_class():
    class Child(Everything):
        def __init__(
            self, *, own: Annotated[int, Field(description="New.")] = 1, passes: int = 7, **options
        ) -> None: ...

    found = parameters(Child)
    assert list(found)[:3] == ["own", "passes", "strength"]
    assert found["passes"].default == 7
    assert parse(Child, {"strength": "2", "own": "3"}, "child")["strength"] == 2.0

    class Alone(Everything):
        def __init__(self, *, own: int = 1) -> None: ...

    class Quiet(Child): ...

    assert list(parameters(Alone)) == ["own"]
    assert parameters(Quiet) == found


def test_a_missing_value_is_asked_for():
    class Needs:
        def __init__(self, *, size: Annotated[int, Field(ge=1, description="How many.")]) -> None: ...

    with pytest.raises(UsageError, match=r"needy needs size \(int, ≥ 1\): How many\."):
        parse(Needs, {}, "needy")
    assert parse(Needs, {"size": "2"}, "needy") == {"size": 2}


def test_signatures_that_cannot_be_read_name_the_class():
    class Dangling:
        def __init__(self, *, size: "Nowhere" = 1) -> None: ...  # noqa: F821

    with pytest.raises(PluginError, match="Dangling"):
        parameters(Dangling)
