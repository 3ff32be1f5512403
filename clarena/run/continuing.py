"""Going on: a kept model learns what has newly arrived, and a new record says what has become of it."""

import hashlib
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from clarena.contract.strategy import NEEDS, Strategy
from clarena.errors import ClarenaError, ClarenaWarning, UsageError
from clarena.plugins.host import Host, PluginSources
from clarena.protocol.frozen import Continuation
from clarena.record.predictions import Predictions
from clarena.record.reader import read_file, read_predictions
from clarena.record.record import Cell, Record
from clarena.record.store import MODEL, PREDICTIONS, RECORD, Store, read_folder
from clarena.record.writing import state_sha256
from clarena.run.arrived import Arrived, NextExperience, Past, arrived, require_fit
from clarena.run.data import load
from clarena.run.devices import device_named
from clarena.run.finding import find_run
from clarena.run.keeping import keep_beside, lacks_model
from clarena.run.realisation import CellClasses, Realisation
from clarena.run.runner import Progress, Run, State
from clarena.run.testset import TestSet, unasked
from clarena.run.trained import TrainedModel, model_of
from clarena.toolbox.seeding import forked


def continue_run(
    run: str | Path | Record,
    new: str | Path,
    *,
    store: str | Path = "runs",
    task: int | None = None,
    test_share: float = 0.2,
    benchmark: str | None = None,
    device: str = "cpu",
    tracking_uri: str | None = None,
    track: bool = True,
    plugins: PluginSources | None = None,
    progress: Progress = lambda share: None,
    command: str = "clarena.continue_run(...)",
) -> Record:
    """Learn new data as the next experience of a run whose model was kept; the record of that, its model kept too.

    The record names its parent, and may be gone on from in turn. It is of a track of its own, and is never ranked. What
    was gone on from stays as it is; the same data are not learned twice from the same state.

    Args:
        run: as `load_model` takes it.
        new: a file or folder of samples with labels, such as the model was trained on. Classes that are known go on
            under their outputs, others are added. Where nothing says what is for testing, a share is held out.
        store: where the run is, and where the new record goes.
        task: the task label of the new data, in the task scenario: that of the next task.
        test_share: of each class.
        benchmark: where the test data of the run lie, if its benchmark's name does not say: `split:PATH`.
        device: `cpu`, `cuda`, `cuda:N`.
        tracking_uri, track: as `evaluate` takes them.
        plugins: where to look for plugins besides the installed ones.
        progress: told of the share that is done.
        command: what the record says ran it.

    Raises:
        UsageError: for a run that cannot go on, or not with these data.
        DataError: for data that the model cannot take.
        StoreError: for a state of another version, or a store that cannot be written.
    """
    host, place, on = Host.discover(plugins), Store(store), device_named(device)
    parent, folder = find_run(run, place)
    model = model_of(parent, folder, host, device=device)
    what = Path(new).name
    _require_able(model, task)
    if not 0 < test_share < 1:
        raise UsageError(f"test_share = {test_share} is not valid: give a share between 0 and 1.")
    samples = model.read(new)
    for note in samples.notes:
        warnings.warn(note, ClarenaWarning, stacklevel=2)
    names = model.content["outputs"]["names"]
    fresh = arrived(samples, what, names, test_share, parent.cell.track.protocol)
    require_fit(fresh, names, parent.cell.track.scenario, parent.cell.track.protocol, what)
    cell = _cell(parent, folder, model, fresh, what)
    place.prepare()
    with place.locked(cell) as mine:
        if not mine:
            raise UsageError("Another process is learning this just now.")
        record = place.find(cell)
        if record is None or record.status != "finished" or lacks_model(place, record):
            past = _past(parent, folder, model, host, benchmark, on)
            if past.test is None:
                warnings.warn(f"Earlier experiences are not tested again: {past.missing}", ClarenaWarning, stacklevel=2)

            def run_in(there: Store) -> Record:
                options = {"command": command, "progress": progress}
                return GoingOn(cell, model, fresh, past, folder, on, there, **options).execute()

            finished = record is not None and record.status == "finished"
            record = keep_beside(place, record, run_in) if record and finished else run_in(place)
    if track:
        from clarena.tracking import Tracker

        tracker = Tracker(place, tracking_uri)
        tracker.log(record)
        for failure in tracker.failures:
            warnings.warn(f"MLflow missed it: {failure.reason} Push it later: clarena sync.", ClarenaWarning, 2)
    return record


