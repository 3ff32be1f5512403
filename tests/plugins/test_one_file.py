"""One-file plugins and the helpers beside them."""

import sys
from pathlib import Path

import pytest

from clarena import evaluate
from clarena.plugins.host import Host, PluginSources
from clarena.plugins.identity import code_identity

PLUGIN = """
from clarena import GradientStrategy, hookimpl
from neighbour import scale


class {cls}(GradientStrategy):
    '''Uses a helper.'''

    name = "{name}"
    factor = scale

    def penalty(self):
        import tools.late as late

        return late.value() * 0.0 * next(self.model.parameters()).sum()


@hookimpl
def clarena_register_strategies(register):
    register({cls})
"""
HELPERS = {
    "neighbour.py": "from further import scale\n",
    "further.py": "scale = 2\n",
    "tools/__init__.py": "",
    "tools/late.py": "from .deep import number\nimport further\n\ndef value():\n    return number * further.scale\n",
    "tools/deep.py": "number = 5\n",
}


def write(folder: Path, name: str = "mine", **changed: str) -> Path:
    for file, text in (HELPERS | {key.replace("_py", ".py"): text for key, text in changed.items()}).items():
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_text(text)
    (folder / f"{name}.py").write_text(PLUGIN.format(name=name, cls=name.title()))
    return folder / f"{name}.py"


def load(*files: Path, names=("mine",)):
    host = Host.discover(PluginSources(files=files, third_party=False))
    assert not host.broken, host.broken
    return [host.strategy(name) for name in names]


@pytest.mark.parametrize("jobs", [1, 2])
def test_it_runs_with_its_helpers_here_and_in_worker_processes(tmp_path, jobs):
    path = write(tmp_path)
    before = list(sys.path), set(sys.modules)
    results = evaluate(
        "mine",
        plugins=PluginSources(files=[path]),
        protocol="smoke",
        seeds=2,
        store=tmp_path / "store",
        jobs=jobs,
        track=False,
    )
    assert [record.status for record in results] == ["finished", "finished"], [record.reason for record in results]
    assert sys.path == before[0]
    assert not {"neighbour", "further", "tools"} & (set(sys.modules) - before[1])
    assert not list(tmp_path.rglob("__pycache__"))


def test_two_plugins_have_each_their_own_helper_of_one_name(tmp_path):
    one = write(tmp_path / "a", further_py="scale = 10\n")
    two = write(tmp_path / "b", "yours", further_py="scale = 20\n")
    mine, yours = load(one, two, names=("mine", "yours"))
    assert (mine.factor, yours.factor) == (10, 20)
    assert code_identity(mine) != code_identity(yours)


def test_a_helper_that_was_edited_is_read_again_at_once(tmp_path):
    seen = []
    for scale in ("2", "2", "3", "4"):  # as long, and within the same second
        (cls,) = load(write(tmp_path, further_py=f"scale = {scale}\n"))
        seen.append((cls, cls.factor, code_identity(cls)))
    assert [factor for _, factor, _ in seen] == [2, 2, 3, 4]
    assert seen[0][0] is seen[1][0]
    assert len({identity for *_, identity in seen}) == 3


@pytest.mark.parametrize("file", sorted(HELPERS))
def test_every_helper_counts_wherever_the_folder_lies(tmp_path, file):
    (first,) = load(write(tmp_path / "a"))
    (moved,) = load(write(tmp_path / "b"))
    other = write(tmp_path / "c")
    (tmp_path / "c" / file).write_text(HELPERS[file] + "more = 1\n")
    (tmp_path / "c" / "unrelated.py").write_text("x = 1\n")
    (changed,) = load(other)
    assert code_identity(first) == code_identity(moved)
    counts = file != "tools/__init__.py"  # run on the way to `tools.late`, and nothing is taken from it
    assert (code_identity(changed) != code_identity(first)) == counts


def test_a_plugin_may_be_named_like_the_library_that_it_imports(tmp_path):
    path = write(tmp_path, "scipy")
    path.write_text("import scipy.stats\nrank = scipy.stats.rankdata\n" + path.read_text())
    (cls,) = load(path, names=("scipy",))
    assert cls.factor == 2


def reason(path: Path) -> str:
    (broken,) = Host.discover(PluginSources(files=[path], third_party=False)).broken
    return broken.reason


def test_what_is_wrong_is_said_once_and_clearly(tmp_path):
    path = write(tmp_path)
    (tmp_path / "further.py").unlink()
    assert reason(path) == (
        "ModuleNotFoundError: No module named 'further', neither beside neighbour.py nor installed "
        "(at line 1 of neighbour.py, reached from line 3 of mine.py)"
    )
    (tmp_path / "further.py").write_text("scale = 1 / 0\n")
    assert reason(path) == (
        "ZeroDivisionError: division by zero (at line 1 of further.py, reached from line 3 of mine.py)"
    )
    (tmp_path / "further.py").write_text("scale = = 1\n")
    assert reason(path) == "SyntaxError: invalid syntax (at line 1 of further.py)"
    path.write_text(PLUGIN.format(name="mine", cls="Mine") + "\n\nclass Mine:\n    pass\n")
    assert reason(path) == "it defines two classes named Mine, at lines 6 and 23: rename one"
