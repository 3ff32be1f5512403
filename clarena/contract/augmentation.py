"""Batched augmentation: every image that a backbone is trained on is seen through a view of its own.

The view belongs to the forward pass and not to the data: a backbone in training mode sees it, as it sees dropout, and
one in evaluation mode sees the image. So whatever is stored, scanned or tested stays plain, exemplars are augmented
afresh whenever they are replayed, and a strategy need not know.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clarena.errors import UsageError
from clarena.protocol.protocol import AugmentationKind
from clarena.toolbox.seeding import AUGMENTATION

PADDING = 4
"""Pixels of zeros on every side of an image before it is cropped to its size again (He et al. 2016, section 4.2)."""


class Augmentation:
    """A pre-hook of a backbone's forward pass, which draws a view for each image of a training batch.

    All views are equally likely: the places that a crop may have, times two where images may be mirrored. They are
    drawn on the CPU, one number for each image, so CPU and GPU runs see the same.
    """

    def __init__(self, kind: AugmentationKind) -> None:
        self.padding = 0 if kind == "flip" else PADDING
        self.mirrored = 1 if kind == "crop" else 2

    def __call__(self, backbone: nn.Module, inputs: tuple[Tensor]) -> Tensor | None:
        """What the backbone sees of its inputs [batch, channels, height, width]; None leaves them as they are."""
        if not backbone.training:
            return None
        (x,) = inputs
        places = 2 * self.padding + 1
        drawn = torch.randint(self.mirrored * places**2, (len(x),), generator=AUGMENTATION)
        drawn = drawn.to(x.device, non_blocking=True)  # else the host would wait for the device
        place = drawn // self.mirrored
        return views(x, self.padding, place // places, place % places, drawn % self.mirrored == 1)


def views(x: Tensor, padding: int, top: Tensor, left: Tensor, mirror: Tensor) -> Tensor:
    """Each image cut out of itself with zeros around it, and then mirrored left to right where `mirror` says so.

    Args:
        x: images [batch, channels, height, width].
        padding: zeros on each side.
        top, left: where in the padded image each one begins [batch].
        mirror: bool [batch].
    """
    height, width = x.shape[-2:]
    padded = F.pad(x, [padding] * 4) if padding else x
    column = torch.arange(width, device=x.device)
    columns = left[:, None] + torch.where(mirror[:, None], column.flip(0), column)  # [batch, width]
    rows = top[:, None] + torch.arange(height, device=x.device)  # [batch, height]
    pixels = rows[:, :, None] * padded.shape[-1] + columns[:, None]  # [batch, height, width], into the padded image
    return padded.flatten(2).gather(2, pixels.flatten(1)[:, None].expand(-1, x.shape[1], -1)).view_as(x)


def require_images(input_shape: tuple[int, ...], benchmark: str) -> None:
    """Raise `UsageError` unless inputs are images [channels, height, width]."""
    if len(input_shape) != 3 or isinstance(input_shape[0], tuple):
        raise UsageError(
            f"protocol.augmentation crops and mirrors images [channels, height, width], but inputs of {benchmark} have "
            f"shape {input_shape}. Leave it out, or choose a benchmark of images: clarena list."
        )


def require_backbone(strategy: nn.Module, name: str) -> None:
    """Raise `UsageError` where a strategy holds no backbone whose forward pass could be augmented."""
    if not any(Augmentation in map(type, module._forward_pre_hooks.values()) for module in strategy.modules()):
        raise UsageError(
            f"{name} takes the backbone apart and trains a network of its own, which protocol.augmentation does not "
            "reach. Leave it out, or choose another strategy: clarena list."
        )
