"""SLAO: one low-rank adaptation, learned on from the last one's directions and merged with what was there.

Qiao and Mahdavi, "Merge before Forget: A Single LoRA Continual Learning via Continual Merging", ICLR 2026.
Experience i trains the one pair (A, B) from an orthonormal basis of the last A, and from the last B,

    Q R = QR(A_{i−1}ᵀ),    A_i⁽⁰⁾ = Qᵀ,    B_i⁽⁰⁾ = B_{i−1},

both as they were trained, and merges it when it is done, A as it is and B by a step that becomes shorter:

    A ← A_i,    B ← B + λ(i) (B_i − B),    λ(i) = 1/√i.

Tests are answered with the merged pair, W₀ + s B A. What is kept does not grow with the stream.

Differences from the paper:
1. It is made for a language model that writes its answer, and has no head. Here a head is trained in every experience,
   on the pair being trained, is not merged, and the loss is the protocol's.
2. λ(i) = i^(−fade); fade = 0 leaves λ = 1: LoRA trained on, whose A is made orthonormal before each experience.
3. Terms are multiplied by `scale` = 1, as in `lora`, without dropout. A rank above the inputs of a weight is refused.
4. The optimiser's state, where the protocol keeps it, goes on.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from clarena import Experience, Lora, UsageError, added
from clarena_native.strategies.adapters.low_rank import LowRank, On, Rank, Scale


class SLAO(LowRank):
    """SLAO: one low-rank adaptation is learned on in every experience, and merged with what was there before it."""

    name = "slao"
    reference = "Qiao & Mahdavi 2026, Merge before Forget: A Single LoRA via Continual Merging. arXiv:2512.23017"
    needs = frozenset({"adapters", "boundaries"})
    carries = "the frozen backbone, a low-rank term as trained and as merged, and the head"
    tuning = {"fade": "0..1"}

    def __init__(
        self,
        *,
        fade: Annotated[
            float, Field(ge=0, description="By which λ(i) = i^(−fade), the step of a merger, falls.")
        ] = 0.5,
        rank: Rank = 8,
        scale: Scale = 1.0,
        on: On = ("query", "value"),
    ) -> None:
        super().__init__()
        self.fade = fade
        self.rank = rank
        self.scale = scale
        self.on = on

    def adapter(self, lora: Lora) -> nn.Module:
        narrow = min(weight.shape[1] for weight in lora.on_weights)
        if self.rank > narrow:
            raise UsageError(
                f"slao.rank = {self.rank} is more than the {narrow} inputs of a weight of {self.model.backbone.name}, "
                f"so that no A has orthonormal rows. Ask for at most {narrow}."
            )
        return Merged(lora)

    @torch.no_grad()
    def before_experience(self, experience: Experience) -> None:
        """Begin with an orthonormal basis of the last A, and the last B."""
        self.model.adapter.learning = True
        if experience.position and self.rank:
            for a in self.lora.chosen([0])[0].down:
                a.copy_(torch.linalg.qr(a.T).Q.T)

    def after_experience(self, experience: Experience) -> None:
        """Merge."""
        self.model.adapter.merge((experience.position + 1) ** -self.fade)


class Merged(nn.Module):
    """A low-rank term of each weight with two B: that being trained, and the merged one, by which tests are answered.

    Attributes:
        learning: whether the one being trained acts.
    """

    def __init__(self, lora: Lora) -> None:
        super().__init__()
        self.lora, self.learning = lora, False
        for place, b in enumerate(lora.chosen([0])[0].up):
            self.register_buffer(f"up_{place}", b.detach().clone())

    def merge(self, step: float) -> None:
        """Take a step from the merged B to that which was trained, and act by the merged one."""
        self.learning = False
        for place, b in enumerate(self.lora.chosen([0])[0].up):
            self.get_buffer(f"up_{place}").lerp_(b.detach(), step)

    def terms(self) -> dict[str, Tensor]:
        """What is added to each weight [out, in], by its name."""
        if self.learning or not self.lora.rank:
            return self.lora.terms()
        found: dict[str, Tensor] = {}
        for place, (weight, a) in enumerate(zip(self.lora.on_weights, self.lora.chosen([0])[0].down)):
            term = weight.placed(self.lora.scale * (self.get_buffer(f"up_{place}") @ a))
            found[weight.name] = found[weight.name] + term if weight.name in found else term
        return found

    @contextmanager
    def on(self, network: nn.Module) -> Iterator[None]:
        """Inside, the network's weights have the terms added."""
        with added(network, self.terms()):
            yield
