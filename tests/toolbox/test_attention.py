"""What a prefix needs: messages where it does not fit, and attention that is put back as it was."""

import pytest
import torch
from clarena_native.backbones.transformers import TextTransformer, ViTTiny
from faces import left_behind, pairs
from torch import Tensor, nn
from torch.nn import functional as F

from clarena import Backbone, Tokens, UsageError


@pytest.fixture
def vit() -> ViTTiny:
    torch.manual_seed(0)
    return ViTTiny((1, 8, 8), width=12, depth=2).eval()


X = torch.rand(3, 1, 8, 8)


def test_what_does_not_fit_is_refused_in_words_and_leaves_nothing_behind(vit):
    def prefix(*shape: int, other: tuple[int, ...] | None = None) -> dict[int, tuple[Tensor, Tensor]]:
        return {0: (torch.zeros(*shape), torch.zeros(*(other or shape)))}

    tokens = vit.embed(X)
    for prefixes, message in (
        ({2: pairs(vit, 1)[0], -1: pairs(vit, 1)[0]}, r"vit-tiny has 2 blocks, numbered from 0.* prefix \[-1, 2\]"),
        (prefix(2, 2, 12), r"keys of vit-tiny are \[3, n, 12\] and a prefix is \[2, 2, 12\]"),
        (prefix(1, 2, 6), r"Make it \[batch or 1, length, 12\]"),
        (prefix(2, 12), "both .batch or 1, length, width., not"),
        (prefix(1, 2, 12, other=(1, 3, 12)), "both .batch or 1, length, width., not"),
    ):
        with pytest.raises(UsageError, match=message):
            vit.outputs(tokens, prefixes)
        assert not list(left_behind(vit))
    assert torch.equal(vit.encode(tokens), vit(X))


class ByHand(Backbone):
    """Attention that no function of torch's computes, or none that is known here."""

    name = "by-hand"

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.features = self.token_width = 4
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True, add_bias_kv=how == "bias")
        self.block = nn.Identity()

    def stages(self) -> dict[str, nn.Module]:
        return {"attention": self.attention}

    def process(self, tokens: Tokens) -> Tensor:
        x = tokens.values
        if self.how == "softmax":
            return (x @ x.transpose(1, 2)).softmax(2) @ x
        return self.attention(x, x, x, need_weights=self.how == "weights")[0]


@pytest.mark.parametrize(
    ("how", "message"),
    [("softmax", r"do not reach the attention of by-hand in blocks \[0\]: it is not computed by torch's"),
     ("weights", "by-hand has attention with need_weights, to which no prefix can be put"),
     ("bias", "by-hand has attention with bias_k and bias_v, to which no prefix can be put")],
)  # fmt: skip
def test_attention_that_cannot_be_reached_is_refused(how, message):
    backbone = ByHand(how)
    with pytest.raises(UsageError, match=message):
        backbone.outputs(Tokens(torch.rand(2, 3, 4)), pairs(backbone, 1, blocks=(0,)))


def test_a_text_that_is_all_padding_sees_its_first_token_and_the_prefix():
    backbone = TextTransformer((4,), 9, width=12, depth=1, heads=3).eval()
    empty = torch.zeros(1, 4, dtype=torch.long)
    found = backbone.encode(backbone.embed(empty), pairs(backbone, 1, blocks=(0,)))
    assert found.isfinite().all()
    assert not torch.allclose(found, backbone(empty))


class Grouped(Backbone):
    """Four heads of queries, of which two share a key each, and no token sees a later one."""

    name = "grouped"
    features = token_width = 12

    class Block(nn.Module):
        def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            return F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=0.7, enable_gqa=True)

    def __init__(self) -> None:
        super().__init__()
        self.block = self.Block()

    def stages(self) -> dict[str, nn.Module]:
        return {"block": self.block}

    def process(self, tokens: Tokens) -> Tensor:
        q, k, v = tokens.values.split([4, 2, 2], dim=1)
        return self.block(q, k, v)


@pytest.mark.skipif("enable_gqa" not in (F.scaled_dot_product_attention.__doc__ or ""), reason="torch 2.5 brought it")
def test_shared_keys_a_scale_and_a_causal_mask_are_kept_beside_a_prefix():
    noise = torch.Generator().manual_seed(1)
    heads = torch.randn(2, 8, 5, 3, generator=noise, dtype=torch.float64)
    p_k, p_v = (torch.randn(1, 2, 12, generator=noise, dtype=torch.float64) for _ in "kv")
    found = Grouped().outputs(Tokens(heads), {0: (p_k, p_v)})
    for sample in range(2):
        for head in range(4):
            mine, shared = slice(3 * head, 3 * head + 3), head // 2
            q, k, v = heads[sample, head], heads[sample, 4 + shared], heads[sample, 6 + shared]
            for n in range(5):
                keys, values = torch.cat([p_k[0, :, mine], k[: n + 1]]), torch.cat([p_v[0, :, mine], v[: n + 1]])
                weights = (0.7 * keys @ q[n]).softmax(0)
                torch.testing.assert_close(found[sample, head, n], weights @ values)
