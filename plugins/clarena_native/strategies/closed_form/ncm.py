"""NCM: the nearest class mean of frozen features.

The classifier of Mensink et al., "Distance-Based Image Classification: Generalizing to New Classes at Near-Zero Cost",
IEEE TPAMI 2013, section 3, with the mean of each class as its prototype,

    p_k = (1 / n_k) Σ_{y = k} φ(x),

and, as Zhou et al., "Revisiting Class-Incremental Learning with Pre-Trained Models" (SimpleCIL), IJCV 2024, take it,
the cosine of φ(x) and p_k as the score. Nothing is trained: the backbone stays as it was made, and what is carried on
are a sum and a count for each class. Made for pre-trained weights; it is the line to beat on such.

Differences from the paper:

1. Features are rounded to multiples of 2⁻²⁰ and added in float64, so that the means are the same bits in whatever
   order, batches or experiences samples come. Published code adds float32.
2. Features are not normalised before the mean, as in SimpleCIL; iCaRL's rule does (`normalised`). One pass is taken
   of the budget, however many there are.
3. A class that has no sample yet is never nearest. In some toolboxes its mean is the origin, and can win.
"""

from typing import Annotated, Literal

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from clarena_native.strategies.closed_form.features import ClosedForm, Sums, rounded


class NCM(ClosedForm):
    """The nearest class mean of frozen features."""

    name = "ncm"
    reference = "Mensink et al. 2013, Distance-Based Image Classification. IEEE TPAMI 35(11)"

    def __init__(
        self,
        *,
        distance: Annotated[Literal["cosine", "euclidean"], Field(description="By which a mean is near.")] = "cosine",
        normalised: Annotated[
            bool, Field(description="Whether features have length 1 before they are added and compared.")
        ] = False,
    ) -> None:
        super().__init__()
        self.distance = distance
        self.normalised = normalised

    def head(self, features: int) -> Sums:
        return ClassMeans(features, self.distance, self.normalised)


class ClassMeans(Sums):
    """Scores by the distance to the mean of each class."""

    def __init__(self, features: int, distance: str = "cosine", normalised: bool = False) -> None:
        super().__init__(features)
        self.distance, self.normalised = distance, normalised

    def add(self, features: Tensor, y: Tensor) -> None:
        super().add(rounded(F.normalize(features, dim=1)) if self.normalised else features, y)

    def scores(self, features: Tensor) -> Tensor:
        """cos(φ, p_k), or −‖φ − p_k‖² [batch, outputs]."""
        if self.normalised:
            features = F.normalize(features, dim=1)
        if self.distance == "cosine":
            return F.normalize(features, dim=1) @ F.normalize(self.means, dim=1).T
        means = self.means
        return 2 * features @ means.T - means.square().sum(1) - features.square().sum(1, keepdim=True)
