"""The plugin host: finds plugins, loads each one as a transaction, and holds what they offer.

A plugin is a module (or any object) with the hooks of `clarena.hookspecs`. Built-ins, which are the entry
points of `clarena-bench` itself, come first; then files and directories that were asked for, the entry points
of other distributions, modules that were asked for, and `CLARENA_PLUGINS`. One reached twice is loaded once.
Of two that share a name (a one-file plugin is named after its file) the second is reported as broken.

Whatever goes wrong in a plugin stays in that plugin: it offers all that it has, or nothing, and then
`Host.broken` says why. No torch is imported here.
"""

import importlib
import importlib.metadata
import os
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import Any

import pluggy

from clarena import hookspecs
from clarena.errors import PluginError, UsageError
from clarena.hookspecs import PROJECT
from clarena.plugins.one_file import load
from clarena.plugins.registry import (
    BUILT_IN,
    DISTRIBUTION,
    NATIVE,
    STRANGER,
    Broken,
    Kind,
    Offer,
    Registry,
    first_sentence,
    inherits,
)

ENVIRONMENT = "CLARENA_PLUGINS"
KINDS = (
    Kind("strategy", "clarena_register_strategies", "clarena.contract.strategy:Strategy"),
    Kind("backbone", "clarena_register_backbones", "clarena.contract.backbone:Backbone"),
    Kind("benchmark", "clarena_register_benchmarks", "clarena.contract.benchmark:Benchmark"),
    Kind(
        "target", "clarena_register_targets", "clarena.contract.target:Target", scoring="clarena.record.scoring:Scoring"
    ),
)

_HOOKS = [kind.hook for kind in KINDS]
_NAME = re.compile(r"[a-z0-9][a-z0-9+._-]*(:[A-Z]+)?")
_REFERENCE = re.compile(r"[\w.]+:\w+")


@dataclass(frozen=True)
class PluginSources:
    """Where to look for plugins besides the built-ins; a worker process that is given it finds the same ones.

    Paths are made absolute at once, so that a process in another directory finds the same files.

    Args:
        files: one-file plugins, `--plugin path.py`.
        directories: folders in which each `*.py` whose name does not start with `_` is a plugin,
            `--plugins-dir`.
        modules: names of importable modules.
        third_party: also what is merely installed, or named in `CLARENA_PLUGINS`; `--no-plugins` says no.
    """

    files: Sequence[str | Path] = ()
    directories: Sequence[str | Path] = ()
    modules: Sequence[str] = ()
    third_party: bool = True

    def __post_init__(self) -> None:
        for paths in ("files", "directories"):
            object.__setattr__(self, paths, tuple(_absolute(path) for path in getattr(self, paths)))
        object.__setattr__(self, "modules", tuple(self.modules))


class Host:
    """Every plugin that could be loaded, what they offer, and those that could not be loaded.

    Made by `Host.discover`.

    Attributes:
        sources: where they were looked for; `Host.discover(host.sources)` in another process finds the same.
        plugins: plugin name -> origin, of those that loaded.
        broken: those that did not, with the reason.
        strategies, backbones, benchmarks, targets: a `Registry` each.
    """

    def __init__(
        self,
        sources: PluginSources,
        plugins: dict[str, str],
        offers: dict[Kind, list[Offer]],
        broken: list[Broken],
    ):
        self.sources = sources
        self.plugins = plugins
        self.broken = tuple(broken)
        registries = [Registry(kind, offers.get(kind, ()), broken) for kind in KINDS]
        self.strategies, self.backbones, self.benchmarks, self.targets = registries
        for entry in self.targets:
            if not entry.built_in:  # these are known there
                from clarena.record.scoring import offer  # brings numpy, which a list of names can do without

                offer(entry.name, partial(self.targets.scoring, entry.qualified))

    @classmethod
    def discover(cls, sources: PluginSources | None = None) -> "Host":
        """Find and load every plugin; a broken one is reported in `broken` and harms no other.

        Raises:
            UsageError: a file or directory that was asked for does not exist.
        """
        sources = sources or PluginSources()
        candidates, broken = _find(sources)
        plugins: dict[str, str] = {}
        offers: dict[Kind, list[Offer]] = defaultdict(list)
        reached: set[str] = set()
        for candidate in candidates:
            if candidate.identity in reached:
                continue
            reached.add(candidate.identity)
            try:
                if holder := plugins.get(candidate.plugin):
                    raise PluginError(f"the plugin name {candidate.plugin!r} is taken by {holder}; rename one")
                offered = _offers_of(candidate)
            except (Exception, SystemExit) as error:
                broken.append(Broken.by(error, candidate.plugin, candidate.origin))
                continue
            plugins[candidate.plugin] = candidate.origin
            for kind, entries in offered.items():
                offers[kind] += entries
        return cls(sources, plugins, offers, broken)

    def strategy(self, name_or_class: str | type[Any]) -> type[Any]:
        """The strategy behind a name, a class, or a sum of names such as `ewc+lwf`.

        Raises:
            UsageError: as `Registry.resolve`, and for parts that cannot be combined.
        """
        if isinstance(name_or_class, str) and name_or_class not in self.strategies.names():
            from clarena.plugins.composite import compose, part_names

            parts = part_names(name_or_class)
            if len(parts) > 1:
                return compose(tuple(self.strategies.load(part) for part in parts))
        return self.strategies.resolve(name_or_class)


