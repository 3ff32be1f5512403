"""What `aper`, `ease` and `slca` share: which outputs a loss is over, and a classifier for one experience alone."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from clarena import Batch, Context, Experience, Head


def current(experience: Experience, context: Context) -> Tensor | None:
    """The outputs of the experience, bool [1, outputs], in the class scenario; elsewhere None: those in play."""
    if context.scenario != "class":
        return None
    mask = torch.zeros(1, context.space.width, dtype=torch.bool, device=context.device)
    mask[:, list(experience.classes)] = True
    return mask


def tune(
    features: Callable[[Tensor], Tensor], width: int, tuned: Iterable[nn.Parameter], where: tuple[Experience, Context]
) -> None:
    """Spend the budget of an experience on some parameters, by a linear classifier of features that is then dropped.

    Args:
        features: of inputs, [batch, width].
        width: how many there are.
        tuned: the parameters.
        where: the experience, and the context.
    """
    experience, context = where
    with context.seeds.scope("init"):
        head = Head(width)
        head.grow(context.space.width)
    head.to(context.device)
    tuned = list(tuned)
    updater, mask = context.updater([*tuned, *head.parameters()]), current(experience, context)

    def loss(part: Batch) -> Tensor:
        return context.target.loss(head(features(part.x)), part.y, part.mask if mask is None else mask)

    for batch in experience.batches():
        experience.meter.observe(updater.descend(batch, loss))
    for parameter in tuned:
        parameter.grad = None
