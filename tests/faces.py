"""Backbones with tokens, and a slow oracle of their blocks: softmax over prefix and keys, written out."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clarena import Backbone, UsageError

Pair = tuple[Tensor, Tensor]


@dataclass
class Parts:
    """What a block is made of; it normalises before each half, or (`post`) after it."""

    first: nn.LayerNorm
    qkv: tuple[Tensor, Tensor]  # [3 · width, width], [3 · width]
    out: tuple[Tensor, Tensor]
    second: nn.LayerNorm
    up: nn.Linear
    down: nn.Linear
    heads: int
    act: Callable[[Tensor], Tensor] = F.gelu
    post: bool = False


@dataclass
class Case:
    """A backbone, inputs for it, how its blocks are read, and which keys [batch, n, n] a query does not see."""

    backbone: Backbone
    x: Tensor
    parts: Callable[[nn.Module], Parts]
    last: Callable[[Backbone], nn.Module]
    hidden: Callable[[Tensor, int], Tensor] | None = None  # of inputs, and how many prompts are before them


def torch_parts(block: Any) -> Parts:
    a = block.self_attn
    return Parts(
        block.norm1, (a.in_proj_weight, a.in_proj_bias), (a.out_proj.weight, a.out_proj.bias), block.norm2,
        block.linear1, block.linear2, a.num_heads,
    )  # fmt: skip


def lively(backbone: Backbone) -> Backbone:
    """In float64, with no parameter at a tidy value, and frozen."""
    noise = torch.Generator().manual_seed(0)
    backbone.double()
    for parameter in backbone.parameters():
        parameter.data += 0.2 * torch.randn(parameter.shape, generator=noise, dtype=torch.float64)
    return backbone.requires_grad_(False)


def attend(x: Tensor, parts: Parts, prefix: Pair | None, hidden: Tensor | None) -> Tensor:
    """Attention of x [batch, n, width], sample by sample and head by head."""
    query, key, value = F.linear(x, *parts.qkv).chunk(3, dim=-1)
    size = x.shape[-1] // parts.heads
    rows = []
    for sample in range(len(x)):
        heads = []
        for head in range(parts.heads):
            mine = slice(head * size, (head + 1) * size)
            q, k, v = (part[sample, :, mine] for part in (query, key, value))
            scores = q @ k.T
            if hidden is not None:
                scores = scores.masked_fill(hidden[sample], float("-inf"))
            if prefix is not None:
                p_k, p_v = (p[min(sample, len(p) - 1), :, mine] for p in prefix)
                scores, v = torch.cat([q @ p_k.T, scores], dim=1), torch.cat([p_v, v])
            weights = (scores / size**0.5).exp()
            heads.append((weights / weights.sum(1, keepdim=True)) @ v)
        rows.append(torch.cat(heads, dim=1))
    return F.linear(torch.stack(rows), *parts.out)


def outputs(case: Case, values: Tensor, prefixes: Mapping[int, Pair], hidden: Tensor | None) -> Tensor:
    """What all blocks make of tokens [batch, n, width]."""
    for place, block in enumerate(case.backbone.stages().values()):
        p, prefix = case.parts(block), prefixes.get(place)
        if p.post:
            values = p.first(values + attend(values, p, prefix, hidden))
            values = p.second(values + p.down(p.act(p.up(values))))
        else:
            values = values + attend(p.first(values), p, prefix, hidden)
            values = values + p.down(p.act(p.up(p.second(values))))
    return case.last(case.backbone)(values)


def pairs(backbone: Backbone, batch: int, length: int = 3, blocks: tuple[int, ...] = (0, 1)) -> dict[int, Pair]:
    """Random prefixes, another for each sample."""
    noise = torch.Generator().manual_seed(7)
    like = next(iter(backbone.state_dict().values()))

    def draw() -> Tensor:
        return torch.randn(batch, length, backbone.token_width, generator=noise, dtype=like.dtype)

    return {block: (draw(), draw()) for block in blocks}


def left_behind(module: nn.Module) -> Iterator[str]:
    """What a context has not put back."""
    for name, part in module.named_modules():
        if "forward" in vars(part) or part._forward_hooks or part._forward_pre_hooks:
            yield name
        yield from (f"{name}.{leaf}" for leaf, p in part._parameters.items() if type(p) is Tensor)


def later(x: Tensor, prompts: int) -> Tensor:
    """Nothing is seen that comes after."""
    n = x.shape[1] + prompts
    return torch.ones(n, n, dtype=torch.bool).triu(1).expand(len(x), n, n)


def padding(x: Tensor, prompts: int) -> Tensor:
    """No padding is seen; the first token always is."""
    empty = x == 0
    empty[:, 0] = False
    empty = torch.cat([torch.zeros(len(x), prompts, dtype=torch.bool), empty], dim=1)
    return empty[:, None].expand(-1, empty.shape[1], -1)


class FaceTests:
    """What holds of any backbone with tokens; a subclass has the fixture `case`."""

    def test_forward_is_encode_of_embed_in_every_mode(self, case: Case) -> None:
        backbone = case.backbone.float()
        x = case.x.float() if case.x.is_floating_point() else case.x
        for training in (False, True):
            for grad in (False, True):
                backbone.train(training)
                with torch.set_grad_enabled(grad):
                    plain = backbone(x)
                    assert torch.equal(plain, backbone.encode(backbone.embed(x)))
                    # of no length: the bits of the backbone as it is
                    nothing = torch.zeros(1, 0, backbone.token_width)
                    assert torch.equal(plain, backbone.encode(backbone.embed(x).after(nothing)))
                    assert torch.equal(plain, backbone.encode(backbone.embed(x), {0: (nothing, nothing)}))
        assert not list(left_behind(backbone))

    def test_prefixes_are_keys_and_values_before_the_others(self, case: Case) -> None:
        backbone = lively(case.backbone).eval()
        tokens = backbone.embed(case.x)
        hidden = case.hidden(case.x, 0) if case.hidden else None
        for blocks in ((0, 1), (1,)):
            prefixes = pairs(backbone, len(case.x), blocks=blocks)
            for grad in (False, True):  # torch's fused layers are for no_grad alone
                with torch.set_grad_enabled(grad):
                    found = backbone.outputs(tokens, prefixes)
                expected = outputs(case, tokens.values, prefixes, hidden)
                torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
        assert not torch.allclose(found, backbone.outputs(tokens))
        shared = {0: tuple(p[:1] for p in pairs(backbone, 2)[0])}
        repeated = {0: tuple(p.expand(len(case.x), -1, -1) for p in shared[0])}
        assert torch.equal(backbone.encode(tokens, shared), backbone.encode(tokens, repeated))

    def test_prompts_stand_before_the_tokens_and_have_no_position(self, case: Case) -> None:
        backbone = lively(case.backbone).eval()
        prompts = torch.randn(len(case.x), 2, backbone.token_width, dtype=torch.float64)
        tokens = backbone.embed(case.x).after(prompts)
        assert torch.equal(tokens.values[:, :2], prompts)
        assert torch.equal(tokens.values[:, 2:], backbone.embed(case.x).values)
        hidden = case.hidden(case.x, 2) if case.hidden else None
        found, expected = backbone.outputs(tokens), outputs(case, tokens.values, {}, hidden)
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
        # What is pooled is what it was: the outputs of the input's own tokens.
        plain = backbone.embed(case.x)
        assert torch.equal(backbone.encode(tokens), backbone.pool(found[:, 2:], plain))
        two = prompts.flip(1)
        if not backbone.causal:
            swapped = backbone.encode(backbone.embed(case.x).after(two))
            torch.testing.assert_close(swapped, backbone.encode(tokens), rtol=1e-9, atol=1e-9)

    def test_an_adapter_beside_the_feed_forward_half_is_given_what_that_is_given(self, case: Case) -> None:
        backbone = lively(case.backbone).eval()
        if case.parts(next(iter(backbone.stages().values()))).post:
            with pytest.raises(UsageError, match="have no norm before a feed-forward half"):
                backbone.adapt("adapter", bottleneck=3, place="beside")
            return
        adapter = backbone.adapt("adapter", bottleneck=3, scale=0.5, place="beside")
        tokens = backbone.embed(case.x)
        noise = torch.Generator().manual_seed(3)
        for parameter in adapter.parameters():
            parameter.data = torch.randn(parameter.shape, generator=noise, dtype=torch.float64)
        values, hidden = tokens.values, case.hidden(case.x, 0) if case.hidden else None
        for block, bottleneck in zip(backbone.stages().values(), adapter.branches[0], strict=True):
            p = case.parts(block)
            values = values + attend(p.first(values), p, None, hidden)
            beside = F.linear(values, bottleneck.down.weight, bottleneck.down.bias).clamp(min=0)
            beside = F.linear(beside, bottleneck.up.weight, bottleneck.up.bias)
            values = values + p.down(p.act(p.up(p.second(values)))) + 0.5 * beside
        for grad in (False, True):
            with torch.set_grad_enabled(grad), adapter.on(backbone):
                found = backbone.outputs(tokens)
            torch.testing.assert_close(found, case.last(backbone)(values), rtol=1e-10, atol=1e-10)
        assert not list(left_behind(backbone))

    def test_whose_prefix_is_whose(self, case: Case) -> None:
        backbone = lively(case.backbone).eval()
        prefixes, order = pairs(backbone, len(case.x)), torch.randperm(len(case.x))
        permuted = {block: (p_k[order], p_v[order]) for block, (p_k, p_v) in prefixes.items()}
        there = backbone.encode(backbone.embed(case.x[order]), permuted)
        here = backbone.encode(backbone.embed(case.x), prefixes)
        torch.testing.assert_close(there, here[order], rtol=1e-12, atol=1e-12)
        alone = {block: (p_k[:1], p_v[:1]) for block, (p_k, p_v) in prefixes.items()}
        one = backbone.encode(backbone.embed(case.x[:1]), alone)
        torch.testing.assert_close(one, here[:1], rtol=1e-12, atol=1e-12)

    def test_gradients_reach_what_is_trained_and_nothing_else(self, case: Case) -> None:
        backbone = lively(case.backbone).train()
        prompts = torch.zeros(1, 2, backbone.token_width, dtype=torch.float64, requires_grad=True)
        prefixes = {b: tuple(p.requires_grad_() for p in pair) for b, pair in pairs(backbone, len(case.x)).items()}
        backbone.outputs(backbone.embed(case.x).after(prompts), prefixes).square().sum().backward()
        trained = [prompts, *(p for pair in prefixes.values() for p in pair)]
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in trained)
        assert all(p.grad is None for p in backbone.parameters())
