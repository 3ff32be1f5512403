"""`clarena store`: what is done to a store as a whole; `upgrade` joins its old records to today's rows."""

from dataclasses import asdict
from pathlib import Path

import typer

from clarena.cli import app
from clarena.cli.options import AsJson, NoPlugins, PluginDirs, PluginFiles, StorePath, discover, existing_store
from clarena.cli.text import as_json as to_json

store_commands = typer.Typer(
    help="Look after a store: join its old records to today's rows.",
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
