"""Backbones that bring weights of their own: what a pre-trained one is to the host, in a thousandth of a second."""

import hashlib
from typing import Any

import torch
from torch import Tensor, nn

from clarena import Backbone, hookimpl
from clarena.hookspecs import Register


class Fixed(Backbone):
    """Two layers whose weights are the same for every seed.

    Attributes:
        made: how many there were, by which a test knows that none was.
    """

    name = "fixed"
    weights_seed = 5
    made = 0

    def __init__(self, input_shape: tuple[int, ...], *, width: int = 12) -> None:
        super().__init__()
        type(self).made += 1
        generator = torch.Generator().manual_seed(self.weights_seed)
        first = nn.Linear(int(torch.tensor(input_shape).prod()), width)
        with torch.no_grad():
            for parameter in first.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) / 4)
        self.layers = nn.Sequential(nn.Flatten(), first, nn.ReLU(), nn.Dropout(0.5))
        self.features = width

    @classmethod
    def fingerprint(cls, options: Any) -> str:
        return hashlib.sha256(f"{cls.weights_seed}".encode()).hexdigest()

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)  # type: ignore[no-any-return]


class Drawn(Fixed):
    """One that says that its weights are known, and draws a layer all the same."""

    name = "drawn"

    def __init__(self, input_shape: tuple[int, ...]) -> None:
        super().__init__(input_shape)
        self.layers.append(nn.Linear(self.features, self.features))


@hookimpl
def clarena_register_backbones(register: Register) -> None:
    """So that this file is a plugin."""
    register(Fixed)
