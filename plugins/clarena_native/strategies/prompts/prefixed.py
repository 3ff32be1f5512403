"""What strategies with prefixes share: a frozen backbone, and training on the outputs of an experience.

They differ from their papers alike:

* The backbone is in evaluation mode throughout, so it sees plain images, also where the protocol augments. q(x) is its
  feature of an input without prefixes: the class token, or whatever else it makes features of.
* Prefixes go before keys and values as they are. In the papers' formulas they are projected as the input's keys and
  values are; in their code they are not.
* In the class scenario the cross-entropy runs over the classes of the experience alone, as in the papers' code,
  whatever the protocol's loss_over says: the outputs of earlier classes get no gradient. In the others it runs over the
  outputs in play.
* The optimiser, its rate and the passes are the protocol's. Each experience begins with a fresh optimiser, whatever the
  protocol says of its state, and it holds nothing that is not trained any more.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Self

import torch
from torch import Tensor

from clarena import Backbone, Batch, Experience, Model, Strategy, Tokens, UsageError


class PrefixStrategy(Strategy):
    """Trains prefixes and a head on the outputs of each experience."""

    family = "prompts"
    needs = frozenset({"tokens", "prefixes", "boundaries", "float32"})

    model: "PrefixedModel"

    def fit(
        self,
        experience: Experience,
        loss: Callable[[Batch, Tensor | None], Tensor],
        penalty: Callable[[], Tensor] | None = None,
    ) -> None:
        """All that takes a gradient, in the passes that are left; `loss` is of a part of a batch and its mask."""
        self.context.grow(self.model)
        updater = self.context.updater(p for p in self.model.parameters() if p.requires_grad)
        mask = self.context.own_outputs(experience)
        self.train()

        def masked(part: Batch) -> Tensor:
            return loss(part, part.mask if mask is None else mask)

        for batch in experience.batches():
            experience.meter.observe(updater.descend(batch, masked, penalty))
        self.zero_grad()


class PrefixedModel(Model):
    """A backbone that stays as it is, and a head on its features."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__(backbone)
        self.backbone.requires_grad_(False)
        self.train()

    def train(self, mode: bool = True) -> Self:
        """Training mode does not reach the backbone."""
        super().train(mode)
        self.backbone.eval()
        return self

    @torch.no_grad()
    def look(self, x: Tensor) -> tuple[Tokens, Tensor]:
        """The tokens of inputs, and their queries q(x) [batch, features]."""
        tokens = self.backbone.embed(x)
        return tokens, self.backbone.encode(tokens)


def blocks_in(backbone: Backbone, wanted: Sequence[int] | None, usual: Iterable[int], option: str) -> tuple[int, ...]:
    """The wanted blocks of a backbone, from 0; where nothing is wanted, those of the usual ones that it has.

    Raises:
        UsageError: for a block that it has not, or that is named twice; and where each token has an answer of its own.
    """
    there = len(backbone.stages())
    if wanted is None:
        return tuple(block for block in usual if block < there)
    if len(set(wanted)) < len(wanted) or not set(wanted) <= set(range(there)):
        raise UsageError(
            f"{option} = {list(wanted)}, but {backbone.name} has {there} blocks, numbered from 0, and each is named "
            f"once. Choose among 0 to {there - 1}, or leave it out."
        )
    return tuple(wanted)


def require_one_answer(backbone: Backbone) -> None:
    """Raise `UsageError` where a backbone has features for every token, so that there is no query of an input."""
    like = next(iter(backbone.state_dict().values()))
    tokens = Tokens(like.new_zeros(1, 2, backbone.token_width or 0), like.new_ones(1, 2).bool())
    if backbone.pool(tokens.values, tokens).ndim > 2:
        raise UsageError(
            f"Here {backbone.name} has features for every token, and prompts are chosen for an input as a whole. "
            "Choose a benchmark whose target asks once for each input."
        )
