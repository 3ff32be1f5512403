"""ER: experience replay.

Chaudhry et al., "On tiny episodic memories in continual learning", 2019, algorithm 1; Riemer et al., "Learning to
learn without forgetting by maximizing transfer and minimizing interference", ICLR 2019, algorithm 4. At each step

    θ ← θ − η ∇ mean CE(B_n ∪ B_M),    B_M ~ buffer,    then B_n is written to the buffer.

Differences from the papers:
1. Exemplars are drawn without replacement within a step.
2. Buffers: reservoir (exact inclusion probability M/n), class-balanced (Chrysakis & Moens 2020), a ring per class,
   or balanced-random: at the end of each experience, equal shares of every experience (of every class, where the
   protocol grants exemplars per class) chosen at random, as in the code of Hsu et al. 2018.
3. `draw=pass` deals the whole buffer out over each pass, in random order and repeated to about the size of the
   stream's data, instead of drawing at each step (again Hsu et al.).
4. `loss_weights=averaged` takes the mean of the stream's loss and of the exemplars' loss, each a mean of its own,
   instead of the mean over both together.
"""

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from clarena import Batch, Context, Experience, GradientStrategy
from clarena_native.strategies.exemplars import Dealer, draw, fields, joined, per_part, picked, ring_key, together


class ER(GradientStrategy):
    """Experience replay: every step also trains on exemplars drawn from a buffer."""

    name = "er"
    reference = "Chaudhry et al. 2019, On Tiny Episodic Memories in Continual Learning. arXiv:1902.10486"
    family = "replay"
    off = {"buffer_size": 0}
    carries = "the model and the buffer"

    def __init__(
        self,
        *,
        buffer_size: Annotated[
            int | None, Field(ge=0, description="Exemplars kept in total; none takes all that the protocol grants.")
        ] = None,
        replay_size: Annotated[
            int | None,
            Field(ge=1, description="Exemplars drawn per step; none draws as many as the protocol's batch."),
        ] = None,
        policy: Annotated[
            Literal["reservoir", "class_balanced", "ring", "balanced_random"],
            Field(description="Which samples the buffer keeps."),
        ] = "reservoir",
        draw: Annotated[
            Literal["step", "pass"], Field(description="Drawn at each step, or dealt out over each pass.")
        ] = "step",
        loss_weights: Annotated[
            Literal["joined", "averaged"],
            Field(description="One mean over stream and exemplars, or the mean of their two means."),
        ] = "joined",
    ) -> None:
        super().__init__()
        self.buffer_size = buffer_size
        self.replay_size = replay_size
        self.policy = policy
        self.draw = draw
        self.loss_weights = loss_weights

    def setup(self, context: Context) -> None:
        super().setup(context)
        if self.policy == "balanced_random":
            self.buffer = context.replay_buffer(self.buffer_size, "ring", ring_key(context))
        else:
            self.buffer = context.replay_buffer(self.buffer_size, self.policy)
        self.dealer: Dealer | None = None

    def before_experience(self, experience: Experience) -> None:
        if self.draw == "pass" and len(self.buffer):
            self.stored = self.buffer.everything(as_rows=True)
            repeats = max(1, len(experience) // len(self.buffer))
            self.dealer = Dealer(repeats * len(self.buffer), experience, self.context)

    def replay(self, batch: Batch) -> Batch:
        if self.draw == "pass":
            return joined(batch, self._deal(self.dealer), self.context) if self.dealer else batch
        if len(self.buffer) == 0:
            return batch
        wanted = per_part(self.replay_size or self.context.protocol.batch_size, self.context)
        return joined(batch, draw(self.buffer, wanted, self.context), self.context)

    def _deal(self, dealer: Dealer) -> dict[str, Tensor]:
        rows = dealer.next() % len(self.stored["y"])
        return picked(self.stored, rows)

    def loss(self, batch: Batch) -> Tensor:
        if self.loss_weights == "joined" or batch.fresh == len(batch):
            return super().loss(batch)
        return (super().loss(batch.stream()) + super().loss(batch.exemplars())) / 2

    def after_step(self, batch: Batch) -> None:
        if self.policy != "balanced_random":
            self.buffer.add(self.context.generator("buffer"), **fields(batch.stream()))

    def after_experience(self, experience: Experience) -> None:
        if self.dealer:
            self.dealer = None
            del self.stored
        if self.policy == "balanced_random" and self.buffer.capacity:
            self._choose(experience)

    def _choose(self, experience: Experience) -> None:
        """Offer everything in random order to a ring of experiences, which keeps the last of each: a random share."""
        everything = together([fields(batch) for batch in experience.scan()])
        order = torch.randperm(len(experience), generator=self.context.generator("buffer")).to(self.context.device)
        position = torch.full_like(everything["y"], experience.position)
        self.buffer.add(self.context.generator("buffer"), **picked(everything, order), experience=position)
