"""SCR: supervised contrastive replay.

Mai, Li, Kim & Sanner, "Supervised Contrastive Replay: Revisiting the Nearest Class Mean Classifier in Online
Class-Incremental Continual Learning", CVPR workshops 2021. With B = B_n ∪ B_M the stream's batch and a draw from the
buffer, I the indices of both views of B, z = Proj(Enc(x)) of length 1, A(i) = I \\ {i}, and P(i) those of A(i) with the
label of i,

    L = Σ_{i ∈ I} −1/|P(i)| Σ_{p ∈ P(i)} log( exp(z_i · z_p / τ) / Σ_{a ∈ A(i)} exp(z_i · z_a / τ) )    (equation 3)
    B_n is then written to the buffer, a reservoir                                                   (algorithm 1)
    predict  y* = argmin_c ‖Enc(x) − μ_c‖,    μ_c = the mean of Enc over the exemplars of class c         (equation 1)

Differences from the paper:
1. Of a sample's two views one is the sample itself, as in the authors' code; where the protocol augments, it is seen
   through that as all inputs are. The two views are two forward passes (BatchNorm sees them apart), again as there.
2. Views are drawn by the protocol's policy unless `view` names another. Without any, both are the sample itself, and
   what is contrasted is samples of a class.
3. The mean over I, not the sum, as in the authors' code.
4. Enc and μ are brought to length 1 for the prediction, as in the authors' code.
5. While the buffer is empty, the stream's batch is learned alone; the authors' code passes over it.
6. By default as many exemplars are drawn as the batch has samples; the paper draws 100 beside 10.
7. A class without an exemplar is farther away than any other; the authors' code gives it a random mean.
8. Where the protocol cuts batches into parts, samples are contrasted within their part.
"""

from typing import Annotated, Any

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from clarena import AugmentationKind, Batch, Context, GradientStrategy, Head, as_given, evaluating
from clarena_native.strategies.exemplars import cut, draw, fields, joined, per_part

FAR = 4.0
"""In every place of a mean that is not there: at least 3 away from a unit vector, of which two are at most 2 apart."""


class SCR(GradientStrategy):
    """Supervised contrastive replay: views of a class are drawn together, and the nearest mean of exemplars decides."""

    name = "scr"
    targets = frozenset({"classes"})  # positives and means are by class
    reference = "Mai et al. 2021, Supervised Contrastive Replay. arXiv:2103.13885"
    family = "replay"
    needs = frozenset({"float32"})  # it asks the backbone without a head, and trains a projection of its own
    carries = "the backbone, the projection and the buffer"

    means: Tensor | None

    def __init__(
        self,
        *,
        temperature: Annotated[float, Field(gt=0, description="τ, by which similarities are divided.")] = 0.1,
        projection: Annotated[int, Field(ge=1, description="Length of z, on which views are contrasted.")] = 128,
        view: Annotated[
            AugmentationKind | None,
            Field(description="Policy of the second view, where the protocol grants one; none: the protocol's."),
        ] = None,
        buffer_size: Annotated[
            int | None, Field(ge=0, description="Exemplars kept in total; none takes all that the protocol grants.")
        ] = None,
        replay_size: Annotated[
            int | None,
            Field(ge=1, description="Exemplars drawn per step; none draws as many as the protocol's batch."),
        ] = None,
    ) -> None:
        super().__init__()
        self.temperature = temperature
        self.projection = projection
        self.view = view
        self.buffer_size = buffer_size
        self.replay_size = replay_size

    def setup(self, context: Context) -> None:
        """Put the projection in the place of the head: in training, a model's scores are z."""
        super().setup(context)
        self.policy = context.granted_policy(self.view)
        with context.seeds.scope("init"):
            self.model.head = Projection(self.model.backbone.features, self.projection)
        context.grow(self.model)
        self.buffer = context.replay_buffer(self.buffer_size)
        self.means = None  # of exemplars, once somebody asks for a prediction

    def replay(self, batch: Batch) -> Batch:
        if len(self.buffer) == 0:
            return batch
        wanted = per_part(self.replay_size or self.context.protocol.batch_size, self.context)
        return joined(batch, draw(self.buffer, wanted, self.context), self.context)

    def loss(self, batch: Batch) -> Tensor:
        """Equation 3 of the samples, whose z [batch, projection] are there already, and of a view of each."""
        assert batch.scores is not None
        with as_given():
            other = self.model(batch.view(self.policy))
        return supervised_contrastive(torch.cat([batch.scores, other]), batch.y.repeat(2), self.temperature)

    def after_step(self, batch: Batch) -> None:
        self.means = None
        self.buffer.add(self.context.generator("buffer"), **fields(batch.stream()))

    def set_extra_state(self, state: dict[str, Any]) -> None:
        super().set_extra_state(state)
        self.means = None

    def features(self, x: Tensor) -> Tensor:
        """Enc(x), of length 1 [batch, features]."""
        return F.normalize(self.model.backbone(x), dim=1)

    def predict(self, x: Tensor, task: int | None = None) -> Tensor:
        """Minus the distance to each class's mean [batch, outputs]."""
        with torch.no_grad(), evaluating(self):
            if self.means is None or len(self.means) < self.model.outputs:
                self.means = self._class_means()
            return -torch.cdist(self.features(x), self.means, compute_mode="donot_use_mm_for_euclid_dist")

    def _class_means(self) -> Tensor:
        """μ of each output [outputs, features], of length 1; `FAR` of one that has no exemplar."""
        stored, outputs = self.buffer.everything(), self.model.outputs
        if not stored:
            weight = next(self.model.backbone.parameters())
            return weight.new_full((outputs, self.model.backbone.features), FAR)
        parts = cut(stored["x"], self.context.protocol.eval_batch_size)
        features = torch.cat([self.features(part) for part in parts])
        belongs = F.one_hot(stored["y"], outputs).to(features.dtype)  # [exemplars, outputs]
        means = F.normalize(belongs.T @ features, dim=1)  # the sum has the direction of the mean
        return torch.where(belongs.any(dim=0)[:, None], means, FAR)


class Projection(Head):
    """Proj, in the place of a head: z [batch, width] of features, of length 1; of outputs it knows the number alone."""

    def __init__(self, features: int, width: int) -> None:
        super().__init__(features)
        self.layers = nn.Sequential(nn.Linear(features, features), nn.ReLU(), nn.Linear(features, width))
        self.counted = 0

    @property
    def outputs(self) -> int:
        """The number of outputs so far."""
        return self.counted

    def grow(self, outputs: int) -> None:
        """Count `outputs` outputs; nothing is added."""
        self.counted = max(self.counted, outputs)

    def forward(self, features: Tensor) -> Tensor:
        """z [batch, width] of features [batch, features]."""
        return F.normalize(self.layers(features), dim=1)

    def structure(self) -> Any:
        """The number of outputs."""
        return self.counted

    def build(self, structure: Any) -> None:
        """Have as many."""
        self.counted = structure


def supervised_contrastive(z: Tensor, y: Tensor, temperature: float) -> Tensor:
    """The mean over anchors of equation 3, a scalar.

    Args:
        z: unit vectors [n, d].
        y: the class of each [n]; every class occurs at least twice, as two views of a sample do.
        temperature: τ.
    """
    similar = z @ z.T / temperature
    itself = torch.eye(len(z), dtype=torch.bool, device=z.device)
    log_share = similar - similar.masked_fill(itself, -torch.inf).logsumexp(dim=1, keepdim=True)
    positive = (y[:, None] == y) & ~itself
    return -(log_share.masked_fill(~positive, 0.0).sum(dim=1) / positive.sum(dim=1)).mean()
