"""The files behind a module, as a graph of who imports whom, and a hash over it in which no place of a file counts.

Each file counts by its normal form, in which an import of another file of the same code is not written as a name but
as an arrow to that file. The arrows are then followed by the refinement of Weisfeiler and Lehman (1968): the colour of
a file is its text, then its colour with those its arrows lead to, until that tells no more files apart. So a helper
may move to another folder, and an import that turns to another helper is noticed.

Followed are imports, wherever in a file they stand, of

* the file's own package, by whatever form of `import`, and `import_module("a constant")`;
* for a one-file plugin, the files and packages beside it;
* packages that plug into CLArena, with all of their distributions;
* whatever lies outside the folders of installed libraries: a folder of the user's own.

The host (the protocol's revision stands for it), the standard library, torch and other installed libraries (a record's
environment names them) are not followed. A compiled helper counts by its bytes.
"""

import ast
import hashlib
import importlib.metadata
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import find_spec, resolve_name
from pathlib import Path

from clarena.errors import PluginError, UsageError
from clarena.plugins.normal_form import UnknownSyntaxError, executed, normal_form

HOST = "clarena"
GROUP = "clarena"
LIBRARY_FOLDERS = frozenset({"site-packages", "dist-packages"})
LIBRARIES = frozenset({HOST, "torch", *sys.stdlib_module_names, *sys.builtin_module_names})


Stamp = tuple[int, int]
"""What changes when a file does: time and size; zeros where it is gone."""


@dataclass(frozen=True)
class CodeFile:
    """A file of code.

    Attributes:
        path: where it is.
        module: its dotted name.
        beside: the folder of the one-file plugin that it is, or helps; None where it belongs to a package.
    """

    path: Path
    module: str
    beside: Path | None = None

    @property
    def package(self) -> str:
        """What its relative imports start from."""
        return self.module if self.path.name == "__init__.py" else self.module.rpartition(".")[0]


_HASHES: dict[CodeFile, tuple[dict[Path, Stamp], str]] = {}
"""Hashes that were worked out in this process, with all files that were looked at."""


def code_hash(root: CodeFile) -> str:
    """SHA-256, in hexadecimal, over a file and all that it imports of its own code.

    Raises:
        PluginError: a file cannot be read, or is no Python.
        UsageError: a file was edited after this process imported it.
    """
    known = _HASHES.get(root)
    if known and all(_stamp(path) == stamp for path, stamp in known[0].items()):
        return known[1]
    stamps: dict[Path, Stamp] = {}
    texts: dict[Path, str] = {}
    arrows: dict[Path, list[Path]] = {}
    waiting = [root]
    while waiting:
        here = waiting.pop()
        if here.path not in texts:
            stamps[here.path] = _stamp(here.path)
            text, references = _read(here, stamps)
            texts[here.path] = _sha(text)
            _check_loaded(here, texts[here.path])
            arrows[here.path] = [each.path for each in references]
            waiting += references
    colours, told = texts, 0
    while len(set(colours.values())) > told:  # with one round more than needed: the arrows themselves count
        told = len(set(colours.values()))
        colours = {path: _sha(colours[path], *(colours[other] for other in arrows[path])) for path in colours}
    result = _sha(colours[root.path], *sorted(colours.values()))
    _HASHES[root] = stamps, result
    return result


_SEEN: dict[Path, tuple[ModuleSpec, str]] = {}
"""Files whose modules this process has imported: from which import, and the hash of the text then."""


def _check_loaded(file: CodeFile, text: str) -> None:
    """Raise `UsageError` where a file was edited after its module was imported: what runs is still the old text."""
    spec = getattr(sys.modules.get(file.module), "__spec__", None)
    if file.beside or spec is None or spec.origin != str(file.path):  # helpers of one-file plugins are loaded anew
        return
    held, before = _SEEN.setdefault(file.path, (spec, text))
    if held is spec and before != text:
        raise UsageError(
            f"{file.path} was edited after it was imported, and this process still runs what it was. Start Python "
            f"again (a notebook: restart the kernel), or importlib.reload the module {file.module} and what imports it."
        )
    _SEEN[file.path] = spec, text


def followed(module: str, file: Path | None, importer: str = "") -> bool:
    """Whether a module is code that counts: of a plugin or the user, and no library."""
    top = module.partition(".")[0]
    if top in LIBRARIES or file is None:
        return False
    mine = top == importer.partition(".")[0] or not LIBRARY_FOLDERS.intersection(file.parts)
    return mine or top in plugin_packages()


