"""Adaptation to the first experience: a backbone that stays as it is, and a few weights that are added to it."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clarena import Adapters, Backbone, Head, Lora
from clarena_native.strategies.closed_form.features import FrozenModel


class AdaptedModel(FrozenModel):
    """A frozen backbone with something added to it, or nothing, and a head."""

    def __init__(self, backbone: Backbone, head: Head, added: Adapters | Lora | None) -> None:
        super().__init__(backbone, head)
        self.added = added

    def features(self, x: Tensor) -> Tensor:
        if self.added is None:
            return super().features(x)
        with self.added.on(self.backbone):
            return super().features(x)


class Cosine(nn.Module):
    """σ cos(w_k, f), a classifier to which the length of features says nothing; σ begins at 1 and is trained."""

    def __init__(self, features: int, outputs: int) -> None:
        super().__init__()
        self.directions = nn.Linear(features, outputs, bias=False)
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, features: Tensor) -> Tensor:
        """Scores [batch, outputs] of features [batch, features]."""
        return self.scale * F.linear(F.normalize(features, dim=1), F.normalize(self.directions.weight, dim=1))
