"""The content of live objects as text: of classes typed into a notebook or script, and of all that they name.

A function counts by its normal form (where its source is not at hand, by what it was compiled to) with the values of
the globals that it names, of its closure and of its defaults; a class by its bases and everything in its body; an
array or tensor by its numbers; any other object by what it would be pickled as. What has no stable content (an open
file, a generator) is refused.
"""

import __future__

import ast
import builtins
import copyreg
import functools
import hashlib
import inspect
import linecache
import sys
import types
from collections.abc import Callable, Iterator
from dis import get_instructions
from pathlib import Path
from threading import Lock, RLock
from typing import Any

from clarena.errors import PluginError, UsageError
from clarena.plugins.code_graph import LIBRARIES, CodeFile, classes_twice, code_hash, followed
from clarena.plugins.normal_form import constant, normal_form

ATOMS = (type(None), bool, int, float, complex, str, bytes, type(...))
NAMELESS = frozenset({
    *("__module__", "__dict__", "__weakref__", "__doc__", "__qualname__", "__firstlineno__", "__static_attributes__"),
    *("__orig_bases__", "__parameters__", "__abstractmethods__", "_abc_impl", "__annotate__", "__annotate_func__"),
    *("__annotations_cache__", "__match_args__", "__dataclass_params__", "__family__"),
})  # fmt: skip
"""What a class has besides its body, or what follows from it."""
LOCKS = (type(Lock()), type(RLock()))
DESCRIPTORS = (types.MemberDescriptorType, types.GetSetDescriptorType, types.WrapperDescriptorType)
BUILT_IN = (
    types.BuiltinFunctionType,
    types.MethodDescriptorType,
    types.MethodWrapperType,
    types.ClassMethodDescriptorType,
)

FUTURE = functools.reduce(
    int.__or__, (getattr(__future__, name).compiler_flag for name in __future__.all_feature_names)
)
HAS_DOCSTRING = 0x4000000
"""`CO_HAS_DOCSTRING`, from Python 3.13 on; before that, a function's first constant is its docstring or None."""