@cache
def plugin_packages() -> frozenset[str]:
    """The top-level packages of all installed distributions that plug into CLArena."""
    found: set[str] = set()
    for distribution in importlib.metadata.distributions():
        try:
            if f"[{GROUP}]" not in (distribution.read_text("entry_points.txt") or ""):
                continue
            points = distribution.entry_points.select(group=GROUP)
            found |= {point.value.partition(":")[0].partition(".")[0].strip() for point in points}
            found |= set((distribution.read_text("top_level.txt") or "").split())
        except Exception:  # a damaged distribution; the host names it where it matters
            continue
    return frozenset(found - {HOST})


def classes_twice(tree: ast.Module, name: str | None = None) -> str:
    """Where a file defines two classes of one name (or of this name), in words; empty where it does not."""
    seen: dict[str, int] = {}
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and name in (None, node.name):
            if node.name in seen:
                return f"it defines two classes named {node.name}, at lines {seen[node.name]} and {node.lineno}"
            seen[node.name] = node.lineno
    return ""


# ---- One file ----


def _stamp(path: Path) -> Stamp:
    try:
        status = path.stat()
    except OSError:
        return 0, 0
    return status.st_mtime_ns, status.st_size


def _read(file: CodeFile, looked_at: dict[Path, Stamp]) -> tuple[str, list[CodeFile]]:
    """The text of a file, and the files that its arrows lead to, in their order."""
    try:
        content = file.path.read_bytes()
        if file.path.suffix != ".py":
            return f"compiled {hashlib.sha256(content).hexdigest()}", []
        tree = ast.parse(content)
        imports = _Imports(file, tree, looked_at)
        return normal_form(tree, imports.replaced), imports.files
    except OSError as error:
        raise PluginError(f"{file.path} cannot be read: {error.strerror}.") from error
    except SyntaxError as error:
        raise PluginError(f"{file.path} is no Python: {error.msg} (at line {error.lineno}).") from error
    except (UnknownSyntaxError, ValueError) as error:
        raise PluginError(f"{file.path} cannot be read as Python: {error}.") from error


