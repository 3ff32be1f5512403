"""A trained model: what a run has learned, taken away and used on data that did not exist when it began."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from clarena.contract.benchmark import Transform
from clarena.contract.rows import Conversion
from clarena.contract.samples import Samples
from clarena.errors import ClarenaError, DataError, DivergedError, PluginError, StoreError, UsageError
from clarena.plugins.host import Host, PluginSources
from clarena.plugins.identity import code_identity
from clarena.plugins.parameters import parse
from clarena.protocol.protocol import REVISION, NamedPart
from clarena.record.aliases import read_aliases
from clarena.record.reader import read_predictions
from clarena.record.record import Cell, Record
from clarena.record.scorings import ANSWERED_BY_CLASSES
from clarena.record.store import MODEL, PREDICTIONS, Store
from clarena.run.data import blamed
from clarena.run.devices import device_named
from clarena.run.environment import configured
from clarena.run.features import FrozenBackbone, as_numbers
from clarena.run.finding import find_run
from clarena.run.kept import FORMAT, Content, classes_of, form_of, strategy_of, transforms_of
from clarena.run.planning import part_identity
from clarena.run.realisation import CellClasses
from clarena.toolbox.saved import answer_columns, answered, unpacked
from clarena.toolbox.seeding import Seeds, forked
from clarena.toolbox.together import shape_of


class TrainedModel:
    """A strategy as a run left it, with what turns new data into its inputs, and outputs into names of classes.

    Inputs are rows as the benchmark stores them (images as uint8, …), converted here as it does; `read` makes rows of
    files. Answers are those of the run itself: rows of the test set get the predictions that its record holds.

    Attributes:
        cell: what was run.
        strategy: the `torch.nn.Module` itself, in its state after the last experience.
        class_names: what the columns of `scores` and `probabilities` stand for: the classes that have been seen.
        form: how the rows that it takes are stored.
        predictions: digest of the predictions of the run.
        conversion: how what is stored becomes a row, and a row an input.
        columns: of a table of predictions, as `clarena predict` and MLflow have it.
        content, parts: what was kept, and the classes behind the names in it.
        benchmark_options: what the benchmark is made with.
        transforms: what each experience sees its inputs through; one, where all do alike.
    """

    def __init__(self, content: Content, cell: Cell, parts: CellClasses, device: torch.device) -> None:
        self.cell, self.form, self._device = cell, form_of(content), device
        self.predictions: str = content["predictions"]
        self.content, self.parts = content, parts
        track, outputs = cell.track, content["outputs"]
        self.benchmark_options = parse(parts.benchmark, track.benchmark.options, track.benchmark.name)
        self._benchmark = parts.benchmark(**self.benchmark_options)
        self.transforms = transforms_of(content, parts.benchmark)
        self._frozen = self._frozen_backbone(device)
        convert = self._benchmark.inputs if self._frozen is None else as_numbers
        self.conversion = Conversion(convert, content["rows"]["as_stored"])
        with forked(cell.seed):
            self._seed = Seeds(cell.seed).torch("evaluation").initial_seed()
            self.strategy = strategy_of(content, cell, parts, self.conversion, device)
        self._asked: list[list[int]] = outputs["asked"]
        self._columns = answered(content)
        self.class_names: tuple[str, ...] = tuple(outputs["names"][column] for column in self._columns)
        self.columns: list[str] = answer_columns(self.class_names)

    def __repr__(self) -> str:
        return f"TrainedModel({self.cell.label} on {self.cell.track.label}, {len(self.class_names)} classes)"

    def predict(self, x: Any, *, task: int | None = None, experience: int | None = None) -> NDArray[np.str_]:
        """The name of the class of each row, str [n]; of each token [n, time] where every token has one.

        Args:
            x: rows [n, …] in the form of `form`: an array or a tensor.
            task: the task label of all rows, from 0; in the task scenario, where it is needed, and in no other.
            experience: whose transform the rows are to be seen through, from 0, where every experience of the stream
                has one of its own (permuted, rotated); in the task scenario it is that of the task.

        Raises:
            DataError: for inputs that the model cannot take.
            UsageError: where `task` or `experience` is missing, out of range, or has no meaning.
            DivergedError: when scores are not finite.
        """
        self._require_classes()
        names: NDArray[np.str_] = np.array(self.class_names, dtype=np.str_)
        answers: NDArray[np.str_] = names[self.scores(x, task=task, experience=experience).argmax(-1)]
        return answers

    def probabilities(self, x: Any, *, task: int | None = None, experience: int | None = None) -> NDArray[np.floating]:
        """The softmax of `scores`, [n, …, classes]; 0 for classes that do not belong to the task."""
        self._require_classes()
        return torch.from_numpy(self.scores(x, task=task, experience=experience)).softmax(-1).numpy()

    def scores(self, x: Any, *, task: int | None = None, experience: int | None = None) -> NDArray[np.floating]:
        """What the strategy gives each class, [n, …, classes]; −∞ for classes that do not belong to the task."""
        rows = self.form.rows(x)
        transform, columns = self._question(task, experience)
        protocol, places = self.cell.track.protocol, [self._columns.index(column) for column in columns]
        self._check_tokens(rows)
        found = []
        with torch.no_grad(), configured(protocol, self._device), forked(self._seed):
            for part in rows.split(protocol.eval_batch_size):
                if not len(part):  # what is empty is one part of none
                    continue
                inputs = self._seen(part, transform)
                if self._frozen is not None:
                    inputs = as_numbers(self._frozen(inputs).to(self._device))
                scores = self.strategy.predict(inputs, task)
                chosen = scores[..., torch.tensor(columns, device=scores.device)].cpu()
                if not bool(torch.isfinite(chosen).all()):
                    raise DivergedError("The scores are not finite: this model has nothing to say of these inputs.")
                whole = chosen.new_full((*chosen.shape[:-1], len(self._columns)), -torch.inf)
                whole[..., places] = chosen
                found.append(whole if whole.dtype == torch.float64 else whole.float())
        return torch.cat(found).numpy() if found else np.zeros((0, len(self._columns)), dtype=np.float32)

    def features(self, x: Tensor, transform: Transform | None) -> Tensor:
        """What stands for stored rows [n, …] where the backbone is frozen: its features of them; else they themselves.

        Raises:
            UsageError: when the weights are no longer there.
        """
        return x if self._frozen is None else self._frozen(self._seen(x, transform))

    def _seen(self, rows: Tensor, transform: Transform | None) -> Tensor:
        """Inputs of stored rows, seen through a transform."""
        inputs = self._inputs(rows)
        return inputs if transform is None else transform(inputs)

    def _frozen_backbone(self, device: torch.device) -> FrozenBackbone | None:
        """The backbone by whose features inputs are known, loaded when needed; None where the strategy holds it."""
        track, example = self.cell.track, self.content["rows"]["example"]
        if not track.frozen:
            return None
        inputs, transform = self._benchmark.inputs(example), self.transforms[0]
        shape = shape_of(inputs if transform is None else transform(inputs))
        return FrozenBackbone(track, self.parts.backbone, shape, self.content["context"]["tokens"], device)

    def _require_classes(self) -> None:
        target = self.content["target"]
        if target not in ANSWERED_BY_CLASSES:
            raise UsageError(f"This model answers for {target}, and not with classes: what it says are its scores(x).")

    def read(self, path: str | Path) -> Samples:
        """The samples of a file or folder as rows, encoded as the data were that the model was trained on.

        Raises:
            DataError: where the path holds nothing that this model could take.
        """
        if not Path(path).exists():
            raise DataError(f"There is nothing at {path}. Give a file or a folder of new samples.")
        try:
            return self._benchmark.read_new(Path(path), self.form)
        except Exception as error:  # whatever a plugin's benchmark raises
            raise blamed(error, self._benchmark.name) from error

    def _inputs(self, rows: Tensor) -> Tensor:
        try:
            return self._benchmark.inputs(rows.to(self._device))
        except Exception as error:
            raise blamed(error, self._benchmark.name) from error

    def _check_tokens(self, rows: Tensor) -> None:
        vocabulary = self._benchmark.vocabulary
        if vocabulary is not None and rows.numel() and not 0 <= int(rows.min()) <= int(rows.max()) < vocabulary:
            raise UsageError(f"Tokens run from {int(rows.min())} to {int(rows.max())}; this model knows {vocabulary}.")

    def _question(self, task: int | None, experience: int | None) -> tuple[Any, list[int]]:
        """Through what the inputs are seen, and the outputs in play."""
        with_task, count = self.cell.track.scenario == "task", len(self._asked)
        if with_task:
            _require("task", task, count, "this model learned in the task scenario, where every input has a task label")
        elif task is not None:
            raise UsageError(f"A task label exists in the task scenario alone, and this is {self.cell.track.scenario}.")
        columns = self._asked[task] if task is not None else self._columns
        if len(self.transforms) == 1:
            if experience is not None:
                raise UsageError("All experiences of this model see their inputs alike: leave experience out.")
            return self.transforms[0], columns
        position = experience if experience is not None else task
        name = self.cell.track.benchmark.name
        _require("experience", position, count, f"each experience of {name} sees its inputs through its own transform")
        assert position is not None
        return self.transforms[position], columns


def _require(what: str, number: int | None, count: int, why: str) -> None:
    if number is None or not 0 <= number < count:
        said = "is missing" if number is None else f"= {number} does not exist"
        raise UsageError(f"{what} {said}: {why}. Give one from 0 to {count - 1}.")


# ---- Loading ----


def load_model(
    run: str | Path | Record,
    store: str | Path = "runs",
    *,
    device: str = "cpu",
    plugins: PluginSources | None = None,
) -> TrainedModel:
    """The model that a run kept: `clarena evaluate … --keep model`.

    Args:
        run: a record; a record's folder, or the model's file in it; the beginning of a cell's id; or a strategy with a
            seed, `er:0`, and without one where the store has a single run of it.
        store: where the record is.
        plugins: where to look for plugins besides the installed ones.

    Raises:
        UsageError: for a run that is not there, or kept no model.
        StoreError: for a state that is damaged, or of another version of the code.
    """
    host = Host.discover(plugins)
    if not isinstance(run, Record) and Path(run).is_file():
        return open_model(Path(run), host, device=device)
    record, folder = find_run(run, Store(store))
    return model_of(record, folder, host, device=device)


def model_of(
    record: Record,
    folder: Path,
    host: Host,
    *,
    device: str = "cpu",
    given: Mapping[str, type[Any]] | None = None,
) -> TrainedModel:
    """The model that the run of a record kept in its folder; see `load_model` and `open_model`."""
    path = folder / MODEL
    if not path.exists():
        raise UsageError(_nothing_kept(record))
    model = open_model(path, host, device=device, given=given)
    if model.predictions != read_predictions(folder / PREDICTIONS, record).digest:
        raise StoreError(f"The model {path} is not that of the record beside it. Remove it, and keep it again.")
    return model


def open_model(
    path: Path, host: Host, *, device: str = "cpu", given: Mapping[str, type[Any]] | None = None
) -> TrainedModel:
    """The model in a file, which may have been taken out of its store.

    Args:
        given: classes that stand in place of names: `strategy`, `benchmark`, `backbone`.
    """
    on = device_named(device)
    content = read_model(path, on)
    cell = Cell.model_validate_json(content["cell"])
    parts = classes_of(content, cell, host, given or {})
    require_same_code(read_aliases(path.parents[2]).newest(cell) if len(path.parents) > 2 else cell, parts, host)
    try:
        return TrainedModel(content, cell, parts, on)
    except Exception as error:  # whatever a strategy raises that does not take the state
        if isinstance(error, ClarenaError) and not isinstance(error, PluginError):
            raise
        kind = "" if isinstance(error, PluginError) else f"{type(error).__name__}: "
        said = f"{kind}{' '.join(str(error).split())[:300]}"
        raise StoreError(f"The model {path} cannot be used with what is installed now: {said}") from error


def read_model(path: Path, device: torch.device) -> dict[str, Any]:
    """What a kept model's file holds; raises `StoreError` where it is damaged, or of a later version."""
    try:
        content = unpacked(path.read_bytes(), device)
        form = content["format"]
    except Exception as error:  # torch has no one error for what is no file of its
        raise StoreError(
            f"The model {path} cannot be read ({' '.join(str(error).split())[:200]}). Remove it, and keep it again: "
            "clarena evaluate … --keep model."
        ) from error
    if form != FORMAT:
        what = "Run it again with --keep model" if isinstance(form, int) and form < FORMAT else "Update CLArena"
        raise StoreError(f"The model {path} is of format {form}, and this version reads {FORMAT}. {what}.")
    return content