class Describer:
    """Describes one object; `named` is the way to what is being looked at, for messages."""

    def __init__(self, owner: str) -> None:
        self.owner = owner
        self.named: list[str] = []
        self.seen: dict[int, int] = {}  # id -> number in the order of the first visit: cycles end there
        self.kept: list[Any] = []  # so that no id is given twice

    def of(self, value: Any, name: str = "") -> str:
        """The text of a value.

        Raises:
            UsageError: it, or something in it, has no stable content.
            PluginError: a file that it comes from cannot be read.
        """
        if isinstance(value, ATOMS) and type(value) in ATOMS:
            return constant(value)
        if type(value) is tuple:  # never by number: equal constants may be one object, or several
            return self._within(name, lambda: f"({' '.join(self.of(each) for each in value)})")
        if id(value) in self.seen:
            return f"#{self.seen[id(value)]}"
        if not isinstance(value, frozenset):
            self.seen[id(value)] = len(self.seen)
            self.kept.append(value)
        return self._within(name, lambda: self._describe(value))

    def _within(self, name: str, work: Callable[[], str]) -> str:
        self.named.append(name)
        try:
            return work()
        except RecursionError as error:
            raise self._refusal("too deep to be followed") from error
        finally:
            self.named.pop()

    def _describe(self, value: Any) -> str:
        if isinstance(value, type):
            return self._class(value)
        if isinstance(value, types.FunctionType):
            return self._function(value)
        if isinstance(value, types.CodeType):
            return self._compiled(value)
        if isinstance(value, types.ModuleType):
            return self._module(value)
        if isinstance(value, types.MethodType):
            return f"(method {self.of(value.__func__)} {self.of(value.__self__)})"
        if isinstance(value, staticmethod | classmethod):
            return f"({type(value).__name__} {self.of(value.__func__)})"
        if isinstance(value, property):
            return f"(property {self.of(value.fget)} {self.of(value.fset)} {self.of(value.fdel)})"
        if isinstance(value, functools.cached_property):
            return f"(cached_property {self.of(value.func)})"
        if isinstance(value, functools._lru_cache_wrapper):
            return f"(cache {self.of(value.__wrapped__)})"
        if isinstance(value, DESCRIPTORS + BUILT_IN):
            owner = getattr(value, "__self__", None)  # of a bound method; a function of a module has that module
            bound = "" if isinstance(owner, types.ModuleType) else self.of(owner)
            return f"({type(value).__name__} {getattr(value, '__module__', '')} {value.__qualname__} {bound})"
        if isinstance(value, LOCKS):
            return f"({type(value).__name__})"
        if type(value) in (list, types.SimpleNamespace):
            items = value if isinstance(value, list) else vars(value).items()
            return f"[{' '.join(self.of(each) for each in items)}]"
        if type(value) in (dict, types.MappingProxyType):
            return f"{{{' '.join(f'{self.of(key)}:{self.of(each, str(key))}' for key, each in value.items())}}}"
        if type(value) in (set, frozenset):
            return f"{{{' '.join(sorted(Describer(self.owner).of(each) for each in value))}}}"
        numbers = self._numbers(value)
        return numbers if numbers is not None else self._object(value)

    def _numbers(self, value: Any) -> str | None:
        """Arrays and tensors by type, shape and content."""
        import numpy as np
        import torch

        if isinstance(value, torch.Tensor) and value.layout is torch.strided and not value.is_quantized:
            flat = value.detach().cpu().contiguous().reshape(-1).resolve_conj().resolve_neg()
            content = hashlib.sha256(flat.view(torch.uint8).numpy().tobytes()).hexdigest() if flat.numel() else ""
            kind = f"{type(value).__name__} {value.dtype} {value.requires_grad}"
            return f"({kind} {'x'.join(map(str, value.shape))} {content})"
        if isinstance(value, torch.dtype | torch.device | torch.layout | torch.memory_format):
            return f"({value})"
        if isinstance(value, torch.Generator):
            return f"(Generator {self.of(value.get_state())})"
        if isinstance(value, np.dtype):
            return f"(dtype {value.descr})"
        if isinstance(value, np.generic):
            return f"({type(value).__name__} {value.tobytes().hex()})"
        if isinstance(value, np.ndarray) and not value.dtype.hasobject:
            content = hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest()
            return f"({type(value).__name__} {value.dtype.descr} {value.shape} {content})"
        return None

    def _object(self, value: Any) -> str:
        """Anything else, by what it would be pickled as."""
        try:
            reducer = copyreg.dispatch_table.get(type(value))
            reduced = reducer(value) if reducer else value.__reduce_ex__(4)
        except Exception as error:  # whatever a stranger's object raises
            raise self._refusal(f"a {type(value).__name__}") from error
        if isinstance(reduced, str):
            return f"({type(value).__module__} {reduced})"
        made, arguments, *rest = reduced  # and then, where there are any: state, items of a list, pairs of a dict
        parts = [self.of(made), self.of(tuple(arguments)), *map(self.of, rest[:1])]
        parts += [self.of(list(each)) for each in rest[1:3] if each is not None]
        return f"(object {' '.join(parts)})"

    def _refusal(self, what: str) -> UsageError:
        names = [name for name in self.named if name]
        way = ".".join([self.owner, *names] if len(names) < 8 else [self.owner, *names[:5], "…", names[-1]])
        return UsageError(
            f"{self.owner} was typed in, and {way} is {what}, whose content cannot be hashed: two versions of it could "
            f"not be told apart.\nMake it within {self.owner}, give it as a hyper-parameter, or put the code in a file."
        )

    # ---- Code ----

    def _module(self, module: types.ModuleType) -> str:
        file = code_file(module.__name__)
        if file and sys.modules.get(module.__name__) is module:
            return f"(module {code_hash(file)})"
        if _library(module.__name__):
            return f"(module {module.__name__})"
        return f"(module {self._body(vars(module))})"

    def _class(self, cls: type[Any]) -> str:
        reachable = _reachable(cls, cls.__module__, cls.__qualname__)
        file = code_file(cls.__module__)
        if reachable and file is None and _library(cls.__module__):
            return f"(class {cls.__module__} {cls.__qualname__})"
        parts = []
        if file:
            _check_once(cls, file)
            parts.append(f"{code_hash(file)} {cls.__qualname__}")
        if not reachable or file is None:
            parts.append(f"{cls.__name__} {self._body(vars(cls))}")
        else:
            parts += [f"{name}={self.of(value, name)}" for name, value in _put_on(cls)]
        for base in cls.__mro__[1:]:
            if not (_library(base.__module__) and _reachable(base, base.__module__, base.__qualname__)):
                parts.append(self.of(base))
        if not _library(type(cls).__module__):
            parts.append(self.of(type(cls)))
        return f"(class {' '.join(parts)})"

    def _body(self, body: Any) -> str:
        """Everything in a class or module, by name."""
        named = ((name, value) for name, value in body.items() if name not in NAMELESS and name != "__builtins__")
        return f"{{{' '.join(f'{name}={self.of(value, name)}' for name, value in sorted(named))}}}"

    def _function(self, function: types.FunctionType) -> str:
        code, space = function.__code__, function.__globals__
        home = str(space.get("__name__", ""))
        module = sys.modules.get(home)
        at_home = module is not None and vars(module) is space
        reachable = _reachable(function, home, function.__qualname__)
        file = code_file(home) if at_home else None
        parts = []
        if file:
            parts.append(f"{code_hash(file)} {code.co_qualname}")
        elif at_home and _library(home):
            parts.append(f"{home} {code.co_qualname}")
        else:
            parts.append(self._source(function) or self._compiled(code))
            for name in sorted(_globals_of(code)):
                if name in space:
                    parts.append(f"{name}={self.of(space[name], name)}")
                elif not hasattr(builtins, name):
                    parts.append(f"{name}=undefined")
            reachable = False
        if not reachable:
            for name, cell in zip(code.co_freevars, function.__closure__ or ()):
                try:
                    content = cell.cell_contents
                except ValueError:  # not bound yet
                    continue
                parts.append(f"{name}={self.of(content, name)}")
            parts.append(self.of(function.__defaults__))
            parts.append(self.of(function.__kwdefaults__))
            annotations = {k: v for k, v in getattr(function, "__annotations__", {}).items() if k != "return"}
            parts.append(self.of(annotations))
            parts.append(self.of({k: v for k, v in vars(function).items() if k not in ("__wrapped__", "__doc__")}))
        return f"(function {' '.join(parts)})"

    def _source(self, function: types.FunctionType) -> str:
        """The normal form of a function, where the text that it was compiled from is at hand; empty where it is not."""
        code = function.__code__
        text = "".join(linecache.getlines(code.co_filename, function.__globals__))
        try:
            tree = ast.parse(text)
            whole = compile(text, code.co_filename, "exec", flags=code.co_flags & FUTURE, dont_inherit=True)
        except (SyntaxError, ValueError):
            return ""
        same = [each for each in _codes(whole) if each == code]
        nodes = [
            node
            for node in ast.walk(tree)
            if _first_line(node) == code.co_firstlineno and _called(node) == code.co_name
        ]
        # The text may be another by now, and two lambdas may be on one line.
        return normal_form(nodes[0]) if same and len(nodes) == 1 else ""

    def _compiled(self, code: types.CodeType) -> str:
        """What a function was compiled to, without names of files, lines and docstring."""
        documented = (sys.version_info < (3, 13) and not code.co_name.startswith("<")) or code.co_flags & HAS_DOCSTRING
        constants = [
            each
            for number, each in enumerate(code.co_consts)
            if number or not (documented and isinstance(each, str) and code.co_flags & inspect.CO_NEWLOCALS)
        ]
        shape = (code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags & 0xF)
        names = (code.co_name, code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars)
        inner = " ".join(
            self._compiled(each) if isinstance(each, types.CodeType) else self.of(each) for each in constants
        )
        exceptions = getattr(code, "co_exceptiontable", b"").hex()
        return f"(code {shape} {names} {code.co_code.hex()} {exceptions} {inner})"


