"""Reading exemplars back from a buffer: drawn afresh at each step, or each dealt out once in every pass."""

from typing import Literal

import torch
from torch import Tensor

from clarena import Batch, Context, Experience, ReplayBuffer

Draw = Literal["step", "pass"]


def draw(buffer: ReplayBuffer, wanted: int, context: Context) -> dict[str, Tensor]:
    """A draw of `wanted` exemplars without replacement, from the `buffer` stream of chance."""
    return buffer.sample(wanted, context.generator("buffer"))


def per_part(wanted: int, context: Context) -> int:
    """How many of a step's exemplars each of its parts draws, rounded up; all where the protocol has one part."""
    return -(-wanted // context.protocol.accumulation)


def joined(batch: Batch, exemplars: dict[str, Tensor], context: Context) -> Batch:
    """The batch with exemplars behind it, each with the outputs in play for it."""
    task = exemplars.get("task")
    return batch.join(exemplars["x"], exemplars["y"], task, context.space.exemplar_mask(task))


def fields(batch: Batch) -> dict[str, Tensor]:
    """What a buffer stores of a batch: inputs, labels, and task labels where there are any."""
    return {"x": batch.x, "y": batch.y} | ({} if batch.task is None else {"task": batch.task})


def ring_key(context: Context) -> str:
    """What a ring over experiences divides: `experience`, or `y` where the protocol grants exemplars per class.

    Where classes come back in every experience (domains), a number of exemplars per class is shared by experiences.
    """
    per_class = context.protocol.exemplars_per_class is not None and context.scenario != "domain"
    return "y" if per_class else "experience"


class Dealer:
    """Deals out `total` exemplars over the steps of a pass (their parts, where there are several), each once.

    They come in a new random order for every pass.
    """

    def __init__(self, total: int, experience: Experience, context: Context) -> None:
        self.total, self.generator, self.device = total, context.generator("buffer"), context.device
        parts = experience.protocol.accumulation  # of a batch, which is cut into no more than it has samples
        full, rest = divmod(len(experience), experience.protocol.batch_size)
        self.steps = full * parts + min(parts, rest)
        self.step = 0

    def next(self) -> Tensor:
        """The positions [n] of the exemplars for the next step; n may be 0."""
        place = self.step % self.steps
        if place == 0:
            self.order = torch.randperm(self.total, generator=self.generator).to(self.device)
        self.step += 1
        return self.order[place * self.total // self.steps : (place + 1) * self.total // self.steps]
