"""Native backbones: `mlp` and a small `cnn`, each with a choice of normalisation."""

from collections.abc import Sequence
from math import prod
from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor, nn

from clarena import Backbone, BatchNorm, UsageError

Norm = Literal["none", "batch", "group", "layer"]
Size = Annotated[int, Field(ge=1)]


class Mlp(Backbone):
    """Fully connected layers on the flattened input; each is linear, normalised, ReLU, dropout."""

    name = "mlp"

    def __init__(
        self,
        input_shape: tuple[int, ...],
        *,
        hidden: Annotated[
            tuple[Size, ...],
            Field(min_length=1, description="Units of each layer; the last are the features."),
        ] = (400, 400),
        norm: Annotated[Norm, Field(description="What normalises each layer before its ReLU.")] = "none",
        dropout: Annotated[float, Field(ge=0, lt=1, description="Probability of dropping a unit in training.")] = 0.0,
    ) -> None:
        super().__init__()
        require_sizes("mlp.hidden", hidden)
        if not 0 <= dropout < 1:
            raise UsageError(f"mlp.dropout is {dropout}. Choose a probability of at least 0 and below 1.")
        self.input_shape = input_shape
        self.hidden = hidden
        self.norm = norm
        self.dropout = dropout
        self.features = hidden[-1]
        layers: list[nn.Module] = [nn.Flatten()]
        for fan_in, fan_out in zip((prod(input_shape), *hidden), hidden):
            layers += [nn.Linear(fan_in, fan_out), *normalise(norm, fan_out), nn.ReLU()]
            if dropout > 0:
                layers.append(nn.Dropout(dropout))
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """Features [batch, hidden[-1]] of inputs [batch, …]."""
        return self.layers(x)  # type: ignore[no-any-return]

    def stages(self) -> dict[str, nn.Module]:
        """The last module of each layer: its ReLU, or its dropout."""
        last = nn.Dropout if self.dropout > 0 else nn.ReLU
        return {f"layers.{place}": part for place, part in enumerate(self.layers) if isinstance(part, last)}


class TruncatedMlp(Mlp):
    """An MLP that starts wide: weights from a normal distribution (0.1) cut off at two deviations, biases at 0.1.

    So does the code of A-GEM (Chaudhry et al. 2019), like much TensorFlow code of its time; its head starts alike.
    """

    name = "mlp-truncated"

    def __init__(
        self,
        input_shape: tuple[int, ...],
        *,
        hidden: Annotated[
            tuple[Size, ...],
            Field(min_length=1, description="Units of each layer; the last are the features."),
        ] = (256, 256),
    ) -> None:
        super().__init__(input_shape, hidden=hidden)
        for layer in self.layers:
            if isinstance(layer, nn.Linear):
                self.start(layer)

    @staticmethod
    def start(layer: nn.Linear) -> None:
        """Weights [out, in] from the truncated normal distribution, and constant biases where there are any."""
        nn.init.trunc_normal_(layer.weight, std=0.1, a=-0.2, b=0.2)
        if layer.bias is not None:
            nn.init.constant_(layer.bias, 0.1)


class Cnn(Backbone):
    """Blocks of a 3×3 convolution that halve the image, then a linear layer; each normalised, then ReLU."""

    name = "cnn"

    def __init__(
        self,
        input_shape: tuple[int, ...],
        *,
        widths: Annotated[
            tuple[Size, ...], Field(min_length=1, description="Channels of each convolutional block.")
        ] = (32, 64),
        features: Annotated[int, Field(ge=1, description="Units of the linear layer, which are the features.")] = 128,
        norm: Annotated[Norm, Field(description="What normalises each layer before its ReLU.")] = "none",
    ) -> None:
        super().__init__()
        require_sizes("cnn.widths", widths)
        require_sizes("cnn.features", [features])
        if len(input_shape) != 3:
            raise UsageError(
                f"cnn needs images [channels, height, width], but inputs have shape {tuple(input_shape)}. "
                "Use --backbone mlp for inputs that are no images."
            )
        channels, height, width = input_shape
        shrink = 2 ** len(widths)
        if min(height, width) < shrink:
            raise UsageError(
                f"{len(widths)} blocks need {shrink}×{shrink} pixels or more; images are {height}×{width}. "
                "Give fewer cnn.widths."
            )
        self.input_shape = input_shape
        self.widths = widths
        self.features = features
        self.norm = norm
        layers: list[nn.Module] = []
        for fan_in, fan_out in zip((channels, *widths), widths):
            convolution = nn.Conv2d(fan_in, fan_out, kernel_size=3, padding=1)
            layers += [convolution, *normalise(norm, fan_out), nn.ReLU(), nn.MaxPool2d(2)]
        flat = widths[-1] * (height // shrink) * (width // shrink)
        layers += [nn.Flatten(), nn.Linear(flat, features), *normalise(norm, features), nn.ReLU()]
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """Features [batch, features] of images [batch, channels, height, width]."""
        return self.layers(x)  # type: ignore[no-any-return]

    def stages(self) -> dict[str, nn.Module]:
        """The pooling at the end of each block, and the last ReLU."""
        blocks = {f"layers.{place}": part for place, part in enumerate(self.layers) if isinstance(part, nn.MaxPool2d)}
        return {**blocks, f"layers.{len(self.layers) - 1}": self.layers[-1]}


def normalise(norm: Norm, channels: int) -> list[nn.Module]:
    """The layer that normalises `channels` channels or units, if any.

    `layer` is one group over a whole sample. `group` takes as many groups as divide the channels, at most 8
    and each of at least 4 channels: a group of one or two units would be normalised to constants or signs.
    """
    match norm:
        case "none":
            return []
        case "batch":
            return [BatchNorm(channels)]
        case "layer":
            return [nn.GroupNorm(1, channels)]
        case "group":
            groups = [g for g in range(1, min(8, channels // 4) + 1) if channels % g == 0]
            return [nn.GroupNorm(max(groups, default=1), channels)]
    raise UsageError(f"There is no norm {norm!r}. Choose none, batch, group or layer.")


def require_sizes(option: str, sizes: Sequence[int]) -> None:
    """Raise `UsageError` unless there is at least one size and all are at least 1."""
    if not sizes or min(sizes) < 1:
        raise UsageError(f"{option} is {sizes}. Give one or more sizes of at least 1, such as 400,400.")
