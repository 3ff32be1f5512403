"""Published tables, run again: a reproduction is a file of data, and its verdict a fixed rule."""

import math
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from importlib.metadata import entry_points
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field, ValidationError, field_validator

from clarena.errors import UsageError, unknown_name
from clarena.plugins.host import Host
from clarena.protocol.frozen import FrozenModel
from clarena.protocol.protocol import Scenario
from clarena.record.catalogue import ACCURACY_METRICS
from clarena.record.record import Record
from clarena.record.statistics import Interval, student_t_interval
from clarena.run.deadline import NO_LIMITS, Limits
from clarena.run.planning import OWNERS, Plan, make_plan

GROUP = "clarena.reproductions"
"""Offer points of this group name packages that hold `*.toml` files."""

Verdict = Literal[
    "agrees", "differs", "differs for a known reason", "too few seeds", "not run", "not run: needs weights"
]
FEWEST_SEEDS = 5


class PublishedCell(FrozenModel):
    """One number of a published table, and how to run it again.

    Attributes:
        method: what the paper calls it.
        scenario, strategy, settings: what is run; `settings` are the hyper-parameters that differ from defaults.
        track: settings of benchmark, stream, backbone and protocol in which this cell differs from the table.
        mean, std: as published, in percent; std over `published_runs`, None where none is given.
        counted: whether it counts towards the cells that agree.
        reason: why it differs, once that has been investigated.
        note: what a reader should know of this cell.
    """

    method: str
    scenario: Scenario
    strategy: str
    settings: dict[str, Any] = {}
    track: dict[str, dict[str, Any]] = {}
    mean: float
    std: float | None = None
    counted: bool = True
    reason: str | None = None
    note: str | None = None

    @property
    def label(self) -> str:
        """What `--only` selects: `ewc/class`."""
        return f"{self.method}/{self.scenario}"


class NeededWeights(FrozenModel):
    """A file of weights that a table was made with and that does not come with CLArena.

    Attributes:
        architecture, trained_on: what it holds, and what that has seen: files of one architecture are many.
        file: what it is called, and where it is published.
    """

    architecture: str
    trained_on: str
    file: str

    @property
    def words(self) -> str:
        """All of it."""
        return f"{self.architecture}, trained on {self.trained_on} ({self.file})"


class Reproduction(FrozenModel):
    """A published table: the track it was made on, and its cells.

    Attributes:
        settings: of benchmark, stream, backbone and protocol: a paper preset, with the paper's exact settings.
        seeds: how many are run unless the caller says otherwise.
        metric: which of our numbers stands beside theirs: a metric of accuracies by name. Papers with experiences of
            unequal sizes mostly mean a pooled one.
        weights: the file that the backbone is given by `--weights`; None where it needs none.
        notes: what a reader should know of the whole table.
    """

    name: str
    title: str
    paper: str
    url: Annotated[str, Field(pattern="^https://")]
    metric: str
    published_runs: int
    seeds: int
    benchmark: str
    backbone: str
    settings: dict[str, dict[str, Any]]
    weights: NeededWeights | None = None
    notes: list[str] = []
    cells: list[PublishedCell]

    @field_validator("metric")
    @classmethod
    def _known(cls, name: str) -> str:
        if name not in ACCURACY_METRICS:
            raise ValueError(f"there is no metric {name!r}; there are {', '.join(ACCURACY_METRICS)}")
        return name

    @property
    def compared(self) -> str:
        """What stands beside the published numbers, in words."""
        return ACCURACY_METRICS[self.metric].title.lower()


