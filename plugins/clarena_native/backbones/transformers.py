"""Transformer backbones: `vit-tiny` for images and `text-transformer` for tokens."""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from clarena import Backbone, Tokens, UsageError

PADDING = 0
"""The token that stands where a text has ended."""


class ViTTiny(Backbone):
    """Vision transformer on patches of an image, in the size called tiny; the class token's features.

    Source: Dosovitskiy et al. 2021, An image is worth 16×16 words; the size is that of Touvron et al. 2021 (DeiT-Ti).
    """

    name = "vit-tiny"

    def __init__(
        self,
        input_shape: tuple[int, ...],
        *,
        patch: Annotated[int, Field(ge=1, description="Height and width of a patch, in pixels.")] = 4,
        width: Annotated[int, Field(ge=1, description="Features of each token.")] = 192,
        depth: Annotated[int, Field(ge=1, description="Layers.")] = 12,
        heads: Annotated[int, Field(ge=1, description="Attention heads of each layer; they divide the width.")] = 3,
        dropout: Annotated[float, Field(ge=0, lt=1, description="Probability of dropping a unit in training.")] = 0.0,
    ) -> None:
        super().__init__()
        if len(input_shape) != 3:
            raise UsageError(f"vit-tiny needs images [channels, height, width], not {tuple(input_shape)}.")
        channels, height, width_ = input_shape
        if height % patch or width_ % patch:
            raise UsageError(
                f"vit-tiny cuts images into patches of {patch}×{patch}, but they are {height}×{width_}. "
                "Choose a --set backbone.patch=N that divides both."
            )
        self.input_shape = input_shape
        self.patch = patch
        self.width = width
        self.depth = depth
        self.heads = heads
        self.dropout = dropout
        self.features = self.token_width = width
        self.patches = nn.Conv2d(channels, width, patch, stride=patch)
        self.first = nn.Parameter(torch.empty(1, 1, width))
        self.places = nn.Parameter(torch.empty(1, 1 + (height // patch) * (width_ // patch), width))
        self.encoder = encoder("vit-tiny", width, depth, heads, dropout)
        for parameter in (self.first, self.places):
            nn.init.trunc_normal_(parameter, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        """Features [batch, width] of images [batch, channels, height, width]."""
        return self.encode(self.embed(x))

    def stages(self) -> dict[str, nn.Module]:
        """The layers."""
        return layers(self.encoder)

    def embed(self, x: Tensor) -> Tokens:
        """The class token and the patches [batch, 1 + patches, width], each with its place."""
        patches = self.patches(x).flatten(2).transpose(1, 2)  # [batch, patches, width]
        return Tokens(torch.cat([self.first.expand(len(x), -1, -1), patches], dim=1) + self.places)

    def process(self, tokens: Tokens) -> Tensor:
        """What all layers make of the tokens [batch, tokens, width]."""
        return self.encoder(tokens.values)  # type: ignore[no-any-return]

    def pool(self, outputs: Tensor, tokens: Tokens) -> Tensor:
        """What has become of the class token [batch, width]."""
        return outputs[:, tokens.prompts]


class TextTransformer(Backbone):
    """Transformer encoder on tokens; the mean over a text's tokens, or features for every token.

    Where every token has a label (language models), no token sees those after it.

    Source: Vaswani et al. 2017, Attention is all you need, with normalisation before each part (Xiong et al. 2020).
    """

    name = "text-transformer"
    takes_tokens = True

    def __init__(
        self,
        input_shape: tuple[int, ...],
        vocabulary: int,
        per_token: bool = False,
        *,
        width: Annotated[int, Field(ge=1, description="Features of each token.")] = 128,
        depth: Annotated[int, Field(ge=1, description="Layers.")] = 2,
        heads: Annotated[int, Field(ge=1, description="Attention heads of each layer; they divide the width.")] = 4,
        dropout: Annotated[float, Field(ge=0, lt=1, description="Probability of dropping a unit in training.")] = 0.0,
    ) -> None:
        super().__init__()
        self.input_shape = input_shape
        self.per_token = per_token
        self.width = width
        self.depth = depth
        self.heads = heads
        self.dropout = dropout
        self.features = self.token_width = width
        self.causal = per_token
        (length,) = input_shape
        self.words = nn.Embedding(vocabulary, width)
        self.places = nn.Parameter(torch.empty(1, length, width))
        self.encoder = encoder("text-transformer", width, depth, heads, dropout)
        for parameter in (self.words.weight, self.places):
            nn.init.normal_(parameter, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        """Features [batch, width], or [batch, time, width] where every token has a label, of tokens [batch, time]."""
        return self.encode(self.embed(x))

    def stages(self) -> dict[str, nn.Module]:
        """The layers."""
        return layers(self.encoder)

    def embed(self, x: Tensor) -> Tokens:
        """The tokens [batch, time, width], each with its place."""
        values = self.words(x) + self.places[:, : x.shape[1]]
        if self.per_token:
            return Tokens(values)
        padding = x == PADDING
        padding[:, 0] = False  # a text without words still has one token to attend to
        return Tokens(values, ~padding)

    def process(self, tokens: Tokens) -> Tensor:
        """What all layers make of the tokens [batch, tokens, width]; where each has a label, from those before."""
        if self.causal:
            n = tokens.values.shape[1]
            later = torch.ones(n, n, dtype=torch.bool, device=tokens.values.device).triu(1)
            return self.encoder(tokens.values, mask=later)  # type: ignore[no-any-return]
        padding = None if tokens.kept is None else ~tokens.kept
        return self.encoder(tokens.values, src_key_padding_mask=padding)  # type: ignore[no-any-return]

    def pool(self, outputs: Tensor, tokens: Tokens) -> Tensor:
        """The mean over the text's tokens [batch, width], or all of them where each has a label."""
        outputs = outputs[:, tokens.prompts :]
        if self.per_token:
            return outputs
        if tokens.kept is None:
            return outputs.mean(1)
        kept = tokens.kept[:, tokens.prompts :, None]
        return (outputs * kept).sum(1) / kept.sum(1)


def layers(encoder: nn.TransformerEncoder) -> dict[str, nn.Module]:
    """The layers of the module `encoder` of a backbone, by their names in it."""
    return {f"encoder.layers.{place}": layer for place, layer in enumerate(encoder.layers)}


def encoder(name: str, width: int, depth: int, heads: int, dropout: float) -> nn.TransformerEncoder:
    """Layers of attention and a fourfold GELU network, each normalised before, and normalised at the end."""
    if width % heads:
        raise UsageError(
            f"{name} cannot divide a width of {width} among {heads} heads. Change one: --set backbone.heads=N."
        )
    layer = nn.TransformerEncoderLayer(
        width, heads, 4 * width, dropout, activation="gelu", batch_first=True, norm_first=True
    )
    return nn.TransformerEncoder(layer, depth, norm=nn.LayerNorm(width), enable_nested_tensor=False)
