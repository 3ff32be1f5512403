"""The identity of code that can move a result, and the hash of its files' bytes beside it, as provenance.

Two runs of one identity ran the same code. What counts is what the code does, and not how it is written or where it
lies: `clarena.plugins.code_graph` says which files count, `clarena.plugins.normal_form` what of them,
`clarena.plugins.live_values` what counts of classes that no file defines. Data files that a plugin reads are no code:
those of a benchmark count by its fingerprint, weights by a backbone's, and others not at all.
"""

import ast
import dis
import hashlib
import inspect
import io
import re
import sys
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from importlib.util import find_spec, resolve_name
from pathlib import Path
from types import ModuleType
from typing import Any

HOST = "clarena"
ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")
PLACED = ("__firstlineno__", "__static_attributes__")
"""What Python 3.13 puts on a class: where it was typed, and names in an order that changes from process to process."""


def code_identity(cls: type[Any]) -> str:
    """SHA-256, in hexadecimal, of all code that a strategy, backbone or benchmark is made of.

    It is that of its own module and of those of its bases and metaclass, with all that they import of their own code;
    and of a class that was typed in or made on the fly, of everything that it names. The host, torch and libraries are
    not among them.

    Raises:
        UsageError: a class that was typed in names something whose content cannot be hashed; or a file was edited
            after this process imported it.
        PluginError: a file cannot be read.
    """
    from clarena.plugins.live_values import Describer

    return hashlib.sha256(Describer(cls.__name__).of(cls).encode()).hexdigest()


def source_hash(cls: type[Any]) -> str:
    """SHA-256 over the bytes of the files that define a strategy: which text ran, comments and all.

    They are the modules of the class and of its bases outside the host, and what these import from their own
    package (or, for a one-file plugin, from its own folder). The host itself is not among them: the protocol's
    revision stands for it. A class that no file defines (typed into a notebook) is hashed by its own source or,
    failing that, what it was compiled to.
    """
    files: set[Path] = set()
    digest = hashlib.sha256()
    for member in getattr(cls, "members", ()):  # of a composite
        digest.update(source_hash(member).encode())
    for base in cls.__mro__:
        package = base.__module__.partition(".")[0]
        if package in (HOST, "torch", "builtins", "abc", "typing"):
            continue
        module = sys.modules.get(base.__module__)
        path = _file(module)
        if path is None or base.__module__ == "__main__":
            digest.update(_typed_in(base))
        elif path not in files:
            files |= set(closure(path, base.__module__))
    # In an order that does not depend on where the files lie.
    for name, content in sorted((path.name, path.read_bytes().replace(b"\r\n", b"\n")) for path in files):
        digest.update(name.encode() + b"\0" + content + b"\0")
    return digest.hexdigest()


def _file(module: ModuleType | None) -> Path | None:
    name = getattr(module, "__file__", None)
    return Path(name) if name and Path(name).is_file() else None


def _typed_in(cls: type[Any]) -> bytes:
    with suppress(OSError, TypeError):  # a notebook's class is not found, but its functions are
        text = inspect.getsource(cls)
        # From Python 3.13 on it is what the file of `__main__` has at that line, the class or not.
        if re.search(rf"^\s*class {cls.__name__}\b", text, re.MULTILINE):
            return text.encode()
    body = ((name, value) for name, value in vars(cls).items() if name not in PLACED)
    return "\n".join(f"{name}: {_described(value)}" for name, value in body).encode()


def _described(value: Any) -> str:
    """The source of a function or, failing that, what it was compiled to; how anything else prints. No addresses."""
    function = getattr(value, "__func__", getattr(value, "fget", value))
    if not inspect.isfunction(function):
        return ADDRESS.sub("", repr(value))
    try:
        return inspect.getsource(function)
    except OSError:
        listing = io.StringIO()
        dis.dis(function, file=listing)
        return ADDRESS.sub("", f"{listing.getvalue()} {function.__defaults__} {function.__kwdefaults__}")


@cache
def closure(path: Path, module: str) -> frozenset[Path]:
    """The file and, transitively, the helpers it imports.

    It stays as it is, though `clarena.plugins.code_graph` follows imports better: records of before there was an
    identity are known by a hash over these files.
    """
    found: set[Path] = set()
    waiting = [(path, module)]
    while waiting:
        here, name = waiting.pop()
        if here in found:
            continue
        found.add(here)
        waiting += _helpers(here, name)
    return frozenset(found)


def _helpers(path: Path, module: str) -> Iterator[tuple[Path, str]]:
    if path.suffix != ".py":
        return  # compiled: part of the identity, but nothing to read
    for name in _imported(path, module):
        if name.partition(".")[0] == module.partition(".")[0]:
            try:
                spec = find_spec(name)
            except (ImportError, ValueError):
                continue  # `from package import name` where the name is no module
            if spec and spec.origin and Path(spec.origin).is_file():
                yield Path(spec.origin), name
        elif "." not in module and (sibling := path.parent / f"{name.partition('.')[0]}.py").is_file():
            yield sibling, name


def _imported(path: Path, module: str) -> Iterator[str]:
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            try:
                origin = resolve_name("." * node.level + (node.module or ""), package) if node.level else node.module
            except ImportError:
                continue
            if origin:
                yield origin
                yield from (f"{origin}.{alias.name}" for alias in node.names)
