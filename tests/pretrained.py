"""A plugin of one file: a backbone whose first weights are published ones, or those of a file; for `--plugin`."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn

import clarena

FEATURES = 32


def matrix(inputs: int = 64, seed: int = 5) -> Tensor:
    """What stands for published weights: [FEATURES, inputs]."""
    return torch.randn(FEATURES, inputs, generator=torch.Generator().manual_seed(seed)) / inputs**0.5


class Pretrained(clarena.Backbone):
    """One layer with ReLU on flat inputs, whose weights are random, published, or those of a file."""

    name = "pretrained"

    def __init__(
        self,
        input_shape: tuple[int, ...],
        *,
        weights: Annotated[str, Field(description="Whence: none, default, or the path of a file.")] = "default",
    ) -> None:
        super().__init__()
        self.layer = nn.Linear(int(torch.tensor(input_shape).prod()), FEATURES)
        self.features = FEATURES
        if weights != "none":
            given = matrix() if weights == "default" else torch.load(weights, weights_only=True)["layer"]
            with torch.no_grad():
                self.layer.weight.copy_(given)

    @classmethod
    def fingerprint(cls, options: Mapping[str, Any]) -> str | None:
        """SHA-256 of the values."""
        if options["weights"] == "none":
            return None
        if options["weights"] == "default":
            return hashlib.sha256(matrix().numpy().tobytes()).hexdigest()
        return hashlib.sha256(Path(options["weights"]).read_bytes()).hexdigest()

    def forward(self, x: Tensor) -> Tensor:
        """Features [batch, FEATURES]."""
        return self.layer(x.flatten(1)).relu()


@clarena.hookimpl
def clarena_register_backbones(register: Any) -> None:
    """Register it."""
    register(Pretrained)
