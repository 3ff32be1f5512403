"""ViTs as google-research publishes them (`.npz`, laid out by Flax), in timm's names and layout."""

import re
from pathlib import Path

import torch
from torch import Tensor

from . import weights as files

_NAMES = {
    "cls": "cls_token",
    "embedding": "patch_embed.proj",
    "Transformer/posembed_input/pos_embedding": "pos_embed",
    "Transformer/encoder_norm": "norm",
    "LayerNorm_0": "norm1",
    "LayerNorm_2": "norm2",
    "MlpBlock_3/Dense_0": "mlp.fc1",
    "MlpBlock_3/Dense_1": "mlp.fc2",
    "MultiHeadDotProductAttention_1/out": "attn.proj",
}
_LEAVES = {"kernel": "weight", "scale": "weight", "bias": "bias"}
_BLOCK = re.compile(r"Transformer/encoderblock_(\d+)/(.+)")
_QKV = re.compile(r"Transformer/encoderblock_(\d+)/MultiHeadDotProductAttention_1/(query|key|value)/(kernel|bias)")
CLASSIFIER = ["head", "pre_logits"]
"""What is behind the class token's features: in the files of ImageNet-21k of 2020 it has two layers."""


def read(file: Path, option: str) -> dict[str, Tensor]:
    """The tensors of a file; what is none of a ViT's keeps its name. No code in the file is run.

    Raises:
        UsageError: when it cannot be read.
    """
    joined: dict[str, dict[str, Tensor]] = {}
    state: dict[str, Tensor] = {}
    for name, value in files.arrays(file, option).items():
        if qkv := _QKV.fullmatch(name):
            block, part, leaf = qkv.groups()
            joined.setdefault(f"blocks.{block}.attn.qkv.{_LEAVES[leaf]}", {})[part] = _matrix(value.flatten(-2))
        else:
            state[_renamed(name)] = _laid_out(name, value)
    for name, parts in joined.items():
        state[name] = torch.cat([parts[part] for part in ("query", "key", "value") if part in parts])
    return state


def _renamed(name: str) -> str:
    if name in _NAMES:
        return _NAMES[name]
    inner = _BLOCK.fullmatch(name)
    prefix, rest = (f"blocks.{inner[1]}.", inner[2]) if inner else ("", name)
    owner, _, leaf = rest.rpartition("/")
    owner = owner if owner in CLASSIFIER else _NAMES.get(owner, "")
    return f"{prefix}{owner}.{_LEAVES[leaf]}" if owner and leaf in _LEAVES else name


def _laid_out(name: str, value: Tensor) -> Tensor:
    if not name.endswith("/kernel"):
        return value
    if value.ndim == 4:
        return value.permute(3, 2, 0, 1).contiguous()  # [height, width, in, out] of a convolution
    return _matrix(value.flatten(0, -2))  # of what heads gave [heads, width / heads, out]


def _matrix(value: Tensor) -> Tensor:
    """A matrix [in, out] as torch has it [out, in]; a bias as it is."""
    return value.T.contiguous() if value.ndim == 2 else value