@dataclass(frozen=True)
class Comparison:
    """A published cell beside ours.

    Attributes:
        ours: over finished seeds, in [0, 1]; None where nothing finished.
        problems: what became of the seeds that did not finish.
        unequipped: whether it could not be run, for want of weights.
    """

    cell: PublishedCell
    ours: Interval | None
    spread: float
    published_runs: int
    problems: str = ""
    unequipped: bool = False

    @property
    def difference(self) -> float:
        """Ours − theirs, in points; NaN where there is none of ours."""
        return 100 * self.ours.mean - self.cell.mean if self.ours else math.nan

    @property
    def tolerance(self) -> float:
        """The larger of 1 point and 1.96 standard errors of the difference, never wider than 5 points."""
        n = self.ours.n if self.ours else 1
        theirs = (self.cell.std or 0.0) ** 2 / self.published_runs
        return min(5.0, max(1.0, 1.96 * math.sqrt((100 * self.spread) ** 2 / n + theirs)))

    @property
    def verdict(self) -> Verdict:
        """Whether the means agree within the tolerance, on at least five seeds."""
        if self.ours is None and not self.problems:
            return "not run: needs weights" if self.unequipped else "not run"
        if self.ours is None or self.ours.n < FEWEST_SEEDS:
            return "too few seeds"
        if abs(self.difference) <= self.tolerance:
            return "agrees"
        return "differs for a known reason" if self.cell.reason else "differs"


def available() -> dict[str, Any]:
    """Every reproduction that is installed, by name; the values are their files."""
    found = {}
    for point in entry_points(group=GROUP):
        for path in files(point.value).iterdir():
            if path.name.endswith(".toml"):
                found[path.name.removesuffix(".toml")] = path
    return dict(sorted(found.items()))


def load(name: str) -> Reproduction:
    """Read an installed reproduction by name, or a file of one by path.

    Raises:
        UsageError: when there is none of this name, or the file is not valid.
    """
    source = Path(name) if name.endswith(".toml") else available().get(name)
    if source is None:
        raise unknown_name("reproduction", name, available())
    try:
        return Reproduction.model_validate(tomllib.loads(source.read_text(encoding="utf-8")))
    except (OSError, tomllib.TOMLDecodeError, ValidationError) as error:
        raise UsageError(f"The reproduction {name} cannot be read: {error}") from error


def select(reproduction: Reproduction, only: str | None) -> Reproduction:
    """The cells that `only` names: `ewc,er-1100/class` takes every scenario of ewc and one of er-1100."""
    if only is None:
        return reproduction
    wanted = [item.strip() for item in only.split(",") if item.strip()]
    labels = {cell.label for cell in reproduction.cells} | {cell.method for cell in reproduction.cells}
    for item in wanted:
        if item not in labels:
            raise unknown_name(f"cell of {reproduction.name}", item, labels)
    cells = [cell for cell in reproduction.cells if cell.label in wanted or cell.method in wanted]
    return reproduction.model_copy(update={"cells": cells})


def equipped(reproduction: Reproduction, weights: str | None) -> Reproduction:
    """The table with the file of weights in its settings.

    Raises:
        UsageError: where it needs one and is given none, and the other way round.
    """
    if reproduction.weights is None:
        if weights is not None:
            raise UsageError(f"{reproduction.name} takes no weights: leave out --weights.")
        return reproduction
    if weights is None:
        raise UsageError(
            f"{reproduction.name} was made with weights that do not come with CLArena: {reproduction.weights.words}. "
            f"Bring the file and name it: clarena reproduce {reproduction.name} --weights FILE"
        )
    backbone = reproduction.settings.get("backbone", {}) | {"weights": weights}
    return reproduction.model_copy(update={"settings": reproduction.settings | {"backbone": backbone}})


def unequipped(reproduction: Reproduction) -> list[Comparison]:
    """Every cell as not run, where the weights are not there."""
    return [Comparison(cell, None, 0.0, reproduction.published_runs, unequipped=True) for cell in reproduction.cells]


def plans(
    reproduction: Reproduction,
    *,
    seeds: list[int],
    device: str,
    store: Path,
    retry: bool,
    host: Host,
    limits: Limits = NO_LIMITS,
) -> list[Plan]:
    """One plan for each published cell, each run within these limits of time."""
    return [
        make_plan(
            [cell.strategy],
            benchmark=reproduction.benchmark,
            scenario=cell.scenario,
            backbone=reproduction.backbone,
            preset="standard",
            seeds=seeds,
            settings={owner: reproduction.settings.get(owner, {}) | cell.track.get(owner, {}) for owner in OWNERS}
            | {cell.strategy: cell.settings},
            limit=None,
            device=device,
            store=store,
            retry=retry,
            limits=limits,
            host=host,
            chosen={cell.strategy: "paper"},
        )
        for cell in reproduction.cells
    ]


