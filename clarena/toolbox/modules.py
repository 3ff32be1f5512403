"""Small things from `torch.nn`: evaluation mode that restores itself, frozen copies, BatchNorm for one sample."""

from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Evaluation mode inside, each submodule's own mode restored afterwards."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, mode in modes:
            part.training = mode


class Frozen(nn.Module):
    """A copy of a module that stays as it is: no gradient, and `train()` does not reach it.

    So a teacher's BatchNorm statistics cannot drift and its dropout stays off. It may be empty until there is
    something to hold; a checkpoint that holds a copy fills an empty one with the model (see `Strategy.build`).
    """

    module: nn.Module | None

    def __init__(self, module: nn.Module | None = None) -> None:
        super().__init__()
        self.hold(module)

    def hold(self, module: nn.Module | None) -> None:
        """Replace what is held by a frozen copy of `module`."""
        self.module = deepcopy(module)
        self.requires_grad_(False)
        self.train()

    def train(self, mode: bool = True) -> Self:
        """Stay in evaluation mode, whatever `mode` says."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Call the held module; raises `RuntimeError` when there is none."""
        if self.module is None:
            raise RuntimeError("Frozen holds no module yet: call hold(module) first.")
        return self.module(*args, **kwargs)


class Freezable(nn.Module):
    """A module that can be frozen where it is: nothing is copied, and no parameter gets another name.

    From then on nothing in it has a gradient, and `train()` does not reach it: BatchNorm's statistics stand still and
    dropout is off.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module
        self.frozen = False

    def freeze(self) -> None:
        """Stay as it is from now on."""
        self.frozen = True
        self.zero_grad()
        self.requires_grad_(False)
        self.train()

    def train(self, mode: bool = True) -> Self:
        """Stay in evaluation mode once frozen, whatever `mode` says."""
        return super().train(mode and not self.frozen)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Call the module."""
        return self.module(*args, **kwargs)

    def structure(self) -> bool:
        """Whether it is frozen."""
        return self.frozen

    def build(self, structure: bool) -> None:
        """Freeze it; what is frozen does not thaw."""
        if structure:
            self.freeze()


class BatchNorm(nn.BatchNorm2d):
    """Batch normalisation of [batch, channels, …] that also takes a training batch of one sample.

    One sample has no variance over the batch, and torch refuses it where there is one value per channel.
    Here it is normalised by the running statistics, as in evaluation, and leaves them as they are.
    """

    def forward(self, x: Tensor) -> Tensor:
        """The normalised batch, shaped as it was."""
        if len(x) > 1:
            return super().forward(x)
        return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)

    def _check_input_dim(self, input: Tensor) -> None:
        """Images and vectors alike."""


def tensors(state: Any) -> Iterator[Tensor]:
    """Every tensor inside nested mappings and sequences."""
    if isinstance(state, Tensor):
        yield state
    elif isinstance(state, dict):
        for value in state.values():
            yield from tensors(value)
    elif isinstance(state, list | tuple):
        for value in state:
            yield from tensors(value)


def state_bytes(module: nn.Module) -> int:
    """Bytes of everything in the module's state (parameters, buffers, extra state), each storage counted once."""
    storages = {}
    for tensor in tensors(dict(module.state_dict())):
        storage = tensor.untyped_storage()
        storages[storage.data_ptr() or id(storage)] = storage.nbytes()
    return sum(storages.values())
