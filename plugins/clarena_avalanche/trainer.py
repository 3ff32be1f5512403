"""Avalanche's training loop, fed and metered by the host."""

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from types import SimpleNamespace
from typing import Any

import torch
from avalanche.benchmarks.utils import _make_taskaware_classification_dataset
from avalanche.core import SupervisedPlugin
from avalanche.models import MultiTaskModule
from avalanche.models.base_model import BaseModel
from avalanche.training import plugins as plugin_classes
from avalanche.training import supervised as strategy_classes
from avalanche.training.plugins import EvaluationPlugin
from avalanche.training.templates import SupervisedTemplate
from avalanche.training.templates.base_sgd import PeriodicEval
from torch import Tensor, nn

from clarena import Experience, Model, PluginError, Updater
from clarena_avalanche.samples import Pool, Samples

OUT_OF_PLAY = -1000.0
"""The score of an output that is not in play: as Avalanche's own multi-head classifier has it."""


def only(scores: Tensor, mask: Tensor) -> Tensor:
    """Scores [batch, outputs] of the outputs in a mask [batch or 1, outputs or more]; a teacher has fewer outputs."""
    return scores.masked_fill(~mask[..., : scores.shape[1]], OUT_OF_PLAY)


class PlainModel(nn.Module, BaseModel):  # type: ignore[misc]
    """The host's model with the outputs that do not exist yet masked; task labels are ignored."""

    mask: Tensor | None

    def __init__(self, net: Model, mask: Tensor | None) -> None:
        super().__init__()
        self.net = net
        self.register_buffer("mask", mask, persistent=False)  # bool [1, outputs]; None where all are in play

    def forward(self, x: Tensor, task_labels: Tensor | None = None) -> Tensor:
        """Scores [batch, outputs]."""
        scores: Tensor = self.net(x)
        return scores if self.mask is None else only(scores, self.mask)

    def get_features(self, x: Tensor) -> Tensor:
        """Features [batch, features]."""
        return self.net.backbone(x)  # type: ignore[no-any-return]


class TaskModel(MultiTaskModule, BaseModel):  # type: ignore[misc]
    """The host's model with the outputs of other tasks masked."""

    masks: Tensor

    def __init__(self, net: Model, masks: Tensor) -> None:
        super().__init__()
        self.net = net
        self.register_buffer("masks", masks, persistent=False)  # bool [tasks, outputs]

    def forward(self, x: Tensor, task_labels: Tensor | int | None = None) -> Tensor | dict[int, Tensor]:
        """Scores [batch, outputs]; without labels, those of every task, by task."""
        scores = self.net(x)
        if task_labels is None:
            return {task: only(scores, mask) for task, mask in enumerate(self.masks)}
        return only(scores, self.masks[task_labels])

    def adaptation(self, experience: Any) -> None:
        """The host grows the head."""

    def get_features(self, x: Tensor) -> Tensor:
        """Features [batch, features]."""
        return self.net.backbone(x)  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Stage:
    """An experience as Avalanche's strategies ask for it.

    Attributes:
        dataset: the samples as (input, label, task label); accesses are counted by the host.
        task_labels: those that occur.
        current_experience: its position.
        classes_in_this_experience: ascending.
        benchmark: the number of new classes of each experience so far, and all classes in that order.
    """

    dataset: Any
    task_labels: list[int]
    current_experience: int
    classes_in_this_experience: list[int]
    benchmark: SimpleNamespace


def labelled(samples: Any, tasks: list[int]) -> Any:
    """Samples as a data set of Avalanche's, with the task label of each.

    One label for all is given as a number: Avalanche cannot join a list of labels to the constant ones it makes.
    """
    constant = len(set(tasks)) == 1
    return _make_taskaware_classification_dataset(samples, task_labels=tasks[0] if constant else tasks)


def stage(experience: Experience, task_labels: bool) -> Stage:
    """What Avalanche is given of an experience; without task labels every sample is of task 0."""
    tasks = [0] * len(experience)
    if task_labels and experience.tasks is not None:
        tasks = experience.tasks.tolist()
    dataset = experience.dataset()
    groups = [sorted(group) for group in experience.space.tasks]
    return Stage(
        dataset=labelled(Samples(dataset, dataset.targets), tasks),
        task_labels=sorted(set(tasks)),
        current_experience=experience.position,
        classes_in_this_experience=list(experience.classes),
        benchmark=SimpleNamespace(
            n_classes_per_exp=[len(group) for group in groups],
            classes_order=[label for group in groups for label in group],
        ),
    )


def exemplars_of(experience: Experience, convert: Callable[[Tensor], Tensor] = lambda rows: rows) -> Pool:
    """A place for exemplars, whose reads are metered in this experience; `convert` makes inputs of what is kept."""

    def count(read: int) -> None:
        experience.meter.replayed += read

    return Pool(count, convert)


