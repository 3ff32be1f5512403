"""What `aper` and `ease` share: a classifier for one experience alone."""

from collections.abc import Callable, Iterable

from torch import Tensor, nn

from clarena import Batch, Context, Experience, Head


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
    updater, mask = context.updater([*tuned, *head.parameters()]), context.own_outputs(experience)

    def loss(part: Batch) -> Tensor:
        return context.target.loss(head(features(part.x)), part.y, part.mask if mask is None else mask)

    for batch in experience.batches():
        experience.meter.observe(updater.descend(batch, loss))
    for parameter in tuned:
        parameter.grad = None
