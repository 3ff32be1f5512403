"""Batched augmentation: every image that a backbone is trained on is seen through a view of its own.

The view belongs to the forward pass and not to the data: a backbone in training mode sees it, as it sees dropout, and
one in evaluation mode sees the image. So whatever is stored, scanned or tested stays plain, exemplars are augmented
afresh whenever they are replayed, and a strategy need not know. One that compares several views of a sample takes them
from its batch (`Batch.view`), and passes them on as they are (`as_given`).
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clarena.errors import UsageError
from clarena.protocol.protocol import AugmentationKind
from clarena.toolbox.seeding import AUGMENTATION

PADDING = 4
"""Pixels of zeros on every side of an image before it is cropped to its size again (He et al. 2016, section 4.2)."""

LUMA = torch.tensor([0.299, 0.587, 0.114], dtype=torch.float64)
"""What red, green and blue have in a grey image (ITU-R BT.601)."""


class Augmentation:
    """A pre-hook of a backbone's forward pass, which draws a view for each image of a training batch."""

    suspended = False

    def __init__(self, kind: AugmentationKind) -> None:
        self.kind = kind

    def __call__(self, backbone: nn.Module, inputs: tuple[Tensor]) -> Tensor | None:
        """What the backbone sees of its inputs [batch, channels, height, width]; None leaves them as they are."""
        if not backbone.training or Augmentation.suspended:
            return None
        (x,) = inputs
        return augmented(x, self.kind, AUGMENTATION)


@contextmanager
def as_given() -> Iterator[None]:
    """Backbones see their inputs as they are given, in training mode too: for views, which are augmented already."""
    before, Augmentation.suspended = Augmentation.suspended, True
    try:
        yield
    finally:
        Augmentation.suspended = before


def augmented(x: Tensor, kind: AugmentationKind, generator: torch.Generator) -> Tensor:
    """A view of each image [batch, channels, height, width], of the same shape.

    Views of `crop` and `flip` are all equally likely: the places that a crop may have, times two where images may be
    mirrored. What a view takes is drawn on the CPU, image by image, so CPU and GPU runs see the same.
    """
    if kind == "contrastive":
        u = torch.rand(len(x), 11, generator=generator)
        return contrastive(x, u.to(x.device, x.dtype, non_blocking=True))
    padding, mirrored = 0 if kind == "flip" else PADDING, 1 if kind == "crop" else 2
    places = 2 * padding + 1
    drawn = torch.randint(mirrored * places**2, (len(x),), generator=generator)
    drawn = drawn.to(x.device, non_blocking=True)  # else the host would wait for the device
    place = drawn // mirrored
    return views(x, padding, place // places, place % places, drawn % mirrored == 1)


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


def contrastive(x: Tensor, u: Tensor) -> Tensor:
    """A view as contrastive learning takes it: a part of the image, enlarged, perhaps mirrored, in other colours.

    Chen et al. 2020 (SimCLR), appendix A, with the strengths of supervised contrastive replay (Mai et al. 2021): a part
    of 20 to 100 % of the area, its sides in a ratio of 3/4 to 4/3 times that of the image's, by bilinear interpolation;
    mirrored in half of the cases; in four of five cases brightness, contrast and saturation times 0.6 to 1.4, and the
    hue turned by up to a tenth of the circle; grey in one of five. Here colours are changed in that order, hue is
    turned about the grey axis, no value is cut off (inputs may be normalised, and brightness is then about the mean
    colour), and a part that would stick out is as wide, or as high, as the image. Images without three channels have no
    colours.

    Args:
        x: images [batch, channels, height, width].
        u: what was drawn, uniform in [0, 1): [batch, 11].
    """
    area, root = 0.2 + 0.8 * u[:, 0], ((2 * u[:, 1] - 1) * math.log(4 / 3) / 2).exp()  # root of the sides' ratio
    width, height = (area.sqrt() * root).clamp(max=1), (area.sqrt() / root).clamp(max=1)
    left, top, mirror = u[:, 2] * (1 - width), u[:, 3] * (1 - height), torch.where(u[:, 4] < 0.5, -1.0, 1.0)
    zero = torch.zeros_like(width)
    across = torch.stack([width * mirror, zero, 2 * left + width - 1], dim=1)
    down = torch.stack([zero, height, 2 * top + height - 1], dim=1)
    grid = F.affine_grid(torch.stack([across, down], dim=1).to(x.dtype), list(x.shape), align_corners=False)
    part = F.grid_sample(x, grid, mode="bilinear", padding_mode="border", align_corners=False)

    changed = u[:, 5] < 0.8
    brightness, contrast, saturation = (torch.where(changed, 0.6 + 0.8 * u[:, i], 1.0) for i in (6, 7, 8))
    hue = torch.where(changed, (2 * u[:, 9] - 1) * 0.2 * math.pi, 0.0)
    bright = brightness[:, None, None, None] * part
    channels = x.shape[1]
    luma = LUMA.to(x.device, x.dtype, non_blocking=True) if channels == 3 else x.new_full((channels,), 1 / channels)
    middle = torch.einsum("c,bchw->b", luma, bright) / (bright.shape[-1] * bright.shape[-2])
    c = contrast[:, None, None, None]
    clear = c * bright + (1 - c) * middle[:, None, None, None]
    if channels != 3:
        return clear
    grey = luma.expand(3, 3)
    same = torch.eye(3, device=x.device, dtype=x.dtype)
    s, a = saturation[:, None, None], hue[:, None, None]
    colours = s * same + (1 - s) * grey  # [batch, 3, 3]
    turn = a.cos() * same + (1 - a.cos()) / 3 + a.sin() / math.sqrt(3) * (same.roll(1, 0) - same.roll(1, 1))
    colours = torch.where(u[:, 10, None, None] < 0.2, grey @ turn @ colours, turn @ colours)
    return torch.einsum("bij,bjhw->bihw", colours, clear)


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
