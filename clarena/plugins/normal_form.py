"""The normal form of a syntax tree: one text for all ways to write the same code down, the same on every Python.

Python's own `ast.dump` differs between versions, so this is a serialiser of our own: `FIELDS` lists every node and
those of its fields that can move a result. What is absent and what is empty are written alike (not at all), so that a
field that a newer Python adds changes nothing where it is not used. Not written are

* comments, formatting, positions, and how a literal was typed (`0x10` is `16`, `'a' "b"` is `'ab'`);
* docstrings (but in a file that reads `__doc__`), `pass`, and every other constant that stands alone as a statement;
* annotations of variables (but for those of a class's body, which mean something) and of return values, where they
  name types and call nothing;
* what only a type checker sees, under `if TYPE_CHECKING:` where that name is from `typing` and nowhere else.

Annotations of parameters stay: they say how hyper-parameters are read. This module uses the standard library alone.
"""

import ast
import json
from collections.abc import Iterator, Mapping

FIELDS: dict[str, tuple[str, ...]] = {
    "Module": ("body",),
    "Expression": ("body",),
    # Statements
    "FunctionDef": ("decorator_list", "name", "type_params", "args", "returns", "body"),
    "AsyncFunctionDef": ("decorator_list", "name", "type_params", "args", "returns", "body"),
    "ClassDef": ("decorator_list", "name", "type_params", "bases", "keywords", "body"),
    "Return": ("value",),
    "Delete": ("targets",),
    "Assign": ("targets", "value"),
    "TypeAlias": ("name", "type_params", "value"),
    "AugAssign": ("target", "op", "value"),
    "AnnAssign": ("target", "annotation", "value"),
    "For": ("target", "iter", "body", "orelse"),
    "AsyncFor": ("target", "iter", "body", "orelse"),
    "While": ("test", "body", "orelse"),
    "If": ("test", "body", "orelse"),
    "With": ("items", "body"),
    "AsyncWith": ("items", "body"),
    "Match": ("subject", "cases"),
    "Raise": ("exc", "cause"),
    "Try": ("body", "handlers", "orelse", "finalbody"),
    "TryStar": ("body", "handlers", "orelse", "finalbody"),
    "Assert": ("test", "msg"),
    "Import": ("names",),
    "ImportFrom": ("level", "module", "names"),
    "Global": ("names",),
    "Nonlocal": ("names",),
    "Expr": ("value",),
    "Pass": (),
    "Break": (),
    "Continue": (),
    # Expressions
    "BoolOp": ("op", "values"),
    "NamedExpr": ("target", "value"),
    "BinOp": ("left", "op", "right"),
    "UnaryOp": ("op", "operand"),
    "Lambda": ("args", "body"),
    "IfExp": ("test", "body", "orelse"),
    "Dict": ("keys", "values"),
    "Set": ("elts",),
    "ListComp": ("elt", "generators"),
    "SetComp": ("elt", "generators"),
    "DictComp": ("key", "value", "generators"),
    "GeneratorExp": ("elt", "generators"),
    "Await": ("value",),
    "Yield": ("value",),
    "YieldFrom": ("value",),
    "Compare": ("left", "ops", "comparators"),
    "Call": ("func", "args", "keywords"),
    "FormattedValue": ("value", "conversion", "format_spec"),
    "JoinedStr": ("values",),
    "Constant": ("value",),
    "Attribute": ("value", "attr"),
    "Subscript": ("value", "slice"),
    "Starred": ("value",),
    "Name": ("id",),
    "List": ("elts",),
    "Tuple": ("elts",),
    "Slice": ("lower", "upper", "step"),
    # Parts of them
    "comprehension": ("target", "iter", "ifs", "is_async"),
    "ExceptHandler": ("type", "name", "body"),
    "arguments": ("posonlyargs", "args", "defaults", "vararg", "kwonlyargs", "kw_defaults", "kwarg"),
    "arg": ("arg", "annotation"),
    "keyword": ("arg", "value"),
    "alias": ("name", "asname"),
    "withitem": ("context_expr", "optional_vars"),
    "match_case": ("pattern", "guard", "body"),
    "MatchValue": ("value",),
    "MatchSingleton": ("value",),
    "MatchSequence": ("patterns",),
    "MatchMapping": ("keys", "patterns", "rest"),
    "MatchClass": ("cls", "patterns", "kwd_attrs", "kwd_patterns"),
    "MatchStar": ("name",),
    "MatchAs": ("pattern", "name"),
    "MatchOr": ("patterns",),
    "TypeVar": ("name", "bound", "default_value"),
    "ParamSpec": ("name", "default_value"),
    "TypeVarTuple": ("name", "default_value"),
}
"""Every node of Python 3.11 to 3.13, with the fields that count. Operators have none; `ctx` follows from the place."""

FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)

_Item = str | tuple[ast.AST, bool]
"""Text, or a node that is still to be written, with whether it stands in the body of a class."""


class UnknownSyntaxError(Exception):
    """A node that no supported Python has."""


def normal_form(tree: ast.AST, replaced: Mapping[ast.AST, str] | None = None) -> str:
    """The text of a tree.

    Args:
        tree: a module, or any node of one.
        replaced: what to write in place of these nodes, whatever is in them.

    Raises:
        UnknownSyntaxError: for syntax that is newer than `FIELDS`.
    """
    facts = _Facts(tree)
    pieces: list[str] = []
    waiting: list[_Item] = [(tree, False)]  # no recursion: a sum may have thousands of terms
    while waiting:
        item = waiting.pop()
        if isinstance(item, str):
            pieces.append(item)
        elif replaced and item[0] in replaced:
            pieces.append(replaced[item[0]])
        else:
            waiting += reversed(list(_node(*item, facts)))
    return "".join(pieces)


def executed(tree: ast.AST) -> Iterator[ast.AST]:
    """All nodes of a tree but those that only a type checker sees."""
    facts = _Facts(tree)
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        yield node
        hidden = isinstance(node, ast.If) and facts.hides(node)
        waiting += reversed(node.orelse if hidden else list(ast.iter_child_nodes(node)))  # type: ignore[attr-defined]


class _Facts:
    """What of a tree depends on the whole of it.

    Attributes:
        guards: the names that mean `typing.TYPE_CHECKING` and are bound by nothing else, as `TYPE_CHECKING` or
            `typing.TYPE_CHECKING`.
        reads_docstrings: whether it mentions `__doc__`.
    """

    def __init__(self, tree: ast.AST) -> None:
        self.guards: set[str] = set()
        self.reads_docstrings = False
        others: set[str] = set()
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                for each in node.names:
                    if each.name == "typing":
                        self.guards.add(f"{each.asname or each.name}.TYPE_CHECKING")
                    else:
                        others.add(each.asname or each.name.partition(".")[0])
            elif isinstance(node, ast.ImportFrom):
                for each in node.names:
                    if (node.module, node.level, each.name) == ("typing", 0, "TYPE_CHECKING"):
                        self.guards.add(each.asname or each.name)
                    else:
                        others.add(each.asname or each.name)
            elif isinstance(node, ast.Attribute):
                self.reads_docstrings |= node.attr == "__doc__"
                if node.attr == "TYPE_CHECKING" and not isinstance(node.ctx, ast.Load):
                    others.add("*")
            elif isinstance(node, ast.Name):
                self.reads_docstrings |= node.id == "__doc__"
                others |= set() if isinstance(node.ctx, ast.Load) else {node.id}
            elif isinstance(node, ast.Constant):
                self.reads_docstrings |= node.value == "__doc__"
            elif not isinstance(node, ast.keyword | ast.alias):  # whatever else binds a name
                names = [getattr(node, field, None) for field in ("name", "arg", "rest")]
                others |= {name for name in names if isinstance(name, str)}
        self.guards = {guard for guard in self.guards if guard.partition(".")[0] not in others and "*" not in others}

    def hides(self, node: ast.If) -> bool:
        """Whether only a type checker sees the body of this `if`."""
        test = node.test
        if isinstance(test, ast.Attribute) and isinstance(test.value, ast.Name):
            return f"{test.value.id}.{test.attr}" in self.guards
        return isinstance(test, ast.Name) and test.id in self.guards

    def statements(self, body: list[ast.stmt]) -> list[ast.stmt]:
        """Those that do something."""
        kept: list[ast.stmt] = []
        for statement in body:
            if isinstance(statement, ast.If) and self.hides(statement):
                kept += self.statements(statement.orelse)
            elif isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
                kept += [statement] if self.reads_docstrings and isinstance(statement.value.value, str) else []
            elif not isinstance(statement, ast.Pass):
                kept.append(statement)
        return kept


