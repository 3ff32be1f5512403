"""SLDA: streaming linear discriminant analysis of frozen features.

Hayes and Kanan, "Lifelong Machine Learning with Deep Streaming Linear Discriminant Analysis", CVPR Workshops 2020,
section 3. A mean μ_k for each class and one covariance Σ that all share; of a sample z of class y, the t-th from 0,

    Σ ← (t Σ + Δ) / (t + 1),  Δ = t (z − μ_y)(z − μ_y)ᵀ / (t + 1),  μ_y ← (c_y μ_y + z) / (c_y + 1),  c_y ← c_y + 1.

With Λ = [(1 − ε) Σ + ε I]⁻¹, scores are w_k · z + b_k, w_k = Λ μ_k, b_k = −½ μ_k · Λ μ_k, with equal priors.

Differences from the paper:

1. The printed factor t / (t + 1) is that of one mean for all samples (Welford); with a mean for each class it is
   c_y / (c_y + 1). On ten classes the printed recursion ends some 20 % off the covariance within classes. `exact`, the
   default, is that covariance to rounding, in any order and in batches of any size, as linear discriminant analysis has
   it; `printed` takes the recursion sample by sample as it stands.
2. There is no base set on which means and covariance are first estimated (with an OAS covariance): Σ begins at 0.
3. Sums are in float64, of features rounded to multiples of 2⁻²⁰. One pass is taken of the budget. A class that has no
   sample yet is never chosen.
4. ε is absolute, so what it does hangs on the size of features.
"""

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from clarena_native.strategies.closed_form.features import ClosedForm, Sums


class SLDA(ClosedForm):
    """Streaming linear discriminant analysis: class means and one covariance of frozen features."""

    name = "slda"
    reference = "Hayes & Kanan 2020, Lifelong Machine Learning with Deep Streaming LDA. arXiv:1909.01520"
    tuning = {"shrinkage": "1e-6..1:log"}

    def __init__(
        self,
        *,
        shrinkage: Annotated[float, Field(gt=0, le=1, description="ε, the share of the identity in Σ.")] = 1e-4,
        recursion: Annotated[
            Literal["exact", "printed"], Field(description="The covariance within classes, or the paper's recursion.")
        ] = "exact",
    ) -> None:
        super().__init__()
        self.shrinkage = shrinkage
        self.recursion = recursion

    def head(self, features: int) -> Sums:
        return Discriminant(features, self.shrinkage, self.recursion)


class Discriminant(Sums):
    """Linear scores from class means and t Σ, the scatter within classes [features, features]."""

    scatter: Tensor

    def __init__(self, features: int, shrinkage: float = 1e-4, recursion: str = "exact") -> None:
        super().__init__(features)
        self.shrinkage, self.recursion = shrinkage, recursion
        self.register_buffer("scatter", torch.zeros(features, features, dtype=torch.float64))

    @property
    def covariance(self) -> Tensor:
        """Σ [features, features] in float64."""
        return self.scatter / self.counts.sum().clamp(min=1)

    def add(self, features: Tensor, y: Tensor) -> None:
        """Add to the scatter what lies around the means, and then to the means."""
        around = self.around(features, y) if self.recursion == "exact" else self._as_printed(features, y)
        self.scatter = self.scatter + around.T @ around
        super().add(features, y)

    def _as_printed(self, features: Tensor, y: Tensor) -> Tensor:
        """√(t / (t + 1)) (z − μ_y) of each sample, μ_y being the mean of those before it."""
        earlier = ((y[:, None] == y) & torch.ones(len(y), len(y), dtype=torch.bool, device=y.device).tril(-1)).double()
        count = self.counts[y] + earlier.sum(1)
        mean = (self.sums[y] + earlier @ features) / count.clamp(min=1)[:, None]
        t = (self.counts.sum() + torch.arange(len(y), device=y.device)).double()
        return (t / (t + 1)).sqrt()[:, None] * (features - mean)

    def shrunk(self) -> Tensor:
        """(1 − ε) Σ + ε I [features, features]."""
        identity = torch.eye(self.features, dtype=torch.float64, device=self.scatter.device)
        return (1 - self.shrinkage) * self.covariance + self.shrinkage * identity

    def solve(self) -> tuple[Tensor, Tensor]:
        """w_k [features, outputs] and b_k [outputs]."""
        means = self.means
        weights: Tensor = torch.linalg.solve(self.shrunk(), means.T)  # Λ μ_k
        return weights, -(means * weights.T).sum(1) / 2

    def scores(self, features: Tensor) -> Tensor:
        """w_k · z + b_k [batch, outputs]."""
        weights, biases = self.solution
        return features @ weights + biases  # type: ignore[no-any-return]
