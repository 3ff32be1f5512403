"""The identity of classes that were typed in: all that they name counts, and what has no content is refused."""

import linecache
from itertools import count

import numpy as np
import pytest
import torch

from clarena import GradientStrategy, UsageError
from clarena.plugins.identity import code_identity

CELLS = count()


def cell(space, text):
    """Run the text of a notebook's cell: compiled under a name that only the cache of lines knows."""
    name = f"<cell {next(CELLS)}>"
    linecache.cache[name] = (len(text), None, text.splitlines(keepends=True), name)
    exec(compile(text, name, "exec", dont_inherit=True), space)


@pytest.fixture(params=["with its source", "without"])
def notebook(request):
    """Runs cells in one namespace, as `__main__` does, and gives the identity of the class `Mine` in it."""

    def run(*texts):
        space = {"__name__": "__main__", "GradientStrategy": GradientStrategy, "np": np, "torch": torch}
        for text in texts:
            cell(space, text) if request.param == "with its source" else exec(text, space)
        return code_identity(space["Mine"])

    yield run
    for name in [name for name in linecache.cache if name.startswith("<cell")]:
        del linecache.cache[name]


MINE = """
class Mine(GradientStrategy):
    '''Mine.'''
    name = 'mine'

    def penalty(self):
        return {names}
"""


def uses(names):
    return MINE.format(names=names)


def test_the_same_cells_are_the_same(notebook):
    cells = ("STRENGTH = 1e-4\n", uses("STRENGTH * 2"))
    assert notebook(*cells) == notebook(*cells)
    assert notebook(*cells) == notebook(*cells, *cells)  # run again


