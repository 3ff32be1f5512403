"""What the README and the examples show runs as it is shown."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from cli_command import clarena

from clarena import Store, evaluate
from clarena.plugins.host import Host, PluginSources

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "plugins" / "examples"
README = (ROOT / "README.md").read_text()
PYTHON = re.findall(r"^```python\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)


def run(*command, cwd, **environment):
    """Run a command; returns what it printed, and fails with it where the command does."""
    process = subprocess.run(
        list(map(str, command)), cwd=cwd, env=os.environ | environment, capture_output=True, text=True
    )
    assert process.returncode == 0, process.stdout + process.stderr
    return process.stdout


@pytest.fixture
def plugin_file(tmp_path):
    """The README's plugin, in a file of its own."""
    path = tmp_path / "shrink.py"
    path.write_text(PYTHON[0])
    return path


def test_the_plugin_in_the_readme_is_the_example_and_has_ten_lines():
    assert PYTHON[0] == (EXAMPLES / "shrink.py").read_text()
    assert len([line for line in PYTHON[0].splitlines() if line.strip()]) == 10


def test_the_plugin_in_the_readme_runs(plugin_file, tmp_path):
    results = evaluate(
        ["finetune", "shrink"],
        protocol="smoke",
        seeds=1,
        jobs=1,
        store=tmp_path / "runs",
        track=False,
        plugins=PluginSources(files=[plugin_file], third_party=False),
    )
    finetune, shrink = results
    assert [record.status for record in results] == ["finished", "finished"]
    assert shrink.accuracy_matrix != finetune.accuracy_matrix or shrink.predictions != finetune.predictions


def test_the_plugin_in_the_readme_passes_the_conformance_kit(plugin_file):
    from clarena.checks import run_checks

    host = Host.discover(PluginSources(files=[plugin_file], third_party=False))
    failed = [result for result in run_checks(host.strategies.load("shrink"), ["class"]) if not result.ok]
    assert failed == []


def test_the_example_that_grows_is_short_and_passes_the_whole_kit():
    from clarena.checks import run_checks
    from clarena.checks.tiny import Subject
    from clarena.checks.trial import Trial, laboratory
    from clarena.plugins.host import Host

    file = EXAMPLES / "branches.py"
    assert len(file.read_text().splitlines()) < 60
    strategy = Host.discover(PluginSources(files=[file], third_party=False)).strategies.load("branches")
    results = run_checks(strategy)
    assert [result for result in results if not result.ok] == []
    assert {result.scenario for result in results if result.name == "restart"} == {"class", "domain", "task"}
    with laboratory():
        trial = Trial(Subject(strategy, "class"))
        sizes = []
        while trial.done < len(trial.steps):
            trial.step()
            sizes.append(len(trial.strategy.model.backbone.parts))
        trunk, first, second = trial.strategy.model.backbone.parts
    assert sizes == [1, 2, 3]
    assert [part.frozen for part in (trunk, first, second)] == [True, True, False]
    assert all(part.module.weight.any() for part in (first, second))


def test_the_python_in_the_readme_runs(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(PYTHON[1])
    printed = run(sys.executable, program, cwd=tmp_path)
    assert [line.split()[1:3] for line in printed.splitlines()[1:]] == [
        [strategy, seed] for strategy in ("finetune", "er") for seed in ("0", "1")
    ]
    assert (tmp_path / "mlflow.db").exists()
    assert len(list((tmp_path / "runs").glob("*/*/record.json"))) == 4


LEARNERS = ("finetune", "joint", "er", "ewc", "lwf", "mas", "si", "agem", "der")


def test_counts_are_one_file_that_natives_learn_unchanged(tmp_path):
    """A target of a plugin's own, from the command line to the record, its scores recomputed from what is kept."""
    file = EXAMPLES / "counts.py"
    assert len(file.read_text().splitlines()) < 120
    quick = ("--seeds", 1, "--set", "protocol.epochs=5", "--jobs", 1, "--no-tracking", "--store", tmp_path / "runs")
    outcome = clarena("evaluate", *LEARNERS, "--benchmark", "visitors", "--plugin", file, *quick)
    assert outcome.code == 0, outcome.err
    store = Store(tmp_path / "runs")
    records = {record.cell.strategy.name: record for record in store.records()[0]}
    assert sorted(records) == sorted(LEARNERS)
    host = Host.discover(PluginSources(files=[file], third_party=False))
    mean = host.benchmarks.load("visitors")().data().y_train.double().mean(0).numpy()
    for record in records.values():
        assert (record.status, record.target) == ("finished", "counts")
        kept = store.predictions(record)
        count = kept.truth["labels"]
        for rate, found in ((kept.answers["rate"][-1].astype(float), record.matrix[-1]), (mean, record.chance)):
            errors = [((rate - count)[kept.experience == j] ** 2).mean(0) for j in range(4)]
            np.testing.assert_allclose(found, [np.mean(1 / (1 + e / count.var(0))) for e in errors], rtol=1e-5)
    final = {name: np.mean(record.matrix[-1]) for name, record in records.items()}
    assert final["finetune"] < final["er"] < final["joint"]
    assert final["finetune"] < final["ewc"]
    assert records["finetune"].matrix[1, 0] > records["finetune"].matrix[-1, 0], "it forgets"


def test_the_installable_example_is_built_found_and_passes_its_own_tests(tmp_path):
    source, target = tmp_path / "source", tmp_path / "target"
    shutil.copytree(EXAMPLES / "clarena-example", source, ignore=shutil.ignore_patterns("build", "*.egg-info"))
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation"]
    run(*pip, "--target", target, source, cwd=tmp_path)
    with_example = {"PYTHONPATH": os.pathsep.join([str(target), os.environ.get("PYTHONPATH", "")])}
    found = run(
        sys.executable,
        "-c",
        "from clarena.plugins.host import Host\n"
        "host = Host.discover()\n"
        "entry = host.strategies.entry('shrink-perturb')\n"
        "print(host.broken, entry.name, entry.origin, host.strategies.compare(entry))",
        cwd=tmp_path,
        **with_example,
    )
    assert found == "() shrink-perturb clarena-example 0.1.0 []\n"
    report = run(
        sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", source / "tests", cwd=source, **with_example
    )
    assert re.search(r"\d+ passed", report)
    assert "failed" not in report
