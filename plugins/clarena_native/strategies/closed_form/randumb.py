"""RanDumb: linear discriminant analysis of random Fourier features of the inputs themselves.

Prabhu et al., "Random Representations Outperform Online Continually Learned Representations" (RanDumb), NeurIPS 2024,
section 3. An input x is embedded by

    φ(x) = √(2 / D) [cos(ω₁ᵀx + b₁), …, cos(ω_Dᵀx + b_D)],    ω ~ N(0, 2γ I),    b ~ U[0, 2π],

whose inner products approach the kernel exp(−γ ‖x − x'‖²) (Rahimi & Recht 2007), and a streaming linear discriminant
analysis tells the classes apart: with the class means μ_k and one covariance Σ, shrunk, the class of x is that of the
greatest φᵀΣ⁻¹μ_k − ½ μ_kᵀΣ⁻¹μ_k. Nothing is learned of how to represent an input: no backbone is used, and no weights.

Differences from the paper:

1. D is 2,000 where the paper has 25,000: Σ is D² numbers of float64, 32 MB and not 5 GB; its scatter is exact, as in
   `slda`. More of them are better: it is the first thing to raise.
2. γ is `bandwidth` divided by the number of values of an input, which fits inputs of variance 1. The published code
   divides by the variance of all training inputs, too, and so looks at the whole stream beforehand; a benchmark's
   normalisation is known without it.
3. Σ is shrunk towards a multiple of the identity, (1 − ρ) Σ + ρ (tr Σ / D) I, by the oracle-approximating ρ of Chen et
   al. (2010), which follows from what is kept. The published code takes it class by class, in a batch; `shrinkage` may
   also be a number.
4. Priors are equal. Images are not mirrored, as the paper mirrors those of CIFAR. One pass is taken of the budget. A
   class that has no sample yet is never chosen.
5. The backbone of the track is not used, whatever it is; where inputs are features, they are embedded. Tokens, which
   are no quantities, are refused.
"""

import math
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from clarena import Backbone, Context, UsageError
from clarena_native.strategies.closed_form.features import ClosedForm, FrozenModel, Sums
from clarena_native.strategies.closed_form.slda import Discriminant


class RanDumb(ClosedForm):
    """Linear discriminant analysis of random Fourier features of the inputs; no backbone is used."""

    name = "randumb"
    reference = "Prabhu et al. 2024, Random Representations Outperform Online CL Representations. arXiv:2402.08823"
    tuning = {"bandwidth": "0.05..20:log"}
    carries = "the random frequencies and the sums"

    def __init__(
        self,
        *,
        embedding: Annotated[int, Field(ge=1, description="D, the number of random features.")] = 2000,
        bandwidth: Annotated[float, Field(gt=0, description="γ times the number of values of an input.")] = 1.0,
        shrinkage: Annotated[
            Annotated[float, Field(gt=0, le=1)] | Literal["oas"],
            Field(description="ρ, the share of the identity in Σ; oas: as data say."),
        ] = "oas",
    ) -> None:
        super().__init__()
        self.embedding = embedding
        self.bandwidth = bandwidth
        self.shrinkage = shrinkage

    def setup(self, context: Context) -> None:
        """Draw the frequencies, and build empty sums; there is no backbone."""
        self.context = context
        if isinstance(context.input_shape[0], tuple):
            raise UsageError(
                "randumb embeds inputs that are one tensor, and a sample here is several. Take another strategy."
            )
        generator = context.generator("embedding")
        fourier = Fourier(context.input_shape, self.embedding, self.bandwidth, generator)
        self.model = FrozenModel(fourier, self.head(self.embedding)).to(context.device)
        context.grow(self.model)

    def head(self, features: int) -> Sums:
        return Shrunk(features, self.shrinkage)


class Fourier(Backbone):
    """Random Fourier features of the values of an input."""

    name = "random-fourier"
    frequencies: Tensor
    phases: Tensor

    def __init__(
        self, input_shape: tuple[int, ...], features: int, bandwidth: float, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.features, values = features, math.prod(input_shape)
        deviation = math.sqrt(2 * bandwidth / values)
        self.register_buffer("frequencies", deviation * torch.randn(values, features, generator=generator))
        self.register_buffer("phases", 2 * math.pi * torch.rand(features, generator=generator))

    def forward(self, x: Tensor) -> Tensor:
        """√(2 / D) cos(ωᵀx + b) [batch, features] of inputs."""
        if not x.is_floating_point():
            raise UsageError("randumb embeds quantities, and these inputs are tokens. Take another strategy.")
        angles = x.flatten(1) @ self.frequencies + self.phases
        embedded: Tensor = math.sqrt(2 / self.features) * angles.cos()
        return embedded


class Shrunk(Discriminant):
    """Linear scores from class means and a covariance that is shrunk towards a multiple of the identity."""

    def __init__(self, features: int, shrinkage: float | Literal["oas"]) -> None:
        super().__init__(features)
        self.share = shrinkage

    def shrunk(self) -> Tensor:
        covariance = self.covariance
        mean = covariance.diagonal().mean()
        share: Any = oracle_share(covariance, self.counts.sum()) if self.share == "oas" else self.share
        found: Tensor = (1 - share) * covariance
        found.diagonal().add_(torch.where(mean > 0, share * mean, 1))
        return found


def oracle_share(covariance: Tensor, samples: Tensor) -> Tensor:
    """ρ of the oracle-approximating shrinkage of a covariance [features, features] of so many samples; at most 1.

    Source: Chen, Wiesel, Eldar & Hero 2010, Shrinkage algorithms for MMSE covariance estimation, equation 23, without
    its terms in 2 / features, as scikit-learn has it.
    """
    features = len(covariance)
    square, trace = covariance.square().sum(), covariance.trace()
    spread = (samples + 1) * (square - trace.square() / features)
    share = (square + trace.square()) / spread
    return torch.where(spread > 0, share, 1).clamp(max=1)
