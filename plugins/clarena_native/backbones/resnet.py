"""Backbone `resnet18`: the residual network of small images, and with `width=20` the reduced one of GEM."""

from typing import Annotated

from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import relu

from clarena import Backbone, UsageError

from .small import Norm, normalise, require_sizes


class ResNet18(Backbone):
    """Residual network of 18 layers for small images: a 3×3 stem, four stages of two blocks, and their mean.

    Source: He et al. 2016, Deep residual learning for image recognition, with the stem of its section 4.2. Lopez-Paz
    & Ranzato 2017 (GEM) use it with 20 filters in place of 64.
    """

    name = "resnet18"

    def __init__(
        self,
        input_shape: tuple[int, ...],
        *,
        width: Annotated[int, Field(ge=1, description="Filters of the first stage; 20 is the reduced version.")] = 64,
        norm: Annotated[Norm, Field(description="What normalises after each convolution.")] = "batch",
    ) -> None:
        super().__init__()
        require_sizes("resnet18.width", [width])
        if len(input_shape) != 3:
            raise UsageError(
                f"resnet18 needs images [channels, height, width], but inputs have shape {tuple(input_shape)}. "
                "Use --backbone mlp for inputs that are no images."
            )
        self.input_shape = input_shape
        self.width = width
        self.norm = norm
        self.features = 8 * width
        biased = norm == "none"
        self.stem = nn.Sequential(
            nn.Conv2d(input_shape[0], width, 3, padding=1, bias=biased), *normalise(norm, width), nn.ReLU()
        )
        blocks, fan_in = [], width
        for fan_out, stride in ((width, 1), (2 * width, 2), (4 * width, 2), (8 * width, 2)):
            blocks += [Block(fan_in, fan_out, stride, norm), Block(fan_out, fan_out, 1, norm)]
            fan_in = fan_out
        self.blocks = nn.Sequential(*blocks)

    def forward(self, x: Tensor) -> Tensor:
        """Features [batch, 8 · width] of images [batch, channels, height, width]."""
        # Channels last in memory: 1.4 times as fast on a CPU with 20 filters. The weights keep their layout, because
        # a fused optimiser takes it for granted that gradients have the same. (vmap knows no memory formats.)
        x = x.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
        return self.blocks(self.stem(x)).mean((-2, -1))  # type: ignore[no-any-return]

    def stages(self) -> dict[str, nn.Module]:
        """The last block of each of the four stages."""
        return {f"blocks.{place}": self.blocks[place] for place in (1, 3, 5, 7)}


class Block(nn.Module):
    """Two 3×3 convolutions, and what came in added to what they make of it."""

    def __init__(self, fan_in: int, fan_out: int, stride: int, norm: Norm) -> None:
        super().__init__()
        biased = norm == "none"
        self.residual = nn.Sequential(
            nn.Conv2d(fan_in, fan_out, 3, stride, padding=1, bias=biased),
            *normalise(norm, fan_out),
            nn.ReLU(),
            nn.Conv2d(fan_out, fan_out, 3, padding=1, bias=biased),
            *normalise(norm, fan_out),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or fan_in != fan_out:
            self.shortcut = nn.Sequential(nn.Conv2d(fan_in, fan_out, 1, stride, bias=biased), *normalise(norm, fan_out))

    def forward(self, x: Tensor) -> Tensor:
        """[batch, fan_out, height / stride, width / stride] of [batch, fan_in, height, width]."""
        return relu(self.residual(x) + self.shortcut(x))
