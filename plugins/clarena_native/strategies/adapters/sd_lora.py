"""SD-LoRA: directions that were learned stay, and how far to go along each of them is learned on.

Wu et al., "SD-LoRA: Scalable Decoupled Low-Rank Adaptation for Class Incremental Learning", ICLR 2025. A low-rank
term is taken apart into a direction of norm 1 and a magnitude. In experience t, with the paper's A [out, r] and
B [r, in],

    h = (W₀ + α₁ A₁B₁/‖A₁B₁‖ + … + α_{t−1} A_{t−1}B_{t−1}/‖A_{t−1}B_{t−1}‖ + α_t A_tB_t/‖A_tB_t‖) x,

with the norm of Frobenius; earlier directions are frozen, and all magnitudes α are trained, with A_t and B_t.

Differences from the paper:
1. The term being learned is α_t A_tB_t, not divided by its norm, which is 0 at the start; as in its code.
2. Its code divides by ‖A‖‖B‖, which is never less than ‖AB‖, so that its directions are shorter than 1.
3. When an experience ends, its direction is given norm 1 and its magnitude takes that norm, so that what the model
   answers stays as it was. There all magnitudes begin anew at 0.8 with each experience.
4. Each weight has magnitudes of its own, where the code has one for all of them; they begin at 1. Their rate is that of
   everything else.
5. The variants that reduce ranks (RR) or fold directions into older ones (KD) are not here: terms come with every
   experience.
6. The head grows with the classes, blocks with none of an experience's outputs are frozen, and in the class scenario
   its loss is over its own outputs alone, as in the code.
7. Rank 10 on queries and values is its code's; the optimiser, its rate and the passes are the protocol's. Dropout of
   the backbone is off.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from clarena import Experience, Lora, added
from clarena_native.strategies.adapters.low_rank import On, OwnOutputs, Rank


class SDLoRA(OwnOutputs):
    """SD-LoRA: directions of earlier low-rank terms are frozen, and the magnitudes of all are learned on."""

    name = "sd-lora"
    reference = "Wu et al. 2025, SD-LoRA: Scalable Decoupled Low-Rank Adaptation. arXiv:2501.13198"
    carries = "the frozen backbone, the directions, their magnitudes and the head"

    def __init__(
        self,
        *,
        magnitude: Annotated[float, Field(gt=0, description="α with which a new term begins.")] = 1.0,
        rank: Rank = 10,
        on: On = ("query", "value"),
    ) -> None:
        super().__init__()
        self.magnitude = magnitude
        self.rank = rank
        self.on = on

    def adapter(self, lora: Lora) -> nn.Module:
        return Directions(lora, self.magnitude)

    def after_experience(self, experience: Experience) -> None:
        """What was learned becomes a direction."""
        self.model.adapter.normalise()


class Directions(nn.Module):
    """Low-rank terms, each with a magnitude for each of its weights: W + Σ_j α_j B_j A_j."""

    def __init__(self, lora: Lora, magnitude: float) -> None:
        super().__init__()
        self.lora, self.magnitude = lora, magnitude
        self.magnitudes = nn.ParameterList([self._new()])  # by branch: [weights]

    def _new(self) -> Tensor:
        return self.lora.like.new_full((len(self.lora.on_weights) if self.lora.rank else 0,), self.magnitude)

    def grow(self) -> None:
        """Freeze the directions there are, and add a term with magnitudes of its own."""
        self.lora.grow()
        self.magnitudes.append(self._new())

    def structure(self) -> int:
        """How many terms a weight has."""
        return len(self.magnitudes)

    def build(self, structure: int) -> None:
        """Have as many."""
        while len(self.magnitudes) < structure:
            self.grow()

    def terms(self) -> dict[str, Tensor]:
        """What is added to each weight [out, in], by its name."""
        found: dict[str, Tensor] = {}
        for branch, magnitudes in zip(self.lora.chosen(None), self.magnitudes):
            for weight, a, b, alpha in zip(self.lora.on_weights, branch.down, branch.up, magnitudes):
                term = weight.placed(alpha * (b @ a))
                found[weight.name] = found[weight.name] + term if weight.name in found else term
        return found

    @contextmanager
    def on(self, network: nn.Module) -> Iterator[None]:
        """Inside, the network's weights have the terms added."""
        with added(network, self.terms()):
            yield

    @torch.no_grad()
    def normalise(self) -> None:
        """Give the newest direction norm 1, and its magnitude what that takes away; one that is 0 stays."""
        newest, magnitudes = self.lora.chosen([-1])[0], self.magnitudes[-1]
        for a, b, alpha in zip(newest.down, newest.up, magnitudes):  # alpha: a view of its place
            norm = (b.double() @ a.double()).norm().to(b.dtype)
            norm = torch.where(norm > 0, norm, torch.ones_like(norm))
            b.div_(norm)
            alpha.mul_(norm)