def joined(parts: list[Plan]) -> Plan:
    """All plans as one, so that their cells are run side by side; a cell that several name is run once."""
    works = {work.cell.id: work for plan in parts for work in plan.works}
    done = {key: record for plan in parts for key, record in plan.done.items()}
    damaged = {key: reason for plan in parts for key, reason in plan.damaged.items()}
    return replace(parts[0], works=list(works.values()), done=done, damaged=damaged)


def compare(reproduction: Reproduction, parts: list[Plan], results: Iterable[Record]) -> list[Comparison]:
    """Ours beside theirs, cell by cell; what was run earlier is taken from the plans."""
    records = {record.cell_id: record for record in (*(r for plan in parts for r in plan.done.values()), *results)}
    comparisons = []
    for cell, plan in zip(reproduction.cells, parts):
        mine = [records[work.cell.id] for work in plan.works if work.cell.id in records]
        found = [record.metric(reproduction.metric) for record in mine if record.status == "finished"]
        values = [value for value in found if math.isfinite(value)]
        failed = sorted({record.status for record in mine if record.status != "finished"})
        undefined = ["undefined"] * (len(values) < len(found))
        comparisons.append(
            Comparison(
                cell=cell,
                ours=student_t_interval(values) if values else None,
                spread=float(np.std(values, ddof=1)) if len(values) > 1 else 0.0,
                published_runs=reproduction.published_runs,
                problems=", ".join([*failed, *undefined]),
            )
        )
    return comparisons


def summary(comparisons: list[Comparison]) -> str:
    """How many of the cells that count agree, and how many were not run."""
    counted = [c.verdict for c in comparisons if c.cell.counted]
    missing = sum(verdict.startswith("not run") for verdict in counted)
    not_run = f"; {missing} {'was' if missing == 1 else 'were'} not run" if missing else ""
    return f"{counted.count('agrees')} of {len(counted)} counted cells agree{not_run}."


def page(reproduction: Reproduction, comparisons: list[Comparison], environment: dict[str, str], command: str) -> str:
    """The comparison as a Markdown page."""
    made = (
        f"Made by `{command}` on {environment.get('hardware', 'unknown hardware')}, torch "
        f"{environment.get('torch', '?')}, clarena-bench {environment.get('clarena-bench', '?')}."
    )
    if all(c.verdict.startswith("not run") for c in comparisons):
        made = f"Nothing of it has been run yet; `{command}` runs it."
    lines = [
        f"# {reproduction.title}: ours beside the published table",
        "",
        f"{reproduction.paper}. <{reproduction.url}>",
        "",
        f"**{summary(comparisons)}** A cell agrees when the means differ by no more than "
        "the larger of 1 point and 1.96 standard errors (both spreads counted), never wider than 5 points, on at least "
        f"{FEWEST_SEEDS} seeds.",
        "",
        *([f"It needs weights: {reproduction.weights.words}.", ""] if reproduction.weights else []),
        f"Ours is the {reproduction.compared}. {made}",
        "",
        *(f"* {note}" for note in reproduction.notes),
        "",
        "| cell | published % | ours % (95 % interval) | n | difference | allowed | verdict |",
        "|---|---:|---:|---:|---:|---:|---|",
    ]
    for c in comparisons:
        published = f"{c.cell.mean:.2f}" + (f" ± {c.cell.std:.2f}" if c.cell.std is not None else "")
        ours = c.ours.percent(2) if c.ours else f"– {c.problems}"
        verdict = c.verdict + ("" if c.cell.counted else " (not counted)")
        difference = f"{c.ours.n} | {c.difference:+.2f} | {c.tolerance:.2f}" if c.ours else "0 | – | –"
        lines.append(f"| {c.cell.label} | {published} | {ours} | {difference} | {verdict} |")
    remarks = [(c.cell.label, text) for c in comparisons for text in (c.cell.reason, c.cell.note) if text]
    if remarks:
        lines += ["", *(f"* **{label}**: {text}" for label, text in remarks)]
    return "\n".join(lines) + "\n"
