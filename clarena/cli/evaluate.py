"""`clarena evaluate`: run strategies on one track and print the table."""

import os
import sys
from contextlib import nullcontext, redirect_stdout
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clarena.cli import app
from clarena.cli.options import (
    FLAG,
    AsJson,
    BackboneName,
    BenchmarkName,
    Device,
    ExperienceTimeout,
    Jobs,
    Limit,
    NoPlugins,
    NoTracking,
    PluginDirs,
    PluginFiles,
    PresetName,
    Retry,
    ScenarioName,
    StorePath,
    Timeout,
    TrackingUri,
    discover,
    parse_seeds,
    parse_settings,
)
from clarena.cli.text import as_json as to_json

if TYPE_CHECKING:
    from clarena.run.evaluation import Results
    from clarena.run.planning import Plan


class Keep(StrEnum):
    """What is kept beside a record."""

    MODEL = "model"


@app.command(
    epilog="Examples: clarena evaluate finetune ewc er joint\n\n"
    "clarena evaluate ewc --set ewc.strength=10 --benchmark permuted-digits --seeds 0-9"
)
def evaluate(
    strategies: Annotated[list[str], typer.Argument(metavar="STRATEGY", help="What to run: ewc er mymethod …")],
    benchmark: BenchmarkName = "split-digits",
    scenario: ScenarioName = None,
    backbone: BackboneName = "mlp",
    protocol: PresetName = "standard",
    limit: Limit = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="OWNER.NAME=VALUE",
            help="ewc.strength=10, benchmark.experiences=2, stream.blur=0.1, backbone.norm=batch, protocol.epochs=4 …; "
            "may be repeated.",
        ),
    ] = None,
    tuned: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="A study of `clarena tune`, whose choice is evaluated; may be repeated."),
    ] = None,
    seeds: Annotated[str, typer.Option(metavar="SEEDS", help="How many (5), which (0,3,7), or a range (10-14).")] = "5",
    device: Device = "cpu",
    jobs: Jobs = None,
    retry: Retry = False,
    timeout: Timeout = None,
    experience_timeout: ExperienceTimeout = None,
    keep: Annotated[
        Keep | None,
        typer.Option(
            metavar="model",
            help="Keep the trained model beside its record, for `clarena predict`. A run that finished without is run "
            "again, and its record stays.",
        ),
    ] = None,
    no_references: Annotated[
        bool,
        typer.Option(
            "--no-references",
            metavar=FLAG,
            help="On a backbone that starts from weights: do not add ncm and ridge, its cheap references.",
        ),
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", metavar=FLAG, help="Say what would be run, and stop.")] = False,
    store: StorePath = Path("runs"),
    tracking_uri: TrackingUri = None,
    no_tracking: NoTracking = False,
    plugin: PluginFiles = None,
    plugins_dir: PluginDirs = None,
    no_plugins: NoPlugins = False,
    as_json: AsJson = False,
) -> None:
    """Run strategies on one track, over several seeds.

    A track is benchmark × scenario × backbone × protocol.

    What the store holds already is not run again; what was killed goes on from its last finished experience.
    """
    from clarena.run.deadline import Limits
    from clarena.run.planning import make_plan
    from clarena.tuning import Tuned

    choice = Tuned(tuned or (), parse_settings(settings), strategies)
    # What a plugin prints must not end up in the middle of JSON.
    with redirect_stdout(sys.stderr) if as_json else nullcontext():
        plan = make_plan(
            strategies,
            benchmark=benchmark,
            scenario=scenario,
            backbone=backbone,
            preset=protocol,
            seeds=parse_seeds(seeds),
            settings=choice.settings,
            limit=limit,
            device=device,
            store=store,
            retry=retry,
            limits=Limits(timeout, experience_timeout),
            keep=keep is Keep.MODEL,
            host=discover(plugin, plugins_dir, no_plugins),
            chosen=choice.chosen,
            references=not no_references,
        )
        choice.check_track(plan.track)
        if plan.loaded and plan.loaded.from_files and not as_json:
            typer.echo(plan.loaded.summary, err=True)
        if plan.added and not as_json:
            typer.echo(f"Added, as references of a track that starts from weights: {', '.join(plan.added)}", err=True)
        results = None if dry_run else run(plan, store, jobs, tracking_uri, not no_tracking, quiet=as_json)
    if results is None:
        _announce(plan, as_json)
        return
    _report(plan, results, store, None if no_tracking else tracking_uri, as_json, no_tracking)
    if results.errors or any(record.status != "finished" for record in results):
        raise typer.Exit(1)


def run(
    plan: "Plan", store: Path, jobs: int | None, tracking_uri: str | None, track: bool, quiet: bool = False
) -> "Results":
    """Carry out a plan under the eyes of the user; Ctrl-C ends the command with code 130 and says how to go on."""
    from clarena.cli.progress import Display
    from clarena.run.evaluation import carry_out

    with Display(plan, quiet) as display:
        try:
            return carry_out(plan, store, jobs=jobs, tracking_uri=tracking_uri, track=track, listener=display.listen)
        except KeyboardInterrupt:
            display.interrupted()
            raise typer.Exit(130) from None


def _announce(plan: "Plan", as_json: bool) -> None:
    """What would be run."""
    if as_json:
        cells = [
            {
                "strategy": work.cell.strategy.name,
                "seed": work.cell.seed,
                "cell": work.cell.id,
                "done": work.cell.id in plan.done,
            }
            for work in plan.works
        ]
        typer.echo(to_json({"track": plan.track.label, "track_digest": plan.track.digest, "cells": cells}))
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
    from clarena.cli.table import as_data, print_table
    from clarena.record.record import RETRIED
    from clarena.record.store import Store
    from clarena.record.summary import rows

    aliases = Store(store).aliases()
    if as_json:
        typer.echo(to_json({"tracks": as_data(results.records, aliases), "errors": results.errors}))
        return
    print_table(plan.track, rows(results.records, aliases))
    for label, message in results.errors.items():
        typer.secho(f"{label}: {message}", fg="red", err=True)
    for line in results.untracked:
        typer.secho(f"MLflow missed {line}", fg="yellow", err=True)
    if results.untracked:
        typer.echo(
            f"Nothing is lost: the records are in {store}. Push them later: clarena sync --store {store}",
            err=True,
        )
    waiting = [record for record in results if record.status in RETRIED]
    if waiting:
        typer.echo(f"{len(waiting)} of the runs did not finish; --retry runs them again.", err=True)
    typer.echo(f"\nRecords: {os.path.relpath(store)}   (clarena results --store {os.path.relpath(store)})")
    if not no_tracking:
        from clarena.tracking import browse_hint, resolve_uri

        typer.echo(f"Browse:  {browse_hint(resolve_uri(tracking_uri))}")
