"""Avalanche's models as backbones: each without its classifier, for which the host's head comes."""

from math import prod
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from clarena import Backbone, UsageError
from clarena_avalanche.library import import_avalanche

import_avalanche()

from avalanche import models  # noqa: E402


class Borrowed(Backbone):
    """A model of Avalanche's up to its last layer; what goes in is one batch of inputs, as the model wants them."""

    def __init__(self, input_shape: tuple[int, ...], network: nn.Module, last: str, wants: str) -> None:
        super().__init__()
        setattr(network, last, nn.Identity())
        self.network = network
        network.eval()
        try:
            with torch.no_grad():
                shape = self(torch.zeros(2, *input_shape)).shape
        except RuntimeError as error:
            shape = torch.Size()
            reason = f": {' '.join(str(error).split())[:120]}"
        else:
            reason = ""
        network.train()
        if len(shape) != 2 or shape[0] != 2:
            raise UsageError(f"{self.name} wants {wants}; inputs have shape {tuple(input_shape)}{reason}")
        self.features = shape[1]

    def forward(self, x: Tensor) -> Tensor:
        """Features [batch, features]."""
        return self.network(x)  # type: ignore[no-any-return]


class SimpleMlp(Borrowed):
    """Avalanche's SimpleMLP: linear layers with ReLU and dropout on the flattened input."""

    name = "avalanche/simple-mlp"

    def __init__(
        self,
        input_shape: tuple[int, ...],
        *,
        hidden_size: Annotated[int, Field(ge=1, description="Units of each layer; the last are the features.")] = 512,
        hidden_layers: Annotated[int, Field(ge=1, description="Layers.")] = 1,
        drop_rate: Annotated[float, Field(ge=0, lt=1, description="Probability of dropping a unit in training.")] = 0.5,
    ) -> None:
        network = models.SimpleMLP(
            input_size=prod(input_shape), hidden_size=hidden_size, hidden_layers=hidden_layers, drop_rate=drop_rate
        )
        super().__init__(input_shape, network, "classifier", "any input")
        self.hidden_size = hidden_size
        self.hidden_layers = hidden_layers
        self.drop_rate = drop_rate


class SimpleCnn(Borrowed):
    """Avalanche's SimpleCNN: five convolutions with pooling and dropout, for colour images."""

    name = "avalanche/simple-cnn"

    def __init__(self, input_shape: tuple[int, ...]) -> None:
        super().__init__(input_shape, models.SimpleCNN(), "classifier", "colour images of at least 10×10 pixels")


class LeNet5(Borrowed):
    """Avalanche's LeNet-5: three convolutions with tanh, and a linear layer, for images of 32×32."""

    name = "avalanche/lenet5"

    def __init__(self, input_shape: tuple[int, ...]) -> None:
        network = models.LeNet5(n_classes=1, input_channels=input_shape[0])
        super().__init__(input_shape, network, "classifier", "images of 32×32 pixels (--set benchmark.pad=2 for MNIST)")


class SlimResNet18(Borrowed):
    """Avalanche's SlimResNet18, as in the code of GEM: a narrow ResNet-18 for colour images of 32×32."""

    name = "avalanche/slim-resnet18"

    def __init__(
        self,
        input_shape: tuple[int, ...],
        *,
        nf: Annotated[int, Field(ge=1, description="Filters of the first layer; eight times as many features.")] = 20,
    ) -> None:
        super().__init__(input_shape, models.SlimResNet18(1, nf=nf), "linear", "colour images of 32×32 pixels")
        self.nf = nf


class IcarlNet(Borrowed):
    """Avalanche's ResNet of iCaRL, with 64 features, for small images."""

    name = "avalanche/icarl-net"

    def __init__(
        self,
        input_shape: tuple[int, ...],
        *,
        n: Annotated[int, Field(ge=1, description="Blocks of each of the three stages; 5 is ResNet-32.")] = 5,
    ) -> None:
        network = models.make_icarl_net(num_classes=1, n=n, c=input_shape[0])
        network.apply(models.initialize_icarl_net)
        super().__init__(input_shape, network, "classifier", "small images")
        self.n = n