class GoingOn(Run):
    """A run that begins where another ended."""

    def __init__(
        self,
        cell: Cell,
        model: TrainedModel,
        new: Arrived,
        past: Past,
        parent: Path,
        device: torch.device,
        store: Store,
        **options: Any,
    ) -> None:
        super().__init__(cell, model.parts, device, store, keep=True, **options)
        self._model, self._new, self._past, self._parent = model, new, past, parent

    def _realise(self) -> Realisation:
        return NextExperience(self.cell, self.parts, self._model, self._new, self._past, self.device)

    def _restored(self, realised: Realisation) -> Strategy | None:
        """The strategy as the model has it, or further on, where this run was itself cut short."""
        found = super()._restored(realised)
        if found is not None:
            return found
        strategy = self._set_up(realised)
        for positions in realised.steps[:-1]:
            realised.begin(positions)
        strategy.load_state_dict(self._model.content["strategy"])
        record, predictions = _read(self._parent)
        answers, new = predictions.answers, len(realised.test.experience) - len(predictions.experience)
        blank = unasked({name: array[0] for name, array in answers.items()}, new)
        rows = [
            {name: np.concatenate([array[row], blank[name]]) for name, array in answers.items()}
            for row in range(len(record.experiences) + 1)
        ]
        nothing = [float("nan")]  # is known on what has newly arrived
        curve = [point.model_copy(update={"accuracy": [*point.accuracy, *nothing]}) for point in record.curve]
        self.state = State(rows=rows, costs=list(record.costs), curve=curve)
        return strategy


def _read(folder: Path) -> tuple[Record, Predictions]:
    record = read_folder(folder).record
    return record, read_predictions(folder / PREDICTIONS, record)


def _cell(parent: Record, folder: Path, model: TrainedModel, new: Arrived, what: str) -> Cell:
    """The cell of the new record, whose track no other has."""
    track = parent.cell.track
    came = Continuation(
        cell=parent.cell.id,
        record=hashlib.sha256(read_file(folder / RECORD)).hexdigest(),
        state=state_sha256(folder / MODEL),
        data=what,
    )
    data = new.data(model.form)
    data.validate()
    benchmark = track.benchmark.model_copy(update={"fingerprint": data.fingerprint()})
    track = track.model_copy(update={"benchmark": benchmark, "continues": came})
    strategy = Store(folder.absolute().parents[1]).aliases().newest(parent.cell).strategy  # today's name of its code
    return Cell(track=track, strategy=strategy, seed=parent.cell.seed)


def _require_able(model: TrainedModel, task: int | None) -> None:
    """Raise `UsageError` where a model cannot go on, or a task label is missing or has no meaning."""
    track, outputs, name = model.cell.track, model.content["outputs"], model.cell.strategy.name
    needs = model.parts.strategy.needs
    for need in ("past_data", "all_data", "known_stream_length"):
        if need in needs:
            raise UsageError(f"{name} cannot go on: it {NEEDS[need]}.")
    if track.protocol.boundaries == "hidden":
        raise UsageError("This run learned in one call, with hidden boundaries: there is no next experience.")
    if model.content["target"] != "classes":
        raise UsageError(
            f"This model answers for {model.content['target']}, and only one with a class for each sample can go on."
        )
    if len(model.transforms) > 1:
        raise UsageError(
            f"Each experience of {track.benchmark.name} sees its inputs through its own transform, and nothing says "
            "which would be that of new data."
        )
    following = len(outputs["tasks"])
    if track.scenario == "task" and task != following:
        said = "is missing" if task is None else f"= {task} is not the next"
        raise UsageError(
            f"task {said}: in the task scenario new data are a task of their own, and the next is {following}: "
            f"--task {following}."
        )
    if track.scenario != "task" and task is not None:
        raise UsageError(f"A task label exists in the task scenario alone, and this is {track.scenario}.")


def _past(
    parent: Record, folder: Path, model: TrainedModel, host: Host, benchmark: str | None, device: torch.device
) -> Past:
    """What is known of the run that is gone on from, its test data with it where they are at hand."""
    _, predictions = _read(folder)
    content = model.content
    root = Cell.model_validate_json(content["root"]) if "root" in content else parent.cell
    missing, test = "", None
    try:
        made_of = content["benchmark"]
        if benchmark is None and made_of and not made_of["facts"]:  # of a family whose argument is a path
            raise UsageError(f"{root.track.benchmark.name} does not say where its data lie.")
        test = _root_test(root, model.parts, host, benchmark, device)
        labels = predictions.truth["labels"]
        if not np.array_equal(test.labels, labels[: len(test.labels)]):
            raise UsageError("the test samples are others than those of the record.")
    except ClarenaError as error:
        if benchmark is not None:
            raise
        test = None
        missing = f"{str(error).partition(chr(10))[0]} Say where: --benchmark split:PATH, or the like."
    return Past(
        root,
        test,
        missing,
        content.get("tests", []),
        parent.experiences,
        predictions.truth["labels"],
        predictions.experience,
    )


def _root_test(root: Cell, parts: CellClasses, host: Host, benchmark: str | None, device: torch.device) -> TestSet:
    """The test samples of the run that a chain began with; raises `ClarenaError` where they are not at hand."""
    part = root.track.benchmark
    cls = host.benchmarks.resolve(benchmark or part.name)
    if load(cls, part.options, parts.targets).fingerprint != part.fingerprint:
        raise UsageError(f"The data of {cls.name} are not those of the run.")
    with forked(root.seed):
        return Realisation(root.track, replace(parts, benchmark=cls), root.seed, device).test
