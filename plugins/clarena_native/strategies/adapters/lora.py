"""LoRA: low-rank adaptation of a frozen backbone, trained on from experience to experience.

Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", ICLR 2022, section 4.1. A weight W₀ [out, in] stays as
it is, and beside it a term of rank r is trained,

    h = W₀ x + ΔW x = W₀ x + B A x,    B [out, r] = 0 at the start, A [r, in] random, ΔW scaled by α / r.

In a stream it is the control of the methods built on it: with one branch, ΔW is trained on in every experience
(sequential LoRA); with a branch for each, h = W₀ x + s Σ_j B_j A_j x, of which the newest is trained (incremental LoRA,
the IncLoRA that O-LoRA compares with).

Differences from the paper:
1. It is of one task and says nothing of a stream. The head is trained with the terms, in every experience, and the loss
   is the protocol's.
2. A is drawn as linear layers are (Kaiming, a = √5), as in its code, and not from a Gaussian. There is no dropout on
   the term, and dropout of the backbone is off.
3. Weights are W₀ + s B A while a pass is made, which is the same sum; nothing is merged for good.
4. Each new branch is drawn anew. The optimiser's state, where the protocol keeps it, goes on for what is trained on.
"""

from typing import Annotated, Literal

from pydantic import Field

from clarena import Experience
from clarena_native.strategies.adapters.low_rank import LowRank, On, Rank, Scale


class LoRA(LowRank):
    """Low-rank adaptation: terms of a frozen backbone's weights are trained on in every experience; a control."""

    name = "lora"
    reference = "Hu et al. 2022, LoRA: Low-Rank Adaptation of Large Language Models. arXiv:2106.09685"

    def __init__(
        self,
        *,
        rank: Rank = 8,
        scale: Scale = 1.0,
        on: On = ("query", "value"),
        branches: Annotated[
            Literal["one", "each"],
            Field(description="One branch for all experiences, or a new one for each, with the older ones frozen."),
        ] = "one",
    ) -> None:
        super().__init__()
        self.rank = rank
        self.scale = scale
        self.on = on
        self.branches = branches

    def before_experience(self, experience: Experience) -> None:
        if self.branches == "each" and experience.position:
            self.grow()
