"""`clarena continue`: a kept model learns what has newly arrived."""

import math
import os
import sys
from contextlib import nullcontext, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clarena.cli import app
from clarena.cli.options import (
    AsJson,
    Device,
    ExperienceTimeout,
    NoPlugins,
    NoTracking,
    PluginDirs,
    PluginFiles,
    StorePath,
    Timeout,
    TrackingUri,
    plugin_sources,
)
from clarena.cli.predict import RunArgument
from clarena.cli.text import as_json as to_json

if TYPE_CHECKING:
    from clarena.record.record import Record


@app.command("continue", epilog="Example: clarena continue er:0 --with new.csv")
def continue_(
    run: RunArgument,
    new: Annotated[
        Path,
        typer.Option(
            "--with",
            metavar="DATA",
            help="New samples with labels, in the form of those the model was trained on: a table, an .npz with x and "
            "y, a folder of images, or a text.",
        ),
    ],
    task: Annotated[
        int | None, typer.Option(metavar="N", min=0, help="The task label of the new data; task scenario only.")
    ] = None,
    test_share: Annotated[
        float, typer.Option(metavar="SHARE", help="Of each class, held out where the data do not say what is for what.")
    ] = 0.2,
    benchmark: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Where the test data of the run lie, if that is not known: split:PATH."),
    ] = None,
    device: Device = "cpu",
    timeout: Timeout = None,
    experience_timeout: ExperienceTimeout = None,
    store: StorePath = Path("runs"),
    tracking_uri: TrackingUri = None,
    no_tracking: NoTracking = False,
    plugin: PluginFiles = None,
    plugins_dir: PluginDirs = None,
    no_plugins: NoPlugins = False,
    as_json: AsJson = False,
) -> None:
    """Have a kept model (`clarena evaluate … --keep model`) learn new data, as the next experience of its stream.

    Known classes go on under their outputs, and new ones are added. A new record says what has become of it, its model
    kept with it; it names the run that it goes on from, which stays as it is, and is never ranked. Experiences before
    are tested again where their test data are at hand.
    """
    from rich.console import Console

    from clarena.run.continuing import continue_run
    from clarena.run.planning import command
    from clarena.run.worker import seldom

    with (
        redirect_stdout(sys.stderr) if as_json else nullcontext(),  # what a plugin prints
        Console(stderr=True).status(f"Learning {new} …") as status,
    ):
        record = continue_run(
            run,
            new,
            store=store,
            task=task,
            test_share=test_share,
            benchmark=benchmark,
            device=device,
            timeout=timeout,
            experience_timeout=experience_timeout,
            tracking_uri=tracking_uri,
            track=not no_tracking,
            plugins=plugin_sources(plugin, plugins_dir, no_plugins),
            progress=seldom(lambda share: status.update(f"Learning {new}: {share:.0%}")),
            command=command(),
        )
    _report(record, store, as_json)
    if record.status != "finished":
        raise typer.Exit(1)


def _report(record: "Record", store: Path, as_json: bool) -> None:
    """What has become of it, by experience."""
    from clarena.record.catalogue import ACCURACY
    from clarena.record.store import Store

    folder = os.path.relpath(Store(store).folder(record.cell))
    last = record.matrix[-1].tolist() if record.status == "finished" else []
    if as_json:
        scores = [None if math.isnan(value) else value for value in last]
        named = "accuracy" if record.score == ACCURACY else "score"
        came = record.cell.track.continues
        data = {"cell": record.cell.id, "parent": came and came.cell, "status": record.status, "reason": record.reason}
        result = {"score": record.score, f"final_{named}_by_experience": scores, "folder": folder}
        typer.echo(to_json(data | result))
        return
    typer.echo(f"{record.cell.label} on {record.cell.track.label}: {record.status.replace('_', ' ')}", nl=False)
    typer.echo(f": {record.reason}" if record.reason else "")
    if record.score != ACCURACY and last:
        typer.echo(f"  {record.score} by experience:")
    for number, (info, score) in enumerate(zip(record.experiences, last), 1):
        told = "not tested again" if math.isnan(score) else f"{100 * score:5.1f} %"
        classes = ", ".join(info.classes[:5]) + (", …" if len(info.classes) > 5 else "")
        typer.echo(f"  experience {number:>3}  {told:<16}  {classes}")
    typer.echo(f"Record: {folder}   (clarena predict {record.cell.id[:12]} DATA --store {os.path.relpath(store)})")
