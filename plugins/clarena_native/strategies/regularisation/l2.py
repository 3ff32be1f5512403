"""L2: a plain quadratic anchor, the control for EWC, MAS and SI.

    L(θ) = L_B(θ) + λ/2 Σᵢ (θᵢ − θ*ᵢ)²,    θ* = the parameters after the latest experience

Every parameter is held equally: what a method gains over this, it gains by its importances. Kirkpatrick et al.
(PNAS 2017, figure 2A) show it as their baseline "L2".
"""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from clarena import Context, Experience, GradientStrategy
from clarena_native.strategies.regularisation.quadratic import QuadraticPenalty, flat


class L2(GradientStrategy):
    """Holds every weight equally near where the last experience left it; the control for EWC, MAS and SI."""

    name = "l2"
    reference = "The L2 baseline of Kirkpatrick et al. 2017. doi:10.1073/pnas.1611835114"
    family = "regularisation"
    off = {"strength": 0.0}
    carries = "the model and an anchor for each parameter"

    def __init__(
        self, *, strength: Annotated[float, Field(ge=0, description="λ, the weight of λ/2 Σ (θ − θ*)².")] = 1.0
    ) -> None:
        super().__init__()
        self.strength = strength

    def setup(self, context: Context) -> None:
        super().setup(context)
        self.consolidated = QuadraticPenalty(context.device)

    def penalty(self) -> Tensor:
        return self.strength * self.consolidated.value(self.model)

    def backward_penalty(self) -> None:
        self.consolidated.add_gradient(self.model, self.strength)

    def stiffness(self) -> Tensor:
        return self.strength * self.consolidated.importance

    @torch.no_grad()
    def after_experience(self, experience: Experience) -> None:
        theta = flat(self.model)
        self.consolidated.set(torch.ones_like(theta), theta)
