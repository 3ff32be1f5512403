"""The identity of code in files: what it does and whom it imports, wherever that lies and however it is written."""

import importlib
import sys

import pytest
from clarena_native.strategies.references.finetune import Finetune
from clarena_native.strategies.regularisation.ewc import EWC

from clarena import GradientStrategy
from clarena.errors import PluginError, UsageError
from clarena.plugins.identity import code_identity

FILES = {
    "pack/__init__.py": "from .core import Base\nREGISTRY = 1\n",
    "pack/core.py": "from clarena import GradientStrategy\nfrom pack.shared import value\n\n"
    "class Base(GradientStrategy):\n    '''Doc.'''\n    name = 'base'\n    factor = value\n",
    "pack/shared.py": "value = 3\n",
    "pack/v1.py": "def loss():\n    return 1\n",
    "pack/v2.py": "def loss():\n    return 2\n",
    "pack/method.py": "import pack.loner\nfrom . import core\nfrom .v1 import loss\n\n"
    "class Method(core.Base):\n    '''Doc.'''\n    name = 'method'\n    own = pack.loner.VALUE\n\n"
    "    def learn(self, experience):\n        from .late import value\n        return loss() + value\n",
    "pack/loner.py": "from pack import ring\nVALUE = 1\n",
    "pack/ring.py": "from pack import loner\n",
    "pack/late.py": "value = 4\n",
    "pack/unrelated.py": "OTHER = 1\n",
}


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Writes the package somewhere, imports it afresh, and gives the identity of `pack.method.Method`."""
    count = iter(range(1000))

    def forget():
        for name in [name for name in sys.modules if name.partition(".")[0] in ("pack", "other")]:
            del sys.modules[name]

    def identity(changes=None, name="pack.method.Method"):
        root = tmp_path / f"place-{next(count)}"
        for file, text in (FILES | (changes or {})).items():
            if text is not None:
                (root / file).parent.mkdir(parents=True, exist_ok=True)
                (root / file).write_text(text)
        forget()
        monkeypatch.setattr(sys, "path", [str(root), *sys.path])
        importlib.invalidate_caches()
        module, _, cls = name.rpartition(".")
        return code_identity(getattr(importlib.import_module(module), cls))

    yield identity
    forget()


def method(*replaced):
    text = FILES["pack/method.py"]
    for old, new in replaced:
        assert old in text
        text = text.replace(old, new)
    return text


def test_the_place_does_not_count_nor_do_comments_and_docstrings(package):
    before = package()
    assert package() == before
    assert (
        package({name: text.replace("'''Doc.'''", "'''Other.'''\n    # more") for name, text in FILES.items()})
        == before
    )
    assert package({name: text.replace("\n", "\r\n") for name, text in FILES.items()}) == before


@pytest.mark.parametrize("name", ["core", "shared", "v1", "loner", "late", "ring", "method"])
def test_every_file_it_imports_counts(package, name):
    file = f"pack/{name}.py"
    assert package({file: FILES[file] + "\nMORE = 1\n"}) != package()


def test_no_other_file_counts(package):
    before = package()
    assert package({"pack/unrelated.py": "OTHER = 2\n"}) == before
    assert package({"pack/v2.py": "OTHER = 2\n"}) == before
    assert package({"pack/__init__.py": "from .core import Base\nREGISTRY = 2\n"}) == before  # only run on the way
    assert package({"pack/__init__.py": FILES["pack/__init__.py"] + "core = 1\n"}, "pack.core.Base") == package(
        {}, "pack.core.Base"
    )


MOVES = [
    {"pack/v1.py": None, "pack/deep/__init__.py": "", "pack/deep/v1.py": FILES["pack/v1.py"],
     "pack/method.py": method(("from .v1", "from .deep.v1"))},
    {"pack/v1.py": None, "pack/renamed.py": FILES["pack/v1.py"],
     "pack/method.py": method(("from .v1", "from .renamed"))},
    {"pack/method.py": method(("from .v1", "from pack.v1"))},
    {"pack/method.py": method(("from . import core", "from pack import core"))},
    {"pack/method.py": method(("from . import core", "import pack.core as core"))},
    {"pack/loner.py": None, "pack/deep/__init__.py": "", "pack/deep/loner.py": FILES["pack/loner.py"],
     "pack/ring.py": "from pack.deep import loner\n",
     "pack/method.py": method(("pack.loner", "pack.deep.loner"))},
    {"pack/late.py": None, "pack/later.py": FILES["pack/late.py"], "pack/method.py": method((".late", ".later"))},
]  # fmt: skip


@pytest.mark.parametrize("move", MOVES, ids=range(len(MOVES)))
def test_a_helper_that_moves_or_is_imported_otherwise_moves_no_identity(package, move):
    assert package(move) == package()


CHANGES = [
    {"pack/method.py": method(("from .v1", "from .v2"))},
    {"pack/v1.py": FILES["pack/v2.py"], "pack/v2.py": FILES["pack/v1.py"]},
    {"pack/method.py": method(("from .v1 import loss", "from .v1 import *"))},
    {"pack/method.py": method(("from . import core", "from .fork import core")),
     "pack/fork.py": "from pack import core\n"},
    {"pack/ring.py": "from pack import v2 as loner\n"},
    {"pack/method.py": method(("own = pack", "own = 2 * pack"))},
    {"pack/method.py": method(("import pack.loner", "import pack.loner\n__import__('pack.v2')"))},
    {"pack/method.py": method(("(core.Base)", "(core.Base, metaclass=type('Meta', (type(core.Base),), {}))"))},
]  # fmt: skip


@pytest.mark.parametrize("change", CHANGES, ids=range(len(CHANGES)))
def test_another_helper_is_noticed(package, change):
    assert package(change) != package()


def test_a_module_that_its_package_replaces_is_the_one_that_counts(package):
    """`from pack import loner` means what the package calls so, where it binds the name itself."""
    replaced = {
        "pack/method.py": method(
            ("import pack.loner\n", "import pack\nfrom pack import loner\n"), ("pack.loner.VALUE", "1")
        )
    }
    first = package(replaced)
    assert package(replaced | {"pack/__init__.py": "from .v2 import loss as loner\nfrom .core import Base\n"}) != first


def test_a_helper_imported_by_a_constant_name_counts(package):
    calls = method(("import pack.loner", "import pack.loner, importlib\nHELP = importlib.import_module('.v2', 'pack')"))
    calls = calls.replace("'.v2', 'pack'", "'pack.v2'")
    first = package({"pack/method.py": calls})
    assert package({"pack/method.py": calls, "pack/v2.py": "def loss():\n    return 5\n"}) != first


def test_what_only_a_type_checker_imports_does_not_count(package):
    guarded = method(
        (
            "import pack.loner",
            "import pack.loner\nfrom typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from pack import unrelated",
        )
    )
    first = package({"pack/method.py": guarded})
    assert package({"pack/method.py": guarded, "pack/unrelated.py": "OTHER = 2\n"}) == first


def test_a_base_from_a_strangers_package_counts(package):
    other = {"other/__init__.py": "", "other/base.py": "from pack.core import Base\nclass Far(Base):\n    x = 1\n"}
    far = {"pack/method.py": method(("(core.Base)", "(__import__('other.base').base.Far)"))}
    first = package(other | far)
    assert package(other | far | {"other/base.py": other["other/base.py"].replace("x = 1", "x = 2")}) != first


def test_a_compiled_helper_counts_by_its_bytes(package):
    from importlib.machinery import EXTENSION_SUFFIXES

    file = f"pack/fast{EXTENSION_SUFFIXES[0]}"
    text = method(("from .late import value", "from . import fast\n        from .late import value"))
    one, two = (package({"pack/method.py": text, file: content}) for content in ("\x7fELF one", "\x7fELF two"))
    assert one != two


def test_a_file_that_was_edited_after_it_was_imported_is_refused_until_it_is_imported_again(package, tmp_path):
    before = package()
    cls = sys.modules["pack.method"].Method
    helper = tmp_path / "place-0" / "pack" / "v1.py"
    helper.write_text("# a comment\n" + FILES["pack/v1.py"])
    assert code_identity(cls) == before
    helper.write_text("def loss():\n    return 100\n")
    with pytest.raises(UsageError, match=r"v1\.py was edited after it was imported.*restart the kernel"):
        code_identity(cls)
    importlib.reload(sys.modules["pack.v1"])
    assert code_identity(importlib.reload(sys.modules["pack.method"]).Method) != before


def test_two_classes_of_one_name_are_refused(package):
    twice = FILES["pack/method.py"] + "\n\nclass Method(core.Base):\n    '''Doc.'''\n    name = 'second'\n"
    with pytest.raises(PluginError, match=r"method\.py .* two classes named Method, at lines 5 and .*Rename one"):
        package({"pack/method.py": twice})


def test_the_host_and_libraries_are_no_part_of_it():
    assert len({code_identity(cls) for cls in (EWC, Finetune, GradientStrategy)}) == 3
    from pathlib import Path

    import clarena_native.strategies.regularisation.ewc as module

    from clarena.plugins.code_graph import CodeFile, _read

    _, files = _read(CodeFile(Path(module.__file__), module.__name__), {})
    assert {file.module.partition(".")[0] for file in files} == {"clarena_native"}


def test_a_composite_counts_with_its_members():
    from clarena.plugins.host import Host

    host = Host.discover()
    names = ("ewc+lwf", "lwf+ewc", "ewc+er", "ewc")
    assert len({code_identity(host.strategy(name)) for name in names}) == len(names)
