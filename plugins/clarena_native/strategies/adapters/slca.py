"""SLCA: a slow learner, whose classifier is aligned on features drawn for all classes.

Zhang et al., "SLCA: Slow Learner with Classifier Alignment for Continual Learning on a Pre-trained Model", ICCV 2023.
Slow learner: every weight is trained, those of the backbone at a hundredth of the classifier's rate, by the
cross-entropy over the classes of the experience. Then the features of each of its classes c are described by their
mean and covariance, and what was kept of every class so far is drawn from, F_c ~ N(μ_c, Σ_c). Classifier alignment:
the classifier h alone is trained on these features r with logits of normalised size,

    L = − log ( exp(h(r)[y] / (τ ‖H‖)) / Σ_j exp(h(r)[j] / (τ ‖H‖)) ),

where ‖H‖ is the size of the logits h(r).

Differences from the paper:

1. ‖H‖ is the mean over experiences of the norm of the logits of their classes, as in its code. In the task scenario
   it is that of the experience the features are of, and L is over its outputs.
2. Of older classes the code shrinks the mean before it draws, by 0.9 to 1 according to age and the number of
   experiences to come. The text does not, and neither is done here.
3. Σ has 1e-4 added along its diagonal, as in the code. What is kept is its Cholesky factor, of the same size.
4. As in the code there is no alignment after the first experience; and every later one begins with the classifier as
   training left it. Each phase has a fresh optimiser, whatever the protocol says of its state; rates, schedule and the
   passes of the first phase are the protocol's. A pass of the second draws anew, and has steps of as
   many features as are drawn of a class, mixed, as in the code. What it trains on is metered as replayed samples.
5. Features are described as they are when their experience ends. The backbone moves on, slowly, and they do not.
6. A class that comes again, as in the domain scenario, is described once more, and both descriptions are drawn from.
"""

from typing import Annotated, Self

import torch
from pydantic import Field
from torch import Tensor, nn

from clarena import Batch, Context, Experience, Strategy, evaluating

ADDED = 1e-4
"""Added to covariances along the diagonal."""


class SLCA(Strategy):
    """Slow learner with classifier alignment: small steps of the backbone, and a head trained on drawn features."""

    name = "slca"
    targets = frozenset({"classes"})  # features are described by class
    reference = "Zhang et al. 2023, SLCA: Slow Learner with Classifier Alignment. arXiv:2303.05118"
    family = "fine-tuning"
    needs = frozenset({"boundaries", "trained_backbone"})
    tuning = {"slow": "0.001..1:log"}
    carries = "the model, and the mean and covariance of each class's features"

    def __init__(
        self,
        *,
        slow: Annotated[
            float, Field(ge=0, description="The rate of the backbone, in parts of the head's; 0 freezes it.")
        ] = 0.01,
        samples: Annotated[
            int, Field(ge=1, description="Features drawn of each class in a pass; so many make a step.")
        ] = 256,
        alignment: Annotated[int, Field(ge=0, description="Passes over drawn features; 0 leaves the head.")] = 5,
        temperature: Annotated[float, Field(gt=0, description="τ, the size that logits are brought to is 1/τ.")] = 0.1,
    ) -> None:
        super().__init__()
        self.slow = slow
        self.samples = samples
        self.alignment = alignment
        self.temperature = temperature

    def setup(self, context: Context) -> None:
        super().setup(context)
        self.described = Gaussians(self.model.backbone.features).to(context.device)
        if not self.slow:
            self.model.backbone.requires_grad_(False)

    def train(self, mode: bool = True) -> Self:
        """Training mode does not reach a backbone that is frozen."""
        super().train(mode)
        if not self.slow and hasattr(self, "model"):
            self.model.backbone.eval()
        return self

    def learn(self, experience: Experience) -> None:
        """Both phases, and between them the description of the new classes."""
        self.context.grow(self.model)
        self._learn_slowly(experience)
        self._describe(experience)
        if experience.position > 0 and self.alignment:
            self._align(experience)

    def _learn_slowly(self, experience: Experience) -> None:
        mask = self.context.own_outputs(experience)
        trained = [p for p in self.model.parameters() if p.requires_grad]
        factors = [(self.model.backbone.parameters(), self.slow)] if self.slow else []
        updater = self.context.updater(trained, factors=factors)
        self.train()

        def loss(part: Batch) -> Tensor:
            return self.context.target.loss(self.model(part.x), part.y, part.mask if mask is None else mask)

        for batch in experience.batches():
            experience.meter.observe(updater.descend(batch, loss))
        self.zero_grad()

    @torch.no_grad()
    def _describe(self, experience: Experience) -> None:
        with evaluating(self.model):
            scanned = [(self.model.backbone(batch.x), batch.y) for batch in experience.scan()]
        features, y = (torch.cat(parts) for parts in zip(*scanned))
        for label in experience.classes:
            self.described.add(features[y == label], label, experience.position)

    def _align(self, experience: Experience) -> None:
        head, space, generator = self.model.head, self.context.space, self.context.generator()
        groups = torch.zeros(len(space.tasks), space.width)  # of the outputs of each experience
        for row, outputs in zip(groups, space.tasks):
            row[sorted(outputs)] = 1
        groups = groups.to(self.context.device)
        y, owner = (which.repeat_interleave(self.samples) for which in (self.described.y, self.described.owner))
        steps = self.alignment * len(self.described.y)
        updater = self.context.updater(head.parameters(), steps=steps, passes=self.alignment)

        def loss(part: Batch) -> Tensor:
            scores = head(part.x)
            scaled = scores / (self.temperature * magnitude(scores, groups, part.task))
            return self.context.target.loss(scaled, part.y, part.mask)

        for _ in range(self.alignment):
            features = self.described.draw(self.samples, generator)
            for index in torch.randperm(len(y), generator=generator).to(y.device).split(self.samples):
                task = owner[index] if self.context.scenario == "task" else None
                drawn = Batch(features[index], y[index], task, index, space.exemplar_mask(task), fresh=0)
                experience.meter.observe(updater.descend(drawn, loss))
                experience.meter.replayed += len(index)
        self.zero_grad()


