"""O-LoRA: each experience learns its low-rank terms in a subspace orthogonal to those of the earlier ones.

Wang et al., "Orthogonal Subspace Learning for Language Model Continual Learning", Findings of EMNLP 2023.
Each experience t has terms B_t A_t of its own, the older ones stay in the sum, frozen, and the rows of A_t, which span
what a term looks at, are held orthogonal to those before it:

    L + λ₁ Σ_{i<t} L_orth(A_i, A_t),    L_orth(A_i, A_t) = Σ_{j,k} ‖O_{i,t}[j, k]‖²,    O_{i,t} = A_iᵀ A_t

(the paper's A has the subspace in its columns, so that its A_iᵀ A_t is A_i A_tᵀ [r, r] here).

Differences from the paper:
1. The code has the absolute values |O[j, k]| in the place of their squares, `overlap` = absolute: these draw entries to
   0 with the same force however small they are. The sum is over all weights that have terms, as in the code.
2. The code adds λ₂ Σ ‖·‖₂ of the matrices A_t and B_t, which is 0 in its scripts for orders 1 to 3: `decay`,
   from the first experience on. The norm is not squared.
3. Rank 8 on queries and values and λ₁ = 0.5 are those of its scripts, which set other ones for single tasks of the
   longer orders. Terms are multiplied by `scale` = 1, as in `lora`, in place of 32 / 8, without dropout.
4. It is made for a language model that writes its answer, and has no head. Here a head is trained in every experience,
   and the loss is the protocol's.
5. Older terms are kept and summed; that they could be merged into the weights changes nothing.
"""

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from clarena_native.strategies.adapters.low_rank import Incremental, On, Rank, Scale


class OLoRA(Incremental):
    """O-LoRA: each experience has low-rank terms of its own, held orthogonal to those of the earlier ones."""

    name = "o-lora"
    reference = "Wang et al. 2023, Orthogonal Subspace Learning for LM Continual Learning. arXiv:2310.14152"
    tuning = {"strength": "0.01..10:log"}

    def __init__(
        self,
        *,
        strength: Annotated[float, Field(ge=0, description="λ₁, of the overlap with older terms.")] = 0.5,
        overlap: Annotated[
            Literal["squares", "absolute"],
            Field(description="What of A_i A_tᵀ is summed: squares, as in the paper, or the code's absolute values."),
        ] = "squares",
        decay: Annotated[float, Field(ge=0, description="λ₂, of the norms of the newest matrices.")] = 0.0,
        rank: Rank = 8,
        scale: Scale = 1.0,
        on: On = ("query", "value"),
    ) -> None:
        super().__init__()
        self.strength = strength
        self.overlap = overlap
        self.decay = decay
        self.rank = rank
        self.scale = scale
        self.on = on

    def penalty(self) -> Tensor | None:
        *older, newest = self.lora.chosen(None)
        terms: list[Tensor] = []
        if self.rank and self.strength and older:
            for place, a in enumerate(newest.down):
                before = torch.cat([branch.down[place] for branch in older])  # [Σ rank, in]
                products = before @ a.T  # [Σ rank, rank]
                terms.append(self.strength * (products.square() if self.overlap == "squares" else products.abs()).sum())
        if self.rank and self.decay:
            terms += [self.decay * matrix.norm() for matrix in newest.parameters()]
        return torch.stack(terms).sum() if terms else None
