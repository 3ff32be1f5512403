"""`clarena predict`: what a kept model says of new data."""

import csv
import io
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clarena.cli import app
from clarena.cli.options import Device, NoPlugins, PluginDirs, PluginFiles, StorePath, plugin_sources
from clarena.errors import UsageError
from clarena.run.output import holds

if TYPE_CHECKING:
    from clarena.contract.samples import Samples
    from clarena.run.trained import TrainedModel

RunArgument = Annotated[
    str,
    typer.Argument(
        metavar="RUN",
        help="Whose model: the beginning of a cell's id, a record's folder, or a strategy and its seed, er:0.",
    ),
]


@app.command(epilog="Example: clarena predict er:0 new.csv --out predictions.csv")
def predict(
    run: RunArgument,
    data: Annotated[
        Path,
        typer.Argument(
            metavar="DATA",
            help="New samples, in the form of those the model was trained on: a table (.csv, .parquet, …), an .npz "
            "with x, or a folder of images. Labels may be there.",
        ),
    ],
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="A .csv to write; default: standard output.")
    ] = None,
    task: Annotated[
        int | None, typer.Option(metavar="N", min=0, help="The task label of the samples, from 0; task scenario only.")
    ] = None,
    experience: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=0,
            help="Whose transform the samples are seen through, from 0, where experiences have their own (rotated).",
        ),
    ] = None,
    store: StorePath = Path("runs"),
    device: Device = "cpu",
    plugin: PluginFiles = None,
    plugins_dir: PluginDirs = None,
    no_plugins: NoPlugins = False,
) -> None:
    """Predict the classes of new data with the model that a run kept (`clarena evaluate … --keep model`).

    A line for each sample: its place in the data, the class, its probability, and that of every class. New data are
    encoded with what the model brings along; nothing is measured on them. Where they have labels, the share that is
    right is said.
    """
    from clarena.record.writing import write_atomic
    from clarena.run.trained import load_model

    if out is not None and out.suffix.lower() != ".csv":
        raise UsageError(f"--out {out} must be a .csv.")
    with redirect_stdout(sys.stderr):  # what a plugin prints must not end up among the predictions
        model = load_model(run, store, device=device, plugins=plugin_sources(plugin, plugins_dir, no_plugins))
        samples = model.read(data)
        for note in samples.notes:
            typer.secho(note, fg="yellow", err=True)
        content, right = _predicted(model, samples, task, experience)
    if out is None:
        typer.echo(content, nl=False)
        if not holds(content):
            typer.secho("Characters that the output cannot hold were replaced: use --out.", fg="yellow", err=True)
    else:
        write_atomic(out, content.encode())
        typer.echo(f"{len(samples)} predictions in {out}", err=True)
    if samples.labels is not None and len(samples):
        typer.echo(f"{100 * right / len(samples):.1f} % of {len(samples)} labels are predicted.", err=True)


def _predicted(model: "TrainedModel", samples: "Samples", task: int | None, experience: int | None) -> tuple[str, int]:
    """The table, and how many labels are predicted."""
    chances = model.probabilities(samples.x, task=task, experience=experience)
    if chances.ndim != 2:
        raise UsageError("This model predicts a class for every token: use it from Python, load_model(…).predict(x).")
    labels: list[Any] = list(samples.labels) if samples.labels is not None else []
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    given = ["label"] * bool(labels)
    writer.writerow(["sample", *given, "prediction", "probability", *(f"p({name})" for name in model.class_names)])
    right = 0
    for place, (name, row) in enumerate(zip(samples.names, chances)):
        best = int(row.argmax())
        answer, known = model.class_names[best], labels[place : place + 1]
        right += known == [answer]
        writer.writerow([name, *known, answer, f"{row[best]:.6g}", *(f"{chance:.6g}" for chance in row)])
    return text.getvalue(), right
