"""What strategies are checked on: a tiny stream with everything awkward in it, and a tiny backbone."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from clarena.contract.backbone import Backbone
from clarena.contract.benchmark import Benchmark, Split, Stream
from clarena.contract.data import Data
from clarena.contract.strategy import Strategy
from clarena.protocol.protocol import NamedPart, Protocol, Scenario, Track
from clarena.toolbox.attention import Tokens

SIZES = ((12, 11, 10), (13,), (9, 13))
"""Training samples of each class of each experience; in batches of 8 these end with 1, 5 and 6 samples."""

TEST_SAMPLES = 20
"""Test samples of each class."""

SHAPE = (1, 4, 4)
"""Of one sample, before it is enlarged."""

TARGET = "classes"
"""What is asked of an input."""

STEPS, ZERO = 32, 128
"""Steps between two whole numbers, and the byte that stands for 0, where values are stored as bytes."""

LEVELS = 9
"""Tokens that a value may become, for backbones that take tokens."""


class TinyStream(Benchmark):
    """Six Gaussian blobs in three uneven experiences: of three classes, of a single one, and of two."""

    name = "tiny-stream"
    scenarios = ("class", "domain", "task")

    def __init__(
        self,
        *,
        scale: Annotated[int, Field(ge=1, description="Each value becomes a square of so many pixels.")] = 1,
        levels: Annotated[
            int, Field(ge=0, description="Each value becomes one of so many tokens; 0 leaves them numbers.")
        ] = 0,
        stored: Annotated[Literal["numbers", "bytes"], Field(description="As what values are stored.")] = "numbers",
    ) -> None:
        self.scale = scale
        self.levels = levels
        self.stored = stored
        self.vocabulary = levels + 1 if levels else None  # 0 is none

    def inputs(self, x: Tensor) -> Tensor:
        """Images as they are, or tokens int64 [n, values] from 1 on."""
        if self.stored == "bytes":
            x = (x.float() - ZERO) / STEPS
        if not self.levels:
            return x
        return torch.bucketize(x.flatten(1), torch.linspace(-2, 2, self.levels - 1, device=x.device)) + 1

    def data(self) -> Data:
        """Well separated blobs, so that a few steps of SGD suffice."""
        generator = np.random.default_rng(0)
        classes = sum(map(len, SIZES))
        means = generator.normal(size=(classes, prod(SHAPE)))

        def draw(samples: int) -> tuple[Tensor, Tensor]:
            y = np.repeat(np.arange(classes), samples)
            x = means[y] + 0.5 * generator.normal(size=(len(y), prod(SHAPE)))
            images = torch.tensor(x, dtype=torch.float32).view(-1, *SHAPE)
            images = images.repeat_interleave(self.scale, 2).repeat_interleave(self.scale, 3)
            if self.stored == "bytes":
                images = (images * STEPS + ZERO).round().clamp(0, 255).to(torch.uint8)
            return images, torch.tensor(y)

        return Data(*draw(max(map(max, SIZES))), *draw(TEST_SAMPLES), tuple(f"blob {c}" for c in range(classes)))

    def stream(self, data: Data, scenario: Scenario, generator: np.random.Generator) -> Stream:
        """Deal the blobs, in an order that `generator` chooses, to the places that `SIZES` describes."""
        blobs = iter(generator.permutation(data.classes).tolist())
        splits: list[Split] = []
        names: list[str] = []
        for sizes in SIZES:
            train, test, y_train, y_test = [], [], [], []
            for position, size in enumerate(sizes):
                blob = next(blobs)
                label = position if scenario == "domain" else len(names)
                names.append(data.class_names[blob])
                train.append((data.y_train == blob).nonzero().flatten()[:size])
                test.append((data.y_test == blob).nonzero().flatten())
                y_train.append(torch.full_like(train[-1], label))
                y_test.append(torch.full_like(test[-1], label))
            splits.append(Split(torch.cat(train), torch.cat(y_train), torch.cat(test), torch.cat(y_test)))
        if scenario == "domain":
            names = [f"position {position}" for position in range(max(map(len, SIZES)))]
        return Stream(tuple(splits), tuple(names))


class TinyMlp(Backbone):
    """One layer of 32 units on the flattened input."""

    name = "tiny-mlp"

    def __init__(self, input_shape: tuple[int, ...]) -> None:
        super().__init__()
        self.features = 32
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(prod(input_shape), self.features), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        """Features [batch, 32] of inputs [batch, *input_shape]."""
        return self.layers(x)  # type: ignore[no-any-return]


class TinyTransformer(Backbone):
    """One layer of attention on the rows of an image, for strategies that work on tokens."""

    name = "tiny-transformer"

    def __init__(self, input_shape: tuple[int, ...]) -> None:
        super().__init__()
        *_, pixels = input_shape
        self.features = self.token_width = 32
        self.rows = nn.Linear(pixels, self.features)
        nn.init.normal_(self.rows.weight)  # so that its features tell inputs apart where it is frozen, too
        self.places = nn.Parameter(0.02 * torch.randn(1, 1 + prod(input_shape) // pixels, self.features))
        layer = nn.TransformerEncoderLayer(self.features, 2, 64, dropout=0.0, batch_first=True, norm_first=True)
        self.layers = nn.TransformerEncoder(layer, 1, nn.LayerNorm(self.features), enable_nested_tensor=False)

    def forward(self, x: Tensor) -> Tensor:
        """Features [batch, 32] of inputs [batch, *input_shape]."""
        return self.encode(self.embed(x))

    def stages(self) -> dict[str, nn.Module]:
        """The one layer."""
        return {"layers.layers.0": self.layers.layers[0]}

    def embed(self, x: Tensor) -> Tokens:
        """An empty token and one for each row [batch, 1 + rows, 32], each with its place."""
        rows = self.rows(x.reshape(len(x), -1, self.rows.in_features))
        return Tokens(torch.cat([torch.zeros_like(rows[:, :1]), rows], dim=1) + self.places)

    def process(self, tokens: Tokens) -> Tensor:
        """What the layer makes of the tokens [batch, tokens, 32]."""
        return self.layers(tokens.values)  # type: ignore[no-any-return]

    def pool(self, outputs: Tensor, tokens: Tokens) -> Tensor:
        """What has become of the empty token [batch, 32]."""
        return outputs[:, tokens.prompts]


TINY: tuple[type[Backbone], ...] = (TinyMlp, TinyTransformer)
"""The backbones on which a strategy is checked if nothing else is said."""


def tiny_backbone(strategy: type[Strategy]) -> type[Backbone]:
    """The one that has what a strategy needs of it."""
    return TinyTransformer if set(strategy.needs) & {"tokens", "prefixes", "adapters", "trained_backbone"} else TinyMlp


@dataclass(frozen=True, eq=False)
class Subject:
    """What a check is about: a strategy in one scenario of the tiny stream.

    Attributes:
        strategy: the class.
        scenario: class-, domain- or task-incremental.
        backbone: the class of the backbone.
        options: of the backbone.
        stored: as what the values of an input are stored.
    """

    strategy: type[Strategy]
    scenario: Scenario
    backbone: type[Backbone] = TinyMlp
    options: Mapping[str, Any] = field(default_factory=dict)
    stored: Literal["numbers", "bytes"] = "numbers"

    def track(self, **changes: Any) -> Track:
        """The track: momentum whose state is kept shows what a strategy forgets to save; a small buffer overflows.

        Any backbone but the tiny ones gets images of 8×8 pixels, whose squares survive a convolution and its pooling,
        or tokens where it takes those.

        Args:
            changes: fields of the protocol.
        """
        tokens = self.backbone.takes_tokens
        inputs: dict[str, Any] = {
            "scale": 1 if tokens or self.backbone in TINY else 2,
            "levels": LEVELS if tokens else 0,
            "stored": self.stored,
        }
        known = "known_stream_length" in self.strategy.needs
        held_equal: dict[str, Any] = {
            "epochs": 4,
            "batch_size": 8,
            "learning_rate": 0.05,
            "momentum": 0.5,
            "optimizer_state": "kept",
            "buffer_size": 7,
            "stream_length": "known" if known else "unknown",
        }
        return Track(
            benchmark=NamedPart(name=TinyStream.name, options=inputs),
            scenario=self.scenario,
            backbone=NamedPart(name=self.backbone.name, options=dict(self.options)),
            protocol=Protocol(**held_equal | changes),
        )
