"""Tokens, and prefixes on the keys and values of attention, whichever library the attention is from.

Torch's own attention, and that of the libraries built on torch, ends in one of two functions. Inside `prefixed` both
are intercepted, so that no module has to be taken apart or subclassed for a prefix to reach it, and none is changed.
"""

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from clarena.errors import UsageError

Prefixes = Mapping[int, tuple[Tensor, Tensor]]
"""For some of the blocks, from 0, what goes before their keys and values: p_K, p_V [batch or 1, length, width]."""


@dataclass(frozen=True)
class Tokens:
    """Embedded inputs, as the blocks of a backbone take them.

    Attributes:
        values: [batch, tokens, width].
        kept: bool [batch, tokens], false where a text has ended; None where all count.
        prompts: how many of the first are prompts, which stand for nothing in the input.
    """

    values: Tensor
    kept: Tensor | None = None
    prompts: int = 0

    def after(self, prompts: Tensor) -> "Tokens":
        """These behind some prompts [batch or 1, length, width], to which no position is added."""
        length, batch = prompts.shape[-2], len(self.values)
        if not length:
            return self
        values = torch.cat([prompts.expand(batch, -1, -1), self.values], dim=1)
        kept = None if self.kept is None else torch.cat([self.kept.new_ones(batch, length), self.kept], dim=1)
        return Tokens(values, kept, self.prompts + length)


@contextmanager
def around(module: nn.Module, call: Callable[..., Any]) -> Iterator[None]:
    """Inside, `module(…)` gives `call(forward, …)`.

    It is no hook: torch's fused layers look for those, and would compute (and round) in another way.
    """
    before, forward = module.__dict__.get("forward"), module.forward
    module.forward = lambda *args, **kwargs: call(forward, *args, **kwargs)
    try:
        yield
    finally:
        del module.forward
        if before is not None:
            module.forward = before


@contextmanager
def prefixed(name: str, blocks: Collection[nn.Module], prefixes: Prefixes) -> Iterator[None]:
    """Inside, attention in these blocks also sees prefixes: softmax over length + n keys, queries unchanged.

    A prefix is a key and a value for every head of the queries, as if projected already. Any query sees it, also where
    none sees later tokens. One of no length leaves its block as it is, bit for bit.

    Args:
        name: of the backbone, for messages.
        blocks: in order.
        prefixes: by position among them.

    Raises:
        UsageError: for a block that is not there, a pair that does not fit, and attention that is computed elsewhere.
    """
    unknown = sorted(set(prefixes) - set(range(len(blocks))))
    if unknown:
        raise UsageError(f"{name} has {len(blocks)} blocks, numbered from 0, so that none takes a prefix {unknown}.")
    given = {place: pair for place, pair in prefixes.items() if pair[0].shape[-2] or pair[1].shape[-2]}
    if not given:
        yield
        return
    mode = _Prefixing(name, given)
    with ExitStack() as stack:
        for place, block in enumerate(blocks):
            stack.enter_context(around(block, mode.within(place)))
        stack.enter_context(mode)
        yield
    if missed := sorted(set(given) - mode.reached):
        raise UsageError(
            f"Prefixes do not reach the attention of {name} in blocks {missed}: it is not computed by torch's "
            "scaled_dot_product_attention. Choose another backbone, such as vit-tiny or text-transformer."
        )


