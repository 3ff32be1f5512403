"""Frozen features: what a backbone that nobody trains makes of inputs, computed once and learned from as any input.

They are kept by content: under the SHA-256 of the inputs that the backbone is given (after conversion and transform),
of its weights and of its code. So streams that cut the same data otherwise share them, and whatever changes an input
has features of its own.
"""

import hashlib
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from clarena.contract.backbone import Backbone
from clarena.contract.benchmark import Split, Stream, Transform
from clarena.contract.data import Data
from clarena.contract.strategy import NEEDS, Strategy
from clarena.errors import ClarenaWarning, PluginError, UsageError
from clarena.plugins.parameters import parse
from clarena.protocol.features import frozen
from clarena.protocol.protocol import Track, digest
from clarena.run.cache import Cache
from clarena.run.environment import configured
from clarena.toolbox.seeding import forked
from clarena.toolbox.states import differing
from clarena.toolbox.together import chosen, columns, count, cut, joined, moved

BATCH = 64
"""Inputs that a backbone is given at once, always so many: what one becomes does not depend on how many there are."""

CHUNK = 2048
"""Inputs that are converted at once where they are only looked at."""

LONG = 20
"""Seconds that computing features may take without a word."""

FORMAT = 1
"""Raised where the same inputs and weights come to other features."""

TRAINED = frozenset({"tokens", "prefixes", "adapters", "trained_backbone"})
"""What a strategy may need that is not to be had of features."""


class Features(Backbone):
    """Features as they come, in the place of the frozen backbone that they were computed by."""

    name = "features"

    def __init__(self, input_shape: tuple[int, ...], start: Callable[[torch.nn.Linear], None]) -> None:
        super().__init__()
        self.features = input_shape[-1]
        self.start = start  # type: ignore[method-assign,assignment]

    def forward(self, x: Tensor) -> Tensor:
        """The input itself, [batch, …, features]."""
        return x


def as_numbers(features: Tensor) -> Tensor:
    """Features as inputs, float32, whatever they are kept as."""
    return features.float()


def require_frozen(track: Track, strategy: type[Strategy]) -> None:
    """Raise `UsageError` where features that are computed once go neither with the track nor with the strategy."""
    if track.frozen is None:
        return
    again = "or leave out backbone.frozen"
    if track.backbone.fingerprint is None:
        raise UsageError(
            f"backbone.frozen keeps features, and those of {track.backbone.name} are the seed's: it has no trained "
            f"weights here. Choose a backbone that brings some, such as minilm or efficientnet-lite0, {again}."
        )
    if track.protocol.augmentation is not None:
        raise UsageError(
            "backbone.frozen computes features once, and protocol.augmentation changes images at every step. Leave out "
            f"one of the two: --set protocol.augmentation=none, {again}."
        )
    for need in sorted(TRAINED & strategy.needs):
        raise UsageError(
            f"{strategy.name} {NEEDS[need]}; with backbone.frozen there are only its features. Leave {strategy.name} "
            f"out, {again}."
        )


