"""FeCAM: the nearest class mean by a Mahalanobis distance of each class's own.

Goswami et al., "FeCAM: Exploiting the Heterogeneity of Class Distributions in Exemplar-Free Continual Learning",
NeurIPS 2023, section 3. Features may first be made more Gaussian by Tukey's power, x̃ = x^λ. Each class y has a mean μ_y
and a covariance Σ_y, which is shrunk,

    Σ_s = Σ + γ₁ V₁ I + γ₂ V₂ (1 − I),

V₁ and V₂ being the means of its diagonal and of what is off it, and normalised to correlations,

    Σ̂(i, j) = Σ_s(i, j) / (σ(i) σ(j)),    σ(i) = √Σ_s(i, i).

An input has the class of the least distance D_M(x, μ_y) = (x̂ − μ̂_y)ᵀ Σ̂_y⁻¹ (x̂ − μ̂_y), where vectors have length 1.

Differences from the paper:

1. Defaults are those of its code for vision transformers: γ₁ = 1, γ₂ = 0 and no Tukey power, which negative features
   have not. With a network that ends in a ReLU it takes γ₁ = γ₂ = 1 and λ = 0.5. γ₂ ≤ γ₁ is asked for: Σ_s is
   then never indefinite, whatever Σ is.
2. For each class the scatter around its mean is kept in float64, the half of it that symmetry leaves: d (d + 1) / 2
   numbers, as many bytes as the whole in the published float32 (1,280 features and 100 classes: 656 MB). So a class
   may come again, and samples in any order; where it does not come again, its scatter stays to the bit.
3. Σ is the scatter over n, where the code has n − 1. A feature that does not vary within a class, and is not shrunk
   because none does (as in a class of one sample), is uncorrelated and has σ = 1: the distance is Euclid's.
4. Factors of Σ̂ are not kept: each batch that is asked works them out, class by class, in the memory of one.
   Negative features of a test are raised to a power as 0.
5. Features are rounded to multiples of 2⁻²⁰. One pass is taken of the budget. A class that has no sample yet is never
   chosen. The first experience does not train the backbone, as with its ResNet-18 it does in the paper.
"""

from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from clarena import Context, UsageError
from clarena_native.strategies.closed_form.features import ClosedForm, Sums, rounded


class FeCAM(ClosedForm):
    """The nearest class mean of frozen features, by a Mahalanobis distance of each class's own."""

    name = "fecam"
    reference = "Goswami et al. 2023, FeCAM: Exploiting the Heterogeneity of Class Distributions. arXiv:2309.14062"
    tuning = {"diagonal": "0.01..10:log"}

    def __init__(
        self,
        *,
        diagonal: Annotated[
            float, Field(gt=0, description="γ₁, how much of the mean variance is added to each.")
        ] = 1.0,
        off_diagonal: Annotated[
            float, Field(ge=0, description="γ₂, how much of the mean covariance is added to each; at most γ₁.")
        ] = 0.0,
        tukey: Annotated[
            float, Field(gt=0, le=1, description="λ, to which power features are raised; 1 leaves them.")
        ] = 1.0,
    ) -> None:
        super().__init__()
        self.diagonal = diagonal
        self.off_diagonal = off_diagonal
        self.tukey = tukey

    def setup(self, context: Context) -> None:
        """Build the frozen backbone and empty sums."""
        if self.off_diagonal > self.diagonal:
            raise UsageError(
                f"fecam.off_diagonal = {self.off_diagonal:g} is more than fecam.diagonal = {self.diagonal:g}, with "
                "which a covariance may be none any more. Set it to that at most."
            )
        super().setup(context)

    def head(self, features: int) -> Sums:
        return Covariances(features, self.diagonal, self.off_diagonal, self.tukey)


class Covariances(Sums):
    """A mean and a scatter for each class [outputs, d (d + 1) / 2]: rows of the upper triangle, one behind another."""

    scatter: Tensor

    def __init__(self, features: int, diagonal: float = 1.0, off_diagonal: float = 0.0, tukey: float = 1.0) -> None:
        super().__init__(features)
        self.diagonal, self.off_diagonal, self.tukey = diagonal, off_diagonal, tukey
        self.register_buffer("scatter", torch.zeros(0, features * (features + 1) // 2, dtype=torch.float64))

    def grow(self, outputs: int) -> None:
        missing = max(0, outputs - self.outputs)
        self.scatter = torch.cat([self.scatter, self.scatter.new_zeros(missing, self.scatter.shape[1])])
        super().grow(outputs)

    def add(self, features: Tensor, y: Tensor) -> None:
        """Add to each class's scatter what lies around its mean, and then to the means."""
        if self.tukey < 1 and bool((features < 0).any()):
            raise UsageError(
                "This backbone has negative features, which no power makes more Gaussian. Leave fecam.tukey out: it is "
                "for networks that end in a ReLU."
            )
        features = self._powered(features)
        around = self.around(features, y)
        of = torch.cat([y, torch.arange(self.outputs, device=y.device)])
        row, column = self._places()
        for k in y.unique().tolist():
            rows = around[of == k]
            self.scatter[k] += (rows.T @ rows)[row, column]
        super().add(features, y)

    def covariance(self, k: int) -> Tensor:
        """Σ [features, features] of a class; 0 where it has no sample."""
        row, column = self._places()
        found = self.scatter.new_empty(self.features, self.features)
        found[row, column] = found[column, row] = self.scatter[k] / self.counts[k].clamp(min=1)
        return found

    def normalised(self, k: int) -> Tensor:
        """Σ̂ [features, features] of a class."""
        shrunk, d = self.covariance(k), self.features
        variance = shrunk.diagonal().mean()
        covariance = (shrunk.sum() - shrunk.diagonal().sum()) / max(1, d * (d - 1))
        shrunk += self.off_diagonal * covariance
        shrunk.diagonal().add_(self.diagonal * variance - self.off_diagonal * covariance)
        deviations = shrunk.diagonal().sqrt()
        deviations = torch.where(deviations > 0, deviations, 1)
        return (shrunk / deviations.outer(deviations)).fill_diagonal_(1)

    def solve(self) -> None:
        """Look whether every Σ̂ has a factor; raises `UsageError` where one has not."""
        failed = [torch.linalg.cholesky_ex(self.normalised(k)).info for k in range(self.outputs)]
        if failed and bool(torch.stack(failed).any()):
            raise UsageError(
                f"With fecam.diagonal = {self.diagonal:g} and fecam.off_diagonal = {self.off_diagonal:g} a class's "
                "covariance cannot be inverted in float64. Set a larger fecam.diagonal or a smaller fecam.off_diagonal."
            )

    def scores(self, features: Tensor) -> Tensor:
        """−D_M of features [batch, features] and each class's mean: [batch, outputs]."""
        features, means = F.normalize(self._powered(features), dim=1), F.normalize(self.means, dim=1)
        found = features.new_empty(len(features), self.outputs)
        for k in range(self.outputs):
            factor = torch.linalg.cholesky(self.normalised(k))  # L Lᵀ = Σ̂
            away = torch.linalg.solve_triangular(factor, (features - means[k]).T, upper=False)  # L⁻¹ (x̂ − μ̂)
            found[:, k] = -away.square().sum(0)
        return found

    def _powered(self, features: Tensor) -> Tensor:
        return features if self.tukey == 1 else rounded(features.clamp(min=0) ** self.tukey)

    def _places(self) -> tuple[Tensor, Tensor]:
        """Rows and columns of the upper triangle."""
        row, column = torch.triu_indices(self.features, self.features, device=self.scatter.device)
        return row, column
