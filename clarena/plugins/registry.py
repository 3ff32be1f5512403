"""Names and the classes behind them: one registry each for strategies, backbones, benchmarks and targets.

A name is known without its class being imported; the class is imported when it is asked for.
"""

import importlib
import inspect
import os
import re
import sys
import textwrap
import traceback
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, cast

import pluggy

from clarena.errors import ClarenaError, PluginError, UsageError, unknown_name

DISTRIBUTION = "clarena-bench"

# Who owns a short name that several plugins offer: the lowest rank does. Within one rank nobody does.
NATIVE, BUILT_IN, STRANGER = range(3)

_ABBREVIATIONS = "".join(rf"(?<!\b{short})" for short in ("al", "cf", "vs", r"e\.g", r"i\.e", "Eq"))
_SENTENCE_END = re.compile(_ABBREVIATIONS + r"[.!?]\s+(?=[A-Z`(\"'])")


@dataclass(frozen=True)
class Kind:
    """A kind of thing that plugins offer.

    Args:
        word: what messages call it.
        hook: the hook that offers it.
        base: reference of the class that everything of this kind inherits from.
        scoring: that of its other half, for a kind that has two.
    """

    word: str
    hook: str
    base: str
    scoring: str | None = None

    @property
    def base_name(self) -> str:
        """The name of the base class alone."""
        return self.base.partition(":")[2]

    def includes(self, target: object) -> bool:
        """Whether `target` is a class of this kind."""
        return inherits(target, self.base)


def inherits(target: object, base: str) -> bool:
    """Whether `target` is a class that inherits from the one referred to, and so has imported it already."""
    module, _, name = base.partition(":")
    held = sys.modules.get(module)
    return isinstance(target, type) and held is not None and issubclass(target, getattr(held, name))


@dataclass(frozen=True)
class Offer:
    """One strategy, backbone, benchmark or target that a plugin offers.

    Args:
        plugin: the plugin that offers it.
        short: its name within that plugin.
        summary: one line, without a full stop.
        target: the class, or the lazy reference `"package.module:Class"`.
        origin: where the plugin comes from: distribution and version, file, or module.
        extra: the extra of `clarena-bench` with the packages that a lazy reference imports.
        rank: how strong its claim to the short name is (`NATIVE`, `BUILT_IN`, `STRANGER`); None is no claim.
        built_in: whether it comes with this distribution.
        name: what it is called: the short name if it owns it, `plugin/short` otherwise. The registry decides.
        scoring: of a target, its other half, in either form.
    """

    plugin: str
    short: str
    summary: str
    target: type[Any] | str
    origin: str
    extra: str | None = None
    rank: int | None = STRANGER
    built_in: bool = False
    name: str = ""
    scoring: type[Any] | str | None = None

    @property
    def qualified(self) -> str:
        """The name by which it can always be reached."""
        return f"{self.plugin}/{self.short}"

    @property
    def placeholder(self) -> str:
        """What stands for the argument in a name that takes one: `PATH` in `split:PATH`; empty elsewhere."""
        return self.short.partition(":")[2]


_Member = TypeVar("_Member")


def family_member(family: type[_Member], shown: str, *bases: type[Any], **attributes: Any) -> type[_Member]:
    """The class of a family for one argument, for its `of`: named `family:shown`, with more attributes or bases.

    It is the same class every time for the same arguments.

    Args:
        family: a class registered as `family:PLACEHOLDER`.
        shown: what names show in place of the placeholder.
        bases: classes that come before the family itself.
        attributes: what the class knows of its argument; hashable.
    """
    member: type[_Member] = _family_member(cast(Any, family), shown, bases, tuple(attributes.items()))
    return member


def family_of(member: type[Any]) -> type[Any] | None:
    """The family that a class was made from, if it was."""
    family: type[Any] | None = vars(member).get("__family__")
    return family


@cache
def _family_member(family: Any, shown: str, bases: tuple[Any, ...], attributes: tuple[tuple[str, Any], ...]) -> Any:
    facts = {"name": f"{family.name.partition(':')[0]}:{shown}", "__doc__": family.__doc__}
    body = {**facts, "__module__": family.__module__, "__family__": family, **dict(attributes)}
    return type(family.__name__, (*bases, family), body)


@dataclass(frozen=True)
class Broken:
    """A plugin that failed to load: nothing of it is registered."""

    plugin: str
    origin: str
    reason: str  # one line
    traceback: str = field(repr=False)

    @classmethod
    def by(cls, error: BaseException, plugin: str, origin: str) -> "Broken":
        """The plugin that `error` broke."""
        return cls(plugin, origin, one_line(error), "".join(traceback.format_exception(error)))


