"""The wheel holds the three packages and nothing else, and works where it is installed."""

import configparser
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

import clarena

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def run(*command, **environment):
    process = subprocess.run(list(map(str, command)), env=os.environ | environment, capture_output=True, text=True)
    assert process.returncode == 0, process.stdout + process.stderr
    return process.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, built from a copy, so that the build leaves nothing behind in the checkout."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for folder in ("clarena", "plugins", "leaderboard", "tests", "perf", "docs"):
        shutil.copytree(ROOT / folder, source / folder, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    for file in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / file, source)
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", out, source)
    (built,) = out.glob("*.whl")
    return built


def test_the_wheel_holds_the_packages_and_nothing_else(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    expected = {
        str(path.relative_to(ROOT / base))
        for base in (".", "plugins", "leaderboard")
        for package in (ROOT / base).glob("clarena*/__init__.py")
        for path in package.parent.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert {name for name in names if ".dist-info/" not in name} == expected
    assert {"clarena/py.typed", "clarena/cli/templates/strategy.py.txt"} <= expected
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_the_wheel_offers_the_command_and_the_native_plugin(wheel):
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith("entry_points.txt"))
        points = configparser.ConfigParser()
        points.read_string(archive.read(name).decode())
    assert dict(points["console_scripts"]) == {"clarena": "clarena.cli:main"}
    assert points["clarena"]["native"] == "clarena_native"


def test_the_wheel_works_where_it_is_installed(wheel, tmp_path):
    target = tmp_path / "target"
    run(sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", target, wheel)
    program = (
        "import clarena, clarena_native, clarena_leaderboard, sys\n"
        "from clarena.plugins.host import Host, PluginSources\n"
        "host = Host.discover(PluginSources(third_party=False))\n"
        "print(clarena.__file__, host.plugins['native'], *host.strategies.names(), 'torch' in sys.modules)"
    )
    # -P and a fresh path: the checkout must not stand in for what the wheel lacks.
    file, *rest = run(sys.executable, "-P", "-c", program, PYTHONPATH=str(target)).split()
    assert Path(file).is_relative_to(target)
    assert rest[:2] == ["clarena-bench", clarena.__version__]
    assert {"finetune", "joint", "cumulative", "ewc", "er"} <= set(rest[2:-1])
    assert rest[-1] == "False"


def test_versions_agree():
    citation = (ROOT / "CITATION.cff").read_text()
    assert PROJECT["version"] == clarena.__version__
    assert f"version: {clarena.__version__}\n" in citation


def test_the_reference_environment_pins_every_dependency():
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    pins = dict(line.split("==") for line in lines)
    assert len(pins) == len(lines)
    assert (pins["torch"], pins["torchvision"]) == ("2.13.0", "0.28.0")
    pinned = {re.sub(r"[-_.]+", "-", name).lower() for name in pins}
    extras = PROJECT["optional-dependencies"]
    direct = [*PROJECT["dependencies"], *(name for extra in ("vision", "tune", "test") for name in extras[extra])]
    assert {re.split(r"[<>=\[]", requirement)[0] for requirement in direct} <= pinned


def test_ci_runs_the_commands_of_the_readme():
    readme, ci = (ROOT / "README.md").read_text(), (ROOT / ".ci" / "run").read_text()
    commands = re.findall(r"^python3\.11 -m venv .*$", readme, re.MULTILINE)
    assert [command.split("/")[-1].split()[0] for command in commands] == ["clarena", "pytest"]
    assert "grep '^python3.11 -m venv .*pytest$' README.md" in ci
    assert "grep '^python3.11 -m venv .*clarena evaluate' README.md" in ci
