"""What torch does once in a process, done before any clock runs: else the first run of a process pays for the others.

Measured: the first optimiser of a process imports torch's compiler, which takes 1 to 5 s of the processor; all else
here takes some 20 ms together.
"""

import io
from copy import deepcopy
from functools import cache

import torch
from torch import nn
from torch.nn import functional as F

from clarena.run.environment import synchronise
from clarena.toolbox.seeding import forked


@cache
def warm_up(device: torch.device) -> None:
    """Build and use a small network with each of the protocol's optimisers, once in a process and for each device.

    No generator moves. What a run does first at its own shapes is its own.
    """
    with forked(0):
        layers = nn.Conv2d(1, 2, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(32, 64), nn.Linear(64, 4)
        network = deepcopy(nn.Sequential(*layers)).to(device)
        x, y = torch.rand(64, 1, 4, 4).to(device), torch.arange(64).to(device) % 4
        for optimizer in (
            torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9),
            torch.optim.Adam(network.parameters(), lr=0.1, fused=True),
            torch.optim.AdamW(network.parameters(), lr=0.1, fused=True),
        ):
            network.zero_grad()
            F.cross_entropy(network(x), y).backward()
            optimizer.step()
        weights = {name: p.detach() for name, p in network.named_parameters()}
        loss = torch.func.grad(lambda w, one: torch.func.functional_call(network, w, one[None]).sum())
        torch.func.vmap(loss, (None, 0))(weights, x)
        torch.save(network.state_dict(), io.BytesIO())
        synchronise(device)
