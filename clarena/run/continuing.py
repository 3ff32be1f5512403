"""Going on: a kept model learns what has newly arrived, and a new record says what has become of it."""

import hashlib
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from clarena.contract.strategy import NEEDS, Strategy
from clarena.errors import ClarenaError, ClarenaWarning, DataError, UsageError
from clarena.plugins.host import Host, PluginSources
from clarena.protocol.frozen import Continuation
from clarena.record.predictions import Predictions
from clarena.record.reader import read_file, read_predictions
from clarena.record.record import Cell, Record
from clarena.record.scoring import scoring
from clarena.record.store import MODEL, PREDICTIONS, RECORD, Store, read_folder
from clarena.record.writing import state_sha256
from clarena.run.arrived import Arrived, NextExperience, Past, arrived, require_fit
from clarena.run.data import load
from clarena.run.deadline import Limits, Tell
from clarena.run.devices import device_named
from clarena.run.executors import Event, apart, execute
from clarena.run.finding import find_run
from clarena.run.realisation import CellClasses, Realisation
from clarena.run.runner import Progress, Run, State
from clarena.run.testset import TestSet, unasked
from clarena.run.trained import TrainedModel, model_of
from clarena.run.worker import Work
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
    timeout: float | None = None,
    experience_timeout: float | None = None,
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
            under their outputs, others are added; of a target without classes outputs stay what they are. Where nothing
            says what is for testing, a share is held out.
        store: where the run is, and where the new record goes.
        task: the task label of the new data, in the task scenario: that of the next task.
        test_share: of each class or, where labels are no classes, of all samples.
        benchmark: where the test data of the run lie, if its benchmark's name does not say: `split:PATH`.
        device: `cpu`, `cuda`, `cuda:N`.
        timeout, experience_timeout, tracking_uri, track: as `evaluate` takes them.
        plugins: where to look for plugins besides the installed ones.
        progress: told of the share that is done.
        command: what the record says ran it.

    Raises:
        UsageError: for a run that cannot go on, or not with these data.
        DataError: for data that the model cannot take.
        StoreError: for a state of another version.
        ClarenaError: for a store that cannot be written, or a process that ended.
    """
    place, limits = Store(store), Limits(timeout, experience_timeout)
    device_named(device)
    asked = Request(str(find_run(run, place)[1]), str(new), task, test_share, benchmark)
    found = Prepared(asked, Host.discover(plugins), "cpu" if device.startswith("cuda") else device)
    for note in found.notes:
        warnings.warn(note, ClarenaWarning, stacklevel=2)
    work = GoOn(
        cell=found.cell,
        sources=plugins or PluginSources(),
        parts={},
        device=device,
        store=str(store),
        command=command,
        retry=True,
        limits=limits,
        keep=True,
        asked=asked,
    )
    place.prepare()
    record = _carried_out(work if apart(work) else replace(work, found=found), progress)
    if track:
        from clarena.tracking import Tracker

        tracker = Tracker(place, tracking_uri)
        tracker.log(record)
        for failure in tracker.failures:
            warnings.warn(f"MLflow missed it: {failure.reason} Push it later: clarena sync.", ClarenaWarning, 2)
    return record


def _carried_out(work: "GoOn", progress: Progress) -> Record:
    """The record of the run, in this process or, where its time is limited or it is on CUDA, in one of its own."""
    said: list[Record | str] = []

    def listen(event: Event) -> None:
        if event.kind == "progress":
            progress(event.share)
        elif event.kind == "warning":
            warnings.warn(event.message, ClarenaWarning, stacklevel=2)
        elif event.kind in ("done", "error"):
            said.append(event.record or event.message)

    execute([work], 1, listen)
    if isinstance(said[0], str):
        raise ClarenaError(said[0])
    return said[0]


@dataclass(frozen=True)
class Request:
    """What is to be learned by whom; the arguments of `continue_run`, and `folder`, where the run is."""

    folder: str
    new: str
    task: int | None
    test_share: float
    benchmark: str | None


class Prepared:
    """All that a run takes which goes on from another, read and checked.

    Attributes:
        cell: of the new record.
        model, new, past: what is gone on from, what has arrived, and what is known of the run before.
        notes: what a person should know of the data, a sentence each.
    """

    def __init__(self, asked: Request, host: Host, device: str) -> None:
        """Raises `ClarenaError` as `continue_run`."""
        self.parent, what = Path(asked.folder), Path(asked.new).name
        record, predictions = _read(self.parent)
        self.model = model = model_of(record, self.parent, host, device=device)
        _require_able(model, asked.task)
        if not 0 < asked.test_share < 1:
            raise UsageError(f"test_share = {asked.test_share} is not valid: give a share between 0 and 1.")
        samples, names = model.read(asked.new), model.content["outputs"]["names"]
        track, target = record.cell.track, model.parts.targets(model.content["target"])()
        self.new = arrived(samples, what, names, asked.test_share, track.protocol, target)
        require_fit(self.new, names, track.scenario, track.protocol, what)
        self.cell = _cell(record, self.parent, model, self.new, what)
        self.past = _past(record, predictions, model, host, asked.benchmark, device_named(device))
        missing = [f"Earlier experiences are not tested again: {self.past.missing}"] * (self.past.test is None)
        self.notes = [*samples.notes, *missing]


@dataclass(frozen=True)
class GoOn(Work):
    """A run that goes on from another, and all that a process needs to know to run it.

    Attributes:
        asked: what is learned by whom.
        found: what that has come to, where the run is in this process; another reads it again.
    """

    asked: Request = Request("", "", None, 0.2, None)
    found: Prepared | None = None

    def made(self, store: Store, progress: Progress, tell: Tell) -> "GoingOn":
        found = self.found or Prepared(self.asked, Host.discover(self.sources), self.device)
        if found.cell.id != self.cell.id:
            raise DataError(f"{self.asked.new} has changed since it was looked at. Start again.")
        return GoingOn(found, device_named(self.device), store, **self.told(progress, tell))


class GoingOn(Run):
    """A run that begins where another ended."""

    def __init__(self, found: Prepared, device: torch.device, store: Store, **options: Any) -> None:
        super().__init__(found.cell, found.model.parts, device, store, **options)
        self._found = found

    def _realise(self) -> Realisation:
        found = self._found
        realised = NextExperience(self.cell, self.parts, found.model, found.new, found.past, self.device)
        self.state = self._beginning(len(realised.test.experience))
        return realised

    def _beginning(self, samples: int) -> State:
        """What the run that is gone on from has produced, with as many test samples as there are now."""
        record, predictions = _read(self._found.parent)
        answers, new = predictions.answers, samples - len(predictions.experience)
        blank = unasked({name: array[0] for name, array in answers.items()}, new)
        rows = [
            {name: np.concatenate([array[row], blank[name]]) for name, array in answers.items()}
            for row in range(len(record.experiences) + 1)
        ]
        nothing = [float("nan")]  # is known on what has newly arrived
        curve = [point.model_copy(update={"accuracy": [*point.accuracy, *nothing]}) for point in record.curve]
        probes = {name: list(values) for name, values in record.probes.items()}
        return State(rows=rows, costs=list(record.costs), curve=curve, probes=probes)

    def _restored(self, realised: Realisation) -> Strategy | None:
        """The strategy as the model has it, or further on, where this run was itself cut short."""
        found = super()._restored(realised)
        if found is not None:
            return found
        strategy = self._set_up(realised)
        for positions in realised.steps[:-1]:
            realised.begin(positions)
        strategy.load_state_dict(self._found.model.content["strategy"])
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
    data = new.data(model)
    data.validate(model.parts.targets(data.target)())
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
        raise UsageError(
            "This run learned in one call, with hidden boundaries: there is no next experience. A second call would "
            "tell the strategy of a boundary, and what came of it would not be what a longer stream comes to."
        )
    half = scoring(model.content["target"])
    if half is not None and half.by_output and track.scenario == "class":
        raise UsageError(
            f"A score of {half.name} is over all test samples, by output, and what was answered before was asked of "
            "fewer than there would be."
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
    parent: Record,
    predictions: Predictions,
    model: TrainedModel,
    host: Host,
    benchmark: str | None,
    device: torch.device,
) -> Past:
    """What is known of the run that is gone on from, its test data with it where they are at hand."""
    content = model.content
    root = Cell.model_validate_json(content["root"]) if "root" in content else parent.cell
    missing, test = "", None
    try:
        made_of = content["benchmark"]
        if benchmark is None and made_of and not made_of["facts"]:  # of a family whose argument is a path
            raise UsageError(f"{root.track.benchmark.name} does not say where its data lie.")
        test = _root_test(root, model.parts, host, benchmark, device)
        for name, known in predictions.truth.items():
            mine = test.truth[name].astype(known.dtype)
            if not np.array_equal(mine, known[: len(mine)], equal_nan=known.dtype.kind == "f"):
                raise UsageError("the test samples are others than those of the record.")
    except ClarenaError as error:
        if benchmark is not None:
            raise
        test = None
        family, colon, _ = root.track.benchmark.name.partition(":")
        where = f"--benchmark {family if colon else 'split'}:PATH, or the like."
        missing = f"{str(error).partition(chr(10))[0]} Say where: {where}"
    return Past(
        root,
        test,
        missing,
        content.get("tests", []),
        parent.experiences,
        predictions.truth,
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
