"""`clarena store`: what is done with a store as a whole."""

from pathlib import Path
from typing import Annotated

import typer

from clarena.cli import app
from clarena.cli.options import StorePath, existing_store

store = typer.Typer(help="Pack a store's runs into one archive a row.", no_args_is_help=True, add_completion=False)
app.add_typer(store, name="store")


@store.command(epilog="Example: clarena store pack --store runs --out leaderboard/rows")
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
