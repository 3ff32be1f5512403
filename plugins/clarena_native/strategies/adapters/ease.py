"""EASE: an adapter for each experience, and prototypes in the subspaces of them all.

Zhou et al., "Expandable Subspace Ensemble for Pre-Trained Model-Based Class-Incremental Learning", CVPR 2024. For
experience b an adapter A_b is trained on the frozen backbone, and frozen. An input has the features of all adapters,

    Φ(x) = [φ(x; A_1), …, φ(x; A_b)],

and a class has a prototype in each of these subspaces: the mean over its samples in those that there are when it comes,
P_{o,o} in the newest of them. In a later one, of experience n, none of its samples is to be seen, and the prototype
is put together from those of the new classes, by how near they are in the subspace in which both have been seen:

    Sim_ij = cos(P_{o,o}[i], P_{n,o}[j]),    P̂_{o,n}[i] = Σ_j softmax_j(Sim_i) P_{n,n}[j].

The score of a class of experience b leans on its own subspace,

    P_{b,b}ᵀ φ(x; A_b) + α Σ_{i ≠ b} P_{b,i}ᵀ φ(x; A_i).

Differences from the paper:

1. Every product in the score is a cosine, as in its code: features and prototypes have length 1 in each subspace.
2. α is what is printed; the code also divides it by the number of experiences. P̂ is put together once, as its
   experience ends; the code does it again for all older subspaces at each later experience, from the same P.
3. The softmax has a `sharpness`, which is 1 in the paper. Cosines are all near each other, so P̂ is then nearly the mean
   of the new prototypes.
4. The classifier by which an adapter is trained is linear, and is dropped with its experience. The optimiser, its rate
   and the passes are the protocol's. Prototypes come from a look at the samples outside training (`scan`).
5. The backbone is in evaluation mode throughout, so it sees plain images, also where the protocol augments.
6. A class that comes again keeps the subspace of its first experience as its own; what is then seen of it counts in
   the means of all subspaces, in the place of what was put together. So it runs in the domain scenario, too.
7. Where no block has a norm before a feed-forward half, adapters can stand after the blocks (`place`).
"""

from typing import Annotated, Any, Literal, Self

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from clarena import Adapters, Backbone, Context, Experience, Head, Model, Strategy
from clarena_native.strategies.adapters.tuning_parts import tune
from clarena_native.strategies.closed_form.features import Sums, rounded


class EASE(Strategy):
    """An ensemble of subspaces: each experience trains an adapter, and every class has a prototype by each adapter."""

    name = "ease"
    targets = frozenset({"classes"})  # prototypes are by class
    reference = "Zhou et al. 2024, Expandable Subspace Ensemble (EASE). arXiv:2403.12030"
    family = "adapters"
    needs = frozenset({"adapters", "boundaries", "float32"})
    tuning = {"others": "0.01..1:log"}
    carries = "the frozen backbone, an adapter for each experience, and a prototype by each adapter for each class"

    model: "Ensemble"

    def __init__(
        self,
        *,
        bottleneck: Annotated[int, Field(ge=1, description="The width of an adapter.")] = 64,
        scale: Annotated[float, Field(gt=0, description="What adapters add is times this.")] = 0.1,
        place: Annotated[
            Literal["beside", "after"],
            Field(description="Adapters stand beside the feed-forward halves of blocks, or after blocks."),
        ] = "beside",
        others: Annotated[
            float, Field(ge=0, description="α, the weight of subspaces that are not a class's own.")
        ] = 0.1,
        sharpness: Annotated[
            float, Field(gt=0, description="By which similarities are multiplied before their softmax.")
        ] = 1.0,
    ) -> None:
        super().__init__()
        self.bottleneck = bottleneck
        self.scale = scale
        self.place = place
        self.others = others
        self.sharpness = sharpness

    def setup(self, context: Context) -> None:
        """Build the frozen backbone and the first adapter; the others come with their experiences."""
        self.context = context
        backbone = context.backbone()
        with context.seeds.scope("init"):
            adapters = backbone.adapt("adapter", bottleneck=self.bottleneck, scale=self.scale, place=self.place)
        subspaces = Subspaces(backbone.features, self.others, self.sharpness)
        self.model = Ensemble(backbone, adapters, subspaces).to(context.device)
        context.grow(self.model)

    def learn(self, experience: Experience) -> None:
        """Train an adapter, freeze it, and take the prototypes by all adapters."""
        model = self.model
        if experience.position > 0:
            with self.context.seeds.scope("init"):
                model.adapters.grow()
            model.head.widen()
        self.context.grow(model)
        newest = len(model.adapters.branches) - 1
        branch = model.adapters.branches[newest]

        def features(x: Tensor) -> Tensor:
            return model.within(newest, x)

        tune(features, model.backbone.features, branch.parameters(), (experience, self.context))
        branch.requires_grad_(False)
        self._take(experience)

    @torch.no_grad()
    def _take(self, experience: Experience) -> None:
        head = self.model.head
        sums = Sums(head.subspaces * head.features).to(self.context.device)
        sums.grow(head.outputs)
        for batch in experience.scan():
            sums.add(rounded(self.model.features(batch.x).double()).flatten(1), batch.y)
        head.take(sums.sums.unflatten(1, (head.subspaces, head.features)), sums.counts)


