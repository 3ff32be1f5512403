"""Torchvision's classifiers of images as backbones."""

from http.client import HTTPException
from pathlib import Path
from socket import getdefaulttimeout, setdefaulttimeout
from typing import Any, Self
from urllib.parse import urlparse

import torch
from clarena_native.torchvision_cpu import import_torchvision
from torch import Tensor, nn

from clarena import SeenData, Tokens, UsageError, family_member, unknown_name

from .networks import OPTION, ImageNetwork

models: Any = import_torchvision().models
ViT: Any = models.VisionTransformer

CLASSES = 1000
"""Outputs of a classifier as it was published."""

TIMEOUT = 20
"""Seconds without an answer after which a download is given up."""

# Two networks have second classifiers for training, and normalise once more for the weights that came with them.
_AUXILIARY = ["aux1", "aux2", "AuxLogits"]
_PECULIAR = {"googlenet", "inception_v3"}
_FORMERLY = {".mlp.linear_1.": ".mlp.0.", ".mlp.linear_2.": ".mlp.3."}


class TorchvisionModel(ImageNetwork):
    """Any of torchvision's classifiers of images, without its last layer, random or pre-trained.

    `torchvision:resnet50`, for one; the features are what its last layer was given.
    """

    name = "torchvision:NAME"

    @classmethod
    def of(cls, argument: str) -> type[Self]:
        """The backbone of one of torchvision's classifiers."""
        known = models.list_models(module=models)
        if argument not in known:
            raise unknown_name("torchvision classifier", argument, known, see="torchvision.models.list_models()")
        return family_member(cls, argument, network_name=argument)

    @classmethod
    def build(cls, published: Path | None) -> tuple[nn.Module, list[str]]:
        """The network up to its last layer of weights, which has as many outputs as ImageNet has classes."""
        options: dict[str, Any] = {}
        if cls.network_name in _PECULIAR:
            options = {"aux_logits": False, "transform_input": True, "init_weights": published is None}
        # Torchvision reads its own file, which is in torch's cache by now: it knows the old names in some of them.
        network = models.get_model(cls.network_name, weights="DEFAULT" if published else None, **options)
        last = [name for name, module in network.named_modules() if _outputs(module) == CLASSES][-1]
        owner, _, leaf = last.rpartition(".")
        setattr(network.get_submodule(owner), leaf, nn.Identity())
        return network, [last, *_AUXILIARY]

    @classmethod
    def read(cls, file: Path) -> dict[str, Tensor]:
        """The tensors of a file; in the ViTs that were published first, some layers have other names."""

        def today(name: str) -> str:
            for old, new in _FORMERLY.items():
                name = name.replace(old, new)
            return name

        return {today(name): value for name, value in super().read(file).items()}

    def stages(self) -> dict[str, nn.Module]:
        """The blocks of a ViT, the four stages of a ResNet, or the parts of `features` that many others have."""
        network: Any = self.network
        if self.token_width is not None:
            names = [f"encoder.layers.{name}" for name, _ in network.encoder.layers.named_children()]
        elif hasattr(network, "features"):
            names = [f"features.{name}" for name, _ in network.features.named_children()]
        else:
            names = [name for name, _ in network.named_children() if name.startswith(("layer", "stage", "Mixed"))]
        return self.stages_at(names)

    def _token_width(self) -> int | None:
        return self.network.hidden_dim if isinstance(self.network, ViT) else None

    def embed(self, x: Tensor) -> Tokens:
        """A ViT's class token and patches [batch, 1 + patches, width], each with its place."""
        if self.token_width is None:
            return super().embed(x)
        network: Any = self.network
        patches = network._process_input(self.pixels(x))
        tokens = torch.cat([network.class_token.expand(len(x), -1, -1), patches], dim=1)
        return Tokens(network.encoder.dropout(tokens + network.encoder.pos_embedding))

    def process(self, tokens: Tokens) -> Tensor:
        """What all blocks of a ViT make of the tokens [batch, tokens, width]."""
        encoder: Any = self.network.encoder
        return encoder.ln(encoder.layers(tokens.values))  # type: ignore[no-any-return]

    def pool(self, outputs: Tensor, tokens: Tokens) -> Tensor:
        """What has become of the class token [batch, features]."""
        return self.network.heads(outputs[:, tokens.prompts])  # type: ignore[no-any-return,operator]

    @classmethod
    def published(cls) -> Path:
        """The file of torchvision's default weights, in torch's own cache."""
        url = models.get_model_weights(cls.network_name).DEFAULT.url
        file = Path(torch.hub.get_dir(), "checkpoints", Path(urlparse(url).path).name)
        if not file.exists():
            prefix = torch.hub.HASH_REGEX.search(file.name)
            before = getdefaulttimeout()
            setdefaulttimeout(TIMEOUT)
            try:
                file.parent.mkdir(parents=True, exist_ok=True)
                torch.hub.download_url_to_file(url, str(file), prefix[1] if prefix else None, progress=False)
            except (OSError, HTTPException, RuntimeError) as error:  # the last, where the digest is another
                raise UsageError(
                    f"{cls.name}: its weights are not at {file} and could not be downloaded from {url}: {error}.\n"
                    f"Run once online, or bring the file and name it: {OPTION}=PATH"
                ) from error
            finally:
                setdefaulttimeout(before)
        return file

    @classmethod
    def statistics(cls) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Those of the transforms that torchvision declares for its weights."""
        transforms = models.get_model_weights(cls.network_name).DEFAULT.transforms()
        return tuple(transforms.mean), tuple(transforms.std)


class ResNet18ImageNet(TorchvisionModel):
    """Torchvision's ResNet-18 for ImageNet, without its classifier; with pre-trained weights where they can be had.

    Source: He et al. 2016, Deep residual learning for image recognition.
    """

    name = "resnet18-imagenet"
    network_name = "resnet18"
    trained_on = "ImageNet-1k: 1.28 million photographs of 1,000 classes"

    @classmethod
    def seen_data(cls) -> list[SeenData]:
        """ImageNet-1k, with the one name of each class that torchvision declares for its weights."""
        names = models.get_model_weights(cls.network_name).DEFAULT.meta["categories"]
        return [SeenData(["ImageNet-1k"], [[name] for name in names])]


def _outputs(module: nn.Module) -> int | None:
    if isinstance(module, nn.Linear):
        return module.out_features
    return module.out_channels if isinstance(module, nn.Conv2d) else None
