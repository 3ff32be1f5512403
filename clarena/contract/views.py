"""Augmented views that a strategy takes of a batch: by the protocol's policy or a granted one, and counted."""

from dataclasses import dataclass
from typing import Any, get_args

import torch

from clarena.contract.augmentation import augmented
from clarena.contract.meter import Meter
from clarena.errors import SpentError, UsageError, unknown_name
from clarena.protocol.protocol import AugmentationKind, Protocol
from clarena.toolbox.together import count, shape_of


@dataclass
class Views:
    """Views of the samples of one step; the batch, its parts, and what is joined to it share them.

    Attributes:
        generator: the stream `views` of chance, which nothing else draws from.
        meter: of the experience; `viewed` counts.
        samples: of the step, with the exemplars that were joined to it so far.
        taken: views of them.
    """

    protocol: Protocol
    generator: torch.Generator
    meter: Meter
    samples: int
    taken: int = 0

    def take(self, x: Any, policy: AugmentationKind | None) -> Any:
        """A view of each input [n, …] (`Batch.view`)."""
        kind, samples = granted_policy(self.protocol, policy, shape_of(x)), count(x)
        self.taken += samples
        self.meter.viewed += samples
        allowed = self.protocol.views
        if allowed is not None and self.taken > allowed * self.samples:
            raise SpentError(
                f"it takes more views of the samples of a step than protocol.views={allowed} of each. Have it take "
                f"fewer, or open another track: --set protocol.views={-(-self.taken // self.samples)}, or none for any "
                "number."
            )
        return x if kind is None else augmented(x, kind, self.generator)


def granted_policy(
    protocol: Protocol, wanted: AugmentationKind | None, input_shape: tuple[int, ...]
) -> AugmentationKind | None:
    """The policy by which views are taken: the one that is wanted, where it is granted; None asks for the protocol's.

    Raises:
        UsageError: for an unknown policy, one of the strategy's own where the protocol has no room for it, or one that
            these inputs cannot have.
    """
    if wanted is None or wanted == protocol.augmentation:
        return protocol.augmentation
    if wanted not in get_args(AugmentationKind):
        raise unknown_name("policy of views", wanted, get_args(AugmentationKind))
    if not protocol.own_views:
        theirs = protocol.augmentation or "none"
        raise UsageError(
            f"Views by the policy {wanted!r} would be the strategy's own, and on this track all see the same "
            f"(protocol.augmentation={theirs}, protocol.own_views=false). Leave the policy out: views are then "
            "the protocol's. Or open another track: --set protocol.own_views=true."
        )
    if len(input_shape) != 3 or isinstance(input_shape[0], tuple):  # of several tensors: a shape of each
        raise UsageError(
            f"Views by the policy {wanted!r} are of images [channels, height, width], but inputs have shape "
            f"{input_shape}. Leave the policy out, or choose a benchmark of images: clarena list."
        )
    return wanted
