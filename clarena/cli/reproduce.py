"""`clarena reproduce`: run a published table again, and say where we stand."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clarena.cli import app
from clarena.cli.evaluate import run
from clarena.cli.options import (
    Device,
    ExperienceTimeout,
    NoPlugins,
    NoTracking,
    PluginDirs,
    PluginFiles,
    Retry,
    StorePath,
    Timeout,
    TrackingUri,
    discover,
    parse_seeds,
)

if TYPE_CHECKING:
    from clarena.reproduction.tables import Comparison, Reproduction


@app.command()
def reproduce(
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME|FILE.toml]", help="Which table; without it, list them.")
    ] = None,
    seeds: Annotated[str | None, typer.Option(help="How many (5), which (0,3,7), or a range (10-14).")] = None,
    weights: Annotated[
        str | None, typer.Option(metavar="FILE", help="The backbone's weights, for a table that was made with some.")
    ] = None,
    only: Annotated[str | None, typer.Option(help="Cells to run: ewc,er-1100/class; default: all.")] = None,
    write: Annotated[
        bool, typer.Option("--write", help="Write docs/reproductions/NAME.md, with all that the store holds.")
    ] = False,
    device: Device = "cpu",
    jobs: Annotated[int | None, typer.Option(min=1, help="Runs at a time; default: one per core.")] = None,
    retry: Retry = False,
    timeout: Timeout = None,
    experience_timeout: ExperienceTimeout = None,
    store: StorePath = Path("runs"),
    tracking_uri: TrackingUri = None,
    no_tracking: NoTracking = False,
    plugin: PluginFiles = None,
    plugins_dir: PluginDirs = None,
    no_plugins: NoPlugins = False,
) -> None:
    """Run a published table again, and print ours beside theirs with a verdict for each cell.

    What the store holds already is not run again.

    Example: clarena reproduce hsu2018-split-mnist --only ewc,er-1100/class
    """
    from clarena.reproduction.tables import available, compare, equipped, joined, load, plans, select, unequipped
    from clarena.run.deadline import Limits

    if name is None:
        for known in available():
            table = load(known)
            typer.echo(f"{known:<30} {table.title}{' (needs weights)' if table.weights else ''}")
        return
    table = load(name)
    wanted = {cell.label for cell in select(table, only).cells}
    host = discover(plugin, plugins_dir, no_plugins)
    if table.weights and weights is None:
        comparisons = unequipped(table)
        _print(table, [c for c in comparisons if c.cell.label in wanted])
        if write:
            _write(table, comparisons, {}, f"clarena reproduce {table.name} --weights FILE")
    table = equipped(table, weights)
    chosen = parse_seeds(seeds) if seeds else list(range(table.seeds))
    limits = Limits(timeout, experience_timeout)
    parts = plans(table, seeds=chosen, device=device, store=store, retry=retry, host=host, limits=limits)
    plan = joined([part for cell, part in zip(table.cells, parts) if cell.label in wanted])
    results = run(plan, store, jobs, tracking_uri, not no_tracking)
    comparisons = compare(table, parts, results)
    _print(table, [c for c in comparisons if c.cell.label in wanted])
    for label, message in results.errors.items():
        typer.secho(f"{label}: {message}", fg="red", err=True)
    if write:
        environment = results.records[0].environment if results.records else {}
        given = " --weights FILE" if table.weights else ""
        command = f"clarena reproduce {table.name} --seeds {len(chosen)}{given}" + (f" --only {only}" if only else "")
        _write(table, comparisons, environment, command)
    if results.errors:
        raise typer.Exit(1)


def _write(table: "Reproduction", comparisons: "list[Comparison]", environment: dict[str, str], command: str) -> None:
    from clarena.reproduction.tables import page

    target = Path("docs") / "reproductions" / f"{table.name}.md"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(page(table, comparisons, environment, command), encoding="utf-8")
    typer.echo(f"Written: {os.path.relpath(target)}")


def _print(table: "Reproduction", comparisons: "list[Comparison]") -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    from clarena.reproduction.tables import summary

    console = Console()
    console.print(f"\n[bold]{table.title}[/bold]: {table.paper}. Ours: {table.compared}", highlight=False)
    grid = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    grid.add_column("cell")
    for title in ("published %", "ours %", "n", "diff"):
        grid.add_column(title, justify="right")
    grid.add_column("verdict", overflow="fold")
    for c in comparisons:
        published = f"{c.cell.mean:.1f}" + (f" ± {c.cell.std:.1f}" if c.cell.std is not None else "")
        ours, n = (c.ours.percent(), str(c.ours.n)) if c.ours else (f"– {c.problems}", "0")
        difference = f"{c.difference:+.1f}" if c.ours else "–"
        verdict = c.verdict + ("" if c.cell.counted else " (not counted)")
        grid.add_row(c.cell.label, published, ours, n, difference, verdict)
    console.print(grid)
    console.print(summary(comparisons), highlight=False)
    for c in comparisons:
        if c.cell.reason:
            console.print(f"{c.cell.label}: {c.cell.reason}", style="dim", highlight=False)