class _Imports:
    """The imports of one file.

    Attributes:
        files: what is imported of the same code; `@3` in the text is an arrow to the fourth.
        replaced: what to write in place of nodes.
    """

    def __init__(self, file: CodeFile, tree: ast.Module, looked_at: dict[Path, Stamp]) -> None:
        self.file, self.looked_at = file, looked_at
        self.files: list[CodeFile] = []
        self.replaced: dict[ast.AST, str] = {}
        nodes = list(executed(tree))
        dotted: dict[str, str] = {}  # `import a.b.c` -> the arrow
        for node in nodes:
            if isinstance(node, ast.Import):
                self._import(node, dotted)
            elif isinstance(node, ast.ImportFrom):
                self._import_from(node)
            elif isinstance(node, ast.Call):
                self._import_by_call(node)
        if dotted:
            self._follow(nodes, dotted)

    def _arrow(self, file: CodeFile) -> str:
        if file not in self.files:
            self.files.append(file)
        return f"@{self.files.index(file)}"

    def _import(self, node: ast.Import, dotted: dict[str, str]) -> None:
        texts, any_followed = [], False
        for alias in node.names:
            found = resolve(alias.name, self.file)
            if found is None:
                texts.append(normal_form(alias))
                continue
            any_followed = True
            arrow = self._arrow(found)
            bound = alias.asname or ("" if "." in alias.name else alias.name)
            texts.append(f"({arrow} {bound})")
            if not bound:
                dotted[alias.name] = arrow
        if any_followed:
            self.replaced[node] = f"(Import {' '.join(texts)})"

    def _import_from(self, node: ast.ImportFrom) -> None:
        origin = node.module or ""
        if node.level:
            try:
                origin = resolve_name("." * node.level + origin, self.file.package)
            except ImportError:
                return
        texts, any_followed = [], False
        found = resolve(origin, self.file)
        for alias in node.names:
            module = None
            if alias.name != "*" and (found is None or found.path.name == "__init__.py"):
                module = resolve(f"{origin}.{alias.name}", self.file)
            if module and found and found.path != self.file.path and alias.name in self._bound(found.path):
                module = None  # a package's own name comes before the module in it
            if module:
                texts.append(f"({self._arrow(module)} {alias.asname or alias.name})")
            elif found:
                texts.append(f"({self._arrow(found)} {normal_form(alias)})")
            else:
                texts.append(f"({origin} {normal_form(alias)})")
            any_followed = any_followed or bool(module or found)
        if any_followed:
            self.replaced[node] = f"(Import {' '.join(texts)})"

    def _bound(self, init: Path) -> set[str]:
        """The names that a package's `__init__` binds by itself, and not as modules of its own."""
        self.looked_at[init] = _stamp(init)
        names: set[str] = set()
        waiting: list[ast.AST] = [ast.parse(init.read_bytes())]
        while waiting:
            node = waiting.pop()
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                names.add(node.name)
                continue
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                names.add(node.id)
            elif isinstance(node, ast.ImportFrom):
                itself = node.level == 1 and not node.module
                names |= {each.asname or each.name for each in node.names if not itself or each.asname}
            waiting += ast.iter_child_nodes(node)
        return names

    def _import_by_call(self, node: ast.Call) -> None:
        """`importlib.import_module("a.b")`, `__import__("a.b")`."""
        called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        name = node.args[0] if node.args else None
        if called in ("import_module", "__import__") and isinstance(name, ast.Constant) and isinstance(name.value, str):
            try:
                found = resolve(resolve_name(name.value, self.file.package), self.file)
            except ImportError:
                return
            if found:
                self.replaced[name] = self._arrow(found)

    def _follow(self, nodes: list[ast.AST], dotted: dict[str, str]) -> None:
        """After `import a.b.c`, write `a.b.c` as the arrow, and where `a` is used otherwise, let it be one to `a`."""
        parts: set[ast.AST] = set()
        for node in nodes:
            if isinstance(node, ast.Attribute) and node not in parts and (name := _chain(node)):
                known = next((each for each in _prefixes(name) if each in dotted), None)
                if known is None:
                    continue
                inner: ast.AST = node
                while _chain(inner) != known:
                    parts.add(inner := inner.value)  # type: ignore[attr-defined]
                self.replaced[inner] = dotted[known]
                while isinstance(inner, ast.Attribute):
                    parts.add(inner := inner.value)
        for node in nodes:
            if isinstance(node, ast.Name) and node not in parts and any(d.startswith(f"{node.id}.") for d in dotted):
                top = resolve(node.id, self.file)
                if top:
                    self.replaced[node] = self._arrow(top)


def _chain(node: ast.AST) -> str:
    """`a.b.c` of nested attributes; empty for anything else."""
    names = []
    while isinstance(node, ast.Attribute):
        names.append(node.attr)
        node = node.value
    return ".".join([node.id, *reversed(names)]) if isinstance(node, ast.Name) else ""


def _prefixes(name: str) -> Iterator[str]:
    """`a.b.c`, `a.b`, `a`."""
    while name:
        yield name
        name = name.rpartition(".")[0]


# ---- From a name to a file ----


def resolve(name: str, importer: CodeFile) -> CodeFile | None:
    """The file that a module's name means where it is imported, if it counts; nothing is imported to find out."""
    top = name.partition(".")[0]
    if not top or top in LIBRARIES:
        return None
    if importer.beside:
        file = beside(name, importer.beside)
        if file and not (file == importer.path and "." not in importer.module):  # a file is no helper of itself
            return CodeFile(file, name, importer.beside)
    file = _installed(name, importer.module)
    return CodeFile(file, name) if file else None


def beside(name: str, folder: Path) -> Path | None:
    """The file of a module in a folder, by its dotted name."""
    place = folder.joinpath(*name.split("."))
    file = place.with_name(f"{place.name}.py")
    package = place / "__init__.py"
    return package if package.is_file() else file if file.is_file() else None


def _installed(name: str, importer: str) -> Path | None:
    top, *rest = name.split(".")
    try:
        spec: ModuleSpec | None = find_spec(top)
    except (ImportError, ValueError):  # a module made by hand has no spec
        return None
    if spec is None:
        return None
    places = list(spec.submodule_search_locations or ())
    where = Path(spec.origin) if spec.origin and spec.has_location else Path(places[0]) if places else None
    if not followed(name, where, importer):
        return None
    path = top
    for part in rest:
        path = f"{path}.{part}"
        spec = PathFinder.find_spec(path, places)
        if spec is None:
            return None
        places = list(spec.submodule_search_locations or ())
    file = Path(spec.origin) if spec.origin and spec.has_location else None
    return file if file and file.is_file() else None


def _sha(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()