@dataclass(frozen=True, eq=False)
class FrozenBackbone:
    """The frozen backbone of a track; it is loaded when something is to be computed, and not before.

    Attributes:
        cls: its class.
        input_shape, tokens: what it is made with, besides its options.
        device: where it computes.
    """

    track: Track
    cls: type[Backbone]
    input_shape: Any
    tokens: Sequence[Any]
    device: torch.device

    @cached_property
    def network(self) -> Backbone:
        """The backbone in evaluation mode; raises `UsageError` where not all of it is in its weights."""
        options = parse(self.cls, frozen(self.track.backbone.options)[0], "backbone")
        if self.cls.fingerprint(options) != self.track.backbone.fingerprint:
            raise UsageError(
                f"The weights of {self.cls.name} are no longer those that the track names by their SHA-256. Put them "
                "back, or evaluate with the new ones: that is another track."
            )
        made = []
        for seed in range(2):
            with forked(seed):
                made.append(self.cls(self.input_shape, *self.tokens, **options))
        if drawn := differing(*(dict(one.state_dict()) for one in made)):
            raise UsageError(
                f"backbone.frozen keeps features, and those of {self.cls.name} are the seed's: it draws {drawn} "
                "at random. Give it weights that hold all of it, or leave out backbone.frozen."
            )
        return made[0].to(self.device).eval().requires_grad_(False)

    def __call__(self, inputs: Any) -> Tensor:
        """Features [n, …, features] of inputs [n, …], in the type in which they are kept, on the CPU."""
        parts = [self._computed(moved(some, self.device)) for some in cut(inputs, BATCH)]
        return joined(parts)  # type: ignore[no-any-return]

    def of(self, rows: Any, made: Callable[[Any], Any], what: str) -> Tensor:
        """Features of stored rows [n, …]: from the cache, where they are put if they are not there.

        Args:
            made: makes inputs [n, …] of rows [n, …], each by itself.
            what: whose they are, for a person.

        Raises:
            ClarenaError: as `network` and `Cache.fill`.
        """
        cache, key = Cache(), self._key(rows, made)
        features = cache.kept(key)
        if features is None:
            facts = {"backbone": self.track.backbone.name, "of": what}
            features = cache.fill(key, self._parts(rows, made, what), count(rows), facts)
        return features

    def _key(self, rows: Any, made: Callable[[Any], Any]) -> str:
        inputs = hashlib.sha256()
        for some in cut(rows, CHUNK):
            for column in columns(made(moved(some, self.device))):
                inputs.update(f"{column.dtype}{list(column.shape)}".encode())
                inputs.update(column.cpu().contiguous().numpy().data)
        backbone = self.track.backbone.model_dump(mode="json")
        backbone["options"].pop("weights", None)  # known by their fingerprint, wherever they lie
        return digest(
            {
                "format": FORMAT,
                "inputs": inputs.hexdigest(),
                "backbone": backbone,
                "made_with": repr((self.input_shape, list(self.tokens))),
                "device": self.device.type,  # others round otherwise
            }
        )

    def _parts(self, rows: Any, made: Callable[[Any], Any], what: str) -> Iterator[Tensor]:
        began, told, done, n = time.monotonic(), False, 0, count(rows)
        for some in cut(rows, BATCH):
            yield self._computed(made(moved(some, self.device)))
            done += count(some)
            spent = time.monotonic() - began
            if not told and spent > 1:
                left, told = spent / done * (n - done), True
                if left > LONG:
                    warnings.warn(
                        f"Features of {n} inputs ({what}) are computed by {self.cls.name}, once: it takes about "
                        f"{max(1, round(left / 60))} min. They are kept in {Cache().root}.",
                        ClarenaWarning,
                        stacklevel=2,
                    )

    def _computed(self, inputs: Any) -> Tensor:
        """Features of at most `BATCH` inputs; where they are fewer, the last one stands for the others."""
        n = count(inputs)
        filled = chosen(inputs, torch.arange(BATCH).clamp(max=n - 1).to(columns(inputs)[0].device))
        exact = self.track.protocol.model_copy(update={"precision": "float32"})
        with torch.no_grad(), configured(exact, self.device), forked(0):
            features = self.network(filled)
        if not isinstance(features, Tensor) or not features.is_floating_point():
            raise PluginError(f"The backbone {self.cls.name} must return one tensor of features from forward.")
        return features[:n].to(getattr(torch, self.track.frozen or "float32")).cpu()


def in_features(
    data: Data,
    stream: Stream,
    of: Callable[[Any, Transform | None, str], Tensor],
    whole: bool,
) -> tuple[Data, Stream]:
    """The same stream with features for inputs: none of its experiences has a transform any more.

    Args:
        stream: all of it: the origins of rows are among its experiences.
        of: the features of stored rows seen through a transform; and whose they are, for a person.
        whole: whether all rows are asked for, the same for every seed, or those alone that the stream has.
    """
    transforms = [split.transform for split in stream.splits]
    kinds = list({id(transform): transform for transform in transforms}.values())
    number = torch.tensor([[id(kind) for kind in kinds].index(id(transform)) for transform in transforms])
    splits = list(stream.splits)
    sides = {}
    for side, x in (("train", data.x_train), ("test", data.x_test)):
        seen = [number[_origin(split, position, side)] for position, split in enumerate(splits)]
        parts, start = [], 0
        for kind, transform in enumerate(kinds):
            mine = [getattr(split, side)[which == kind] for split, which in zip(stream.splits, seen)]
            rows = torch.arange(count(x)) if whole else torch.cat(mine).unique()
            if not any(map(len, mine)):
                continue
            parts.append(of(x if whole else chosen(x, rows), transform, side))
            for position, which in enumerate(seen):
                split, there = splits[position], which == kind
                index = getattr(split, side).clone()
                index[there] = start + torch.searchsorted(rows, getattr(stream.splits[position], side)[there])
                splits[position] = replace(split, **{side: index})
            start += len(rows)
        sides[side] = joined(parts)
    splits = [replace(split, transform=None) for split in splits]
    kept = replace(data, x_train=sides["train"], x_test=sides["test"])
    return kept, replace(stream, splits=tuple(splits))


def _origin(split: Split, position: int, side: str) -> Tensor:
    """The experience through whose transform each row is seen [n]."""
    if side == "train" and split.origin is not None:
        return split.origin
    return torch.full((len(getattr(split, side)),), position)
