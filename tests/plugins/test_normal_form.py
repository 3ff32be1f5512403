"""The normal form: one text for all ways to write the same code, the same on every Python; a change is another."""

import ast
import hashlib
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clarena.plugins.normal_form import FIELDS, UnknownSyntaxError, normal_form

GRAMMAR = Path(__file__).parent / "grammar"

HASHES = {
    (3, 11): "bd0bf62ff3cf812725255cc6a3fd6ef0149af645c60817fe56a7bf8bbb954989",
    (3, 12): "74d3d6002e4569e763baecdb879647272f1872b18d3852310d092d755d24e9dc",
    (3, 13): "ac2737b8acafad232a43c60c256afd3ce5e79e7119db2f01e964d1bac9727745",
}
"""Of the grammar that each version added, as that version and all after it read it. They never change."""


def form(text: str) -> str:
    return normal_form(ast.parse(text))


def grammar(version: tuple[int, int]) -> str:
    return (GRAMMAR / f"python_{version[0]}_{version[1]}.txt").read_text()


@pytest.mark.parametrize("version", [version for version in HASHES if version <= sys.version_info[:2]], ids=str)
def test_the_text_is_the_same_on_every_python(version):
    assert hashlib.sha256(form(grammar(version)).encode()).hexdigest() == HASHES[version]


def test_the_corpus_has_every_node_of_its_grammar():
    newer = {"TypeAlias", "TypeVar", "ParamSpec", "TypeVarTuple", "Expression"}
    held = {type(node).__name__ for node in ast.walk(ast.parse(grammar((3, 11))))}
    assert set(FIELDS) - newer <= held
    operators = {cls.__name__ for base in (ast.operator, ast.unaryop, ast.boolop, ast.cmpop) for cls in kinds(base)}
    assert operators <= held


def kinds(base):
    return [cls for cls in base.__subclasses__() if cls.__module__ == "ast" or cls.__module__ == "_ast"]


def test_every_field_that_this_python_knows_counts_or_is_left_out_for_a_reason():
    left_out = {"ctx", "kind", "type_comment", "type_ignores", "returns", "simple"}
    for name, fields in FIELDS.items():
        if node := getattr(ast, name, None):
            assert set(node._fields) - left_out <= set(fields), name


def test_syntax_of_the_future_is_refused():
    class Later(ast.expr):
        pass

    with pytest.raises(UnknownSyntaxError, match="Later"):
        normal_form(Later())


