"""`clarena evaluate`: run strategies on one track and print the table."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clarena.cli import app
from clarena.cli.options import (
    AsJson,
    NoPlugins,
    PluginDirs,
    PluginFiles,
    StorePath,
    TrackingUri,
    discover,
    parse_seeds,
    parse_settings,
)

if TYPE_CHECKING:
    from clarena.evaluation import Plan, Results


@app.command()
def evaluate(
    strategies: Annotated[list[str], typer.Argument(metavar="STRATEGY...", help="What to run: ewc er mymethod …")],
    benchmark: Annotated[str, typer.Option(help="The stream to learn; see `clarena list`.")] = "split-digits",
    scenario: Annotated[str | None, typer.Option(help="class, domain or task; default: the benchmark's first.")] = None,
    backbone: Annotated[str, typer.Option(help="The network under the head.")] = "mlp",
    protocol: Annotated[str, typer.Option(help="A preset: standard, online (one pass), smoke (seconds).")] = "standard",
    seeds: Annotated[str, typer.Option(help="How many (5), which (0,3,7), or a range (10-14).")] = "5",
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="OWNER.NAME=VALUE",
            help="ewc.strength=10, benchmark.experiences=2, backbone.norm=batch, protocol.epochs=4 …; may be repeated.",
        ),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Samples per experience, to try things; never ranked.")
    ] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda or cuda:N.")] = "cpu",
    jobs: Annotated[int | None, typer.Option(min=1, help="Runs at a time; default: one per core.")] = None,
    retry: Annotated[
        bool, typer.Option("--retry", help="Run failed, interrupted and out-of-memory cells again.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be run, and stop.")] = False,
    store: StorePath = Path("runs"),
    tracking_uri: TrackingUri = None,
    no_tracking: Annotated[bool, typer.Option("--no-tracking", help="Keep records in the store only.")] = False,
    plugin: PluginFiles = None,
    plugins_dir: PluginDirs = None,
    no_plugins: NoPlugins = False,
    as_json: AsJson = False,
) -> None:
    """Run strategies on one track (benchmark × scenario × backbone × protocol), over several seeds.

    What the store holds already is not run again; what was killed goes on from its last finished experience.
    """
    from clarena.cli.progress import Display
    from clarena.evaluation import carry_out, make_plan

    host = discover(plugin, plugins_dir, no_plugins)
    plan = make_plan(
        strategies,
        benchmark=benchmark,
        scenario=scenario,
        backbone=backbone,
        preset=protocol,
        seeds=parse_seeds(seeds),
        settings=parse_settings(settings),
        limit=limit,
        device=device,
        store=store,
        retry=retry,
        host=host,
    )
    if dry_run:
        _announce(plan, as_json)
        return
    with Display(plan, quiet=as_json) as display:
        try:
            results = carry_out(
                plan,
                store,
                jobs=jobs,
                tracking_uri=tracking_uri,
                track=not no_tracking,
                listener=display.listen,
            )
        except KeyboardInterrupt:
            display.interrupted()
            raise typer.Exit(130) from None
    _report(plan, results, store, None if no_tracking else tracking_uri, as_json, no_tracking)
    if results.errors or any(record.status != "finished" for record in results):
        raise typer.Exit(1)


def _announce(plan: "Plan", as_json: bool) -> None:
    """What would be run."""
    if as_json:
        import json

        cells = [
            {
                "strategy": work.cell.strategy.name,
                "seed": work.cell.seed,
                "cell": work.cell.id,
                "done": work.cell.id in plan.done,
            }
            for work in plan.works
        ]
        typer.echo(json.dumps({"track": plan.track.label, "track_digest": plan.track.digest, "cells": cells}, indent=2))
        return
    typer.echo(f"Track {plan.track.label} ({plan.track.digest[:12]})")
    for work in plan.works:
        state = "done" if work.cell.id in plan.done else "damaged" if work.cell.id in plan.damaged else "to run"
        typer.echo(f"  {work.cell.label:<24} {state}")
    typer.echo(f"{len(plan.missing)} of {len(plan.works)} cells to run.")


def _report(
    plan: "Plan", results: "Results", store: Path, tracking_uri: str | None, as_json: bool, no_tracking: bool
) -> None:
    """The table, what went wrong, and where to browse."""
    from clarena.cli.table import print_table, table_json
    from clarena.summary import rows

    if as_json:
        typer.echo(table_json(results.records, results.errors))
        return
    print_table(plan.track, rows(results.records))
    for label, message in results.errors.items():
        typer.secho(f"{label}: {message}", fg="red", err=True)
    for line in results.untracked:
        typer.secho(f"MLflow missed {line}", fg="yellow", err=True)
    if results.untracked:
        typer.echo(
            f"Nothing is lost: the records are in {store}. Push them later: clarena sync --store {store}",
            err=True,
        )
    waiting = [record for record in results if record.status in ("failed", "interrupted", "out_of_memory")]
    if waiting:
        typer.echo(f"{len(waiting)} of the runs did not finish; --retry runs them again.", err=True)
    typer.echo(f"\nRecords: {os.path.relpath(store)}   (clarena results --store {os.path.relpath(store)})")
    if not no_tracking:
        from clarena.tracking import browse_hint, resolve_uri

        typer.echo(f"Browse:  {browse_hint(resolve_uri(tracking_uri))}")
