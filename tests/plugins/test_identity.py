"""The identity of a strategy's code: every file that defines it counts, and where it lies does not."""

import importlib
import linecache
import shutil
import sys

import pytest
from clarena_native.strategies.references.finetune import Finetune
from clarena_native.strategies.regularisation.ewc import EWC

from clarena import GradientStrategy
from clarena.plugins.identity import closure, source_hash

FILES = {
    "pack/__init__.py": "from .core import Base\nfrom .front import helper\n\nclass AtTheTop(Base):\n    pass\n",
    "pack/core.py": "from clarena import GradientStrategy\nfrom pack.sub import deep\n\n"
    "class Base(GradientStrategy):\n    name = 'base'\n",
    "pack/front.py": "def helper():\n    pass\n",
    "pack/method.py": "import math\nimport pack.loner\nfrom . import core\n\nclass Method(core.Base):\n    pass\n",
    "pack/loner.py": "VALUE = 1\n",
    "pack/unrelated.py": "OTHER = 1\n",
    "pack/sub/__init__.py": "from .deep import leaf\n",
    "pack/sub/deep.py": "def leaf():\n    from ..late import value\n    return value\n",
    "pack/late.py": "value = 3\n",
}


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Writes the package somewhere, imports it afresh, and gives `hash(dotted name)`."""

    def write(place="one", **changes):
        root = tmp_path / place
        for name, text in FILES.items():
            file = root / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(changes.get(name.replace("/", "_").removesuffix(".py"), text))
        for name in [name for name in sys.modules if name.partition(".")[0] == "pack"]:
            del sys.modules[name]
        monkeypatch.setattr(sys, "path", [str(root), *sys.path])
        importlib.invalidate_caches()
        closure.cache_clear()

        def identity(name):
            module, _, cls = name.rpartition(".")
            return source_hash(getattr(importlib.import_module(module), cls))

        return identity

    yield write
    for name in [name for name in sys.modules if name.partition(".")[0] == "pack"]:
        del sys.modules[name]
    closure.cache_clear()


@pytest.mark.parametrize(
    ("cls", "counts"),
    [
        ("pack.method.Method", ["method", "core", "loner", "sub/__init__", "sub/deep", "late"]),
        ("pack.core.Base", ["core", "sub/__init__", "sub/deep", "late"]),
        ("pack.AtTheTop", ["__init__", "core", "front", "sub/__init__", "sub/deep", "late"]),
    ],
)
def test_every_file_that_defines_it_counts_and_no_other(package, cls, counts):
    before = package()(cls)
    noticed = []
    for number, (name, text) in enumerate(FILES.items()):
        key = name.replace("/", "_").removesuffix(".py")
        if package(f"changed-{number}", **{key: text + "# changed\n"})(cls) != before:
            noticed.append(name.removeprefix("pack/").removesuffix(".py"))
    assert "unrelated" not in noticed
    assert set(noticed) >= set(counts)
    # `from . import core` may pull in the package's own __init__, and with it what that imports; no more than that.
    assert set(noticed) <= {*counts, "__init__", "front"}


def test_the_place_and_the_line_ends_do_not_count(package):
    before = package()("pack.method.Method")
    assert package("somewhere/else")("pack.method.Method") == before
    windows = {name.replace("/", "_").removesuffix(".py"): text.replace("\n", "\r\n") for name, text in FILES.items()}
    assert package("windows", **windows)("pack.method.Method") == before


def test_a_compiled_helper_counts_and_is_not_read(package, tmp_path):
    from importlib.machinery import EXTENSION_SUFFIXES

    text = FILES["pack/method.py"] + "\ndef late():\n    import pack.fast\n"
    identity = package("compiled", pack_method=text)
    file = tmp_path / "compiled" / "pack" / f"fast{EXTENSION_SUFFIXES[0]}"
    file.write_bytes(b"\x7fELF\0\0")
    first = identity("pack.method.Method")
    file.write_bytes(b"\x7fELF\0\1")
    closure.cache_clear()
    assert identity("pack.method.Method") != first


def test_a_one_file_plugin_counts_with_its_neighbours(tmp_path):
    from clarena.plugins.host import Host, PluginSources

    plugin = """
from clarena import GradientStrategy, hookimpl
from neighbour import scale

class Mine(GradientStrategy):
    '''Mine.'''
    name = 'mine'
    reference = 'Mine.'

@hookimpl
def clarena_register_strategies(register):
    register(Mine)
"""

    def identity(place, scale="1", own=plugin):
        folder = tmp_path / place
        folder.mkdir()
        (folder / "neighbour.py").write_text(f"scale = {scale}\n")
        (folder / "stranger.py").write_text(f"place = '{place}'\n")
        (folder / "mine.py").write_text(own)
        sys.path.insert(0, str(folder))
        try:
            host = Host.discover(PluginSources(files=(str(folder / "mine.py"),)))
            return source_hash(host.strategies.resolve("mine"))
        finally:
            sys.path.remove(str(folder))
            sys.modules.pop("neighbour", None)
            shutil.rmtree(folder)

    first = identity("a")
    assert identity("b") == first
    assert identity("c", scale="2") != first
    assert identity("d", own=plugin + "# more\n") != first


def test_the_host_is_no_part_of_it():
    """The protocol's revision stands for the host, so a class of the host alone has the hash of nothing."""
    assert source_hash(GradientStrategy) == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert len({source_hash(cls) for cls in (EWC, Finetune, GradientStrategy)}) == 3


def test_a_class_that_no_file_defines_is_told_from_another():
    def identity(body="return 1", strength="1.0", scale="2"):
        text = f"class Typed(GradientStrategy):\n    scale = {scale}\n"
        text += f"    def __init__(self, *, strength={strength}):\n        super().__init__()\n"
        text += f"    def learn(self, experience):\n        inner = lambda x: sum(y for y in x)\n        {body}\n"
        space = {"GradientStrategy": GradientStrategy, "__name__": "__main__"}
        exec(text, space)
        return source_hash(space["Typed"])

    assert identity() == identity()  # another object of the same text, as after a restart
    assert len({identity(), identity(body="return 2"), identity(strength="2.0"), identity(scale="3")}) == 4


def test_where_a_class_was_typed_does_not_count():
    def identity(lines, scale):
        space = {"GradientStrategy": GradientStrategy, "__name__": "__main__"}
        exec("\n" * lines + f"class Typed(GradientStrategy):\n    scale = {scale}\n", space)
        return source_hash(space["Typed"])

    assert identity(0, 2) == identity(9, 2) != identity(9, 3)


def test_a_class_of_a_notebook_is_known_by_its_text():
    """As a notebook does it: compiled under a name that only the cache of lines knows."""

    def identity(factor):
        lines = ["class Typed(GradientStrategy):\n", "    def loss(self, batch):\n", f"        return {factor}\n"]
        linecache.cache["<cell>"] = (1, None, lines, "<cell>")
        space = {"GradientStrategy": GradientStrategy, "__name__": "__main__"}
        exec(compile("".join(lines), "<cell>", "exec"), space)
        return source_hash(space["Typed"])

    assert identity("2") == identity("2")
    assert identity("2") != identity("3")
    assert identity("2") != identity("1 + 1")  # by its text, not by what it was compiled to
    del linecache.cache["<cell>"]
