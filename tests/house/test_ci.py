"""CI: what a part goes without, the sample of the matrices, and that every service calls `.ci/run`."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import matrix
import pytest
import yaml
from coverage import CoverageData

ROOT = Path(__file__).parents[2]

NEEDY = """
import pytest
from needs import needs


@pytest.mark.needs("package_of_nobody")
def test_marked():
    pass


def test_plain():
    pass
"""


def pytest_on(folder: Path, text: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a file of tests under the settings of this suite, with only this environment of CI."""
    (folder / "conftest.py").write_text((ROOT / "tests" / "conftest.py").read_text())
    (folder / "test_some.py").write_text(text)
    (folder / "pytest.ini").write_text("[pytest]\nmarkers =\n  matrix\n  needs\n  data\n  browser\n")
    kept = {name: value for name, value in os.environ.items() if name != "CI" and not name.startswith("CLARENA_")}
    path = os.pathsep.join([str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")])
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider", *arguments],
        cwd=folder,
        env=kept | {"PYTHONPATH": path} | environment,
        capture_output=True,
        text=True,
    )


def test_what_is_absent_is_skipped_here_and_fails_in_ci(tmp_path: Path) -> None:
    here = pytest_on(tmp_path, NEEDY)
    assert here.returncode == 0, here.stdout
    assert "1 passed, 1 skipped" in here.stdout
    assert "needs package_of_nobody" in here.stdout
    ci = pytest_on(tmp_path, NEEDY, CI="true")
    assert ci.returncode == 1
    assert "CLARENA_ABSENT does not say" in ci.stdout


def test_ci_goes_without_on_purpose_and_remembers_what_it_left_out(tmp_path: Path) -> None:
    left_out = tmp_path / "left_out"
    on_purpose = {"CI": "true", "CLARENA_ABSENT": "gpu,package_of_nobody", "CLARENA_LEFT_OUT": str(left_out)}
    assert "1 passed, 1 skipped" in pytest_on(tmp_path, NEEDY, **on_purpose).stdout
    assert left_out.read_text() == "package_of_nobody\ttest_some.py::test_marked\n"


def test_a_module_asks_for_all_its_tests(tmp_path: Path) -> None:
    module = "from needs import needs\n\nneeds('package_of_nobody')\n\nimport package_of_nobody\n"
    assert "1 skipped" in pytest_on(tmp_path, module).stdout
    assert pytest_on(tmp_path, module, CI="true").returncode != 0


@dataclass(frozen=True, eq=False)
class Item:
    """As much of a test as the sample asks about."""

    nodeid: str
    strategy: Any = None
    check: str = ""

    @property
    def callspec(self) -> SimpleNamespace:
        return SimpleNamespace(params={"strategy": self.strategy, "check": SimpleNamespace(name=self.check)})

    def get_closest_marker(self, name: str) -> SimpleNamespace | None:
        if self.strategy is None or name != "matrix":
            return None
        return SimpleNamespace(args=("check",) if self.check else ())


STRATEGIES = [SimpleNamespace(name=name, scenarios=(), learn=None) for name in "abc"]
ITEMS = [Item("test_plain"), *(Item(f"test_case[{s.name}-{case}]", s) for s in STRATEGIES for case in range(20))]


def taken(seed: str) -> list[str]:
    gone = matrix.left_out(ITEMS, seed)  # type: ignore[arg-type]
    return [item.nodeid for item in ITEMS if item not in gone]


def test_a_matrix_is_sampled_by_its_seed() -> None:
    samples = [taken(str(seed)) for seed in range(20)]
    for sample in samples:
        assert sample[0] == "test_plain"
        assert 1 + 6 <= len(sample) <= 1 + 6 + 2  # a tenth of 60, and whichever of the three strategies it lacks
        assert {test[10] for test in sample[1:]} == set("abc")
    assert len(set(map(tuple, samples))) == 20
    assert len(set().union(*samples)) > 50  # they rotate
    assert samples[7] == taken("7")
    assert len(taken("all")) == 61


def test_a_matrix_may_take_every_strategy_once_with_every_check() -> None:
    places = [(s, check, scenario) for s in STRATEGIES for check in ("runs", "off") for scenario in range(10)]
    items = [Item(f"test_kit[{s.name}-{scenario}-{check}]", s, check) for s, check, scenario in places]
    for seed in map(str, range(20)):
        kept = set(items) - matrix.left_out(items, seed)  # type: ignore[arg-type]
        assert {(item.strategy.name, item.check) for item in kept} == {(s.name, c) for s, c, _ in places}
        assert 6 <= len(kept) <= 6 + 6


def test_every_matrix_of_ours_names_its_strategies(request: pytest.FixtureRequest) -> None:
    """Where a strategy could not be told, the promise of every strategy once would be empty."""
    items = [item for item in request.session.items if item.get_closest_marker("matrix")]
    assert [item.nodeid for item in items if not matrix.strategy_of(item)] == []


WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_workflows_call_the_scripts_of_ci(path: Path) -> None:
    workflow = yaml.safe_load(path.read_text())
    assert {"name", "jobs", "permissions"} <= set(workflow)
    steps = [step for job in workflow["jobs"].values() for step in job["steps"]]
    commands = [step["run"] for step in steps if "run" in step]
    called = {"ci.yml": ".ci/run", "python.yml": ".ci/python", "site.yml": "mkdocs build --strict"}
    assert any(called[path.name] in command for command in commands)
    assert all(job["timeout-minutes"] <= 90 for job in workflow["jobs"].values())


def test_there_is_a_workflow_for_each_job() -> None:
    assert [path.name for path in WORKFLOWS] == ["ci.yml", "python.yml", "site.yml"]
    tried = yaml.safe_load((ROOT / ".github" / "workflows" / "python.yml").read_text())["jobs"]["tests"]["strategy"]
    said = {
        line.split('"')[1][-4:] for line in (ROOT / "pyproject.toml").read_text().splitlines() if "Python :: 3." in line
    }
    assert set(tried["matrix"]["python"]) == said


@pytest.mark.parametrize("name", ["run", "full", "python"])
def test_scripts_of_ci_are_whole_and_can_be_run(name: str) -> None:
    script = ROOT / ".ci" / name
    assert os.access(script, os.X_OK)
    assert subprocess.run(["bash", "-n", script], capture_output=True).returncode == 0


def test_coverage_is_told_of_our_files_whatever_else_was_run(tmp_path: Path) -> None:
    data = CoverageData(str(tmp_path / "data"))
    data.add_lines({str(ROOT / "clarena" / "errors.py"): [1], str(tmp_path / "written_by_a_test.py"): [1]})
    data.write()
    told = subprocess.run(
        [sys.executable, ROOT / ".ci" / "covered.py"],
        cwd=ROOT,
        env=os.environ | {"COVERAGE_FILE": str(tmp_path / "data")},
        capture_output=True,
        text=True,
    )
    assert told.returncode == 0, told.stderr
    assert [line.split()[-1] for line in told.stdout.splitlines()[1:]] == ["clarena", "all"]


def test_what_is_asked_of_this_pytest_is_not_asked_of_those_it_starts() -> None:
    assert "PYTEST_ADDOPTS" not in os.environ


def test_forms_and_hooks_can_be_read() -> None:
    for path in [*(ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"), ROOT / ".pre-commit-config.yaml"]:
        assert yaml.safe_load(path.read_text()), path
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    assert [hook["id"] for hook in hooks] == ["ruff-check", "ruff-format", "mypy"]
    assert json.dumps(hooks).count('"language": "system"') == 3  # the pinned versions, and nothing fetched
