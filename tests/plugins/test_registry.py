"""The registry: a name means one thing, and what cannot be loaded says why."""

import json
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clarena.errors import PluginError, UnknownNameError, UsageError
from clarena.plugins.registry import (
    BUILT_IN,
    NATIVE,
    STRANGER,
    Broken,
    Kind,
    Offer,
    Registry,
    family_member,
    first_sentence,
)

DECODER = Kind("decoder", "", "json:JSONDecoder")  # any base class will do


@given(st.dictionaries(
    st.tuples(st.sampled_from("pqrs"), st.sampled_from(["ewc", "er"])),
    st.sampled_from([NATIVE, BUILT_IN, STRANGER, None]),
))  # fmt: skip
def test_every_name_means_one_thing(ranks: dict[tuple[str, str], int | None]) -> None:
    offers = [Offer(plugin, short, "", "a:B", "", None, rank) for (plugin, short), rank in ranks.items()]
    registry = Registry(DECODER, offers)
    assert len(registry.names()) == len(offers)
    for entry in registry:
        assert registry.entry(entry.name) is registry.entry(entry.qualified) is entry
        rivals = [
            rank for (plugin, short), rank in ranks.items()
            if short == entry.short and plugin != entry.plugin and rank is not None
        ]  # fmt: skip
        owns = entry.rank is not None and all(entry.rank < rank for rank in rivals)
        assert entry.name == (entry.short if owns else entry.qualified)


# ---- From a name to a class ----


