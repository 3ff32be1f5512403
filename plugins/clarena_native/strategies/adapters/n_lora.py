"""N-LoRA: low-rank terms are made sparse, so that those of different experiences seldom meet.

Yang et al., "Is Parameter Collision Hindering Continual Learning in LLMs?", COLING 2025. Each experience t has
low-rank terms of its own, the older ones stay in the sum, frozen, and an ℓ₁ penalty leaves few entries of the new terms
that are not 0:

    L + λ ‖ΔW_t‖₁,    ΔW_t = B_t A_t.

Parameters collide where two experiences both change an entry; sparse ones seldom do.

Differences from the paper:
1. The penalty is of ΔW_t = B_t A_t [out, in], as the paper says: without the scale s, and summed over all weights that
   have terms. Its code multiplies the two matrices in the other order, which gives an [r, r] matrix where a weight is
   square, and nothing where it is not. That product is not offered.
2. So a step costs the whole ΔW_t of each weight once more.
3. λ = 0.4 is that of its scripts for orders 1 to 3, for the code's other norm and another model: choose it anew. Rank,
   weights and scale are those of `lora` and `o-lora`, so that rows differ by the penalty alone.
4. It is made for a language model that writes its answer, and has no head. Here a head is trained in every experience,
   and the loss is the protocol's.
"""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from clarena_native.strategies.adapters.low_rank import Incremental, On, Rank, Scale


class NLoRA(Incremental):
    """N-LoRA: each experience has low-rank terms of its own, made sparse so that they seldom meet older ones."""

    name = "n-lora"
    reference = "Yang et al. 2025, Is Parameter Collision Hindering Continual Learning in LLMs? arXiv:2410.10179"
    tuning = {"strength": "1e-5..1:log"}

    def __init__(
        self,
        *,
        strength: Annotated[float, Field(ge=0, description="λ, of the new terms' absolute entries.")] = 0.4,
        rank: Rank = 8,
        scale: Scale = 1.0,
        on: On = ("query", "value"),
    ) -> None:
        super().__init__()
        self.strength = strength
        self.rank = rank
        self.scale = scale
        self.on = on

    def penalty(self) -> Tensor | None:
        if not (self.rank and self.strength):
            return None
        newest = self.lora.chosen([-1])[0]
        norms = [(b @ a).abs().sum() for a, b in zip(newest.down, newest.up)]
        return self.strength * torch.stack(norms).sum()
