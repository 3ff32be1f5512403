"""Published tables: the verdict's rule on hand-worked numbers, the shipped files, and the way to the page."""

import csv
from pathlib import Path

import numpy as np
import pytest
from needs import PUBLISHED, needs
from typer.testing import CliRunner

from clarena import Store, UsageError
from clarena.cli import app, commands  # noqa: F401 - the commands add themselves to `app`
from clarena.plugins.host import Host
from clarena.plugins.parameters import parse
from clarena.protocol.protocol import protocol
from clarena.record.statistics import student_t_interval
from clarena.reproduction.tables import Comparison, PublishedCell, available, compare, joined, load, page, plans, select


def comparison(ours: list[float], mean: float, std: float | None = None, reason: str | None = None) -> Comparison:
    cell = PublishedCell(method="ewc", scenario="task", strategy="ewc", mean=mean, std=std, reason=reason)
    spread = float(np.std(ours, ddof=1)) if len(ours) > 1 else 0.0
    return Comparison(cell, student_t_interval(ours), spread, published_runs=10)


class TestVerdict:
    def test_one_point_is_always_allowed(self) -> None:
        assert comparison([0.90] * 5, mean=90.9).verdict == "agrees"
        assert comparison([0.90] * 5, mean=91.1).verdict == "differs"

    def test_both_spreads_count(self) -> None:
        ours = [0.86, 0.88, 0.90, 0.92, 0.94]  # standard deviation √10 points, standard error √2
        alone = comparison(ours, mean=90.0)
        assert alone.tolerance == pytest.approx(1.96 * np.sqrt(2))
        both = comparison(ours, mean=90.0, std=np.sqrt(20))  # adds 20 / 10 to the variance of the difference
        assert both.tolerance == pytest.approx(1.96 * 2)

    def test_it_is_never_wider_than_five_points(self) -> None:
        wild = comparison([0.5, 0.7, 0.9, 0.6, 0.8], mean=75.1)
        assert wild.tolerance == 5.0
        assert wild.verdict == "differs"

    def test_four_seeds_are_too_few(self) -> None:
        assert comparison([0.90] * 4, mean=90.0).verdict == "too few seeds"

    def test_no_seed_at_all_is_not_run_but_a_failed_one_was(self) -> None:
        cell = PublishedCell(method="ewc", scenario="task", strategy="ewc", mean=90.0)
        assert Comparison(cell, None, 0.0, published_runs=10).verdict == "not run"
        assert Comparison(cell, None, 0.0, published_runs=10, problems="diverged").verdict == "too few seeds"

    def test_a_known_reason_is_told_apart_and_does_not_turn_into_agreement(self) -> None:
        assert comparison([0.80] * 5, mean=90.0, reason="other data").verdict == "differs for a known reason"


@pytest.mark.parametrize("name", available())
def test_every_shipped_table_can_be_planned_cell_by_cell(name: str) -> None:
    """Names, scenarios and hyper-parameters exist; a file that went stale would fail here."""
    host, table = Host.discover(), load(name)
    protocol("standard", table.settings.get("protocol"))
    for cell in table.cells:
        cls = host.strategy(cell.strategy)
        assert cell.scenario in cls.scenarios, (name, cell.label)
        own = {name: value for name, value in cell.settings.items() if name != "learning_rate"}
        parse(cls, own, cell.strategy)
    if table.backbone.startswith("timm:"):
        needs("timm")
    for part, given in (("benchmark", host.benchmarks), ("backbone", host.backbones)):
        parse(given.resolve(getattr(table, part)), table.settings.get(part, {}), part)


def test_the_hsu_table_is_the_published_one() -> None:
    table = load("hsu2018-split-mnist")
    assert len(table.cells) == len({cell.label for cell in table.cells}) == 27
    joint = {cell.scenario: cell.mean for cell in table.cells if cell.method == "joint"}
    assert joint == {"task": 99.52, "domain": 98.59, "class": 97.53}


@pytest.mark.needs("published")
@pytest.mark.parametrize("name", ["hsu2018-split-mnist", "agem2019-permuted-mnist"])
def test_no_published_number_was_mistyped(name: str) -> None:
    lines = (PUBLISHED / f"{name.replace('-', '_')}.csv").read_text().splitlines()
    rows = list(csv.DictReader(line for line in lines if not line.startswith("#")))
    published = {(row["method"], row.get("scenario", "")): row for row in rows}
    for cell in load(name).cells:
        row = published[cell.method, cell.scenario if "scenario" in rows[0] else ""]
        mean = row.get("mean") or row["accuracy"]
        assert (f"{cell.mean:.2f}", f"{cell.std:.2f}" if cell.std else "") == (mean, row["std"])


def test_no_regulariser_is_too_good_to_be_true() -> None:
    """Without old data, the class scenario leaves a regulariser near 20 %; over 30 % would be the sign of a leak."""
    lines = (Path(__file__).parents[2] / "docs" / "reproductions" / "hsu2018-split-mnist.md").read_text().splitlines()
    rows = {cells[1].strip(): cells for cells in (line.split("|") for line in lines) if len(cells) > 7}
    for method in ("ewc", "ewc-online", "si", "mas", "lwf"):
        ours = float(rows[f"{method}/class"][3].split("±")[0])
        assert 15 < ours < 30, method