class HostLoader:
    """The host's batches of one pass, as Avalanche's loaders hand them out: inputs, labels and task labels."""

    def __init__(self, source: Experience, task_labels: bool, drop_last: bool) -> None:
        self.source, self.task_labels = source, task_labels
        self.size = source.protocol.batch_size if drop_last else 1  # the least a batch may have

    def __len__(self) -> int:
        full, rest = divmod(len(self.source), self.source.protocol.batch_size)
        return full + (rest >= self.size)

    def __iter__(self) -> Iterator[list[Tensor]]:
        for batch in self.source.batches(1):
            if len(batch) >= self.size:
                known = self.task_labels and batch.task is not None
                yield [batch.x, batch.y, batch.task if known else torch.zeros_like(batch.y)]  # type: ignore[list-item]


class Hosted:
    """What is mixed into a class of Avalanche's so that the host feeds and meters it.

    As long as a strategy trains on the experience as it is, its batches are the host's. One that joins exemplars to
    the data keeps its own loader, whose reads are counted.
    """

    source: Experience
    task_labels: bool
    kept_optimizer: dict[str, dict[str, Any]]
    adapter: Any
    updater: Updater

    def train_dataset_adaptation(self, **kwargs: Any) -> None:
        super().train_dataset_adaptation(**kwargs)  # type: ignore[misc]
        self.whole = self.adapted_dataset  # type: ignore[attr-defined]

    def make_train_dataloader(self, *, drop_last: bool = False, **kwargs: Any) -> None:
        if self.adapted_dataset is self.whole:  # type: ignore[attr-defined]
            self.dataloader: Any = HostLoader(self.source, self.task_labels, drop_last)
        else:
            super().make_train_dataloader(drop_last=drop_last, **kwargs)  # type: ignore[misc]

    def check_model_and_optimizer(self, **kwargs: Any) -> None:
        super().check_model_and_optimizer(**kwargs)  # type: ignore[misc]
        self.adapter.now_training(self.model)  # type: ignore[attr-defined]
        for name, parameter in self.model.named_parameters():  # type: ignore[attr-defined]
            kept = self.kept_optimizer.get(name)
            if kept and all(value.ndim == 0 or value.shape == parameter.shape for value in kept.values()):
                self.optimizer.state[parameter] = dict(kept)  # type: ignore[attr-defined]

    def _before_training_epoch(self, **kwargs: Any) -> None:
        self._mark()
        self.updater.begin_pass(self.clock.train_exp_epochs, self.train_epochs)  # type: ignore[attr-defined]
        super()._before_training_epoch(**kwargs)  # type: ignore[misc]

    def _before_training_iteration(self, **kwargs: Any) -> None:
        if not isinstance(self.dataloader, HostLoader):
            self._account(len(self.mb_y))  # type: ignore[attr-defined]
        super()._before_training_iteration(**kwargs)  # type: ignore[misc]

    def _after_training_iteration(self, **kwargs: Any) -> None:
        super()._after_training_iteration(**kwargs)  # type: ignore[misc]
        self.source.meter.observe(self.loss.detach().sum())  # type: ignore[attr-defined]
        self._mark()

    def _mark(self) -> None:
        meter = self.source.meter
        self._read = meter.accesses, meter.replayed

    def _account(self, size: int) -> None:
        """Tell the host of a batch that Avalanche's loader has just read: what of it is the stream's, what is not."""
        meter = self.source.meter
        fresh, exemplars = meter.accesses - self._read[0], meter.replayed - self._read[1]
        meter.samples += fresh
        meter.replayed += max(0, size - fresh - exemplars)  # exemplars that a plugin keeps as tensors
        budget = self.source.protocol.epochs * len(self.source)
        if meter.samples > budget:
            raise PluginError(f"its loader hands out more than the {budget} samples of the protocol's passes.")
        self.source.on_step(meter.steps)
        meter.steps += 1


@cache
def hosted(target: type) -> type:
    """A class of Avalanche's, fed and metered by the host."""
    return type(f"Hosted{target.__name__}", (Hosted, target), {})


def find(builds: str) -> type:
    """The class that a method names."""
    module, _, name = builds.rpartition(":")
    if module:
        return getattr(import_module(module), name)  # type: ignore[no-any-return]
    return getattr(strategy_classes, name, None) or getattr(plugin_classes, name)  # type: ignore[no-any-return]


def build(target: type, arguments: dict[str, Any], common: dict[str, Any], mixins: tuple[type, ...] = ()) -> Any:
    """Make an Avalanche strategy without evaluation, output or periodic tests.

    Args:
        target: a strategy, or a plugin that is put into a plain one.
        arguments: the constructor's own.
        common: those that every strategy takes: model, optimiser, sizes, device.
        mixins: classes that go before it.
    """
    if issubclass(target, SupervisedPlugin):
        target, arguments = SupervisedTemplate, {"plugins": [target(**arguments)]}
    cls = hosted(target)
    if mixins:
        cls = type(cls.__name__, (*mixins, cls), {})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of loggers that are left out on purpose, and of positional arguments
        trainer = cls(**common, **arguments, evaluator=lambda: EvaluationPlugin())
    trainer.plugins = [p for p in trainer.plugins if not isinstance(p, EvaluationPlugin | PeriodicEval)]
    return trainer
