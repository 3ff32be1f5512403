"""Reading exemplars back from a buffer: drawn afresh at each step, or each dealt out once in every pass."""

from typing import Any, Literal

import torch
from torch import Tensor

from clarena import Batch, Context, Experience, ReplayBuffer, each

Draw = Literal["step", "pass"]


def draw(buffer: ReplayBuffer, wanted: int, context: Context) -> dict[str, Any]:
    """A draw of `wanted` exemplars without replacement, from the `buffer` stream of chance."""
    return buffer.sample(wanted, context.generator("buffer"))


def per_part(wanted: int, context: Context) -> int:
    """How many of a step's exemplars each of its parts draws, rounded up; all where the protocol has one part."""
    return -(-wanted // context.protocol.accumulation)


def joined(batch: Batch, exemplars: dict[str, Any], context: Context) -> Batch:
    """The batch with exemplars behind it, each with the outputs in play for it."""
    task = exemplars.get("task")
    x = context.inputs(exemplars["rows"]) if "rows" in exemplars else exemplars["x"]
    return batch.join(x, exemplars["y"], task, context.space.exemplar_mask(task))


def fields(batch: Batch) -> dict[str, Any]:
    """What a buffer stores of a batch: rows, labels, and task labels where there are any."""
    return {"rows": batch.rows, "y": batch.y} | ({} if batch.task is None else {"task": batch.task})


def picked(exemplars: dict[str, Any], rows: Tensor | slice) -> dict[str, Any]:
    """Those at some positions, or those that a mask is true of."""
    return {name: each(lambda column: column[rows], columns) for name, columns in exemplars.items()}


def together(parts: list[dict[str, Any]]) -> dict[str, Any]:
    """Fields one part after another."""
    return {name: each(lambda *columns: torch.cat(columns), *(part[name] for part in parts)) for name in parts[0]}


def cut(x: Any, size: int = 1) -> list[Any]:
    """Inputs or rows [n, …] in parts of `size` samples."""
    parts = each(lambda column: column.split(size), x)
    return [type(x)(*part) for part in zip(*parts)] if isinstance(x, tuple) else list(parts)


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
