"""A rule about what a network is shown: samples that were handed out, and views of them that were counted."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import nn
from torch.nn.modules.module import register_module_forward_pre_hook

from clarena.checks.declared import require
from clarena.checks.tiny import Subject
from clarena.checks.trial import Trial
from clarena.contract.augmentation import Augmentation
from clarena.contract.backbone import Backbone
from clarena.contract.views import Views
from clarena.errors import UsageError
from clarena.toolbox.together import columns


@dataclass
class Watch:
    """What backbones are shown in training mode, next to what they may be shown; rows by their bytes.

    Attributes:
        handed: samples of the experiences so far, which may have become exemplars.
        taken: views that batches gave.
        unknown: inputs shown that are neither.
        twice: views shown that the backbone was about to augment once more.
    """

    handed: set[bytes] = field(default_factory=set)
    taken: set[bytes] = field(default_factory=set)
    unknown: int = 0
    twice: int = 0

    def shown(self, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        """Look at the inputs of a forward pass, before any hook of the module itself has them."""
        if not (isinstance(module, Backbone) and module.training and inputs):
            return
        rows = _rows(inputs[0])
        self.unknown += sum(row not in self.handed and row not in self.taken for row in rows)
        if not Augmentation.suspended and any(isinstance(h, Augmentation) for h in module._forward_pre_hooks.values()):
            self.twice += sum(row in self.taken and row not in self.handed for row in rows)


@contextmanager
def watching() -> Iterator[Watch]:
    """Watch every backbone, whoever made it and whenever, and every view that a batch gives."""
    watch, take = Watch(), Views.take

    def taken(views: Views, *args: Any) -> Any:
        view = take(views, *args)
        watch.taken.update(_rows(view))
        return view

    Views.take = taken  # type: ignore[assignment, method-assign]
    hook = register_module_forward_pre_hook(watch.shown)
    try:
        yield watch
    finally:
        hook.remove()
        Views.take = take  # type: ignore[method-assign]


def check_views(subject: Subject) -> None:
    """A backbone in training mode is shown samples that were handed out, or views of them that the meter counted."""
    with watching() as watch:
        trial = _augmented(subject)
        while trial.done < len(trial.steps):
            experience = trial.begin()
            watch.handed.update(_rows(experience.x))
            trial.learn(experience)
            require(
                not watch.unknown,
                f"The backbone was trained on {watch.unknown} inputs in experience {trial.done} that nobody handed out "
                "and nobody counted. Take augmented views from the batch: batch.view() by the protocol's policy, "
                "batch.view(context.granted_policy(name)) by your own. (A method that makes up its inputs, as by a "
                "generative model, declares the exception 'views' and says so.)",
            )
            require(
                not watch.twice,
                f"{watch.twice} views were about to be augmented once more, in experience {trial.done}: a backbone in "
                "training mode sees its inputs through the protocol's augmentation. Pass views on under `with "
                "clarena.as_given():`.",
            )


def _augmented(subject: Subject) -> Trial:
    """A trial on a track with augmentation; without it where the strategy or its inputs cannot have any."""
    try:
        return Trial(subject, protocol={"augmentation": "crop-flip"})
    except UsageError:
        return Trial(subject)


def _rows(x: Any) -> list[bytes]:
    """The bytes of each sample, of all its tensors."""
    parts = [[row.tobytes() for row in column.detach().cpu().numpy()] for column in columns(x)]
    return [b"".join(of_one) for of_one in zip(*parts)]