# ---- Finding plugins ----


@dataclass(frozen=True)
class _Candidate:
    """A plugin that was found and is not yet loaded; `identity` tells one that is reached by two ways."""

    plugin: str
    origin: str
    identity: str
    load: Callable[[], object]
    rank: int = STRANGER


def _find(sources: PluginSources) -> tuple[list[_Candidate], list[Broken]]:
    requested = list(_requested_files(sources))
    installed, broken = _installed()
    native = [candidate for candidate in installed if candidate.rank < STRANGER]
    foreign = [candidate for candidate in installed if candidate.rank == STRANGER]
    modules = [_from_module(name) for name in sources.modules]
    if not sources.third_party:
        return native + requested + modules, broken
    named = filter(None, (item.strip() for item in os.environ.get(ENVIRONMENT, "").split(",")))
    ambient = [_from_file(_absolute(item)) if item.endswith(".py") else _from_module(item) for item in named]
    return native + requested + foreign + modules + ambient, broken


def _absolute(path: str | Path) -> Path:
    # Symbolic links stay as they are: the name that the user gave is the name of the plugin.
    from clarena.toolbox.downloads import user_path  # which brings urllib, and most commands name no file

    return user_path(path)


def _from_module(name: str) -> _Candidate:
    return _Candidate(name, f"module {name}", name, partial(importlib.import_module, name))


def _from_file(path: Path) -> _Candidate:
    return _Candidate(path.stem, str(path), str(path), partial(load, path))


def _requested_files(sources: PluginSources) -> Iterator[_Candidate]:
    for path in map(Path, sources.files):
        if path.suffix != ".py" or not path.is_file():
            raise UsageError(f"No plugin at {path}: a plugin is a file whose name ends in .py.")
        yield _from_file(path)
    for directory in map(Path, sources.directories):
        if not directory.is_dir():
            raise UsageError(f"No plugins in {directory}: it is not a directory.")
        yield from (_from_file(path) for path in sorted(directory.glob("[!_]*.py")))


def _installed() -> tuple[list[_Candidate], list[Broken]]:
    """The entry points of every distribution, and the distributions whose entry points cannot be read.

    `importlib.metadata.entry_points()` fails as a whole when any distribution on the machine is damaged,
    whatever that one is for; so each is read on its own, and only if it mentions the group at all.
    """
    candidates: list[_Candidate] = []
    broken: list[Broken] = []
    seen: set[str] = set()
    for distribution in importlib.metadata.distributions():
        name = "unnamed distribution"
        try:
            if f"[{PROJECT}]" not in (distribution.read_text("entry_points.txt") or ""):
                continue
            name = re.sub(r"[-_.]+", "-", distribution.name).lower()
            if name in seen:
                continue  # a second copy further down the path: Python would not import it either
            seen.add(name)
            origin = f"{name} {distribution.version}"
            for point in distribution.entry_points.select(group=PROJECT):
                rank = STRANGER if name != DISTRIBUTION else NATIVE if point.name == "native" else BUILT_IN
                candidates.append(_Candidate(point.name, origin, point.value.strip(), point.load, rank))
        except Exception as error:
            broken.append(Broken.by(error, name, f"installed in {distribution.locate_file('')}"))
    return sorted(candidates, key=lambda found: (found.rank, found.origin, found.plugin)), broken


# ---- Loading one plugin: all or nothing ----


