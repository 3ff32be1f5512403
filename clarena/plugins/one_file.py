"""A one-file plugin as a module, with the helpers beside it: `from neighbour import scale` finds `neighbour.py`.

Each plugin has its helpers to itself, under names of its own in `sys.modules`, so that two that have a helper of the
same name do not get each other's, and `sys.path` stays as it is. The import statements of the plugin and of its helpers
look beside the file first, also those that run later, within a function; the standard library, torch and CLArena keep
their names.
"""

import ast
import builtins
import hashlib
import importlib
import re
import sys
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

from clarena.errors import PluginError
from clarena.hookspecs import PROJECT
from clarena.plugins.code_graph import LIBRARIES, beside, classes_twice

HELPERS = "_helpers"
"""What follows a plugin's module name in that of the package its helpers are in."""


def load(path: Path) -> ModuleType:
    """Run a one-file plugin as a module whose name is the same in every process, so that its classes pickle.

    One that is loaded already and has not changed, nor any helper of it, is not run again: its classes stay the same
    objects.

    Raises:
        PluginError: it defines two classes of one name, of which only the second would be left.
    """
    source = path.read_bytes()
    name = f"{PROJECT}_plugin_{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    name = re.sub(r"\W", "_", name)
    loaded = sys.modules.get(name)
    if loaded is not None and all(map(_unchanged, [loaded, *_helpers_of(name)])):
        return loaded
    _forget(name)
    tree = ast.parse(source, str(path))
    if problem := classes_twice(tree):
        raise PluginError(f"{problem}: rename one")
    module = ModuleType(name)
    _prepare(module, path, source, path.parent, name + HELPERS)
    package = ModuleType(name + HELPERS)
    package.__path__ = [str(path.parent)]
    sys.modules[name] = module  # before it runs: dataclasses and pickle look it up there
    sys.modules[name + HELPERS] = package
    try:
        exec(compile(tree, str(path), "exec", dont_inherit=True), vars(module))
    except BaseException:
        _forget(name)
        raise
    return module


def _prepare(module: ModuleType, path: Path, source: bytes, folder: Path, package: str) -> None:
    """What a module of a plugin has before it runs: where it is from, and import statements that look beside it."""
    vars(module).update(
        __file__=str(path),
        __source_digest__=hashlib.sha256(source).hexdigest(),
        __beside__=str(folder),
        __builtins__=vars(builtins) | {"__import__": _importer(path, folder, package)},
    )


def _importer(importing: Path, folder: Path, package: str) -> Callable[..., Any]:
    """The function behind the import statements of one file."""

    def import_here(name: str, space: Any = None, local: Any = None, wanted: Any = (), level: int = 0) -> Any:
        top = name.partition(".")[0]
        if level or top in LIBRARIES:
            return __import__(name, space, local, wanted, level)
        file = beside(top, folder)
        if file and file != importing:
            module = importlib.import_module(f"{package}.{name}")
            if not wanted:
                return sys.modules[f"{package}.{top}"]
            return __import__(module.__name__, space, local, wanted)
        try:
            return __import__(name, space, local, wanted)
        except ModuleNotFoundError as error:
            if error.name != top:
                raise
            text = f"No module named {top!r}, neither beside {importing.name} nor installed"
            raise ModuleNotFoundError(text, name=top) from None

    return import_here


def _helpers_of(plugin: str) -> list[ModuleType]:
    return [module for name, module in list(sys.modules.items()) if name.startswith(f"{plugin}{HELPERS}.")]


def _unchanged(module: ModuleType) -> bool:
    """Whether a module's file is still what was run; what is no file of source does not change."""
    digest = vars(module).get("__source_digest__")
    try:
        return digest is None or hashlib.sha256(Path(str(module.__file__)).read_bytes()).hexdigest() == digest
    except OSError:
        return False


def _forget(plugin: str) -> None:
    for name in [
        name for name in sys.modules if name in (plugin, plugin + HELPERS) or name.startswith(f"{plugin}{HELPERS}.")
    ]:
        del sys.modules[name]


class _HelperFinder:
    """Finds the helpers of one-file plugins by the names that they have in `sys.modules`, and nothing else."""

    @staticmethod
    def find_spec(name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        package, _, rest = name.partition(".")
        if not (rest and package.startswith(f"{PROJECT}_plugin_") and package.endswith(HELPERS)):
            return None
        spec = PathFinder.find_spec(name, path)
        if spec and isinstance(spec.loader, SourceFileLoader):
            spec.loader = _HelperLoader(name, str(spec.origin))
        return spec


class _HelperLoader(SourceFileLoader):
    """Runs a helper from its source: a cached compilation may be of another text that is as long and as old."""

    def get_code(self, fullname: str) -> CodeType:
        return self.source_to_code(self.get_data(self.path), self.path)

    def exec_module(self, module: ModuleType) -> None:
        package = module.__name__.partition(".")[0]
        folder = Path(sys.modules[package].__path__[0])
        _prepare(module, Path(self.path), self.get_data(self.path), folder, package)
        super().exec_module(module)


sys.meta_path.insert(0, _HelperFinder)