def _node(node: ast.AST, in_class: bool, facts: _Facts) -> Iterator[_Item]:
    if isinstance(node, ast.AnnAssign) and not in_class and node.value is not None and _names_a_type(node.annotation):
        node = ast.Assign(targets=[node.target], value=node.value)
    kind = type(node).__name__
    if isinstance(node, ast.Constant | ast.MatchSingleton):
        yield f"({kind} {constant(node.value)})"
        return
    if isinstance(node, ast.operator | ast.unaryop | ast.boolop | ast.cmpop):
        yield kind
        return
    if kind not in FIELDS:
        raise UnknownSyntaxError(f"no normal form is defined for {kind}")
    if isinstance(node, ast.ClassDef):
        in_class = True
    elif isinstance(node, FUNCTIONS):
        in_class = False
    yield f"({kind}"
    for name in FIELDS[kind]:
        value = getattr(node, name, None)
        if name == "returns" or (isinstance(node, ast.AnnAssign) and name == "annotation" and not in_class):
            value = None if _names_a_type(value) else value
        if isinstance(node, ast.FormattedValue) and name == "conversion" and value == -1:
            continue
        if isinstance(node, ast.JoinedStr):
            value = _joined(node)
        elif isinstance(value, ast.JoinedStr) and name == "format_spec" and not _joined(value):
            continue  # f"{x:}" is f"{x}"
        elif isinstance(value, list) and name in ("body", "orelse", "finalbody"):
            value = facts.statements(value)
        yield from _field(name, value, in_class)
    yield ")"


def _names_a_type(annotation: ast.expr | None) -> bool:
    """Whether an annotation does nothing: one that calls something is code that runs."""
    kinds = (ast.Name, ast.Attribute, ast.Subscript, ast.Constant, ast.Tuple, ast.List, ast.BinOp, ast.UnaryOp)
    rest = (ast.Starred, ast.operator, ast.unaryop, ast.expr_context)
    return annotation is None or all(isinstance(node, kinds + rest) for node in ast.walk(annotation))


def _field(name: str, value: object, in_class: bool) -> Iterator[_Item]:
    if value is None or value == [] or value == 0:
        return
    yield f" {name}="
    if isinstance(value, list):
        yield "["
        for number, each in enumerate(value):
            yield " " if number else ""
            yield from _value(each, in_class)
        yield "]"
    else:
        yield from _value(value, in_class)


def _value(value: object, in_class: bool) -> Iterator[_Item]:
    if isinstance(value, ast.AST):
        yield value, in_class
    elif value is None:  # in a list: `**more` among the keys of a dict, a keyword without a default
        yield "~"
    else:
        yield constant(value)


def _joined(node: ast.JoinedStr) -> list[ast.expr]:
    """The parts of an f-string: text is cut in one way, however it was concatenated; empty text is none."""
    parts: list[ast.expr] = []
    for part in node.values:
        for each in _joined(part) if isinstance(part, ast.JoinedStr) else [part]:
            last = parts[-1] if parts else None
            if not isinstance(each, ast.Constant):
                parts.append(each)
            elif isinstance(last, ast.Constant):
                parts[-1] = ast.Constant(value="".join(map(str, (last.value, each.value))))
            elif each.value:
                parts.append(each)
    return parts


def constant(value: object) -> str:
    """A constant as text: exact, ASCII, and the same whatever tables of Unicode a Python has."""
    if value is None or isinstance(value, bool) or value is ...:
        return str(value)
    if isinstance(value, str):
        return json.dumps(value)
    if isinstance(value, bytes):
        return f"b{value.hex()}"
    if isinstance(value, int):
        return hex(value)  # decimal has a limit of digits
    if isinstance(value, float):
        return value.hex()
    if isinstance(value, complex):
        return f"{value.real.hex()}+{value.imag.hex()}j"
    raise UnknownSyntaxError(f"no normal form is defined for a constant of type {type(value).__name__}")
