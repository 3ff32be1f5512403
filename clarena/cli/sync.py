"""`clarena sync`: give MLflow what it missed."""

from pathlib import Path

import typer
from rich.console import Console

from clarena.cli import app
from clarena.cli.options import AsJson, StorePath, TrackingUri, existing_store
from clarena.cli.text import as_json as to_json


@app.command(epilog="Example: clarena sync --store runs --tracking-uri http://localhost:5000")
def sync(store: StorePath = Path("runs"), tracking_uri: TrackingUri = None, as_json: AsJson = False) -> None:
    """Log to MLflow every record of a store that it does not have.

    What MLflow has already is left as it is.
    """
    from clarena.tracking import browse_hint, resolve_uri
    from clarena.tracking import sync as push

    uri = resolve_uri(tracking_uri)
    place = existing_store(store)
    with Console(stderr=True).status(f"Logging {store} to MLflow …"):
        report = push(place, uri)
    if as_json:
        failed = [{"cell": failure.cell, "reason": failure.reason} for failure in report.failed]
        damaged = [{"path": str(each.path), "reason": each.reason} for each in report.damaged]
        counts = {"logged": report.logged, "already": report.already}
        typer.echo(to_json(counts | {"failed": failed, "damaged": damaged, "browse": browse_hint(uri)}))
    else:
        typer.echo(f"{report.logged} logged, {report.already} there already, {len(report.failed)} failed.")
        for failure in report.failed:
            typer.secho(f"{failure.cell}: {failure.reason}", fg="red", err=True)
        for each in report.damaged:
            typer.secho(each.reason, fg="yellow", err=True)
        typer.echo(f"Browse: {browse_hint(uri)}")
    if report.failed:
        raise typer.Exit(1)
