"""La-MAML: look-ahead meta-learning, and C-MAML, with one fixed rate in its place.

Gupta, Yadav & Paull, "La-MAML: look-ahead meta learning for continual learning", NeurIPS 2020, algorithm 1. For each
batch b of the stream, with b_m the batch and as many exemplars, and k' running over the samples of b:

    θ_{k'+1} ← θ_{k'} − α · ∇ ℓ(θ_{k'}, b[k'])                          fast weights, from θ₀ʲ
    αʲ⁺¹ ← αʲ − η ∇_α Σ_{k'} ℓ(θ_{k'}, b_m)                             the rates look ahead,
    θ₀ʲ⁺¹ ← θ₀ʲ − max(0, αʲ⁺¹) · ∇_{θ₀} Σ_{k'} ℓ(θ_{k'}, b_m)           the weights follow at the new rates

α holds one learned rate per parameter. C-MAML takes a fixed α in the first line, leaves out the second, and has a rate
of its own in the third.

Differences from the paper:
1. The sum over k' is a mean, as in the released code, so that η and the rates do not depend on the batch's size.
2. max(0, α) also holds in the fast weights; a parameter whose rate has fallen below zero stays as it is from then on.
3. `second_order` differentiates through the inner gradients; without it they count as constants (the released code's
   choice on MNIST, and the default).
4. Both meta-gradients are clipped by their norms, as in the released code; the paper does not say so.
5. `inner_steps` cuts the batch into that many parts, 5 by default, one step of the fast weights each, as the released
   code does on CIFAR; without it every sample is a step of its own, as above.
6. Exemplars come from the live reservoir, before the batch is written to it. A batch is gone over once: the passes of
   the protocol stand for the paper's glances.
7. Every forward pass starts from the BatchNorm statistics of the step's beginning, and the last one's are kept. A
   native BatchNorm normalises a single sample by its running statistics.
8. A schedule of the protocol multiplies α and the outer rate; η stays.
9. Predictions are those of θ₀, which the meta-loss never looks at: it asks for weights that are right *after* the inner
   steps. In the class scenario these pull the scores to the classes at hand, so θ₀ learns to lean the other way, the
   more so the larger α is, until it names old classes only. So the defaults, α₀ = 0.03 and η = 3 (large, because the
   gradient of a rate is a product of two small ones), were chosen there: on the first three experiences of
   split-digits, a fifth of their training data held out, two or three seeds. The accuracy for (α₀, η) of (0.1, 0.1)
   was 17 %, of (0.1, 3) 89 %, of (0.03, 0.1) 86 %, of (0.03, 3) 93 %; of 0.02 to 0.05 and 3 to 10, 92 to 96 %.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor
from torch.func import functional_call

from clarena import Batch, Context, Experience, GradientStrategy
from clarena_native.strategies.exemplars import draw, fields, joined
from clarena_native.strategies.meta.mer import parts

Clip = Annotated[
    float | None, Field(gt=0, description="Greatest norm of the meta-gradient, of weights and of rates; none: any.")
]
BufferSize = Annotated[
    int | None, Field(ge=0, description="Exemplars kept in total; none takes all that the protocol grants.")
]
ReplaySize = Annotated[
    int | None, Field(ge=1, description="Exemplars drawn per step; none draws as many as the protocol's batch.")
]
InnerSteps = Annotated[
    int | None, Field(ge=1, description="Steps of the fast weights per batch, which is cut; none: one per sample.")
]
SecondOrder = Annotated[bool, Field(description="Whether to differentiate through the inner gradients.")]


class LaMAML(GradientStrategy):
    """Look-ahead meta-learning: every parameter learns how fast it may move without harm to the past."""

    name = "la-maml"
    reference = "Gupta et al. 2020, La-MAML: Look-ahead Meta Learning for Continual Learning. arXiv:2007.13904"
    family = "meta-learning"
    needs = frozenset({"plain_sgd", "unclipped", "whole_batches", "float32"})
    carries = "the model, a learning rate for each parameter, and the buffer"

    alpha: Tensor

    def __init__(
        self,
        *,
        learning_rate: Annotated[float, Field(gt=0, description="Every α at the start.")] = 0.03,
        meta_rate: Annotated[float, Field(ge=0, description="η, the learning rate of the rates α.")] = 3.0,
        outer_rate: Annotated[
            float | None,
            Field(ge=0, description="A rate for the weights (the paper's Sync); none: the α just learned."),
        ] = None,
        inner_steps: InnerSteps = 5,
        second_order: SecondOrder = False,
        clip: Clip = 2.0,
        buffer_size: BufferSize = None,
        replay_size: ReplaySize = None,
    ) -> None:
        super().__init__()
        self.learning_rate = learning_rate
        self.meta_rate = meta_rate
        self.outer_rate = outer_rate
        self.inner_steps = inner_steps
        self.second_order = second_order
        self.clip = clip
        self.buffer_size = buffer_size
        self.replay_size = replay_size

    def setup(self, context: Context) -> None:
        super().setup(replace(context, learning_rate=self.learning_rate))
        self.buffer = context.replay_buffer(self.buffer_size)
        # Flat, over the parameters in order: a head grows by new parameters at the end. A buffer, for no optimiser.
        self.register_buffer("alpha", torch.zeros(0, device=context.device))

    def before_experience(self, experience: Experience) -> None:
        trained = [p for p in self.model.parameters() if p.requires_grad]
        new = sum(p.numel() for p in trained) - len(self.alpha)
        self.alpha = torch.cat([self.alpha, trained[0].new_full((new,), self.learning_rate)])

    def replay(self, batch: Batch) -> Batch:
        if len(self.buffer) == 0:
            return batch
        wanted = self.replay_size or self.context.protocol.batch_size
        return joined(batch, draw(self.buffer, wanted, self.context), self.context)

    def step(self, batch: Batch) -> None:
        weights = {name: p for name, p in self.model.named_parameters() if p.requires_grad}
        sizes = [p.numel() for p in weights.values()]
        full = self.replay(batch)
        alpha = self.alpha.detach().requires_grad_()
        loss, statistics = self.meta_loss(weights, alpha, batch, full)
        *for_weights, for_alpha = torch.autograd.grad(loss, [*weights.values(), alpha], materialize_grads=True)
        with torch.no_grad():
            self.alpha.sub_(self.meta_rate * self.clipped(for_alpha))
            rate = self.updater.factor * (self.alpha.relu() if self.outer_rate is None else self.outer_rate)
            moves = rate * self.clipped(torch.cat([g.flatten() for g in for_weights]))
            for p, move in zip(weights.values(), moves.split(sizes)):
                p.sub_(move.view_as(p))
            for name, value in self.model.named_buffers():
                value.copy_(statistics[name])
        self.after_step(batch)
        self.experience.meter.observe(loss)

    def meta_loss(
        self, weights: Mapping[str, Tensor], alpha: Tensor, batch: Batch, full: Batch
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The mean loss on `full` along the fast weights, and the model's buffers after the last pass.

        Args:
            weights: θ₀, by name.
            alpha: the rates [parameters].
            batch: whose parts the fast weights learn one after another.
            full: it and the exemplars.
        """
        rates = (self.updater.factor * alpha.relu()).split([p.numel() for p in weights.values()])
        fast = dict(weights)
        losses = []
        size = 1 if self.inner_steps is None else -(-len(batch) // self.inner_steps)
        for x, y, mask in parts(batch.x, batch.y, batch.mask, size):
            inner = self.context.target.loss(self.scores(fast, x)[0], y, mask)
            gradients = torch.autograd.grad(
                inner, list(fast.values()), create_graph=self.second_order, materialize_grads=True
            )
            moved = zip(fast.items(), rates, gradients)
            fast = {name: p - rate.view_as(p) * g for (name, p), rate, g in moved}
            scores, statistics = self.scores(fast, full.x)
            losses.append(self.context.target.loss(scores, full.y, full.mask))
            self.experience.meter.replayed += len(full) - full.fresh
        return torch.stack(losses).mean(), statistics

    def scores(self, weights: dict[str, Tensor], x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The model's scores [batch, …, outputs] with these weights, and its buffers as they would be after."""
        buffers = {name: value.clone() for name, value in self.model.named_buffers()}
        return functional_call(self.model, weights | buffers, (x,)), buffers

    def clipped(self, gradient: Tensor) -> Tensor:
        """The vector, shortened to the norm `clip` where it is longer."""
        return gradient if self.clip is None else gradient * (self.clip / gradient.norm()).clamp(max=1)

    def after_step(self, batch: Batch) -> None:
        self.buffer.add(self.context.generator("buffer"), **fields(batch))


class CMAML(LaMAML):
    """Continual meta-learning: weights move so that a few steps on new samples do no harm to the past."""

    name = "c-maml"
    carries = "the model, the fixed rate of each parameter, and the buffer"

    def __init__(
        self,
        *,
        learning_rate: Annotated[float, Field(gt=0, description="α, the rate of the fast weights.")] = 0.03,
        outer_rate: Annotated[float, Field(gt=0, description="The rate of the weights.")] = 0.1,
        inner_steps: InnerSteps = 5,
        second_order: SecondOrder = False,
        clip: Clip = 2.0,
        buffer_size: BufferSize = None,
        replay_size: ReplaySize = None,
    ) -> None:
        super().__init__(
            learning_rate=learning_rate,
            meta_rate=0.0,
            outer_rate=outer_rate,
            inner_steps=inner_steps,
            second_order=second_order,
            clip=clip,
            buffer_size=buffer_size,
            replay_size=replay_size,
        )
