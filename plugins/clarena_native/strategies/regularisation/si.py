"""SI: synaptic intelligence.

Zenke, Poole & Ganguli, "Continual learning through synaptic intelligence", ICML 2017, equations 3 to 5. Along the
path of training, each parameter's share in the fall of the task loss is summed,

    ωᵢ ← ωᵢ − gᵢ(t) (θᵢ(t+1) − θᵢ(t)),    g = gradient of the task loss alone,

and at the end of an experience, with Δᵢ the distance travelled since its beginning,

    Ωᵢ ← Ωᵢ + ωᵢ / (Δᵢ² + ξ),        L = L_n + c Σᵢ Ωᵢ (θ̃ᵢ − θᵢ)².

Differences from the paper:
1. A parameter along whose path the loss rose has ω < 0, which would push it away from its anchor: a negative
   contribution of an experience counts as 0. The paper does not say; its code does this to the running sum.
2. Everything between two steps is counted in the delta, whatever the optimiser, its momentum included.
"""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from clarena import Batch, Context, Experience, GradientStrategy
from clarena_native.strategies.regularisation.quadratic import QuadraticPenalty, flat, flat_gradient, grown


class SI(GradientStrategy):
    """Synaptic intelligence: weights that brought the loss down along their path are held near where they were."""

    name = "si"
    reference = "Zenke et al. 2017, Continual Learning Through Synaptic Intelligence. arXiv:1703.04200"
    family = "regularisation"
    off = {"strength": 0.0}
    carries = "the model, an importance and an anchor for each parameter"

    def __init__(
        self,
        *,
        strength: Annotated[float, Field(ge=0, description="c, the weight of the penalty c Σ Ω (θ̃ − θ)².")] = 10.0,
        damping: Annotated[float, Field(gt=0, description="ξ, which bounds Ω where a weight hardly moved.")] = 0.001,
    ) -> None:
        super().__init__()
        self.strength = strength
        self.damping = damping

    def setup(self, context: Context) -> None:
        super().setup(context)
        self.consolidated = QuadraticPenalty(context.device)

    @torch.no_grad()
    def before_experience(self, experience: Experience) -> None:
        self.start = flat(self.model)
        self.path = torch.zeros_like(self.start)

    @torch.no_grad()
    def after_backward(self, batch: Batch) -> None:
        self.task_gradient, self.before = flat_gradient(self.model.parameters()), flat(self.model)

    def penalty(self) -> Tensor:
        return 2 * self.strength * self.consolidated.value(self.model)  # there is no ½ in equation 4

    def backward_penalty(self) -> None:
        self.consolidated.add_gradient(self.model, 2 * self.strength)

    def stiffness(self) -> Tensor:
        return 2 * self.strength * self.consolidated.importance

    @torch.no_grad()
    def after_step(self, batch: Batch) -> None:
        self.path.addcmul_(self.task_gradient, flat(self.model) - self.before, value=-1)

    @torch.no_grad()
    def after_experience(self, experience: Experience) -> None:
        theta = flat(self.model)
        fresh = (self.path / ((theta - self.start).square() + self.damping)).clamp(min=0)
        self.consolidated.set(grown(self.consolidated.importance, len(theta)) + fresh, theta)
        del self.start, self.path, self.task_gradient, self.before  # nothing of it is carried on