TINY = """
name = "tiny"
title = "A tiny table"
paper = "Nobody 2026"
url = "https://example.org"
metric = "final_average_accuracy"
published_runs = 3
seeds = 2
benchmark = "split-digits"
backbone = "mlp"
notes = ["made up"]
[settings.backbone]
hidden = [8]
[settings.protocol]
epochs = 1
limit = 16
[[cells]]
method = "baseline"
scenario = "class"
strategy = "finetune"
mean = 20.0
[[cells]]
method = "replay"
scenario = "task"
strategy = "er"
mean = 90.0
std = 1.0
settings = { buffer_size = 10 }
track = { protocol = { heads = "full", stream_length = "known" } }
reason = "sixteen samples are not sixty thousand"
"""


def test_from_a_file_to_the_page(tmp_path: Path) -> None:
    from clarena.run.evaluation import carry_out

    source = tmp_path / "tiny.toml"
    source.write_text(TINY)
    table = load(str(source))
    store = tmp_path / "runs"
    parts = plans(table, seeds=[0, 1], device="cpu", store=store, retry=False, host=Host.discover())
    plan = joined(parts)
    assert len(plan.missing) == 4
    results = carry_out(plan, store, jobs=1, track=False)
    comparisons = compare(table, parts, results)
    assert [c.ours.n for c in comparisons if c.ours] == [2, 2]
    er = [r for r in results if r.cell.strategy.name == "er"]
    assert er[0].cell.strategy.hyperparameters["buffer_size"] == 10
    assert [(part.track.protocol.heads, part.track.protocol.limit) for part in parts] == [("growing", 16), ("full", 16)]
    text = page(table, comparisons, results.records[0].environment, "clarena reproduce tiny")
    assert "0 of 2 counted cells agree." in text
    assert "| replay/task | 90.00 ± 1.00 |" in text
    assert "sixteen samples" in text


def test_a_table_names_the_number_that_is_compared(tmp_path: Path) -> None:
    """Papers with experiences of unequal sizes weigh samples, not experiences."""
    from clarena.run.evaluation import carry_out

    source = tmp_path / "pooled.toml"
    source.write_text(TINY.replace("final_average_accuracy", "final_pooled_accuracy"))
    table = load(str(source))
    parts = plans(table, seeds=[0], device="cpu", store=tmp_path / "runs", retry=False, host=Host.discover())
    results = carry_out(joined(parts), tmp_path / "runs", jobs=1, track=False)
    comparisons = compare(table, parts, results)
    assert comparisons[0].ours is not None
    finetune = next(record for record in results if record.cell.strategy.name == "finetune")
    assert comparisons[0].ours.mean == finetune.metrics["final_pooled_accuracy"]
    assert "Ours is the final pooled accuracy." in page(table, comparisons, {}, "clarena reproduce pooled")
    source.write_text(TINY.replace("final_average_accuracy", "accuracy"))
    with pytest.raises(UsageError, match=r"no metric 'accuracy'; there are final_average_accuracy, .*final_pooled"):
        load(str(source))


def test_the_page_holds_what_the_store_holds_and_says_what_was_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("tiny.toml").write_text(TINY)

    def reproduce(only: str) -> tuple[str, str]:
        result = CliRunner().invoke(app, ["reproduce", "tiny.toml", "--only", only, "--write", "--no-tracking"])
        assert result.exit_code == 0, result.output
        return result.output, Path("docs/reproductions/tiny.md").read_text()

    _, first = reproduce("baseline")
    assert "0 of 2 counted cells agree; 1 was not run." in first
    assert "| replay/task | 90.00 ± 1.00 | –  | 0 | – | – | not run |" in first
    printed, second = reproduce("replay")
    assert "baseline" not in printed
    line = next(line for line in first.splitlines() if line.startswith("| baseline/class"))
    assert line in second
    assert "not run" not in second


def test_a_run_that_takes_too_long_is_ended_and_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("tiny.toml").write_text(TINY)
    arguments = ["reproduce", "tiny.toml", "--only", "baseline", "--seeds", "1", "--timeout", "0.001", "--no-tracking"]
    assert "timed_out" in CliRunner().invoke(app, arguments).output
    (record,), _ = Store("runs").records()
    assert record.status == "timed_out"


def test_cells_are_selected_by_method_or_by_cell() -> None:
    table = load("hsu2018-split-mnist")
    assert {cell.label for cell in select(table, "ewc,er-1100/class").cells} == {
        "ewc/task",
        "ewc/domain",
        "ewc/class",
        "er-1100/class",
    }
    with pytest.raises(UsageError, match="Did you mean 'ewc'"):
        select(table, "ewcc")


def test_an_unknown_table_says_what_exists() -> None:
    with pytest.raises(UsageError, match="hsu2018-split-mnist"):
        load("hsu2018")


def test_a_file_that_is_no_table_says_why(tmp_path: Path) -> None:
    bad = tmp_path / "bad.toml"
    bad.write_text("name = 3")
    with pytest.raises(UsageError, match="cannot be read"):
        load(str(bad))