@pytest.fixture
def decoders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry:
    """JSON decoders to be imported from a folder of modules, few of them sound."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "fine", raising=False)
    (tmp_path / "needy.py").write_text("import package_that_is_not_installed.core")
    (tmp_path / "clumsy.py").write_text("from json import no_such_function")
    (tmp_path / "quitter.py").write_text("raise SystemExit(2)")
    (tmp_path / "fine.py").write_text(
        "import json\n"
        "class Fine(json.JSONDecoder):\n"
        '    """Decodes well. And more."""\n'
        "    name = 'fine'\n"
        "class Other(json.JSONDecoder):\n"
        '    """Decodes otherwise."""\n'
        "    name = 'other'\n"
    )
    targets = {
        "fine": ("fine:Fine", None),
        "renamed": ("fine:Other", None),
        "needy": ("needy:Decoder", None),
        "extra": ("needy:Decoder", "vision"),
        "clumsy": ("clumsy:Decoder", "text"),
        "quitter": ("quitter:Decoder", None),
        "absent": ("absent_package.part:Decoder", None),
        "classless": ("fine:Absent", None),
        "encoder": ("json:JSONEncoder", None),
        "function": ("json:loads", None),
    }
    entries = [Offer("p", name, "Decodes well", ref, "here", extra) for name, (ref, extra) in targets.items()]
    return Registry(DECODER, entries)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "needy",
            r"needs the package 'package_that_is_not_installed', which .*\. Install what the plugin",
        ),
        ("extra", r"which is not installed\. Run: pip install 'clarena-bench\[vision\]'$"),
        ("clumsy", r"cannot be imported: ImportError: .*\(at line 1 of clumsy\.py\)\. Run: .*\[text\]'$"),
        ("quitter", r"cannot be imported: SystemExit: 2 \(at line 1 of quitter\.py\)\.$"),
        ("absent", r"is said to be 'absent_package\.part:Decoder'; there is no 'absent_package'\.$"),
        ("classless", r"is said to be 'fine:Absent'; the module has no 'Absent'\.$"),
        ("encoder", r"is <class 'json\.encoder\.JSONEncoder'>, not a subclass of JSONDecoder\.$"),
        ("function", r"is <function loads .*>, not a subclass of JSONDecoder\.$"),
    ],
)
def test_what_cannot_be_loaded_says_why(decoders: Registry, name: str, message: str) -> None:
    with pytest.raises(PluginError, match=message) as caught:
        decoders.load(name)
    assert str(caught.value).startswith(f"The decoder '{name}' of plugin 'p' (here) ")


def test_resolve_takes_a_name_or_a_class(decoders: Registry) -> None:
    fine = decoders.resolve("fine")
    assert decoders.resolve(fine) is fine
    for stranger in (dict, fine()):
        with pytest.raises(UsageError, match="give a name or a subclass of JSONDecoder"):
            decoders.resolve(stranger)


def test_compare_says_where_registration_and_class_differ(decoders: Registry) -> None:
    assert decoders.compare(decoders.entry("fine")) == []
    assert decoders.compare(decoders.entry("renamed")) == [
        "It is registered as 'renamed', but its class has name = 'other'.",
        "Its registered summary is 'Decodes well', but its docstring begins 'Decodes otherwise'.",
    ]


# ---- Both halves of a target ----


@pytest.fixture
def halves(decoders: Registry) -> Registry:
    """Decoders whose other half is an encoder."""
    kind = Kind("decoder", "", "json:JSONDecoder", scoring="json:JSONEncoder")
    Path(sys.path[0], "other.py").write_text("import json\nclass Fine(json.JSONEncoder):\n    name = 'coarse'\n")
    scorings = {"fine": "other:Fine", "wrong": "json:JSONDecoder", "missing": "other:Absent"}
    return Registry(
        kind, [Offer("p", name, "Decodes well", "fine:Fine", "here", scoring=ref) for name, ref in scorings.items()]
    )


def test_the_halves_of_a_target_are_imported_each_by_itself(halves: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "other", raising=False)
    halves.load("fine")
    assert "other" not in sys.modules
    assert halves.scoring("fine").name == "coarse"
    assert "Its scoring has name = 'coarse', and itself 'fine'." in halves.compare(halves.entry("fine"))


@pytest.mark.parametrize(
    ("name", "says"), [("wrong", "not a subclass of json:JSONEncoder"), ("missing", "no 'Absent'")]
)
def test_the_other_half_of_a_target_that_cannot_be_loaded_says_why(halves: Registry, name: str, says: str) -> None:
    with pytest.raises(PluginError, match=says):
        halves.scoring(name)


def test_unknown_name_in_an_empty_registry() -> None:
    broken = Broken.by(ValueError("two\nlines"), "p", "here")
    with pytest.raises(UnknownNameError, match="Known: none") as caught:
        Registry(DECODER, broken=[broken]).entry("mlp")
    assert "no decoder named 'mlp'" in str(caught.value)
    assert "'p (here)' failed to load and may have held it: ValueError: two lines" in str(caught.value)


@pytest.mark.parametrize(
    ("docstring", "sentence"),
    [
        (None, ""),
        ("One line.", "One line"),
        ("Wraps over\n    two lines. Then more.\n\n    Args:", "Wraps over two lines"),
        ("Penalises drift (Kirkpatrick et al. 2017, e.g. Eq. 3). See there.",
         "Penalises drift (Kirkpatrick et al. 2017, e.g. Eq. 3)"),
        ("After Lopez et al. GEM projects. It does.", "After Lopez et al. GEM projects"),
        ("No full stop\n\nNext paragraph.", "No full stop"),
    ],
)  # fmt: skip
def test_first_sentence(docstring: str | None, sentence: str) -> None:
    assert first_sentence(docstring) == sentence


class Mixin:
    """Something to be made of."""


class Shaped(json.JSONDecoder):
    """Decodes what it is told."""

    name = "shape:FORM"

    @classmethod
    def of(cls, argument: str) -> type["Shaped"]:
        return family_member(cls, argument.upper(), corners=len(argument))


def test_the_class_of_an_argument_is_one_of_its_family() -> None:
    square = Shaped.of("four")
    assert square is Shaped.of("four") is not Shaped.of("three")
    assert (square.name, square.corners) == ("shape:FOUR", 4)
    assert (square.__doc__, square.__module__, square.__name__) == (Shaped.__doc__, __name__, "Shaped")
    assert issubclass(family_member(Shaped, "mixed", Mixin), Mixin)


def test_a_name_with_a_placeholder_takes_an_argument() -> None:
    registry = Registry(DECODER, [Offer("p", "shape:FORM", "Decodes what it is told", Shaped, "here")])
    assert registry.names() == ["shape:FORM"]
    for name in ("shape:round", "p/shape:round"):
        assert registry.entry(name).short == "shape:FORM"
        assert issubclass(registry.resolve(name), Shaped)
        assert registry.resolve(name).name == "shape:ROUND"
    assert registry.load("shape:a/b:c") is Shaped  # what describe and doctor look at
    assert registry.resolve("shape:a/b:c").name == "shape:A/B:C"
    for bare in ("shape:", "shape:FORM"):
        with pytest.raises(UsageError, match="in place of FORM in shape:FORM"):
            registry.resolve(bare)
    for unknown in ("shape", "other:round"):
        with pytest.raises(UnknownNameError, match=r"Known: shape:FORM"):
            registry.entry(unknown)
