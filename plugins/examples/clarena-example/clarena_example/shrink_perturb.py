"""Shrink and perturb: start each experience from weights that are smaller and a little noisy.

Ash & Adams, "On warm-starting neural network training", NeurIPS 2020, section 4: before training on new data,

    θ ← λ θ + p,    p ~ N(0, σ²).

Differences from the paper:
1. The head's outputs of earlier classes are shrunk and perturbed like every other weight.
"""

from typing import Annotated

import torch
from pydantic import Field

from clarena import Experience, GradientStrategy


class ShrinkPerturb(GradientStrategy):
    """Shrinks the weights and adds noise to them before each experience."""

    name = "shrink-perturb"
    reference = "Ash & Adams 2020, On Warm-Starting Neural Network Training. arXiv:1910.08475"
    off = {"factor": 1.0, "noise": 0.0}

    def __init__(
        self,
        *,
        factor: Annotated[float, Field(ge=0, le=1, description="λ, what remains of each weight.")] = 0.9,
        noise: Annotated[float, Field(ge=0, description="σ, the standard deviation of what is added.")] = 0.001,
    ) -> None:
        super().__init__()
        self.factor = factor
        self.noise = noise

    @torch.no_grad()
    def before_experience(self, experience: Experience) -> None:
        if experience.position == 0:
            return  # the weights are fresh
        generator = self.context.generator()
        for p in self.model.parameters():
            p.mul_(self.factor).add_(torch.randn(p.shape, generator=generator).to(p.device), alpha=self.noise)