ALIKE = [
    ("x = 1", "x  =  0x1  # a comment\n\n"),
    ("x = 'ab'", 'x = "a" r"b"'),
    ("x = 1000", "x = 1_000"),
    ("def f(): pass", "def f():\n    '''Docstring.'''\n"),
    ("def f(): pass", "def f(): ..."),
    ("class A:\n    x = 1", "class A:\n    'doc'\n    x = 1\n    'of x'"),
    ("def f(a: int): return a", "def f(a: int) -> int: return a"),
    ("def f():\n    x = 1", "def f():\n    x: int = 1"),
    ("x = 1", "x: Final = 1"),
    ("def f(): pass", "def f() -> dict[str, a.B | None] | tuple[int, ...]: pass"),
    ("f'a{x}'", "f'a' f'{x}'"),
    ("f'{x}'", "f'{x:}'"),
    ("from typing import TYPE_CHECKING", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import b"),
    ("import typing as t", "import typing as t\nif t.TYPE_CHECKING:\n    b\nelse:\n    pass"),
    ("x = (1,\n     2)", "x = 1, 2"),
]
OTHER = [
    ("x = 1", "x = 2"),
    ("x = 1", "x = 1.0"),
    ("x = 1", "x = True"),
    ("x = 'a'", "x = b'a'"),
    ("x = '1'", "x = 1"),
    ("x = 'é'", "x = 'e\u0301'"),
    ("x = 0.1", "x = 0.1000000000000001"),
    ("x = -1", "x = 1"),
    ("x = a + b", "x = a - b"),
    ("x = a + b", "x = b + a"),
    ("x = a < b", "x = a <= b"),
    ("x = (a + b) * c", "x = a + b * c"),
    ("f(a, b)", "f(a, b=b)"),
    ("f(*a)", "f(a)"),
    ("f(**a)", "f(a=a)"),
    ("x = [a]", "x = (a,)"),
    ("{**a, 'b': c}", "{'b': c, **a}"),
    ("def f(a): pass", "def f(*a): pass"),
    ("def f(a, /, b): pass", "def f(a, b): pass"),
    ("def f(*, a, b=1): pass", "def f(*, a=1, b): pass"),
    ("def f(a: int): pass", "def f(a: float): pass"),
    ("class A:\n    x: int = 1", "class A:\n    x: float = 1"),
    ("class A:\n    x: int", "class A: pass"),
    ("@a\ndef f(): pass", "def f(): pass"),
    ("def f(): yield", "def f(): return"),
    ("async def f(): pass", "def f(): pass"),
    ("for x in y: a\nelse: b", "for x in y: a\nb"),
    ("if a: b\nelse: c", "if a: c\nelse: b"),
    ("try: a\nexcept: b", "try: a\nfinally: b"),
    ("try: a\nexcept* b: c", "try: a\nexcept b: c"),
    ("with a as b: c", "with a: c"),
    ("x[1:]", "x[:1]"),
    ("x[1:2]", "x[1, 2]"),
    ("f'{x!r}'", "f'{x!s}'"),
    ("f'{x:1}'", "f'{x:2}'"),
    ("f'{x}y'", "f'{x}' + 'y'"),
    ("import a as b", "import b as a"),
    ("from . import a", "from .. import a"),
    ("from a import b", "from b import a"),
    ("match a:\n    case b: c", "match a:\n    case _: c"),
    ("match a:\n    case [b]: c", "match a:\n    case {'b': b}: c"),
    ("match a:\n    case None: c", "match a:\n    case 0: c"),
    ("global a\nb = 1", "global b\nb = 1"),
    ("def f(): pass", "def f() -> g(): pass"),
    ("x = 1", "x: f() = 1"),
    ("def f():\n    'a'\n    exec(f.__doc__)", "def f():\n    'b'\n    exec(f.__doc__)"),
    ("'a'\nexec(__doc__)", "'b'\nexec(__doc__)"),
    ("import a", "import a\nif a.TYPE_CHECKING:\n    b"),
    ("from a import TYPE_CHECKING", "from a import TYPE_CHECKING\nif TYPE_CHECKING:\n    b"),
    *(
        (
            f"{start}\nfrom typing import TYPE_CHECKING",
            f"{start}\nfrom typing import TYPE_CHECKING\nif TYPE_CHECKING: b",
        )
        for start in ("TYPE_CHECKING = 1", "from a import *", "def f(TYPE_CHECKING): pass", "class TYPE_CHECKING: pass")
    ),
    ("import typing\ntyping.TYPE_CHECKING = 1", "import typing\ntyping.TYPE_CHECKING = 1\nif typing.TYPE_CHECKING: b"),
    ("def f():\n    x: int\n    return x", "def f():\n    return x"),  # which x it is
]


@pytest.mark.parametrize(("one", "other"), ALIKE)
def test_what_is_written_otherwise_is_the_same(one, other):
    assert form(one) == form(other)


@pytest.mark.parametrize(("one", "other"), OTHER)
def test_what_does_otherwise_is_another(one, other):
    assert form(one) != form(other)


def test_a_sum_of_ten_thousand_terms_is_no_harm():
    tree = ast.parse("x = 1")
    for _ in range(10_000):
        tree.body[0].value = ast.BinOp(tree.body[0].value, ast.Add(), ast.Constant(1))
    assert normal_form(tree).count("BinOp") == 10_000


# ---- Any code of the corpus ----

STATEMENTS = [ast.get_source_segment(grammar((3, 11)), node) for node in ast.parse(grammar((3, 11))).body[7:]]
# ast.unparse cannot say everything: f-strings with quotes or backslashes in them, before Python 3.12
PLAIN = [text for text in STATEMENTS if text and "f'" not in text and 'f"' not in text and "\\" not in text]


@given(st.lists(st.sampled_from(PLAIN), min_size=1, max_size=8), st.data())
def test_comments_blank_lines_docstrings_and_formatting_do_not_move_it(statements, data):
    text = "\n".join(statements)
    before = form(text)
    tree = ast.parse(text)
    assert form(ast.unparse(tree)) == before
    for node in ast.walk(tree):
        documented = isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        if documented and data.draw(st.booleans()):
            node.body.insert(0, ast.Expr(ast.Constant(data.draw(st.text()))))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            node.returns = ast.Name("Elsewhere", ast.Load())
    assert normal_form(tree) == before
    lines = [f"{line}  # {number}" for number, line in enumerate(ast.unparse(ast.parse(text)).split("\n"))]
    if "'''" not in text and '"""' not in text:
        assert form("\n\n".join(lines)) == before


@given(st.sampled_from(PLAIN), st.data())
def test_each_constant_operator_and_name_moves_it(text, data):
    tree = ast.parse(text)
    before = normal_form(tree)
    changes = [change for node in seen(tree) for change in changes_of(node)]
    if changes:
        data.draw(st.sampled_from(changes))()
        assert normal_form(tree) != before


def seen(node: ast.AST):
    """All nodes but docstrings and the like, annotations of variables and of return values."""
    yield node
    for name, value in ast.iter_fields(node):
        if name in ("returns", "annotation") or (isinstance(node, ast.Expr) and isinstance(value, ast.Constant)):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST):
                yield from seen(child)


def changes_of(node: ast.AST):
    """Ways to change one thing of a node."""
    if isinstance(node, ast.Constant):
        yield lambda: setattr(node, "value", "another" if node.value != "another" else "more")
    for name in ("id", "attr", "name", "arg", "module", "rest"):
        if isinstance(getattr(node, name, None), str):
            yield lambda name=name: setattr(node, name, getattr(node, name) + "_other")
    if isinstance(node, ast.BinOp | ast.AugAssign):
        yield lambda: setattr(node, "op", ast.Sub() if isinstance(node.op, ast.Add) else ast.Add())
    if isinstance(node, ast.UnaryOp):
        yield lambda: setattr(node, "op", ast.Not() if isinstance(node.op, ast.Invert) else ast.Invert())
    if isinstance(node, ast.BoolOp):
        yield lambda: setattr(node, "op", ast.And() if isinstance(node.op, ast.Or) else ast.Or())
    if isinstance(node, ast.Compare):
        yield lambda: node.ops.__setitem__(0, ast.Lt() if isinstance(node.ops[0], ast.Gt) else ast.Gt())
