"""`clarena predict`: what a kept model says of new data."""

import csv
import io
import sys
from contextlib import redirect_stdout
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clarena.cli import app
from clarena.cli.options import Device, NoPlugins, PluginDirs, PluginFiles, StorePath, plugin_sources
from clarena.errors import UsageError
from clarena.run.output import holds

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

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
            help="New samples, such as the model was trained on: a table (.csv, .jsonl, .parquet, …), texts, an .npz "
            "with x, or images. Labels may be there.",
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

    A line for each sample: its place in the data, the class, its probability, and that of every class. Of a model with
    a class for every token, a line for each; of one that answers with no classes, the scores. New data are encoded with
    what the model brings along; nothing is measured on them. Where they have labels, the share that is right is said.
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
        table = Table(model, samples, task, experience)
        content = table.content()
    if out is None:
        typer.echo(content, nl=False)
        if not holds(content):
            typer.secho("Characters that the output cannot hold were replaced: use --out.", fg="yellow", err=True)
    else:
        write_atomic(out, content.encode())
        typer.echo(f"{len(samples)} predictions in {out}", err=True)
    if table.known:
        what = "labels" if samples.labels is not None else "tokens"
        typer.echo(f"{100 * table.right / table.known:.1f} % of {table.known} {what} are predicted.", err=True)


class Table:
    """What a model says of samples, a line for each or for each position of one.

    Attributes:
        known, right: how many labels are known, and how many of them are predicted.
    """

    def __init__(self, model: "TrainedModel", samples: "Samples", task: int | None, experience: int | None) -> None:
        self.model, self.samples, self.asked = model, samples, {"task": task, "experience": experience}
        self.known = self.right = 0

    def content(self) -> str:
        """The table as CSV."""
        from clarena.record.scorings import ANSWERED_BY_CLASSES

        target = self.model.content["target"]
        kind = self._classes if target == "classes" else self._tokens if target in ANSWERED_BY_CLASSES else self._scores
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows(kind())
        return text.getvalue()

    def _parts(self, ask: "Callable[..., NDArray[Any]]") -> "Iterator[tuple[int, NDArray[Any]]]":
        """The answers to each sample, a batch at a time: those to all may be more than there is memory."""
        size = self.model.cell.track.protocol.eval_batch_size
        for first in range(0, max(1, len(self.samples)), size):  # what is empty is asked too, and may be refused
            yield from enumerate(ask(self.samples.x[first : first + size], **self.asked), first)

    def _classes(self) -> "Iterator[list[Any]]":
        names, labels = self.model.class_names, self.samples.labels
        yield ["sample", *["label"] * bool(labels), *self.model.columns]
        for row, chances in self._parts(self.model.probabilities):
            best = int(chances.argmax())
            known = [] if labels is None else [labels[row]]
            self._count(known, names[best])
            every = (f"{chance:.6g}" for chance in chances)
            yield [self.samples.names[row], *known, names[best], f"{chances[best]:.6g}", *every]

    def _tokens(self) -> "Iterator[list[Any]]":
        """A line for each token that has a label, or where labels are not known, for each."""
        names, y = self.model.class_names, self.samples.y
        yield ["sample", "token", *["label"] * (y is not None), *self.model.columns[:2]]
        for row, chances in self._parts(self.model.probabilities):
            for token, each in enumerate(chances):
                if y is not None and y[row, token] < 0:
                    continue
                best = int(each.argmax())
                known = [] if y is None else [names[y[row, token]]]
                self._count(known, names[best])
                yield [self.samples.names[row], token + 1, *known, names[best], f"{each[best]:.6g}"]

    def _scores(self) -> "Iterator[list[Any]]":
        """The scores of each sample or, where it is asked at several positions, of each of these."""
        positions: tuple[int, ...] | None = None
        for row, scores in self._parts(self.model.scores):
            if positions is None:
                positions = scores.shape[:-1]
                axes = [f"position {axis + 1}" for axis in range(len(positions))]
                yield ["sample", *axes, *(f"score({name})" for name in self.model.class_names)]
            for place in product(*map(range, positions)):
                yield [self.samples.names[row], *(axis + 1 for axis in place), *(f"{s:.6g}" for s in scores[place])]

    def _count(self, known: list[str], answer: str) -> None:
        self.known += len(known)
        self.right += known == [answer]
