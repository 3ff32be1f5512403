"""What closed forms share: a frozen backbone, and a head that adds up what it is shown."""

from typing import Any, Self

import torch
from torch import Tensor

from clarena import Backbone, Context, Experience, Head, Model, Strategy

GRID = 2.0**20
"""Features are rounded to multiples of 1 / `GRID`: sums in float64 are then exact, and so the same in any order, while
features are below 2¹⁰ in size and samples fewer than 2²⁰."""


class Sums(Head):
    """In the place of a head: float64 sums over the samples shown, from which scores follow."""

    sums: Tensor
    counts: Tensor

    def __init__(self, features: int) -> None:
        super().__init__(features)
        self.register_buffer("sums", torch.zeros(0, features, dtype=torch.float64))  # of each output's samples
        self.register_buffer("counts", torch.zeros(0, dtype=torch.int64))

    @property
    def outputs(self) -> int:
        """The number of outputs so far."""
        return len(self.counts)

    def grow(self, outputs: int) -> None:
        """Grow to `outputs` outputs in all, of which nothing is known yet."""
        missing = max(0, outputs - self.outputs)
        self.sums = torch.cat([self.sums, self.sums.new_zeros(missing, self.features)])
        self.counts = torch.cat([self.counts, self.counts.new_zeros(missing)])

    def add(self, features: Tensor, y: Tensor) -> None:
        """Take in samples: features [batch, features] in float64, and their outputs [batch]."""
        self.sums = self.sums.index_add(0, y, features)
        self.counts = self.counts + torch.bincount(y, minlength=self.outputs)

    @property
    def means(self) -> Tensor:
        """The mean of each output's samples [outputs, features] in float64; 0 where there are none."""
        return self.sums / self.counts.clamp(min=1)[:, None]

    def forward(self, features: Tensor) -> Tensor:
        """Scores [batch, outputs] of features [batch, features], in their type."""
        scores = self.scores(features.double()).masked_fill(self.counts == 0, self.lowest)
        return scores.to(features.dtype)

    lowest = -1e30
    """The score of an output that has no sample: none that has one is below it."""

    def scores(self, features: Tensor) -> Tensor:
        """The same in float64, whatever of outputs without samples."""
        raise NotImplementedError

    def structure(self) -> Any:
        """Nothing: buffers take the shape of those saved."""

    def build(self, structure: Any) -> None:
        """Nothing."""


class FrozenModel(Model):
    """A backbone that stays as it is, and sums."""

    def __init__(self, backbone: Backbone, head: Sums) -> None:
        super().__init__(backbone, head)
        self.backbone.requires_grad_(False)
        self.train()

    def train(self, mode: bool = True) -> Self:
        """Training mode does not reach the backbone."""
        super().train(mode)
        self.backbone.eval()
        return self


class ClosedForm(Strategy):
    """Adds up features of one pass over each experience; a subclass says what its head makes of them."""

    targets = frozenset({"classes"})  # sums are by class
    family = "closed form"
    needs = frozenset({"boundaries", "float32"})
    carries = "the frozen backbone and the sums"

    def setup(self, context: Context) -> None:
        """Build the frozen backbone and empty sums."""
        self.context = context
        backbone = context.backbone()
        self.model = FrozenModel(backbone, self.head(backbone.features)).to(context.device)
        context.grow(self.model)

    def head(self, features: int) -> Sums:
        """Empty sums of so many features."""
        raise NotImplementedError

    @torch.no_grad()
    def learn(self, experience: Experience) -> None:
        """One pass: what is seen a second time would say nothing new."""
        self.context.grow(self.model)
        head = self.model.head
        assert isinstance(head, Sums)
        for batch in experience.batches(1):
            head.add(rounded(self.model.backbone(batch.x).double()), batch.y)


def rounded(features: Tensor) -> Tensor:
    """Features in float64, rounded to multiples of 1 / `GRID`."""
    return (features * GRID).round() / GRID
