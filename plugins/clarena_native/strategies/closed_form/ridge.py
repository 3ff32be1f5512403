"""Ridge: regression on frozen features by recursive least squares, which is that on all data at once.

Zhuang et al., "ACIL: Analytic Class-Incremental Learning with Absolute Memorization and Privacy Protection", NeurIPS
2022, section 3. With X_k the features of experience k, after a random layer, X = ReLU(φ W_rand), and Y_k its labels as
rows of 0 and 1, the regularised autocorrelation R and the weights Ŵ go on by

    R_k = R_{k−1} − R_{k−1} X_kᵀ (I + X_k R_{k−1} X_kᵀ)⁻¹ X_k R_{k−1},    R_0 = (γ I)⁻¹,
    Ŵ_k = [Ŵ_{k−1} − R_k X_kᵀ X_k Ŵ_{k−1},  R_k X_kᵀ Y_k],

and are then those of all data, Ŵ = (Σ XᵀX + γI)⁻¹ Σ XᵀY (theorem 1).

Differences from the paper:

1. What is kept is G = Σ hhᵀ and C = Σ hyᵀ in float64, and Ŵ follows from them by a Cholesky factorisation once an
   experience; so a class may come again, and samples in any order. It is the recursion to rounding, without the
   recursion's own errors, which add up: in float32 it is far off.
2. `hidden = 0`, the default, is regression on the features as they are, the plain reference. The paper has 8,192
   random features for CIFAR-100. W_rand is drawn from N(0, 1), by a generator of its own.
3. The backbone is frozen from the start, where the paper trains it on half of the classes first. It is made for
   pre-trained weights.
4. Features have length 1 unless `normalised` says otherwise: λ (the paper's γ, 0.1) then means the same on every
   backbone. There is no intercept, as in the paper. A class that has no sample yet is never chosen.
5. Features are rounded to multiples of 2⁻²⁰. One pass is taken of the budget.
"""

from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from clarena import UsageError
from clarena_native.strategies.closed_form.features import ClosedForm, Sums, rounded


class Ridge(ClosedForm):
    """Ridge regression on frozen features, recursive and the same as on all data at once."""

    name = "ridge"
    reference = "Zhuang et al. 2022, ACIL: Analytic Class-Incremental Learning. arXiv:2205.14922"
    tuning = {"strength": "1e-4..100:log"}

    def __init__(
        self,
        *,
        strength: Annotated[float, Field(gt=0, description="λ, how strongly weights are held near 0.")] = 0.1,
        hidden: Annotated[
            int, Field(ge=0, description="Random features, ReLU(φ W), in place of the features φ; 0: φ itself.")
        ] = 0,
        normalised: Annotated[bool, Field(description="Whether features have length 1 before all else.")] = True,
    ) -> None:
        super().__init__()
        self.strength = strength
        self.hidden = hidden
        self.normalised = normalised

    def head(self, features: int) -> Sums:
        projection = gaussian(features, self.hidden, self.context.generator("projection"))
        return Regression(features, projection, self.normalised, self.strength)


class Regression(Sums):
    """Least squares: C in `sums`, G [width, width] beside it; weights follow from both."""

    gram: Tensor
    projection: Tensor

    def __init__(self, features: int, projection: Tensor, normalised: bool, strength: float) -> None:
        """`projection`: W [features, width] in float32; without columns, features are not projected."""
        width = projection.shape[1] or features
        super().__init__(width)
        self.normalised, self.strength = normalised, strength
        self.register_buffer("projection", projection)
        self.register_buffer("gram", torch.zeros(width, width, dtype=torch.float64))

    def expand(self, features: Tensor) -> Tensor:
        """h [batch, width] of features [batch, features], in float64."""
        if self.normalised:
            features = rounded(F.normalize(features, dim=1))
        return (features @ self.projection.double()).relu() if self.projection.shape[1] else features

    def add(self, features: Tensor, y: Tensor) -> None:
        self.take(self.expand(features), y)

    def take(self, h: Tensor, y: Tensor) -> None:
        """Add samples that are expanded: h [batch, width]."""
        self.gram = torch.addmm(self.gram, h.T, h)
        super().add(h, y)

    def solve(self) -> Tensor:
        """(G + λI)⁻¹ C [width, outputs].

        Raises:
            UsageError: where λ is lost beside G.
        """
        weights = solved(self.gram, self.sums, self.strength)
        if weights is None:
            raise UsageError(
                f"A strength of {self.strength:g} is lost in the rounding of sums over these features, which have no "
                "solution without it. Set a larger strength."
            )
        return weights

    def scores(self, features: Tensor) -> Tensor:
        """hᵀ (G + λI)⁻¹ C [batch, outputs]."""
        return self.expand(features) @ self.solution  # type: ignore[no-any-return]


def gaussian(features: int, width: int, generator: torch.Generator) -> Tensor:
    """W ~ N(0, 1) [features, width] in float32, drawn on the CPU."""
    return torch.randn(features, width, generator=generator)


def solved(gram: Tensor, sums: Tensor, strength: float) -> Tensor | None:
    """(G + λI)⁻¹ C [width, outputs] of G and Cᵀ [outputs, width]; None where G + λI is not positive in float64."""
    shifted = gram.clone()
    shifted.diagonal().add_(strength)
    factor, failed = torch.linalg.cholesky_ex(shifted)
    return None if failed else torch.cholesky_solve(sums.T, factor)
