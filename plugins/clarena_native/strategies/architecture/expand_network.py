"""The network of expand: backbones side by side, and a head whose inputs grow as well as its outputs."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clarena import Backbone, Freezable, Head, Model


class Branches(Backbone):
    """Φ_t: the features of all backbones side by side [batch, features], all but the newest frozen."""

    name = "branches"

    def __init__(self, first: Backbone) -> None:
        super().__init__()
        self.branches = nn.ModuleList([Freezable(first)])
        self.features = first.features

    def add(self, backbone: Backbone) -> None:
        """Freeze those that there are, and add another."""
        for branch in self.branches:
            branch.freeze()  # type: ignore[operator]
        self.branches.append(Freezable(backbone))
        self.features += backbone.features

    def forward(self, x: Tensor) -> Tensor:
        """Features [batch, features] of inputs [batch, *input_shape], the newest last."""
        return torch.cat([branch(x) for branch in self.branches], dim=1)


class WideHead(Head):
    """H_t: a linear classifier whose outputs and inputs grow, by layers beside those that there are.

    Attributes:
        blocks: new outputs, on all the features that there were when they came.
        widened: for each later backbone, its part in the outputs that there were when it came.
    """

    def __init__(self, features: int, start: Callable[[nn.Linear], None]) -> None:
        """`features`: of one backbone."""
        super().__init__(features, start)
        self.widened = nn.ModuleList()

    def widen(self) -> None:
        """Take in the features of one more backbone."""
        layer = nn.Linear(self.features, self.outputs, bias=False)
        self.start(layer)
        self.widened.append(layer)

    def grow(self, outputs: int) -> None:
        """Grow to `outputs` outputs in all; new ones see the features of all backbones."""
        missing = outputs - self.outputs
        if missing > 0:
            block = nn.Linear(self.features * (1 + len(self.widened)), missing)
            self.start(block)
            self.blocks.append(block)

    def forward(self, features: Tensor) -> Tensor:
        """Scores [batch, outputs] of features [batch, backbones · features]."""
        parts = [block(features[:, : block.in_features]) for block in self.blocks]
        scores = torch.cat(parts, dim=1) if parts else features.new_zeros(len(features), 0)
        for layer, part in zip(self.widened, features.split(self.features, dim=1)[1:]):
            older = layer(part)
            scores = scores + F.pad(older, (0, scores.shape[1] - older.shape[1]))
        return scores

    def structure(self) -> Any:
        """Of each block its inputs and outputs, and of each later backbone how many outputs it takes part in."""
        blocks = [[block.in_features, block.out_features] for block in self.blocks]
        return {"blocks": blocks, "widened": [layer.out_features for layer in self.widened]}

    def build(self, structure: Any) -> None:
        """Have these layers."""
        self.blocks = nn.ModuleList(nn.Linear(*size) for size in structure["blocks"])
        self.widened = nn.ModuleList(nn.Linear(self.features, n, bias=False) for n in structure["widened"])


class WideModel(Model):
    """H_t(Φ_t(x)), from one backbone on."""

    backbone: Branches
    head: WideHead

    def __init__(self, first: Backbone) -> None:
        super().__init__(Branches(first), WideHead(first.features, first.start))
