"""`clarena store`: what is done with a store as a whole: its old records joined to today's rows, its runs packed."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from clarena.cli import app
from clarena.cli.options import AsJson, NoPlugins, PluginDirs, PluginFiles, StorePath, discover, existing_store
from clarena.cli.text import as_json as to_json

store_commands = typer.Typer(
    help="Look after a store: join its old records to today's rows, pack its runs into one archive a row.",
    epilog="Example: clarena store upgrade --store runs",
    no_args_is_help=True,
)
app.add_typer(store_commands, name="store")


@store_commands.command(epilog="Example: clarena store upgrade --store runs --plugin mymethod.py")
def upgrade(
    store: StorePath = Path("runs"),
    plugin: PluginFiles = None,
    plugins_dir: PluginDirs = None,
    no_plugins: NoPlugins = False,
    as_json: AsJson = False,
) -> None:
    """Find out which old records are of today's code, and write that down beside them.

    A record of before there were identities of code is today's where the bytes of its source are; nothing is run
    again, and no record is changed. The others are of an earlier version: `clarena results attest` can prove them.
    """
    from clarena.run.versions import upgrade as join

    place = existing_store(store)
    report = join(place, discover(plugin, plugins_dir, no_plugins))
    if as_json:
        typer.echo(to_json(asdict(report)))
        return
    for counts, what in (
        (report.today, "of today's code"),
        (report.joined, "joined to today's code now: the same bytes"),
        (report.earlier, "of an earlier version: to prove that it does the same, clarena results attest NAME"),
    ):
        if counts:
            names = ", ".join(f"{name} {count}" for name, count in counts.items())
            typer.echo(f"{sum(counts.values())} records {what}.\n  {names}")
    for name, reason in report.unknown.items():
        typer.secho(f"{name}: not looked at: {reason}", fg="yellow", err=True)
    if not any((report.today, report.joined, report.earlier, report.unknown)):
        typer.echo(f"The store {store} holds no readable record.")


@store_commands.command(epilog="Example: clarena store pack --store runs --out leaderboard/rows")
def pack(
    store: StorePath = Path("runs"),
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Where archives go; may hold some already.")] = Path(
        "leaderboard/rows"
    ),
) -> None:
    """Put all runs of a store into archives: for each row one, with a summary to review, entered in a ledger.

    Runs are added to archives that are there, and none is taken out or altered; what is packed already stays as it is.
    The store is not changed. Damaged runs are named and left out, and the exit code is 1.
    """
    from clarena.record.packing import pack_store

    packed = pack_store(existing_store(store), out)
    for each in packed.left_out:
        typer.secho(f"Left out: {each.reason}", fg="yellow", err=True)
    new, kept = len(packed.written), len(packed.kept)
    typer.echo(f"{packed.runs} runs in {new + kept} archives of {out}: {new} written, {kept} as they were.")
    if packed.left_out:
        raise typer.Exit(1)