class _Prefixing(TorchFunctionMode):
    """Joins prefixes to keys and values while a block is being computed; torch's fused layers give way to it."""

    def __init__(self, name: str, prefixes: Prefixes) -> None:
        super().__init__()
        self.name, self.prefixes = name, prefixes
        self.place = -1
        self.reached: set[int] = set()

    def within(self, place: int) -> Callable[..., Any]:
        """What a block's forward pass is called through."""

        def call(forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            self.place = place
            try:
                return forward(*args, **kwargs)
            finally:
                self.place = -1

        return call

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self.place in self.prefixes:
            if func is F.multi_head_attention_forward:
                return self._heads(**signature(func).bind(*args, **kwargs).arguments)
            if func is F.scaled_dot_product_attention:
                return self._attend(*args, **kwargs)
        return func(*args, **kwargs)

    def _attend(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Tensor:
        """Attention of query [batch, heads, n, width / heads], key and value likewise, with the prefix before them."""
        self.reached.add(self.place)
        batch, heads, n, _ = query.shape
        p_k, p_v = (self._split(prefix, like, batch, heads) for prefix, like in zip(self._pair(), (key, value)))
        if enable_gqa:  # some queries share a key; a prefix has one for each
            key, value = (part.repeat_interleave(heads // part.shape[1], dim=1) for part in (key, value))
        if is_causal:
            attn_mask = torch.ones(n, key.shape[2], dtype=torch.bool, device=query.device).tril()
        if attn_mask is not None:
            seen = attn_mask.expand(*attn_mask.shape[:-1], key.shape[2])
            free = seen.new_full((*seen.shape[:-1], p_k.shape[2]), True if seen.dtype == torch.bool else 0.0)
            attn_mask = torch.cat([free, seen], dim=-1)
        keys, values = torch.cat([p_k, key], dim=2), torch.cat([p_v, value], dim=2)
        attended: Tensor = F.scaled_dot_product_attention(query, keys, values, attn_mask, dropout_p, scale=scale)
        return attended

    def _pair(self) -> tuple[Tensor, Tensor]:
        p_k, p_v = self.prefixes[self.place]
        if p_k.ndim != 3 or p_k.shape[:2] != p_v.shape[:2]:
            raise UsageError(
                f"A prefix is p_K and p_V, both [batch or 1, length, width], not {list(p_k.shape)} and "
                f"{list(p_v.shape)}."
            )
        return p_k, p_v

    def _split(self, prefix: Tensor, like: Tensor, batch: int, heads: int) -> Tensor:
        """A prefix [batch or 1, length, width] by heads [batch, heads, length, width / heads]."""
        if prefix.shape[-1] != heads * like.shape[-1] or prefix.shape[0] not in (1, batch):
            raise UsageError(
                f"The keys of {self.name} are [{batch}, n, {heads * like.shape[-1]}] and a prefix is "
                f"{list(prefix.shape)}. Make it [batch or 1, length, {heads * like.shape[-1]}]."
            )
        split: Tensor = prefix.to(like.dtype).unflatten(-1, (heads, -1))
        return split.transpose(1, 2).expand(batch, -1, -1, -1)

    def _heads(self, **given: Any) -> tuple[Tensor, None]:
        """What `torch.nn.MultiheadAttention` computes; its tensors are [n, batch, width]."""
        peculiar = [name for name in ("bias_k", "bias_v", "static_k", "static_v") if given.get(name) is not None]
        peculiar += [name for name in ("add_zero_attn", "use_separate_proj_weight", "need_weights") if given.get(name)]
        if peculiar:
            raise UsageError(f"{self.name} has attention with {' and '.join(peculiar)}, to which no prefix can be put.")
        weights = given["in_proj_weight"].chunk(3)
        biases = (None,) * 3 if given["in_proj_bias"] is None else given["in_proj_bias"].chunk(3)
        inputs = [given[name] for name in ("query", "key", "value")]
        heads = given["num_heads"]
        query, key, value = (
            F.linear(x, weight, bias).unflatten(-1, (heads, -1)).permute(1, 2, 0, 3)
            for x, weight, bias in zip(inputs, weights, biases)
        )
        mask = _joint_mask(given.get("attn_mask"), given.get("key_padding_mask"), query)
        dropout = given["dropout_p"] if given.get("training", True) else 0.0
        attended = self._attend(query, key, value, mask, dropout).permute(2, 0, 1, 3).flatten(2)
        return F.linear(attended, given["out_proj_weight"], given["out_proj_bias"]), None


def _joint_mask(mask: Tensor | None, padding: Tensor | None, query: Tensor) -> Tensor | None:
    """One additive mask [batch or 1, heads or 1, n or 1, m] of what may not be seen [n, m] and is no token [batch, m].

    As in `torch.nn.MultiheadAttention`, true or −∞ is what is not seen.
    """
    parts = []
    if mask is not None:
        parts.append(mask.unflatten(0, query.shape[:2]) if mask.ndim == 3 else mask[None, None])
    if padding is not None:
        parts.append(padding[:, None, None])
    if not parts:
        return None
    added = [
        torch.zeros(part.shape, dtype=query.dtype, device=query.device).masked_fill(part, float("-inf"))
        if part.dtype == torch.bool
        else part
        for part in parts
    ]
    return added[0] if len(added) == 1 else added[0] + added[1]