class Registry:
    """The names of one kind, and the classes behind them.

    Args:
        kind: what it holds.
        entries: what the plugins offer.
        broken: the plugins that failed to load, to be named when something is not found.
    """

    def __init__(self, kind: Kind, entries: Iterable[Offer] = (), broken: Iterable[Broken] = ()):
        self.kind = kind
        self._broken = tuple(broken)
        self._entries: dict[str, Offer] = {}  # by the name it is called
        self._reachable: dict[str, Offer] = {}  # by that name and by the qualified one
        self._contested: dict[str, list[str]] = {}  # a short name that nobody owns -> the qualified ones

        rivals_for: dict[str, list[Offer]] = defaultdict(list)
        for entry in entries:
            rivals_for[entry.short].append(entry)
        for short, rivals in rivals_for.items():
            best = min((rival.rank for rival in rivals if rival.rank is not None), default=None)
            first = [rival for rival in rivals if best is not None and rival.rank == best]
            if len(first) != 1:
                self._contested[short] = sorted(rival.qualified for rival in rivals)
            for rival in rivals:
                entry = replace(rival, name=short if [rival] == first else rival.qualified)
                self._entries[entry.name] = entry
                self._reachable |= {entry.name: entry, entry.qualified: entry}

    def __iter__(self) -> Iterator[Offer]:
        """Every entry, in the order of `names`."""
        return (self._entries[name] for name in self.names())

    def names(self) -> list[str]:
        """What everything in it is called, sorted."""
        return sorted(self._entries)

    def entry(self, name: str) -> Offer:
        """Look up a short or a qualified name, without importing anything.

        Raises:
            UnknownNameError: with the closest match, what exists, and which plugins failed to load.
            UsageError: the short name belongs to nobody, and `plugin/name` is needed.
        """
        if name in self._reachable:
            return self._reachable[name]
        if name in self._contested:
            choices = " or ".join(self._contested[name])
            raise UsageError(f"The {self.kind.word} {name!r} needs its plugin's name: say {choices}.")
        family, colon, _ = name.partition(":")
        for known, entry in self._reachable.items():
            if colon and entry.placeholder and known.partition(":")[0] == family:
                return entry
        broken = {f"{each.plugin} ({each.origin})": each.reason for each in self._broken}
        raise unknown_name(self.kind.word, name, self._entries, broken, see="clarena list")

    def load(self, name: str) -> type[Any]:
        """Import the class behind a name.

        Raises:
            UnknownNameError, UsageError: as `entry`.
            PluginError: a package it needs is missing, the import fails, or the class is not of this kind.
        """
        entry = self.entry(name)
        target = self._import(entry, entry.target) if isinstance(entry.target, str) else entry.target
        if not self.kind.includes(target):
            raise PluginError(f"{self._what(entry)} is {target!r}, not a subclass of {self.kind.base_name}.")
        return target

    def scoring(self, name: str) -> type[Any]:
        """Import the other half of a target, by itself; raises as `load`."""
        entry, base = self.entry(name), self.kind.scoring
        found = self._import(entry, entry.scoring) if isinstance(entry.scoring, str) else entry.scoring
        if base is None or not inherits(found, base):
            raise PluginError(f"The scoring of {self._what(entry, 'the')} is {found!r}, not a subclass of {base}.")
        return cast(type[Any], found)

    def resolve(self, name_or_class: str | type[Any]) -> type[Any]:
        """The class behind a name, made for its argument where the name takes one; a class stands for itself.

        Raises:
            UsageError: neither a name nor a class of this kind, or no argument where one is needed; otherwise as
                `load`.
        """
        if isinstance(name_or_class, str):
            target, entry = self.load(name_or_class), self.entry(name_or_class)
            if not entry.placeholder:
                return target
            argument = name_or_class.partition(":")[2]
            if argument in ("", entry.placeholder):
                raise UsageError(f"Put something in place of {entry.placeholder} in {entry.name}.")
            return target.of(argument)  # type: ignore[no-any-return]
        if not self.kind.includes(name_or_class):
            wanted = f"give a name or a subclass of {self.kind.base_name}"
            raise UsageError(f"{name_or_class!r} is not a {self.kind.word}: {wanted}.")
        return name_or_class

    def is_built_in(self, name_or_class: str | type[Any]) -> bool:
        """Whether this comes with CLArena, whose revisions stand for its code; a class made from such a family does."""
        if isinstance(name_or_class, str):
            return self.entry(name_or_class).built_in
        targets = {entry.target for entry in self if entry.built_in and isinstance(entry.target, str)}
        packages = {target.partition(".")[0].partition(":")[0] for target in targets}
        family = family_of(name_or_class)
        if family and any(base.__module__.partition(".")[0] not in packages for base in name_or_class.__bases__):
            return False
        cls = family or name_or_class
        held = getattr(sys.modules.get(cls.__module__), cls.__name__, None)
        return held is cls and f"{cls.__module__}:{cls.__qualname__}" in targets

    def compare(self, entry: Offer) -> list[str]:
        """Where what was registered differs from what the class says of itself, a sentence each.

        Raises:
            PluginError: as `load`.
        """
        target = self.load(entry.qualified)
        differences = []
        own_name = getattr(target, "name", None)
        if own_name not in (entry.short, entry.qualified):
            differences.append(f"It is registered as {entry.short!r}, but its class has name = {own_name!r}.")
        own_summary = first_sentence(target.__doc__)
        if own_summary != entry.summary:
            differences.append(
                f"Its registered summary is {entry.summary!r}, but its docstring begins {own_summary!r}."
            )
        if self.kind.scoring is not None and (other := self.scoring(entry.qualified).name) != own_name:
            differences.append(f"Its scoring has name = {other!r}, and itself {own_name!r}.")
        return differences

    def _what(self, entry: Offer, the: str = "The") -> str:
        return f"{the} {self.kind.word} {entry.name!r} of plugin {entry.plugin!r} ({entry.origin})"

    def _import(self, entry: Offer, reference: str) -> Any:
        what = self._what(entry)
        module_name, _, attribute = reference.partition(":")
        try:
            module = importlib.import_module(module_name)
        except ModuleNotFoundError as error:
            if f"{module_name}.".startswith(f"{error.name}."):
                raise PluginError(f"{what} is said to be {reference!r}; there is no {error.name!r}.") from error
            needs = f"needs the package {error.name!r}, which is not installed. {self._install(entry)}"
            raise PluginError(f"{what} {needs}") from error
        except (Exception, SystemExit) as error:
            advice = self._install(entry) if isinstance(error, ImportError) else ""
            raise PluginError(f"{what} cannot be imported: {one_line(error)}. {advice}".strip()) from error
        if not hasattr(module, attribute):
            raise PluginError(f"{what} is said to be {reference!r}; the module has no {attribute!r}.")
        return getattr(module, attribute)

    def _install(self, entry: Offer) -> str:
        if entry.extra is None:
            return f"Install what the plugin {entry.plugin!r} asks for."
        return f"Run: pip install '{DISTRIBUTION}[{entry.extra}]'"


