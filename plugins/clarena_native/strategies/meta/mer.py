"""MER: meta-experience replay.

Riemer et al., "Learning to learn without forgetting by maximizing transfer and minimizing interference", ICLR 2019,
algorithm 1. For each sample (x, y) of the stream:

    B₁, …, B_s ← sample(x, y, s, k, M);   θ₀ᴬ ← θ
    for i = 1, …, s:   θᵢ,₀ᵂ ← θ;   for j = 1, …, k:   θᵢ,ⱼᵂ ← SGD(Bᵢ[j], θᵢ,ⱼ₋₁ᵂ, α)
                       θ ← θᵢ,₀ᵂ + β (θᵢ,ₖᵂ − θᵢ,₀ᵂ)        within a batch
    θ ← θ₀ᴬ + γ (θ − θ₀ᴬ)                                  across batches
    M ← M ∪ {(x, y)} by reservoir sampling

Each Bᵢ holds the sample and k − 1 exemplars. To second order in α, the steps one by one add the inner products of
the gradients of different samples to the loss: they are made to agree.

Differences from the paper:
1. The paper draws exemplars as they come; here those of one Bᵢ are drawn without replacement, those of different Bᵢ
   independently of each other. As long as the buffer holds fewer than k − 1, Bᵢ is smaller.
2. Where the sample stands in Bᵢ is open in the paper; `place` says it (the released code puts it first).
3. The reservoir is exact: sample n is stored with probability M/n (the released code's with M/(n + 1)).
4. A native BatchNorm normalises a single sample by its running statistics, which therefore stay as they began.
5. A schedule of the protocol multiplies α.
6. The defaults take fewer and larger steps than the paper's (s = 10, k = 5 to 100, β = 0.01 to 0.1), which cost
   s · k gradients per sample.
"""

from dataclasses import replace
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from clarena import Batch, Context, GradientStrategy
from clarena_native.strategies.exemplars import cut

Part = tuple[Tensor, Tensor, Tensor | None]
"""Some samples of a batch, here one: x [samples, …], y [samples, …], mask [samples or 1, outputs] or None."""


class MER(GradientStrategy):
    """Meta-experience replay: steps on single samples, old and new, that Reptile makes agree with each other."""

    name = "mer"
    reference = "Riemer et al. 2019, Learning to Learn without Forgetting. arXiv:1810.11910"
    family = "meta-learning"
    needs = frozenset({"plain_sgd", "unclipped", "whole_batches", "float32"})
    carries = "the model and the buffer"

    def __init__(
        self,
        *,
        learning_rate: Annotated[float, Field(gt=0, description="α, of the steps on single samples.")] = 0.03,
        beta: Annotated[float, Field(ge=0, le=1, description="β, how far θ follows the steps of one batch.")] = 0.3,
        gamma: Annotated[float, Field(ge=0, le=1, description="γ, how far θ follows those of all batches.")] = 1.0,
        draws: Annotated[int, Field(ge=1, description="s, batches drawn for each sample of the stream.")] = 1,
        draw_size: Annotated[int, Field(ge=1, description="k, the sample and k − 1 exemplars.")] = 10,
        place: Annotated[
            Literal["first", "last", "random"], Field(description="Where the sample stands in each batch drawn.")
        ] = "first",
        buffer_size: Annotated[
            int | None,
            Field(ge=0, description="Exemplars kept in total; none takes all that the protocol grants."),
        ] = None,
    ) -> None:
        super().__init__()
        self.learning_rate = learning_rate
        self.beta = beta
        self.gamma = gamma
        self.draws = draws
        self.draw_size = draw_size
        self.place = place
        self.buffer_size = buffer_size

    def setup(self, context: Context) -> None:
        super().setup(replace(context, learning_rate=self.learning_rate))
        self.buffer = context.replay_buffer(self.buffer_size)

    def step(self, batch: Batch) -> None:
        trained = [p for p in self.model.parameters() if p.requires_grad]
        tasks = [None] * len(batch) if batch.task is None else batch.task.split(1)
        rate = self.learning_rate * self.updater.factor
        losses = []
        for sample, row, task in zip(parts(batch.x, batch.y, batch.mask), cut(batch.rows), tasks):
            before = copies(trained, self.gamma)
            for _ in range(self.draws):
                start = copies(trained, self.beta)
                for x, y, mask in self.draw(sample):
                    loss = self.context.target.loss(self.model(x), y, mask)
                    gradients = torch.autograd.grad(loss, trained, materialize_grads=True)
                    with torch.no_grad():
                        for p, g in zip(trained, gradients):
                            p.add_(g, alpha=-rate)
                    if x is sample[0]:
                        losses.append(loss.detach())
                follow(trained, start, self.beta)
            follow(trained, before, self.gamma)
            fields = {"rows": row, "y": sample[1]} | ({} if task is None else {"task": task})
            self.buffer.add(self.context.generator("buffer"), **fields)
        self.experience.meter.observe(torch.stack(losses).mean())

    def draw(self, sample: Part) -> list[Part]:
        """One Bᵢ: the sample among exemplars."""
        wanted = min(self.draw_size - 1, len(self.buffer))
        if wanted == 0:
            return [sample]
        generator = self.context.generator("buffer")
        exemplars = self.buffer.sample(wanted, generator)
        mask = self.context.space.exemplar_mask(exemplars.get("task"))
        drawn = parts(exemplars["x"], exemplars["y"], mask)
        self.experience.meter.replayed += wanted
        match self.place:
            case "first":
                at = 0
            case "last":
                at = wanted
            case "random":
                at = int(torch.randint(wanted + 1, (), generator=generator))
        drawn.insert(at, sample)
        return drawn


def parts(x: Tensor, y: Tensor, mask: Tensor | None, size: int = 1) -> list[Part]:
    """A batch [batch, …] cut into parts of `size` samples; a mask [1, outputs] is that of all of them."""
    masks = [mask] * len(y) if mask is None or len(mask) == 1 else mask.split(size)
    return list(zip(cut(x, size), y.split(size), masks))


def copies(parameters: list[nn.Parameter], share: float) -> list[Tensor]:
    """The parameters as they are now, to be followed from; none where all of the way will be kept."""
    return [] if share == 1 else [p.detach().clone() for p in parameters]


@torch.no_grad()
def follow(parameters: list[nn.Parameter], start: list[Tensor], share: float) -> None:
    """Keep this share of the way that the parameters have come from `start`; none of it exactly."""
    for p, old in zip(parameters, start):
        torch.lerp(old, p, share, out=p)