class Gaussians(nn.Module):
    """What is kept of features: a normal distribution for each class of each experience.

    Attributes:
        y: their classes [n].
        owner: the positions of their experiences [n].
        means: μ [n, features].
        factors: L, lower triangular, of covariances Σ = L Lᵀ [n, features, features].
    """

    y: Tensor
    owner: Tensor
    means: Tensor
    factors: Tensor

    def __init__(self, features: int) -> None:
        super().__init__()
        self.register_buffer("y", torch.zeros(0, dtype=torch.int64))
        self.register_buffer("owner", torch.zeros(0, dtype=torch.int64))
        self.register_buffer("means", torch.zeros(0, features))
        self.register_buffer("factors", torch.zeros(0, features, features))

    def add(self, features: Tensor, label: int, position: int) -> None:
        """Describe features [samples, features] of a class, from an experience; of one sample it is the point alone."""
        exact = features.double()
        around = exact - exact.mean(0)
        covariance = around.T @ around / max(len(around) - 1, 1)
        factor = torch.linalg.cholesky(covariance + ADDED * torch.eye(around.shape[1]).to(covariance))
        self.y = torch.cat([self.y, self.y.new_tensor([label])])
        self.owner = torch.cat([self.owner, self.owner.new_tensor([position])])
        self.means = torch.cat([self.means, exact.mean(0)[None].to(self.means)])
        self.factors = torch.cat([self.factors, factor[None].to(self.factors)])

    def draw(self, samples: int, generator: torch.Generator) -> Tensor:
        """So many features of each, one class after another [n · samples, features]."""
        noise = torch.randn(len(self.y), samples, self.means.shape[1], generator=generator).to(self.means)
        return (self.means[:, None] + noise @ self.factors.mT).flatten(0, 1)


def magnitude(scores: Tensor, groups: Tensor, task: Tensor | None) -> Tensor:
    """‖H‖ [batch, 1] of scores [batch, outputs]: the mean norm over groups of outputs, or that of a sample's own.

    Args:
        scores: of features.
        groups: 1 where an output is of a group, else 0 [groups, outputs].
        task: the group of each sample [batch].
    """
    norms = (scores.square() @ groups.T).clamp(min=1e-14).sqrt()
    return norms.mean(1, keepdim=True) if task is None else norms.gather(1, task[:, None])
