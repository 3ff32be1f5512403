"""`clarena submit`: check a plugin, run what is missing, and pack it all into one bundle."""

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clarena.cli import app
from clarena.cli.options import (
    Device,
    ExperienceTimeout,
    NoTracking,
    Retry,
    StorePath,
    Timeout,
    TrackingUri,
    parse_seeds,
    parse_settings,
)
from clarena.errors import UsageError

if TYPE_CHECKING:
    from clarena.contract.strategy import Strategy

ABOUT = "About"
"""The panel of the help with what only the authors know."""


@app.command(
    epilog="Example: clarena submit mymethod.py --track split-digits/class --track split-digits/task "
    '--author "Ada Lovelace" --licence Apache-2.0'
)
def submit(
    plugin: Annotated[Path, typer.Argument(metavar="PLUGIN", help="mymethod.py, a package's folder, or a wheel.")],
    track: Annotated[
        list[str],
        typer.Option(metavar="BENCHMARK/SCENARIO[/BACKBONE[/PRESET]]", help="Where it competes; may be repeated."),
    ],
    strategy: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Which, where the plugin offers several; sums such as ewc+mine, too."),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            "--params",
            metavar="OWNER.NAME=VALUE",
            help="mymethod.strength=10, protocol.epochs=5 …; may be repeated.",
        ),
    ] = None,
    seeds: Annotated[str, typer.Option(metavar="SEEDS", help="How many, from 0 on: as many as the table has.")] = "10",
    author: Annotated[
        list[str] | None, typer.Option(metavar="NAME", rich_help_panel=ABOUT, help="May be repeated.")
    ] = None,
    licence: Annotated[
        str | None, typer.Option(metavar="SPDX", rich_help_panel=ABOUT, help="Of the source: Apache-2.0, MIT …")
    ] = None,
    paper: Annotated[str | None, typer.Option(metavar="URL", rich_help_panel=ABOUT, help="Or a citation.")] = None,
    chosen: Annotated[
        str | None,
        typer.Option(metavar="HOW", rich_help_panel=ABOUT, help="How the hyper-parameters were: paper, by hand …"),
    ] = None,
    name: Annotated[
        str | None,
        typer.Option(metavar="NAME", rich_help_panel=ABOUT, help="Of the submission. Default: the strategy's."),
    ] = None,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Default: NAME.zip in this folder.")] = None,
    device: Device = "cpu",
    jobs: Annotated[int | None, typer.Option(metavar="N", min=1, help="Runs at a time. Default: one per core.")] = None,
    retry: Retry = False,
    timeout: Timeout = None,
    experience_timeout: ExperienceTimeout = None,
    store: StorePath = Path("runs"),
    tracking_uri: TrackingUri = None,
    no_tracking: NoTracking = False,
) -> None:
    """Check a plugin, run what is missing, and write one bundle to submit.

    The references run on the same seeds, so that the tables printed say where the row stands. What could not be
    ranked is refused: a limited protocol, too few seeds, runs that did not finish, rules that are broken.

    What the options do not say of authors, licence, paper and chosen, a file mymethod.toml beside the plugin may.
    """
    from clarena.cli.evaluate import run
    from clarena.cli.table import print_table
    from clarena.plugins.host import Host
    from clarena.record.store import Store
    from clarena.record.summary import rows
    from clarena.record.writing import write_atomic
    from clarena.run.deadline import Limits
    from clarena.run.planning import make_plan
    from clarena.submission.bundle import write_files
    from clarena.submission.rerun import REFERENCES
    from clarena.submission.source import gather, importable, plugin_sources
    from clarena.submission.submit import (
        check_rankable,
        choose_strategy,
        claimed,
        make_bundle,
        read_about,
        read_track,
        refuse,
    )
    from clarena.toolbox.downloads import user_path

    said = {"authors": author, "licence": licence, "paper": paper, "chosen": chosen, "name": name}
    plugin = user_path(plugin)
    source = gather(plugin)
    about = read_about(plugin.with_suffix(".toml"), said)
    choices = [read_track(text) for text in dict.fromkeys(track)]
    chosen_seeds = parse_seeds(seeds)
    # From a copy of what is going to be in the bundle: what runs here runs from there.
    with tempfile.TemporaryDirectory(prefix="clarena-submit-") as folder, importable(Path(folder)):
        write_files(Path(folder), source.files)
        host = Host.discover(plugin_sources(Path(folder), source.entry))
        called = choose_strategy(host, source, strategy)
        cls: type[Strategy] = host.strategy(called)
        refuse(host, called, cls, choices, chosen_seeds)
        plans = [
            make_plan(
                [called, *REFERENCES],
                benchmark=choice.benchmark,
                scenario=choice.scenario,
                backbone=choice.backbone,
                preset=choice.preset,
                seeds=chosen_seeds,
                settings=parse_settings(settings),
                limit=None,
                device=device,
                store=store,
                retry=retry,
                limits=Limits(timeout, experience_timeout),
                host=host,
                chosen={cls.name: about.chosen} if about.chosen else None,
            )
            for choice in choices
        ]
        for plan in plans:
            check_rankable(plan, cls.name)
        _conform(cls)
        claims, records = [], []
        for plan in plans:
            results = run(plan, store, jobs, tracking_uri, not no_tracking)
            print_table(plan.track, rows(results.records, Store(store).aliases()))
            claims.append(claimed(plan, cls.name, results.records))
            records += [record for record in results if record.cell.strategy.name == cls.name]
        content = make_bundle(source, about, claims, records, Store(store))
    target = out or Path(f"{about.name or cls.name}.zip")
    write_atomic(target, content)
    typer.echo(f"\nBundle: {target} ({len(content) / 1e6:.1f} MB)   (clarena verify {target})")


def _conform(cls: "type[Any]") -> None:
    """Run the conformance kit; raises `UsageError` where a rule is broken."""
    from clarena.checks import run_checks, summary

    results = run_checks(cls)
    if not all(result.ok for result in results):
        raise UsageError(
            f"{cls.name} breaks rules of the contract, so it cannot be submitted.\n{summary(cls, results)}"
        )
    typer.echo(summary(cls, results).partition("\n")[0], err=True)