def require_same_code(cell: Cell, parts: CellClasses, host: Host) -> None:
    """Raise `StoreError` where a model was trained by another version of the code than is here."""
    track, info = cell.track, cell.strategy
    if track.protocol.revision != REVISION:
        raise StoreError(
            f"This model was trained under revision {track.protocol.revision} of the protocol, and this is {REVISION}. "
            "Train it again, or use the version of CLArena that trained it."
        )
    if info.identity and code_identity(parts.strategy) != info.identity:
        raise StoreError(_other_version(info.name))
    for part, cls, registry in (
        (track.benchmark, parts.benchmark, host.benchmarks),
        (track.backbone, parts.backbone, host.backbones),
    ):
        if (part.revision, part.identity) != (cls.revision, _identity(part, cls, registry)):
            raise StoreError(_other_version(part.name))


def _identity(part: NamedPart, cls: type[Any], registry: Any) -> str | None:
    return None if part.identity is None else part_identity(registry, cls)


def _other_version(name: str) -> str:
    return (
        f"This model was trained with another version of {name}: its code has changed since. Train it again, or use "
        "the version that trained it."
    )


def _nothing_kept(record: Record) -> str:
    if record.status != "finished":
        return f"{record.cell.label} has no model: it did not finish ({record.outcome})."
    told = f"{record.cell.label} on {record.cell.track.label} kept no model."
    if record.command.startswith("clarena evaluate"):
        return f"{told} Run it again, and keep it; the record stays:\n{record.command} --keep model"
    return f"{told} Evaluate it again with --keep model (keep_models=True); the record stays."
