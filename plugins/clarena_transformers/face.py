"""The tokens within a network of Hugging Face transformers, whichever it is: what its first block is given.

A network makes masks and positions of its own kind on the way to its first block, and hands them to all blocks. So it
is run as it is: to embed, until the first block is called; to process, on tokens that do not matter, in whose place the
first block is given others.
"""

from contextlib import suppress
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn

from clarena import Tokens, around

HIDDEN = "hidden_states"


def blocks(network: nn.Module) -> dict[str, nn.Module]:
    """The blocks of a network, by name: the longest list of modules of one kind; none where there is no such list."""
    lists = [
        (name, part)
        for name, part in network.named_modules()
        if isinstance(part, nn.ModuleList) and len({type(block) for block in part}) == 1
    ]
    name, longest = max(lists, key=lambda found: len(found[1]), default=("", ()))
    return {f"{name}.{place}": block for place, block in enumerate(longest)}


class _Embedded(Exception):
    """The first block has been reached."""


def embed(network: Any, first: nn.Module, **inputs: Any) -> Tensor:
    """What the first block of a network is given for these inputs [batch, tokens, width]."""
    found: list[Tensor] = []

    def stop(forward: Any, *args: Any, **kwargs: Any) -> Any:
        found.append(args[0] if args else kwargs[HIDDEN])
        raise _Embedded

    with around(first, stop), suppress(_Embedded):
        network(**inputs)
    return found[0]


def process(network: Any, first: nn.Module, tokens: Tokens, masked: bool) -> Tensor:
    """What a network makes of tokens [batch, tokens, width].

    Prompts are given to it at position 0, and the tokens of the input at their own, whatever stands before them: so
    positions that are turned into angles (RoPE) are theirs, too. (ALiBi goes by distances: those are kept.)

    Args:
        masked: whether it is told which tokens count, as encoders are.
    """
    batch, n, _ = tokens.values.shape
    device = tokens.values.device

    def replace(forward: Any, *args: Any, **kwargs: Any) -> Any:
        if args:
            return forward(tokens.values, *args[1:], **kwargs)
        return forward(**kwargs | {HIDDEN: tokens.values})

    inputs: dict[str, Any] = {"input_ids": torch.zeros(batch, n, dtype=torch.long, device=device)}
    if masked and tokens.kept is not None:
        inputs["attention_mask"] = tokens.kept.long()
    if tokens.prompts:
        if _takes_positions(network):
            places = torch.arange(n, device=device) - tokens.prompts
            inputs["position_ids"] = places.clamp(min=0).expand(batch, -1)
        inputs.setdefault("attention_mask", torch.ones(batch, n, dtype=torch.long, device=device))
    with around(first, replace):
        return network(**inputs).last_hidden_state  # type: ignore[no-any-return]


def _takes_positions(network: Any) -> bool:
    own = network.get_base_model() if hasattr(network, "get_base_model") else network  # within adapters of peft
    return "position_ids" in signature(own.forward).parameters
