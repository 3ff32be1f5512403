"""How the learning rate goes over the passes, and which pass it is: torch's own schedulers, stepped once per pass."""

import warnings
from dataclasses import dataclass
from functools import lru_cache
from math import ceil
from typing import Any
from typing import Protocol as Interface

import torch
from torch import nn
from torch.optim import lr_scheduler

from clarena.protocol.protocol import Protocol


def scheduled(protocol: Protocol) -> bool:
    """Whether rates change at all."""
    return protocol.schedule != "constant" or protocol.warmup > 0


@lru_cache(maxsize=64)
def rates(protocol: Protocol, full: float, passes: int) -> list[float]:
    """The rate of each of so many passes.

    Warm-up: pass k of w, from 0, has (k + 1) / (w + 1) of the full rate (LinearLR; Goyal et al. 2017). After it the
    rate is constant, or falls by γ at each milestone (MultiStepLR), or along a cosine that would reach 0 one pass after
    the last (CosineAnnealingLR; Loshchilov & Hutter 2017). Milestones count from the first pass. Who makes more or
    fewer passes than the protocol's `epochs` has milestones and warm-up in proportion.
    """
    budget = protocol.epochs
    warmup = min(protocol.warmup * passes // budget, passes - 1)
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=full)
    if protocol.schedule == "cosine":
        main: Any = lr_scheduler.CosineAnnealingLR(optimizer, T_max=passes - warmup)
    else:
        fall = [ceil(milestone * passes / budget) - warmup for milestone in protocol.milestones]
        main = lr_scheduler.MultiStepLR(optimizer, milestones=fall, gamma=protocol.gamma)
    if warmup:
        rise = lr_scheduler.LinearLR(optimizer, start_factor=1 / (warmup + 1), total_iters=warmup)
        main = lr_scheduler.SequentialLR(optimizer, [rise, main], milestones=[warmup])
    found = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # older releases warn of what their own SequentialLR does
        for _ in range(passes):
            found.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            main.step()
    return found


class Counted(Interface):
    """What counts the samples and steps that are handed out."""

    samples: int
    steps: int


@dataclass
class Clock:
    """How far a caller has come in its horizon: in `length` steps or samples it makes `passes` passes.

    Attributes:
        meter: what counts the samples (or, with `by_steps`, the steps) handed out; None: the optimiser's own steps.
        start: what the meter said at the beginning.
        told: the pass itself, where the caller says so.
    """

    passes: int
    length: int
    meter: Counted | None = None
    by_steps: bool = False
    start: int = 0
    steps: int = 0
    told: int | None = None

    @property
    def place(self) -> int:
        """The pass that is being made, from 0; the last one for whoever goes on beyond his horizon."""
        if self.told is not None:
            return min(self.told, self.passes - 1)
        done = self.steps
        if self.meter is not None:  # the batch at hand is counted already
            done = (self.meter.steps if self.by_steps else self.meter.samples) - self.start - 1
        return min(max(done, 0) * self.passes // self.length, self.passes - 1)


@dataclass
class Budget:
    """The passes over what is being learned; the host tells of each experience as it begins.

    Where boundaries are hidden it tells of the whole stream, once, if its length is known: a step is a pass then.
    """

    meter: Counted | None = None
    passes: int = 0
    size: int = 0
    batch_size: int = 1
    by_steps: bool = False

    def begin(self, meter: Counted, passes: int, size: int, batch_size: int = 1, by_steps: bool = False) -> None:
        """So many passes over so many samples are all there is, and `meter` counts them."""
        self.meter, self.passes, self.size, self.batch_size, self.by_steps = meter, passes, size, batch_size, by_steps

    def clock(self, steps: int | None, passes: int | None) -> Clock | None:
        """The clock of an updater with this horizon; None where nothing is known of what there is to learn from."""
        if steps is not None:
            per_pass = ceil(self.size / self.batch_size) or steps
            return Clock(passes or max(1, ceil(steps / per_pass)), max(1, steps))
        if self.meter is None:
            return None
        done = self.meter.steps if self.by_steps else self.meter.samples
        left = self.passes - ceil(done / self.size)
        passes = min(left, passes or left)
        return Clock(passes, passes * self.size, self.meter, self.by_steps, done) if passes > 0 else None
