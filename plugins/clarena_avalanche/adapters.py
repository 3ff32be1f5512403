"""How a strategy of Avalanche's is a strategy here; what single ones need besides is in `single_methods`."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import nn

from clarena import ClarenaError, Context, Experience, PluginError, Strategy, UsageError
from clarena_avalanche.memory import Place, pack, unpack
from clarena_avalanche.method import Method
from clarena_avalanche.trainer import PlainModel, TaskModel, build, exemplars_of, find, stage


class Adapted(Strategy):
    """Trains with a strategy of Avalanche's; the host keeps data, order, budget and tests.

    For every experience Avalanche's object is made anew and given back what it remembered: see `memory`. Its own
    evaluation is never used.
    """

    targets = frozenset({"classes"})  # its criterion is cross-entropy, one label a sample
    method: ClassVar[Method]
    learning_rate: float  # where the mathematics fixes the optimiser

    def setup(self, context: Context) -> None:
        """Build the model; refuse what Avalanche cannot do."""
        if "learning_rate" in self.method.hyper:
            context = replace(context, learning_rate=self.learning_rate)
        super().setup(context)
        self.granted: int | None = None
        if self.method.buffer:
            granted = context.granted_buffer(getattr(self, self.method.buffer))
            if not isinstance(granted, int):
                raise UsageError(
                    f"{self.name} keeps so many exemplars in total, which Avalanche fixes, and this track grants "
                    f"{context.protocol.exemplars_per_class} for each class. Set protocol.buffer_size instead."
                )
            self.granted = granted
        if self.granted == 0 and self.method.needs_exemplars:
            raise UsageError(
                f"{self.name} cannot do without exemplars, and has none. Open a track that grants some "
                f"(--set protocol.buffer_size=200), and do not set {self.name}.{self.method.buffer} to 0."
            )
        if context.protocol.loss_over == "current":
            raise UsageError(f"{self.name} trains over all outputs seen. Set protocol.loss_over=seen.")
        self._memory: dict[str, Any] = {}
        self._optimizer: dict[str, dict[str, Any]] = {}

    def learn(self, experience: Experience) -> None:
        """Let Avalanche train on the experience, and keep what it remembers."""
        self.context.grow(self.model)
        with blamed(self, experience), without_deprecations():
            trainer = self.trainer(experience)
            trainer.train(stage(experience, self.task_labels), eval_streams=[], num_workers=0, pin_memory=False)
            self.keep(trainer)

    def get_extra_state(self) -> dict[str, Any]:
        """What Avalanche's objects remember, and the optimiser's state where it lives on."""
        return {"memory": self._memory, "optimizer": self._optimizer}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Take it back."""
        self._memory, self._optimizer = state["memory"], state["optimizer"]

    # ---- what single strategies change ----

    @property
    def task_labels(self) -> bool:
        """Whether task labels are given where there are any; without exemplars, it is fine-tuning that gets them."""
        return self.method.task_heads or self.granted == 0

    def wrapped(self, experience: Experience) -> nn.Module:
        """The model as Avalanche is to see it."""
        space = self.context.space
        if self.context.scenario != "task":
            return PlainModel(self.model, space.mask())
        if not self.task_labels:
            return PlainModel(self.model, None)
        return TaskModel(self.model, space.mask(torch.arange(len(space.tasks), device=space.device)))  # type: ignore[arg-type]

    def arguments(self, experience: Experience) -> dict[str, Any]:
        """The constructor's own arguments."""
        given = {name: getattr(self, name) for name in self.method.hyper if name != "learning_rate"}
        if self.method.buffer:
            given[self.method.buffer] = self.granted
        return given | dict(self.method.fixed)

    def common(self, model: nn.Module) -> dict[str, Any]:
        """The arguments that every strategy of Avalanche's takes."""
        protocol = self.context.protocol
        self.updater = self.context.updater(model.parameters())
        return {
            "model": model,
            "criterion": nn.CrossEntropyLoss(),
            "optimizer": self.updater.optimizer,
            "train_mb_size": protocol.batch_size,
            "train_epochs": protocol.epochs,
            "eval_mb_size": protocol.eval_batch_size,
            "device": self.context.device,
        }

    mixins: ClassVar[tuple[type, ...]] = ()

    def trainer(self, experience: Experience) -> Any:
        """Avalanche's object, as it was after the last experience; without any exemplars, its fine-tuning."""
        model = self.wrapped(experience)
        target, given = find(self.method.builds), self.arguments(experience)
        if self.granted == 0:
            target, given = find("Naive"), {}
        trainer = build(target, given, self.common(model), self.mixins if self.granted != 0 else ())
        trainer.source, trainer.task_labels = experience, self.task_labels
        trainer.kept_optimizer, trainer.adapter, trainer.updater = self._optimizer, self, self.updater
        if self._memory:
            self.recall(trainer, self._place(trainer.model, experience))
        return trainer

    def recall(self, trainer: Any, place: Place) -> None:
        """Give Avalanche's object back what it remembered."""
        vars(trainer.clock).update(self._memory["clock"])
        for name, parameter in trainer.model.named_parameters():
            parameter.requires_grad_(name not in self._memory["frozen"])
        for name in self._remembered(trainer):
            setattr(holder(trainer, name), name, unpack(self._memory[name], place))

    def keep(self, trainer: Any) -> None:
        """Remember what Avalanche's object is to have in the next experience."""
        frozen = [name for name, parameter in trainer.model.named_parameters() if not parameter.requires_grad]
        self._memory = {"clock": dict(vars(trainer.clock)), "frozen": frozen}
        for name in self._remembered(trainer):
            self._memory[name] = pack(getattr(holder(trainer, name), name))
        if self.context.protocol.optimizer_state == "kept":
            state = trainer.optimizer.state
            named = trainer.model.named_parameters()
            self._optimizer = {name: dict(state[parameter]) for name, parameter in named if parameter in state}

    def now_training(self, model: nn.Module) -> None:
        """Avalanche may have replaced the model by a copy: the one that is trained is the one that is tested."""
        self.model = model.net  # type: ignore[assignment]

    def _remembered(self, trainer: Any) -> list[str]:
        return list(self.method.remembers) if self.granted != 0 else []

    def _place(self, model: nn.Module, experience: Experience) -> Place:
        return Place(model, self.context.space.width, exemplars_of(experience, self.context.inputs))


def holder(trainer: Any, name: str) -> Any:
    """Whose attribute it is: the strategy's, one of its plugins', or the model's."""
    holders = [trainer, *trainer.plugins, trainer.model]
    return next(holder for holder in holders if name in vars(holder) or name in getattr(holder, "_modules", {}))


@contextmanager
def blamed(strategy: Adapted, experience: Experience) -> Iterator[None]:
    """Turn what is raised inside Avalanche into one message; running out of memory stays what it is."""
    try:
        yield
    except (UsageError, MemoryError, torch.cuda.OutOfMemoryError):
        raise
    except Exception as error:
        cause = str(error) if isinstance(error, ClarenaError) else f"{type(error).__name__}: {error}"
        where = f"experience {experience.position + 1}"
        if isinstance(error, ClarenaError) and not isinstance(error, PluginError):
            raise  # diverged: a result
        raise PluginError(
            f"{strategy.name}: Avalanche's {strategy.method.builds} failed in {where}: {cause}"
        ) from error


@contextmanager
def without_deprecations() -> Iterator[None]:
    """Drop what Avalanche says of its own deprecated methods, hundreds of times and whatever the filters; no more."""
    with warnings.catch_warnings(record=True) as caught:
        yield
    for warning in caught:
        if not issubclass(warning.category, DeprecationWarning):
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
