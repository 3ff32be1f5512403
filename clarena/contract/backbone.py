"""Model = backbone + head: what turns inputs into features, and features into scores."""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from clarena.errors import UsageError


class Backbone(nn.Module):
    """Turns inputs [batch, *input_shape] into features [batch, features].

    A subclass takes `input_shape` and then typed keyword options (documented by `pydantic.Field`), and sets
    `self.features` to the number of features.

    Attributes:
        name: what the command line calls it.
        revision: raised by the author when the same options give another network; part of a track's digest.
        takes_tokens: whether inputs are tokens, whole numbers. It is then given, after `input_shape`, how many there
            are (`vocabulary`) and whether every token has a label (`per_token`), in which case features are
            [batch, time, features].
        features: the number of features.
    """

    name: ClassVar[str]
    revision: ClassVar[int] = 1
    takes_tokens: ClassVar[bool] = False
    features: int

    @classmethod
    def of(cls, argument: str) -> type[Self]:
        """The class for an argument, for one registered as `family:PLACEHOLDER`; the same one every time."""
        raise UsageError(f"The backbone {cls.name} takes no argument.")

    @classmethod
    def fingerprint(cls, options: Mapping[str, Any]) -> str | None:
        """SHA-256 of the weights that the option `weights` names; None where it names none.

        It stands for that option in a track's digest, so that what the weights are counts, and not where they lie.

        Raises:
            UsageError: when there are no such weights.
        """
        return None

    @staticmethod
    def start(layer: nn.Linear) -> None:
        """Give a layer added to this backbone (a block of the head, a lateral) its first values; default: PyTorch's."""


class Head(nn.Module):
    """A linear classifier whose outputs grow in blocks: scores [batch, …, outputs].

    Growing adds a block and leaves the older ones untouched, so no parameter ever changes its shape: an optimiser's
    state, an importance or an anchor of the older outputs stays valid as it is, and new outputs are free of penalties.
    """

    def __init__(self, features: int, start: Callable[[nn.Linear], None] = Backbone.start) -> None:
        super().__init__()
        self.features = features
        self.start = start
        self.blocks = nn.ModuleList()

    @property
    def outputs(self) -> int:
        """The number of outputs so far."""
        return sum(block.out_features for block in self.blocks)  # type: ignore[misc]

    def grow(self, outputs: int) -> None:
        """Grow to `outputs` outputs in all; does nothing where there are as many already."""
        missing = outputs - self.outputs
        if missing > 0:
            block = nn.Linear(self.features, missing)
            self.start(block)
            self.blocks.append(block)

    def forward(self, features: Tensor) -> Tensor:
        """Scores [batch, …, outputs] of features [batch, …, features]."""
        if len(self.blocks) == 1:
            return self.blocks[0](features)  # type: ignore[no-any-return]
        if not self.blocks:
            return features.new_zeros(*features.shape[:-1], 0)
        return torch.cat([block(features) for block in self.blocks], dim=-1)

    def structure(self) -> list[int]:
        """The number of outputs of each block."""
        return [block.out_features for block in self.blocks]  # type: ignore[misc]

    def build(self, structure: list[int]) -> None:
        """Have these blocks."""
        self.blocks = nn.ModuleList()
        for outputs in structure:
            self.grow(self.outputs + outputs)


class Model(nn.Module):
    """A backbone and the head on top of it.

    With `precision="bf16"` a model in training mode computes in bfloat16 where torch's autocast does; parameters stay
    as they are, and so do scores. In evaluation mode (tests, importances, recorded targets) nothing is rounded.
    """

    def __init__(self, backbone: Backbone, head: Head | None = None, precision: str = "float32") -> None:
        super().__init__()
        self.backbone, self.precision = backbone, precision
        self.head = head or Head(backbone.features, backbone.start)

    @property
    def outputs(self) -> int:
        """The number of outputs so far."""
        return self.head.outputs

    def forward(self, x: Tensor) -> Tensor:
        """Scores [batch, …, outputs] of inputs [batch, *input_shape]."""
        if self.precision == "bf16" and self.training:
            with torch.autocast(x.device.type, dtype=torch.bfloat16):
                return self.head(self.backbone(x)).float()  # type: ignore[no-any-return]
        return self.head(self.backbone(x))  # type: ignore[no-any-return]


def require_model(strategy: nn.Module, name: str) -> None:
    """Raise `UsageError` where a strategy holds no model that computes in bfloat16."""
    if not any(isinstance(module, Model) and module.precision == "bf16" for module in strategy.modules()):
        raise UsageError(
            f"{name} trains a network of its own, which protocol.precision=bf16 does not reach. Leave it out, or "
            "choose another strategy: clarena list."
        )
