"""The face of GPT-2 and its like: tokens before their first block, prefixes, and positions that prompts do not have."""

import pytest
import torch
from clarena_native.torchvision_cpu import import_torchvision
from faces import Case, FaceTests, Parts, later, padding
from needs import needs
from torch.nn import functional as F

import_torchvision()  # which transformers imports
needs("transformers", "peft")

import transformers  # noqa: E402
from clarena_transformers.backbones import GPT2, TextNetwork  # noqa: E402

TEXTS = torch.tensor([[3, 4, 5, 0, 0], [9, 8, 7, 6, 5], [0, 0, 0, 0, 0], [1, 0, 2, 0, 0]])


class Made(TextNetwork):
    """A network of a configuration, with random weights."""

    name = "hf:made"

    def __init__(self, config: transformers.PretrainedConfig, length: int = 5, **options: object) -> None:
        self.config = config
        super().__init__((length,), 10, **options)

    def build(self, vocabulary: int, length: int):
        config = self.config
        config.vocab_size, config.use_cache = vocabulary, False
        network = transformers.AutoModel.from_config(config)
        if getattr(network, "pooler", None) is not None:
            network.pooler = None
        return network


def gpt2_parts(block) -> Parts:
    a = block.attn
    return Parts(
        block.ln_1, (a.c_attn.weight, a.c_attn.bias), (a.c_proj.weight, a.c_proj.bias), block.ln_2,
        block.mlp.c_fc, block.mlp.c_proj, a.num_heads, lambda x: F.gelu(x, approximate="tanh"),
    )  # fmt: skip


@pytest.mark.parametrize("per_token", [False, True])
class TestGPT2(FaceTests):
    @pytest.fixture
    def case(self, per_token: bool) -> Case:
        torch.manual_seed(0)
        backbone = GPT2((5,), 10, per_token, layers=2, heads=2, width=12)
        return Case(backbone, TEXTS, gpt2_parts, lambda b: b.network.ln_f, later)


def bert_parts(block) -> Parts:
    a = block.attention
    qkv = [a.self.query, a.self.key, a.self.value]
    together = torch.cat([part.weight for part in qkv]), torch.cat([part.bias for part in qkv])
    return Parts(
        a.output.LayerNorm, together, (a.output.dense.weight, a.output.dense.bias), block.output.LayerNorm,
        block.intermediate.dense, block.output.dense, a.self.num_attention_heads, post=True,
    )  # fmt: skip


BERT = {"num_hidden_layers": 2, "num_attention_heads": 2, "hidden_size": 12, "intermediate_size": 20}
DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


class TestBert(FaceTests):
    @pytest.fixture
    def case(self) -> Case:
        torch.manual_seed(0)
        return Case(
            Made(transformers.BertConfig(**BERT, **DROPOUT)), TEXTS, bert_parts, lambda b: torch.nn.Identity(), padding
        )


def llama() -> Made:
    torch.manual_seed(0)
    sizes = {"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "hidden_size": 16}
    return Made(transformers.LlamaConfig(**sizes, intermediate_size=24, attention_dropout=0.0)).eval()


def test_positions_that_are_angles_stay_those_of_the_tokens():
    """A prompt that attention gives no weight changes nothing, although it stands before the tokens."""
    backbone = llama().double()
    tokens = backbone.embed(TEXTS)
    assert torch.equal(backbone(TEXTS), backbone.encode(tokens))
    no_key = torch.full((1, 1, 16), 0.0, dtype=torch.float64)
    plain = backbone.outputs(tokens)
    with_prompt = backbone.outputs(tokens.after(torch.zeros(1, 1, 16, dtype=torch.float64)))
    assert with_prompt.shape == (4, 6, 16)
    assert torch.equal(plain[:, 0], backbone.outputs(backbone.embed(TEXTS[:, :1]))[:, 0])  # it is causal
    # A key of zeros has the score 0 whatever the query is, and a value of zeros adds nothing: the rest is scaled down.
    assert not torch.allclose(backbone.outputs(tokens, {0: (no_key, no_key)}), plain)


def test_rope_turns_tokens_behind_prompts_by_their_own_positions():
    """In the first block the attention of tokens among themselves is as without prompts, up to the softmax's sum."""
    backbone = llama().double()
    seen: list[torch.Tensor] = []
    attention = backbone.stages()["network.layers.0"].self_attn

    def keys(module, args, kwargs):
        cos, _ = kwargs["position_embeddings"]
        seen.append(cos)

    handle = attention.register_forward_pre_hook(keys, with_kwargs=True)
    tokens = backbone.embed(TEXTS)
    backbone.outputs(tokens)
    backbone.outputs(tokens.after(torch.zeros(1, 3, 16, dtype=torch.float64)))
    handle.remove()
    plain, prompted = seen
    assert torch.equal(prompted[:, 3:], plain.expand(len(prompted), -1, -1))
    assert torch.equal(prompted[:, :3], plain[:, :1].expand(len(prompted), 3, -1))


def test_distances_to_tokens_are_what_they_are_behind_prompts():
    """ALiBi: no position is given to the network, and to each other its tokens are as far as they were."""
    torch.manual_seed(0)
    sizes = {"n_layer": 1, "n_head": 2, "hidden_size": 12, "hidden_dropout": 0.0, "attention_dropout": 0.0}
    backbone = Made(transformers.BloomConfig(**sizes)).double().eval()
    tokens = backbone.embed(TEXTS)
    assert torch.equal(backbone.encode(tokens), backbone(TEXTS))
    # Prompts whose values are 0 take their share of the softmax, and change nothing else: two differ by a factor.
    block = backbone.stages()["network.h.0"].self_attention
    added = []
    block.dense.register_forward_hook(lambda module, inputs, output: added.append(inputs[0]))
    torch.nn.init.zeros_(block.query_key_value.bias)
    backbone.outputs(tokens)
    backbone.outputs(tokens.after(torch.zeros(1, 2, 12, dtype=torch.float64)))
    plain, prompted = (x.unflatten(-1, (2, 6)) for x in (added[0], added[1][:, 2:]))
    ratio = prompted / plain
    torch.testing.assert_close(ratio, ratio[..., :1].expand_as(ratio), rtol=1e-4, atol=0)  # they are in float32


def test_adapters_of_peft_leave_the_tokens_where_they_are():
    torch.manual_seed(0)
    backbone = GPT2((5,), 10, layers=2, heads=2, width=12, lora=2).eval()
    assert list(backbone.stages()) == ["network.base_model.model.h.0", "network.base_model.model.h.1"]
    assert torch.equal(backbone(TEXTS), backbone.encode(backbone.embed(TEXTS)))