class Ensemble(Model):
    """A frozen backbone, adapters, and prototypes."""

    head: "Subspaces"

    def __init__(self, backbone: Backbone, adapters: Adapters, head: "Subspaces") -> None:
        super().__init__(backbone, head)
        self.adapters = adapters
        self.backbone.requires_grad_(False)
        self.train()

    def train(self, mode: bool = True) -> Self:
        """Training mode does not reach the frozen backbone."""
        super().train(mode)
        self.backbone.eval()
        return self

    def forward(self, x: Tensor) -> Tensor:
        """Scores [batch, outputs] of inputs [batch, *input_shape]."""
        return self.head(self.features(x))  # type: ignore[no-any-return]

    def features(self, x: Tensor) -> Tensor:
        """Φ(x) [batch, subspaces, features]."""
        return torch.stack([self.within(number, x) for number in range(len(self.adapters.branches))], dim=1)

    def within(self, number: int, x: Tensor) -> Tensor:
        """φ(x; A) [batch, features] by the adapter of one experience alone."""
        with self.adapters.on(self.backbone, only=[number]):
            return self.backbone(x)  # type: ignore[no-any-return]


class Subspaces(Head):
    """In the place of a head: a prototype of each class in each subspace.

    Attributes:
        prototypes: [outputs, subspaces, features] in float64.
        counts: how many samples each is the mean of [outputs, subspaces]; 0 where it was put together, or is none.
        own: the subspace of the experience in which a class first came [outputs]; −1 where it has not.
    """

    prototypes: Tensor
    counts: Tensor
    own: Tensor

    def __init__(self, features: int, others: float, sharpness: float) -> None:
        super().__init__(features)
        self.others, self.sharpness = others, sharpness
        self.register_buffer("prototypes", torch.zeros(0, 1, features, dtype=torch.float64))
        self.register_buffer("counts", torch.zeros(0, 1, dtype=torch.int64))
        self.register_buffer("own", torch.zeros(0, dtype=torch.int64))

    @property
    def outputs(self) -> int:
        """The number of outputs so far."""
        return len(self.own)

    @property
    def subspaces(self) -> int:
        """The number of subspaces so far."""
        return self.counts.shape[1]

    def grow(self, outputs: int) -> None:
        """Grow to `outputs` outputs in all, of which nothing is known yet."""
        missing = max(0, outputs - self.outputs)
        self.prototypes = F.pad(self.prototypes, (0, 0, 0, 0, 0, missing))
        self.counts = F.pad(self.counts, (0, 0, 0, missing))
        self.own = F.pad(self.own, (0, missing), value=-1)

    def widen(self) -> None:
        """One subspace more, in which nothing is known yet."""
        self.prototypes = F.pad(self.prototypes, (0, 0, 0, 1))
        self.counts = F.pad(self.counts, (0, 1))

    def take(self, sums: Tensor, counts: Tensor) -> None:
        """Take in an experience, and put together what old classes lack in the newest subspace.

        Args:
            sums: of the features of each class's samples [outputs, subspaces, features].
            counts: how many samples these are [outputs].
        """
        shown, newest = counts > 0, self.subspaces - 1
        together = self.counts + counts[:, None]
        means = (self.prototypes * self.counts[..., None] + sums) / together.clamp(min=1)[..., None]
        self.prototypes = torch.where(shown[:, None, None], means, self.prototypes)
        self.counts = together
        self.own = torch.where(shown & (self.own < 0), newest, self.own)
        for o in range(newest):
            old = ~shown & (self.own == o)
            weights = self.similarity(self.prototypes[old, o], self.prototypes[shown, o])
            self.prototypes[old, newest] = weights @ self.prototypes[shown, newest]

    def similarity(self, old: Tensor, new: Tensor) -> Tensor:
        """softmax(Sim) [old, new] of prototypes [old, features] and [new, features]: each row sums to 1."""
        return (self.sharpness * F.normalize(old, dim=1) @ F.normalize(new, dim=1).T).softmax(1)

    def forward(self, features: Tensor) -> Tensor:
        """Scores [batch, outputs] of features [batch, subspaces, features], in their type."""
        own = F.one_hot(self.own.clamp(min=0), self.subspaces)
        weights = own + self.others * (1 - own)  # [outputs, subspaces]
        prototypes = weights[..., None] * F.normalize(self.prototypes, dim=2)
        scores = F.normalize(features.double(), dim=2).flatten(1) @ prototypes.flatten(1).T
        return scores.masked_fill(self.own < 0, Sums.lowest).to(features.dtype)

    def structure(self) -> Any:
        """Nothing: buffers take the shape of those saved."""

    def build(self, structure: Any) -> None:
        """Nothing."""
