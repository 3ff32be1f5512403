"""What closed forms share: a frozen backbone, and a head that adds up what it is shown."""

from collections.abc import Iterator
from typing import Any, Self

import torch
from torch import Tensor

from clarena import Backbone, Context, Experience, Head, Model, Strategy

GRID = 2.0**20
"""Features are rounded to multiples of 1 / `GRID`: sums in float64 are then exact, and so the same in any order, while
features are below 2¹⁰ in size and samples fewer than 2²⁰."""

BLOCK = 2048
"""Samples whose features are added at once, at least: a sum of outer products is as large as it is for any number."""


class Sums(Head):
    """In the place of a head: float64 sums over the samples shown, from which scores follow."""

    sums: Tensor
    counts: Tensor

    def __init__(self, features: int) -> None:
        super().__init__(features)
        self.register_buffer("sums", torch.zeros(0, features, dtype=torch.float64))  # of each output's samples
        self.register_buffer("counts", torch.zeros(0, dtype=torch.int64))
        self._solved: tuple[Tensor, int, Any] | None = None

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

    def around(self, features: Tensor, y: Tensor) -> Tensor:
        """Rows [batch + outputs, features] whose outer products are what a batch adds to the scatter within classes.

        First those of the samples around the batch's own means, then, for each output, that of the batch's mean around
        the mean so far (Chan, Golub & LeVeque 1979). Call it before `add`.
        """
        counts = torch.bincount(y, minlength=self.outputs)
        means = torch.zeros_like(self.sums).index_add(0, y, features) / counts.clamp(min=1)[:, None]
        weight = self.counts.double() * counts / (self.counts + counts).clamp(min=1)  # 0 where either has no sample
        return torch.cat([features - means[y], weight.sqrt()[:, None] * (means - self.means)])

    def solve(self) -> Any:
        """What scores need and the sums do not have, such as the solution of equations; ask `solution`."""

    @property
    def solution(self) -> Any:
        """What `solve` returns, worked out once for as long as the sums stay: it follows from them, and is no state."""
        if self._solved is None or self._solved[0] is not self.counts or self._solved[1] != self.counts._version:
            self._solved = self.counts, self.counts._version, self.solve()
        return self._solved[2]

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

    def __init__(self, backbone: Backbone, head: Head) -> None:
        super().__init__(backbone, head)
        self.backbone.requires_grad_(False)
        self.train()

    def train(self, mode: bool = True) -> Self:
        """Training mode does not reach the backbone."""
        super().train(mode)
        self.backbone.eval()
        return self

    def features(self, x: Tensor) -> Tensor:
        """Features [batch, features] of inputs."""
        return self.backbone(x)  # type: ignore[no-any-return]

    def forward(self, x: Tensor) -> Tensor:
        """Scores [batch, outputs] of inputs."""
        return self.head(self.features(x))  # type: ignore[no-any-return]


class ClosedForm(Strategy):
    """Adds up features of one pass over each experience; a subclass says what its head makes of them."""

    targets = frozenset({"classes"})  # sums are by class
    family = "closed form"
    needs = frozenset({"boundaries", "float32"})
    carries = "the frozen backbone and the sums"

    model: FrozenModel

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
        for features, y, _ in self.blocks(experience):
            head.add(features, y)
        _ = head.solution  # here, where its time counts as learning

    def blocks(self, experience: Experience) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """One pass: rounded features [block, features] in float64, their outputs and their positions [block]."""
        block: list[tuple[Tensor, Tensor, Tensor]] = []
        for batch in experience.batches(1):
            block.append((rounded(self.model.features(batch.x).double()), batch.y, batch.index))
            if sum(len(y) for _, y, _ in block) >= BLOCK:
                yield _joined(block)
                block = []
        if block:
            yield _joined(block)


def _joined(block: list[tuple[Tensor, Tensor, Tensor]]) -> tuple[Tensor, Tensor, Tensor]:
    features, y, index = (torch.cat(column) for column in zip(*block, strict=True))
    return features, y, index


def rounded(features: Tensor) -> Tensor:
    """Features in float64, rounded to multiples of 1 / `GRID`."""
    return (features * GRID).round() / GRID