def _offers_of(candidate: _Candidate) -> dict[Kind, list[Offer]]:
    """Load one plugin and return all that its hooks register, for the caller to commit.

    It gets a plugin manager of its own: its hooks run alone, and when it fails there is nothing to take back.
    """
    plugin = candidate.load()
    manager = pluggy.PluginManager(PROJECT)
    manager.register(plugin, candidate.plugin)
    _check_hooks(manager, plugin)
    manager.add_hookspecs(hookspecs)
    offers = {}
    for kind in KINDS:
        register = _Register(candidate, kind)
        if returned := getattr(manager.hook, kind.hook)(register=register):
            raise PluginError(f"the hook {kind.hook} must call register and return nothing, not {returned[0]!r}")
        offers[kind] = register.entries
    return offers


def _check_hooks(manager: pluggy.PluginManager, plugin: object) -> None:
    """Refuse hooks that would never be called or could register nothing; pluggy lets most of them pass."""
    callers = manager.get_hookcallers(plugin) or []
    for caller in callers:
        if caller.name not in _HOOKS:
            close = get_close_matches(caller.name, _HOOKS, n=1, cutoff=0.0)[0]
            raise PluginError(f"there is no hook {caller.name}; did you mean {close}?")
        for implementation in caller.get_hookimpls():
            if implementation.argnames != ("register",):
                given = ", ".join(implementation.argnames)
                raise PluginError(f"the hook {caller.name} must take one argument, register, not ({given})")
    for name in dir(plugin):
        if name.startswith(f"{PROJECT}_register") and not hasattr(getattr(plugin, name), f"{PROJECT}_impl"):
            raise PluginError(f"{name} is not marked as a hook: write @clarena.hookimpl above it")
    if not callers:
        raise PluginError(f"it has no hook: write @clarena.hookimpl above a function {_HOOKS[0]}(register)")


class _Register:
    """The callback that one hook of one plugin is given; see `clarena.hookspecs.Register`."""

    def __init__(self, candidate: _Candidate, kind: Kind):
        self.candidate = candidate
        self.kind = kind
        self.entries: list[Offer] = []

    def __call__(
        self,
        target: type[Any] | str,
        *,
        name: str | None = None,
        summary: str | None = None,
        extra: str | None = None,
        scoring: type[Any] | str | None = None,
    ) -> None:
        word, plugin = self.kind.word, self.candidate.plugin
        if isinstance(target, str):
            if not _REFERENCE.fullmatch(target):
                raise PluginError(f"{target!r} is not a reference of the form 'package.module:Class'")
            if not name or not summary:
                raise PluginError(f"the lazy reference {target!r} needs a name and a summary")
        elif not self.kind.includes(target):
            raise PluginError(f"{target!r} is not a {word}: register a subclass of {self.kind.base_name}")
        else:
            name = name or getattr(target, "name", None)
            summary = summary or target.__doc__
        qualifier, slash, short = str(name).rpartition("/")
        if name is None or not _NAME.fullmatch(short) or (slash and qualifier != plugin):
            allowed = f"lower-case letters, digits and +._- as in 'ewc' or '{plugin}/ewc', then ':PATH' or the like"
            raise PluginError(f"the {word} {target!r} cannot be named {name!r}: use {allowed}")
        if any(entry.short == short for entry in self.entries):
            raise PluginError(f"it registers the {word} {short!r} twice")
        self._check_scoring(short, scoring)
        line = first_sentence(summary)
        if not line:
            raise PluginError(f"the {word} {short!r} needs a docstring or a summary")
        rank, built_in = None if slash else self.candidate.rank, self.candidate.rank < STRANGER
        origin = self.candidate.origin
        self.entries.append(Offer(plugin, short, line, target, origin, extra, rank, built_in, scoring=scoring))

    def _check_scoring(self, short: str, scoring: type[Any] | str | None) -> None:
        """Raise `PluginError` unless a target has its other half, and nothing else has one."""
        word, base = self.kind.word, self.kind.scoring
        if base is None:
            if scoring is not None:
                raise PluginError(f"the {word} {short!r} is given a scoring, which only targets have")
        elif scoring is None:
            raise PluginError(f"the {word} {short!r} needs its other half: register(…, scoring=…)")
        elif not (_REFERENCE.fullmatch(scoring) if isinstance(scoring, str) else inherits(scoring, base)):
            name = base.partition(":")[2]
            raise PluginError(
                f"the scoring of the {word} {short!r} is {scoring!r}: give a subclass of {name}, or "
                "'package.module:Class'"
            )
