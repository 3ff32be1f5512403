"""Timm's models of images as backbones."""

from pathlib import Path
from typing import Any, Self

from clarena_native.torchvision_cpu import import_torchvision
from clarena_transformers.hub import snapshot
from torch import Tensor, nn

from clarena import Tokens, UsageError, family_member, unknown_name

from . import flax_vit
from .networks import OPTION, ImageNetwork

import_torchvision()  # which timm imports

import timm  # noqa: E402
from timm.models.vision_transformer import Block, VisionTransformer  # noqa: E402

FILE = "model.safetensors"


class TimmModel(ImageNetwork):
    """Any of timm's models of images, without its classifier, random or pre-trained.

    `timm:resnet18` or, where there are several sets of weights, `timm:resnet18.a1_in1k`. A file of weights must be laid
    out as timm's network is; for a ViT it may be one of google-research's (`.npz`).
    """

    name = "timm:NAME"

    @classmethod
    def of(cls, argument: str) -> type[Self]:
        """The backbone of one of timm's models."""
        if not timm.is_model(argument):
            raise unknown_name("model of timm", argument, timm.list_models(), see="timm.list_models()")
        return family_member(cls, argument, network_name=argument)

    @classmethod
    def build(cls, published: Path | None) -> tuple[nn.Module, list[str]]:
        """The network with its pooling, but without the classifier."""
        given: dict[str, Any] = {}
        if published:  # timm reads its own file: it knows how to convert some of them
            given = {"pretrained": True, "pretrained_cfg_overlay": {"file": str(published)}}
        network: Any = timm.create_model(cls.network_name, num_classes=0, **given)
        classifier = network.pretrained_cfg.get("classifier") or ()
        removed = [classifier] if isinstance(classifier, str) else list(classifier)
        return network, [*removed, *flax_vit.CLASSIFIER] if isinstance(network, VisionTransformer) else removed

    @classmethod
    def read(cls, file: Path) -> dict[str, Tensor]:
        """The tensors of a file; of a ViT's also where it is as google-research publishes them (`.npz`)."""
        return flax_vit.read(file, OPTION) if file.suffix == ".npz" else super().read(file)

    def stages(self) -> dict[str, nn.Module]:
        """The blocks of a ViT, or the modules from which timm itself takes features."""
        network: Any = self.network
        if self.token_width is not None:
            return self.stages_at(f"blocks.{place}" for place in range(len(network.blocks)))
        return self.stages_at(info["module"] for info in getattr(network, "feature_info", ()))

    def _token_width(self) -> int | None:
        network: Any = self.network
        plain = type(network) is VisionTransformer and {type(block) for block in network.blocks} == {Block}
        return network.embed_dim if plain else None  # others have their own way with tokens

    def embed(self, x: Tensor) -> Tokens:
        """A ViT's class token, registers and patches [batch, tokens, width], each with its place."""
        if self.token_width is None:
            return super().embed(x)
        network: Any = self.network
        values = network._pos_embed(network.patch_embed(self.pixels(x)))
        return Tokens(network.norm_pre(network.patch_drop(values)))

    def process(self, tokens: Tokens) -> Tensor:
        """What all blocks of a ViT make of the tokens [batch, tokens, width]."""
        network: Any = self.network
        return network.norm(network.blocks(tokens.values))  # type: ignore[no-any-return]

    def pool(self, outputs: Tensor, tokens: Tokens) -> Tensor:
        """What timm makes features of [batch, features]: the class token, or the mean over patches."""
        network: Any = self.network
        return network.forward_head(outputs[:, tokens.prompts :])  # type: ignore[no-any-return]

    @classmethod
    def published(cls) -> Path:
        """The file of timm's weights on the Hugging Face hub."""
        where = timm.get_pretrained_cfg(cls.network_name)
        if where is None or not where.hf_hub_id:
            raise UsageError(f"Timm publishes no weights for {cls.network_name}. Choose {OPTION}=PATH or none.")
        return snapshot(where.hf_hub_id, [FILE], OPTION) / FILE

    @classmethod
    def statistics(cls) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Those that timm declares for its weights."""
        where = timm.get_pretrained_cfg(cls.network_name)
        return tuple(where.mean), tuple(where.std)