CHANGES = [
    ("a constant", ["V = 1e-4"], ["V = 10"], "V"),
    ("an array", ["V = np.arange(4)"], ["V = np.array([0, 1, 2, 4])"], "V"),
    ("the dtype of an array", ["V = np.arange(4)"], ["V = np.arange(4, dtype='i2')"], "V"),
    ("a tensor", ["V = torch.zeros(3)"], ["V = torch.tensor([0.0, 0.0, 1e-9])"], "V"),
    ("a network", ["V = torch.nn.Linear(1, 1); V.weight.data.zero_(); V.bias.data.zero_()"],
                  ["V = torch.nn.Linear(1, 1); V.weight.data.zero_(); V.bias.data.fill_(1)"], "V"),
    ("a helper", ["def V(x): return x"], ["def V(x): return -x"], "V(1)"),
    ("a helper's helper", ["def W(): return 1", "def V(): return W()"],
                          ["def W(): return 2", "def V(): return W()"], "V()"),
    ("what a helper's inner function names", ["W = 1", "def V(): return [W for _ in 'a']"],
                                             ["W = 2", "def V(): return [W for _ in 'a']"], "V()"),
    ("a default", ["def V(x=1): return x"], ["def V(x=2): return x"], "V()"),
    ("a closure", ["def make(k):\n    def V(): return k\n    return V\nV = make(1)"],
                  ["def make(k):\n    def V(): return k\n    return V\nV = make(2)"], "V()"),
    ("a decorator's argument", ["from functools import partial", "V = partial(pow, 2)"],
                               ["from functools import partial", "V = partial(pow, 3)"], "V(1)"),
    ("a class", ["class V:\n    x = 1"], ["class V:\n    x = 2"], "V.x"),
    ("an object", ["class W: pass", "V = W()", "V.x = 1"], ["class W: pass", "V = W()", "V.x = 2"], "V.x"),
    ("a data class", ["from dataclasses import dataclass", "@dataclass\nclass V:\n    x: int = 1"],
                     ["from dataclasses import dataclass", "@dataclass\nclass V:\n    x: int = 2"], "V()"),
    ("a dict", ["V = {'a': [1, (2, None)]}"], ["V = {'a': [1, (3, None)]}"], "V"),
    ("a set", ["V = {1, 'a'}"], ["V = {1, 'b'}"], "V"),
    ("a cached function", ["from functools import cache", "@cache\ndef V(): return 1"],
                          ["from functools import cache", "@cache\ndef V(): return 2"], "V()"),
    ("a method of an object in C", ["V = [1].count"], ["V = [2].count"], "V(1)"),
    ("a lambda", ["V = lambda x: x"], ["V = lambda x: -x"], "V(1)"),
    ("one that is not there yet", [], ["V = 1"], "V"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("before", "after", "names"), [case[1:] for case in CHANGES], ids=[case[0] for case in CHANGES]
)
def test_everything_that_it_names_counts(notebook, before, after, names):
    assert notebook(*before, uses(names)) == notebook(*before, uses(names))
    assert notebook(*before, uses(names)) != notebook(*after, uses(names))


def test_its_own_body_counts(notebook):
    assert notebook(uses("1")) != notebook(uses("2"))
    body = "class Mine(GradientStrategy):\n    width = {0}\n    def __init__(self, *, x: {1} = 1): ...\n"
    assert len({notebook(body.format(*case)) for case in ((1, "int"), (2, "int"), (1, "float"))}) == 3
    base = "class Base(GradientStrategy):\n    width = {0}\n"
    assert notebook(
        base.format(1), MINE.replace("Gradient", "").replace("Strategy", "Base").format(names=1)
    ) != notebook(base.format(2), MINE.replace("Gradient", "").replace("Strategy", "Base").format(names=1))


def test_what_it_does_not_name_does_not_count(notebook):
    assert notebook("other = 1", uses("self.other")) == notebook("other = object()", uses("self.other"))
    assert notebook(uses("1")) == notebook("results = open('/dev/null')", uses("1"))


def test_a_name_in_a_loop_of_references_ends(notebook):
    loop = ("def V(n): return W(n - 1) if n else {0}", "def W(n): return V(n)")
    cells = [loop[0].format(1), loop[1], uses("V(3)")]
    assert notebook(*cells) == notebook(*cells)
    assert notebook(*cells) != notebook(loop[0].format(2), *cells[1:])
    assert notebook("V = []", "V.append(V)", uses("V")) == notebook("V = []", "V.append(V)", uses("V"))


def test_what_is_nested_without_end_is_refused(notebook):
    with pytest.raises(UsageError, match=r"(?s)Mine\.penalty\.V.* is too deep to be followed"):
        notebook("V = 1\nfor _ in range(5000): V = {'in': V}", uses("V"))


@pytest.mark.parametrize(
    ("made", "what"), [("V = (x for x in 'a')", "generator"), ("V = open('/dev/null')", "TextIOWrapper")]
)
def test_what_has_no_content_is_refused_by_name(notebook, made, what):
    with pytest.raises(
        UsageError, match=rf"(?s)Mine was typed in, and Mine\.penalty\.V is a {what}.*give it as a hyper"
    ):
        notebook(made, uses("V"))


def test_comments_and_docstrings_do_not_count_where_the_source_is_at_hand():
    def identity(text):
        space = {"__name__": "__main__", "GradientStrategy": GradientStrategy}
        cell(space, text)
        return code_identity(space["Mine"])

    first = identity(uses("1 + 1"))
    assert identity("# one\n\n" + uses("1  +  1  # two").replace("'''Mine.'''", "'''Other.'''")) == first
    assert identity(uses("2")) != first


def test_the_text_of_another_cell_under_the_same_name_is_not_taken_for_it():
    """A script that was edited while it runs: the cache of lines gives the new text for the old class."""

    def identity(shown, ran):
        linecache.cache["<edited>"] = (1, None, shown.splitlines(keepends=True), "<edited>")
        space = {"__name__": "__main__", "GradientStrategy": GradientStrategy}
        exec(compile(ran, "<edited>", "exec", dont_inherit=True), space)
        return code_identity(space["Mine"])

    assert identity(uses("1"), uses("1")) != identity(uses("1"), uses("2"))
    del linecache.cache["<edited>"]


def test_a_class_that_claims_to_be_built_in_is_not_believed():
    """Where no `__name__` is given, Python says that a class is of `builtins`."""

    def identity(value):
        space = {"GradientStrategy": GradientStrategy}
        exec(uses(value), space)
        assert space["Mine"].__module__ == "builtins"
        return code_identity(space["Mine"])

    assert identity("1") == identity("1") != identity("2")


def test_a_module_of_the_users_own_counts_by_its_file(notebook, tmp_path, monkeypatch):
    import sys

    monkeypatch.syspath_prepend(tmp_path)
    seen = []
    for value in (1, 1, 2):
        (tmp_path / "my_settings.py").write_text(f"VALUE = {value}\n")
        seen.append(notebook("import my_settings", uses("my_settings.VALUE")))
        del sys.modules["my_settings"]
    assert seen[0] == seen[1] != seen[2]


def test_a_method_put_on_a_class_of_a_file_counts(monkeypatch):
    from clarena_native.strategies.regularisation.ewc import EWC

    before = code_identity(EWC)
    space = {"__name__": "__main__"}
    exec("def penalty(self):\n    return 0\n", space)
    monkeypatch.setattr(EWC, "penalty", space["penalty"])
    assert code_identity(EWC) != before


def test_a_class_made_by_a_function_of_a_file_counts_with_what_it_was_made_with(tmp_path, monkeypatch):
    import importlib
    import sys

    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "my_factory.py").write_text(
        "from clarena import GradientStrategy\ndef make(width):\n    class Mine(GradientStrategy):\n"
        "        def penalty(self):\n            return width\n    return Mine\n"
    )
    factory = importlib.import_module("my_factory")
    identities = [code_identity(factory.make(width)) for width in (1, 1, 2)]
    assert identities[0] == identities[1] != identities[2]
    del sys.modules["my_factory"]
