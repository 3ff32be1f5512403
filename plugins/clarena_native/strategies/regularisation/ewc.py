"""EWC: elastic weight consolidation.

Kirkpatrick et al., "Overcoming catastrophic forgetting in neural networks", PNAS 2017, equation 3:

    L(θ) = L_B(θ) + Σᵢ λ/2 Fᵢ (θᵢ − θ*_{A,i})²

with F the diagonal of the Fisher information at θ*_A, estimated per sample on A's training data. Online:
Schwarz et al., "Progress & Compress", ICML 2018, section 2.2: F* ← γ F* + F, and the penalty is weighted by γ F*
around the latest θ*.

Differences from the paper:
1. `separate` keeps one penalty per past experience, as the paper's text has it. Their sum is itself a quadratic, with
   importance Σ Fₖ and centre Σ Fₖ θ*ₖ / Σ Fₖ, so two vectors hold all of them exactly, up to a constant.
2. The paper does not say which labels its Fisher is taken over; `exact` takes the expectation over the model's own
   predictions, `sample` draws one label from them, `empirical` uses the true label, and `argmax` the predicted one.
   `batched` squares the mean gradient of a batch (of the protocol's size, true labels), for comparison with
   codebases that do: it is about a batch size smaller, and vanishes as training converges.
3. The softmax of the Fisher runs over the outputs in play, as it does in the loss. Of other targets than classes it is
   the Fisher of their likelihood; over the positions of a sample it is summed.
"""

from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from clarena import Batch, Context, Experience, GradientStrategy, UsageError, evaluating, fisher_diagonal
from clarena_native.strategies.regularisation.quadratic import QuadraticPenalty, flat, grown, spread


class EWC(GradientStrategy):
    """Elastic weight consolidation: weights that mattered are held near where they were, as by springs."""

    name = "ewc"
    reference = "Kirkpatrick et al. 2017, Overcoming catastrophic forgetting. doi:10.1073/pnas.1611835114"
    family = "regularisation"
    off = {"strength": 0.0}
    carries = "the model, an importance and an anchor for each parameter"

    def __init__(
        self,
        *,
        strength: Annotated[float, Field(ge=0, description="λ, the weight of the penalty λ/2 Σ F (θ − θ*)².")] = 1000.0,
        fisher: Annotated[
            Literal["exact", "sample", "empirical", "argmax", "batched"],
            Field(
                description="Labels of the Fisher: expectation over predictions, one draw of them, the true ones, "
                "or the predicted ones; batched squares a batch's mean gradient instead."
            ),
        ] = "exact",
        mode: Annotated[
            Literal["separate", "online"],
            Field(description="One penalty per past experience (merged exactly), or one running penalty."),
        ] = "separate",
        decay: Annotated[float, Field(ge=0, le=1, description="γ of the online mode; 1 forgets nothing.")] = 1.0,
    ) -> None:
        super().__init__()
        self.strength = strength
        self.fisher = fisher
        self.mode = mode
        self.decay = decay

    def setup(self, context: Context) -> None:
        super().setup(context)
        if self.fisher == "argmax" and not context.target.labels_are_classes:
            raise UsageError(
                f"ewc.fisher=argmax takes the class that is predicted, and here {context.target.name} are asked for. "
                "Choose another: --set ewc.fisher=sample."
            )
        self.consolidated = QuadraticPenalty(context.device)

    def penalty(self) -> Tensor:
        return self.strength * self.weight * self.consolidated.value(self.model)

    def backward_penalty(self) -> None:
        self.consolidated.add_gradient(self.model, self.strength * self.weight)

    def stiffness(self) -> Tensor:
        return self.strength * self.weight * self.consolidated.importance

    @property
    def weight(self) -> float:
        """What the penalty carries besides λ: γ when online, as in Progress & Compress."""
        return self.decay if self.mode == "online" else 1.0

    @torch.no_grad()
    def after_experience(self, experience: Experience) -> None:
        fresh = self._batched(experience) if self.fisher == "batched" else self._per_sample(experience)
        theta = flat(self.model)
        past = grown(self.consolidated.importance, len(theta))
        if self.mode == "online":
            self.consolidated.set(self.decay * past + fresh, theta)
            return
        anchor = grown(self.consolidated.anchor, len(theta))
        total = past + fresh
        share = torch.where(total > 0, past / total, 0)
        self.consolidated.set(total, torch.lerp(theta, anchor, share))  # exactly θ where nothing mattered before

    def _per_sample(self, experience: Experience) -> Tensor:
        """The mean over samples of squared gradients, as one vector [parameters]."""
        argmax = self.fisher == "argmax"
        kind: Any = "empirical" if argmax else self.fisher
        batches = ((b.x, self._predicted(b) if argmax else b.y, b.mask) for b in experience.scan())
        generator = self.context.generator("strategy")
        likelihood = self.context.target.directions
        found = fisher_diagonal(self.model, batches, kind=kind, generator=generator, likelihood=likelihood)
        return spread(self.model, found)

    def _predicted(self, batch: Batch) -> Tensor:
        with evaluating(self.model):
            scores: Tensor = self.model(batch.x)
        return (scores if batch.mask is None else scores.masked_fill(~batch.mask, -torch.inf)).argmax(dim=1)

    @torch.enable_grad()
    def _batched(self, experience: Experience) -> Tensor:
        """The mean over batches of the squared gradient of the batch's mean loss."""
        parameters = [p for p in self.model.parameters() if p.requires_grad]
        total, batches = torch.zeros_like(flat(self.model), requires_grad=False), 0
        with evaluating(self.model):
            for batch in experience.scan(self.context.protocol.batch_size):
                loss = self.context.target.loss(self.model(batch.x), batch.y, batch.mask)
                gradients = torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True)
                total += spread(self.model, gradients).square()
                batches += 1
        return total / batches