def code_file(module: str) -> CodeFile | None:
    """The file of a module, if its code counts; None for a library, and for what was typed in."""
    held = sys.modules.get(module)
    name = getattr(held, "__file__", None)
    path = Path(name) if name and Path(name).is_file() else None
    if path is None or module == "__main__":
        return None
    if folder := getattr(held, "__beside__", None):  # a one-file plugin, or a helper of one
        return CodeFile(path, module.partition(".")[2] or path.stem, Path(folder))
    return CodeFile(path, module) if followed(module, path) else None


def _library(module: str) -> bool:
    """Whether a module's code is none that counts, though a file or Python itself has it."""
    if module == "__main__":
        return False
    held = sys.modules.get(module)
    if held is None:
        return False
    return module.partition(".")[0] in LIBRARIES or (
        bool(getattr(held, "__file__", None)) and code_file(module) is None
    )


def _reachable(value: Any, module: str, qualname: str) -> bool:
    """Whether this very object is what its module calls by its name."""
    held: Any = sys.modules.get(module)
    for part in qualname.split("."):
        held = getattr(held, part, None)
    return held is value


def _put_on(cls: type[Any]) -> Iterator[tuple[str, Any]]:
    """What was typed in and then put on a class that a file defines."""
    for name, value in sorted(vars(cls).items()):
        function = getattr(value, "__func__", getattr(value, "fget", value))
        if isinstance(function, types.FunctionType) and function.__globals__.get("__name__") == "__main__":
            yield name, value


def _check_once(cls: type[Any], file: CodeFile) -> None:
    """Raise `PluginError` where a class's file defines another of the same name: which of them ran nobody could say."""
    if file.path.suffix == ".py" and (problem := classes_twice(ast.parse(file.path.read_bytes()), cls.__name__)):
        raise PluginError(f"{file.path} cannot be told what it is: {problem}. Rename one.")


def _globals_of(code: types.CodeType) -> set[str]:
    """The names that a function, or one within it, looks up beyond its own."""
    return {
        str(step.argval)
        for each in _codes(code)
        for step in get_instructions(each)
        if step.opname in ("LOAD_GLOBAL", "LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS")
    }


def _codes(code: types.CodeType) -> Iterator[types.CodeType]:
    yield code
    for each in code.co_consts:
        if isinstance(each, types.CodeType):
            yield from _codes(each)


def _first_line(node: ast.AST) -> int:
    lines: list[int] = [getattr(node, "lineno", 0), *(each.lineno for each in getattr(node, "decorator_list", []))]
    return min(lines)


def _called(node: ast.AST) -> str:
    if isinstance(node, ast.Lambda):
        return "<lambda>"
    return node.name if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) else ""
