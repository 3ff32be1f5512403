"""MAS: memory-aware synapses.

Aljundi et al., "Memory Aware Synapses: Learning what (not) to forget", ECCV 2018, equations 2 to 4:

    Ωᵢ = 1/N Σₖ | ∂ ‖F(xₖ; θ)‖₂² / ∂θᵢ |        L(θ) = L_n(θ) + λ Σᵢ Ωᵢ (θᵢ − θ*ᵢ)²

with F the outputs of the network and no label anywhere; Ω is summed over experiences, θ* is the latest.

Differences from the paper:
1. The outputs are those in play (the task's own, or those seen so far), as in the loss.
2. Where a sample has scores at several positions, F is all of these that count; padding does not.
3. `estimator=batched` takes the gradient of the batch's mean output norm before the absolute value, as several
   codebases do: for comparison with them. Signs cancel, and the result depends on `estimator_batch`.
"""

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from clarena import Context, Experience, GradientStrategy, evaluating, output_norm_sensitivity
from clarena_native.strategies.regularisation.quadratic import QuadraticPenalty, flat, grown, spread


class MAS(GradientStrategy):
    """Memory-aware synapses: weights to which the outputs are sensitive are held where they were."""

    name = "mas"
    reference = "Aljundi et al. 2018, Memory Aware Synapses: Learning what (not) to forget. arXiv:1711.09601"
    family = "regularisation"
    off = {"strength": 0.0}
    carries = "the model, an importance and an anchor for each parameter"

    def __init__(
        self,
        *,
        strength: Annotated[float, Field(ge=0, description="λ, the weight of the penalty λ Σ Ω (θ − θ*)².")] = 10.0,
        estimator: Annotated[
            Literal["per_sample", "batched"],
            Field(description="Absolute value of each sample's gradient, or of the mean gradient of a batch."),
        ] = "per_sample",
        estimator_batch: Annotated[
            int | None,
            Field(ge=1, description="Samples whose gradient the batched estimator averages; none takes all."),
        ] = None,
    ) -> None:
        super().__init__()
        self.strength = strength
        self.estimator = estimator
        self.estimator_batch = estimator_batch

    def setup(self, context: Context) -> None:
        super().setup(context)
        self.consolidated = QuadraticPenalty(context.device)

    def penalty(self) -> Tensor:
        return 2 * self.strength * self.consolidated.value(self.model)  # there is no ½ in equation 4

    def backward_penalty(self) -> None:
        self.consolidated.add_gradient(self.model, 2 * self.strength)

    def stiffness(self) -> Tensor:
        return 2 * self.strength * self.consolidated.importance

    @torch.no_grad()
    def after_experience(self, experience: Experience) -> None:
        fresh = self._batched(experience) if self.estimator == "batched" else self._per_sample(experience)
        theta = flat(self.model)
        self.consolidated.set(grown(self.consolidated.importance, len(theta)) + fresh, theta)

    def _per_sample(self, experience: Experience) -> Tensor:
        batches = ((batch.x, batch.y, batch.mask) for batch in experience.scan())
        return spread(self.model, output_norm_sensitivity(self.model, batches, self.context.target.counted))

    @torch.enable_grad()
    def _batched(self, experience: Experience) -> Tensor:
        parameters = [p for p in self.model.parameters() if p.requires_grad]
        total = torch.zeros_like(flat(self.model), requires_grad=False)
        with evaluating(self.model):
            for batch in experience.scan(self.estimator_batch):  # the gradient of all samples is added up in parts
                scores = self.model(batch.x)
                if batch.mask is not None:
                    scores = scores * batch.mask
                counted = self.context.target.counted(batch.y)
                if counted is not None:
                    scores = scores * counted[..., None]
                gradients = torch.autograd.grad(
                    scores.square().sum(), parameters, allow_unused=True, materialize_grads=True
                )
                gradient = spread(self.model, gradients)
                total += gradient if self.estimator_batch is None else gradient.abs()
        return total.abs() / len(experience)