def first_sentence(text: str | None) -> str:
    """The first sentence of a docstring on one line, without its full stop."""
    paragraph = " ".join(inspect.cleandoc(text or "").partition("\n\n")[0].split())
    return _SENTENCE_END.split(paragraph, maxsplit=1)[0].removesuffix(".")


def one_line(error: BaseException) -> str:
    """What happened and, where it is known, at which line of the plugin."""
    if isinstance(error, ClarenaError):
        message = str(error)
    else:  # traceback survives an exception that fails to print itself; indented lines only quote the source
        message = next(line for line in traceback.format_exception_only(error) if not line.startswith(" "))
    return textwrap.shorten(message, 400, placeholder=" ...").removesuffix(".") + _location(error)


def _location(error: BaseException) -> str:
    if isinstance(error, SyntaxError) and error.filename:
        return f" (at line {error.lineno} of {Path(error.filename).name})"
    # Where a plugin is passed through: this host, what finds and calls it, and torch, which calls its modules. The
    # backport of importlib.metadata, once some package has imported it, finds distributions in its place.
    passed: list[str | None] = [__file__, pluggy.__file__, importlib.__file__]
    passed += [getattr(sys.modules.get(name), "__file__", None) for name in ("torch", "importlib_metadata")]
    ours = tuple(str(Path(file).parent) + os.sep for file in passed if file is not None)
    frames = traceback.extract_tb(error.__traceback__)
    frames_of_plugin = [frame for frame in frames if not frame.filename.startswith((*ours, "<frozen"))]
    if not frames_of_plugin:
        return ""
    # The first file that is not ours is the plugin's; the innermost line in it is where its author looks, unless it
    # is in a helper beside it.
    file, last = Path(frames_of_plugin[0].filename), Path(frames_of_plugin[-1].filename)
    line = [frame.lineno for frame in frames_of_plugin if frame.filename == str(file)][-1]
    if last != file and last.is_relative_to(file.parent) and "site-packages" not in last.parts:
        return f" (at line {frames_of_plugin[-1].lineno} of {last.name}, reached from line {line} of {file.name})"
    return f" (at line {line} of {file.name})"
