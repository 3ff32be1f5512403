"""`clarena cache`: the features of frozen backbones that are kept on disk: what there is, and how to be rid of it."""

import time
from typing import Annotated, Any

import typer

from clarena.cli import app
from clarena.cli.options import AsJson
from clarena.cli.text import as_json as to_json

cache_commands = typer.Typer(
    help="Look after the features of frozen backbones that are kept on disk.",
    epilog="Example: clarena cache show",
    no_args_is_help=True,
)
app.add_typer(cache_commands, name="cache")


@cache_commands.command(epilog="Example: clarena cache show --json")
def show(as_json: AsJson = False) -> None:
    """List the features that are kept, where, and how many bytes there may be.

    They are kept in CLARENA_CACHE, or in `features` beside downloaded data; at most CLARENA_CACHE_LIMIT (20GB): then
    those go that were not used for longest.
    """
    from clarena.record.summary import size
    from clarena.run.cache import Cache, cache_limit

    cache, limit = Cache(), cache_limit()
    entries = cache.entries()
    if as_json:
        told: dict[str, Any] = {"root": str(cache.root), "limit": limit}
        typer.echo(to_json(told | {"entries": [{"key": e.key, "used": e.used, **e.facts} for e in entries]}))
        return
    typer.echo(f"{cache.root}: {size(sum(e.size for e in entries))} of {size(limit)}.")
    for entry in entries:
        facts, days = entry.facts, (time.time() - entry.used) / 86400
        form = " × ".join(map(str, [facts["rows"], *facts["shape"]]))
        typer.echo(f"  {entry.key[:12]}  {size(entry.size)}, used {days:.0f} days ago")
        typer.echo(f"    {facts['backbone']} on {facts['of']}: {form} {facts['dtype']}")


@cache_commands.command(epilog="Example: clarena cache clear 6e4e9216")
def clear(
    keys: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY]...", help="The beginnings of keys; none: all there is.")
    ] = None,
) -> None:
    """Remove features; what runs and needs them computes them again."""
    from clarena.run.cache import Cache

    _tell(Cache().clear(keys or []))


@cache_commands.command(epilog="Example: clarena cache trim 5GB")
def trim(to: Annotated[str, typer.Argument(metavar="SIZE", help="What may stay, such as 500MB or 5GB.")]) -> None:
    """Remove what was not used for longest, until no more than so many bytes are left."""
    from clarena.run.cache import Cache, size_named

    _tell(Cache().trim(size_named(to, "SIZE")))


def _tell(removed: list[Any]) -> None:
    from clarena.record.summary import size

    typer.echo(f"{len(removed)} removed: {size(sum(entry.size for entry in removed))}.")
