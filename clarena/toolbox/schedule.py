"""How the learning rate goes over the passes: torch's own schedulers, stepped once per pass."""

import warnings
from functools import lru_cache
from math import ceil
from typing import Any

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
