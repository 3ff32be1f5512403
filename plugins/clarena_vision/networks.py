"""What backbones of images from a library have in common: inputs as their weights expect them, and no classifier."""

import warnings
from abc import abstractmethod
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from clarena import Backbone, ClarenaWarning, UsageError

from . import weights as files

OPTION = "--set backbone.weights"


class ImageNetwork(Backbone):
    """A network of images from a library, its classifier removed; dropout and the like are as published.

    Images of one channel are given to it three times. A training batch of one sample, which has no variance, is
    normalised by the running statistics of BatchNorm and leaves them as they are.

    Attributes:
        network_name: what the library calls it.
        interpolation: how images are brought to another size: `bilinear` or `bicubic`, and smoothed where they shrink.
    """

    network_name: ClassVar[str] = ""
    interpolation: ClassVar[str] = "bilinear"
    mean: Tensor
    std: Tensor

    def __init__(
        self,
        input_shape: tuple[int, ...],
        *,
        weights: Annotated[
            str,
            Field(
                description="Where the first weights come from: none (random), default (those that the library "
                "publishes, downloaded once), or the path of a file with a state dict."
            ),
        ] = "none",
        resize: Annotated[
            int | None, Field(ge=1, description="Height and width that images are brought to; none leaves them.")
        ] = None,
        normalise: Annotated[
            bool | None,
            Field(
                description="Bring pixels from 0 … 1 to the mean and deviation that the published weights expect; none "
                "does so where there are weights. Let the benchmark not do it as well."
            ),
        ] = None,
    ) -> None:
        super().__init__()
        if len(input_shape) != 3 or input_shape[0] not in (1, 3):
            raise UsageError(
                f"{self.name} needs images [1 or 3 channels, height, width], but inputs have shape "
                f"{tuple(input_shape)}. Use --backbone mlp for inputs that are no images."
            )
        self.weights = weights
        self.resize = resize
        self.normalise = normalise
        self.normalises = weights != "none" if normalise is None else normalise
        self.network, removed = self.build(self.published() if weights == "default" else None)
        if weights not in ("none", "default"):
            file = self.locate(weights)
            files.put(self.network, self.read(file), file, removed, OPTION)
        for name, values in zip(("mean", "std"), self.statistics()):
            self.register_buffer(name, torch.tensor(values).view(3, 1, 1), persistent=False)
        self.features = self._probe(input_shape)
        self.token_width = self._token_width()
        self.unseen = self.normalises

    @classmethod
    @abstractmethod
    def build(cls, published: Path | None) -> tuple[nn.Module, list[str]]:
        """The network with random weights or, from its file, the published ones; and the names of what it lost."""

    @classmethod
    @abstractmethod
    def published(cls) -> Path:
        """The file of the library's weights, downloaded where it is not there; raises `UsageError`."""

    @classmethod
    @abstractmethod
    def statistics(cls) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and deviation of each channel of what the published weights have seen."""

    @classmethod
    def locate(cls, weights: str) -> Path:
        """The file behind the option `weights`."""
        return cls.published() if weights == "default" else files.file_at(weights, OPTION)

    @classmethod
    def read(cls, file: Path) -> dict[str, Tensor]:
        """The tensors of a file of weights, by the names that the library's network gives them."""
        return files.read(file, OPTION)

    @classmethod
    def fingerprint(cls, options: Mapping[str, Any]) -> str | None:
        """SHA-256 of the file of weights."""
        return None if options["weights"] == "none" else files.sha256(cls.locate(options["weights"]))

    def forward(self, x: Tensor) -> Tensor:
        """Features [batch, features] of images [batch, 1 or 3, height, width]."""
        x = self.pixels(x)
        alone = [part for part in self.modules() if isinstance(part, _BatchNorm) and part.training and len(x) == 1]
        for norm in alone:
            norm.eval()
        try:
            return self.network(x)  # type: ignore[no-any-return]
        finally:
            for norm in alone:
                norm.train()

    def pixels(self, x: Tensor) -> Tensor:
        """What the network is given [batch, 3, height, width] of images [batch, 1 or 3, height, width]."""
        if self.unseen:
            self._look(x)
        if self.resize is not None:
            x = nn.functional.interpolate(x, (self.resize, self.resize), mode=self.interpolation, antialias=True)
        return (x - self.mean) / self.std if self.normalises else x.expand(-1, 3, -1, -1)  # both make one channel three

    def _token_width(self) -> int | None:
        """The features of a token, where the library's network is one whose tokens are at hand."""
        return None

    def stages_at(self, names: Iterable[str]) -> dict[str, nn.Module]:
        """The modules of these names in the library's network; raises `UsageError` where there are none."""
        found = {f"network.{name}": self.network.get_submodule(name) for name in names}
        return found or super().stages()

    def _look(self, x: Tensor) -> None:
        """Warn of pixels outside 0 … 1; of the first inputs alone, since looking waits for the device."""
        self.unseen = False
        low, high = float(x.min()), float(x.max())
        if low < 0 or high > 1:
            warnings.warn(
                f"{self.name} normalises pixels that should be in 0 … 1; they run from {low:.2f} to {high:.2f}. "
                "Let the benchmark leave them (--set benchmark.mean=0 --set benchmark.std=1, where it has these), or "
                "the backbone: --set backbone.normalise=false",
                ClarenaWarning,
                stacklevel=2,
            )

    def _probe(self, input_shape: tuple[int, ...]) -> int:
        """The number of features; raises `UsageError` where the network does not take such images."""
        self.unseen = False
        self.eval()
        try:
            with torch.no_grad():
                shape = self(torch.zeros(1, *input_shape)).shape
        except (RuntimeError, AssertionError, ValueError, IndexError) as error:
            reason = " ".join(str(error).split())[:160] or type(error).__name__
        else:
            reason = "" if len(shape) == 2 else f"its features would be {list(shape[1:])}"
        self.train()
        if reason:
            size = self.resize or "×".join(map(str, input_shape[1:]))
            raise UsageError(
                f"{self.name} does not take images of {size} pixels ({reason}). "
                "Enlarge them: --set backbone.resize=224, or what it was made for."
            )
        return int(shape[1])
