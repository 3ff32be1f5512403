"""`clarena season`: commit to hidden seeds, and reveal them when the season ends."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from clarena.cli import app
from clarena.cli.verify import SecretFile, secret_file
from clarena.errors import UsageError


@app.command(
    epilog="Example: clarena season new 2026-autumn, and when it is over: clarena season reveal",
)
def season(
    action: Annotated[Literal["new", "reveal", "check"], typer.Argument(metavar="new|reveal|check")],
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="Of a new season.")] = None,
    file: Annotated[Path, typer.Option("--file", metavar="FILE", help="The season's public file.")] = Path(
        "leaderboard/season.toml"
    ),
    secret: SecretFile = None,
    seeds: Annotated[int, typer.Option(metavar="N", min=1, help="Hidden seeds on each track, of a new season.")] = 10,
) -> None:
    """Open a season of hidden seeds, reveal its secret at the end, or check that it kept its word.

    The public file holds the SHA-256 of the secret, and belongs into the repository; the secret does not.
    """
    from clarena.submission.season import new_season, read_season, reveal, secret_of

    if action == "new":
        if not name:
            raise UsageError("Name the season: clarena season new 2026-autumn")
        kept = secret or secret_file(name)
        opened = new_season(name, seeds, file, kept)
        typer.echo(f"{file} commits to {opened.commitment}: publish it. The secret is in {kept}: publish that last.")
        return
    opened = read_season(file)
    if action == "reveal":
        opened = reveal(file, secret or secret_file(opened.name))
        typer.echo(f"The season {opened.name} has ended: its secret is in {file}.")
        return
    if opened.secret is None:
        typer.echo(f"The season {opened.name} is open since {opened.opened}, committed to {opened.commitment}.")
    else:
        typer.echo(f"The season {opened.name} ended on {opened.ended}; its secret is the one it committed to.")
    if secret:
        secret_of(opened.model_copy(update={"secret": None}), secret)
        typer.echo(f"The secret in {secret} is the one it committed to.")
