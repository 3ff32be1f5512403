"""Frozen: feature extraction with a backbone that does not change any more; only the head learns.

The control that says how much of a result is owed to features that were never at risk (FTR_EXT in Chaudhry et al.,
"Efficient lifelong learning with A-GEM", ICLR 2019).

Frozen means bit-identical: the backbone's parameters take no gradient and are not given to the optimiser, its
BatchNorm statistics stand still, and its dropout is off.
"""

from typing import Annotated, Literal, Self

from pydantic import Field

from clarena import Context, Experience, GradientStrategy


class FrozenFeatures(GradientStrategy):
    """Trains the head on features that are frozen after the first experience, or from the start."""

    name = "frozen"
    reference = "Feature extraction, a control; FTR_EXT in Chaudhry et al. 2019. arXiv:1812.00420"
    family = "architecture"

    def __init__(
        self,
        *,
        freeze: Annotated[
            Literal["after_first", "from_start"],
            Field(description="After the first experience, or from the start: as it comes, random or not."),
        ] = "after_first",
    ) -> None:
        super().__init__()
        self.freeze = freeze
        self._frozen = False

    def setup(self, context: Context) -> None:
        super().setup(context)
        self._frozen = False

    def before_experience(self, experience: Experience) -> None:
        self._frozen = self.freeze == "from_start" or experience.position > 0
        self.model.backbone.requires_grad_(not self._frozen)

    def train(self, mode: bool = True) -> Self:
        """Training mode does not reach a frozen backbone."""
        super().train(mode)
        if getattr(self, "_frozen", False):
            self.model.backbone.eval()
        return self
