"""DER and DER++: dark experience replay.

Buzzega et al., "Dark Experience for General Continual Learning: a Strong, Simple Baseline", NeurIPS 2020,
equations 5 and 6. With z the scores of a sample at the moment it was stored, h the network's scores now,

    L = CE(B) + α E_{(x', z') ~ M} ‖z' − h(x')‖₂² + β E_{(x'', y'') ~ M} CE(y'', h(x'')),

two independent draws from a reservoir; DER is β = 0. No boundary between experiences is used.

Differences from the paper:
1. `distance=mean` divides the squared norm by the number of outputs, as the authors' code does; α is then that
   many times weaker. The default is the equation.
2. With heads that grow, a stored sample has scores for the outputs of its time only, and is compared on these.
3. Where a sample is asked at several positions, the squared norm is averaged over those that count.
4. Stream and both draws make one forward pass together (BatchNorm sees them together).
"""

from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from clarena import Batch, Context, GradientStrategy
from clarena_native.strategies.exemplars import draw, fields, joined, per_part


class DER(GradientStrategy):
    """Dark experience replay: stored samples keep the scores they had, as targets."""

    name = "der"
    reference = "Buzzega et al. 2020, Dark Experience for General Continual Learning. arXiv:2004.07211"
    family = "replay"
    off = {"alpha": 0.0}
    carries = "the model and the buffer, which holds scores besides samples"
    beta = 0.0

    def __init__(
        self,
        *,
        alpha: Annotated[float, Field(ge=0, description="α, the weight of the distance to the stored scores.")] = 0.1,
        distance: Annotated[
            Literal["sum", "mean"], Field(description="Squared distance summed over outputs (the paper), or averaged.")
        ] = "sum",
        buffer_size: Annotated[
            int | None, Field(ge=0, description="Exemplars kept in total; none takes all that the protocol grants.")
        ] = None,
        replay_size: Annotated[
            int | None, Field(ge=1, description="Exemplars in each draw; none draws as many as the protocol's batch.")
        ] = None,
    ) -> None:
        super().__init__()
        self.alpha = alpha
        self.distance = distance
        self.buffer_size = buffer_size
        self.replay_size = replay_size

    def setup(self, context: Context) -> None:
        super().setup(context)
        used = self.alpha > 0 or self.beta > 0
        self.buffer = context.replay_buffer(self.buffer_size if used else 0)

    def replay(self, batch: Batch) -> Batch:
        """The stream, then the draw for α, then the draw for β."""
        self.stored: dict[str, Tensor] = {}
        if len(self.buffer) == 0:
            return batch
        wanted = per_part(self.replay_size or self.context.protocol.batch_size, self.context)
        if self.alpha > 0:
            self.stored = draw(self.buffer, wanted, self.context)
            batch = joined(batch, self.stored, self.context)
        if self.beta > 0:
            batch = joined(batch, draw(self.buffer, wanted, self.context), self.context)
        return batch

    def loss(self, batch: Batch) -> Tensor:
        assert batch.scores is not None
        loss = super().loss(batch.stream())
        first = batch.fresh + (len(self.stored["y"]) if self.stored else 0)
        if self.stored:
            loss = loss + self.alpha * self._distance(batch.scores[batch.fresh : first])
        if first < len(batch):
            mask = batch.mask if batch.mask is None or len(batch.mask) == 1 else batch.mask[first:]
            loss = loss + self.beta * self.context.target.loss(batch.scores[first:], batch.y[first:], mask)
        return loss

    def _distance(self, scores: Tensor) -> Tensor:
        """Mean over the draw of the squared distance between stored and present scores [draw, …, outputs]."""
        logits, width = self.stored["logits"], self.stored["width"]
        width = width.reshape(-1, *[1] * (scores.ndim - 2))  # of a sample, for all its positions
        difference = scores[..., : logits.shape[-1]] - logits
        known = torch.arange(logits.shape[-1], device=scores.device) < width[..., None]
        squared = (difference.square() * known).sum(dim=-1)  # [draw, …]
        if self.distance == "mean":
            squared = squared / width
        counted = self.context.target.counted(self.stored["y"])
        return (squared if counted is None else squared[counted]).mean()

    def after_step(self, batch: Batch) -> None:
        fresh = batch.stream()
        assert fresh.scores is not None
        width = fresh.scores.shape[-1]
        self.buffer.widen("logits", width)
        logits = {"logits": fresh.scores.detach(), "width": torch.full_like(fresh.index, width)}
        self.buffer.add(self.context.generator("buffer"), **fields(fresh), **logits)
        del self.stored  # what is kept is in the buffer


class DERPlusPlus(DER):
    """DER++: dark experience replay that also replays the labels of a second draw."""

    name = "der++"
    off = {"alpha": 0.0, "beta": 0.0}

    def __init__(
        self,
        *,
        beta: Annotated[float, Field(ge=0, description="β, the weight of the cross-entropy of the second draw.")] = 0.5,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.beta = beta
