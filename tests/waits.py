"""Counts what would wait for the device, where there is none: the CPU plays the device, and marked tensors lie on it.

A tensor is on the device when it was put there (`on_device`), or when an operation made it of one that is. Whatever
needs such a tensor's numbers on the host is counted with the place that asked: reading an item, a list or an array,
and operations whose result has a size that the numbers decide (`nonzero`, `unique`, an index of booleans). Whatever is
made on the host and handed over is not: that is a copy the host need not wait for.
"""

import traceback
from collections import Counter
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from clarena.contract.experience import HiddenStream

SIZED_BY_NUMBERS = (
    *("_local_scalar_dense", "nonzero", "_unique", "_unique2", "unique_dim", "unique_consecutive", "masked_select"),
    *("equal", "is_nonzero", "bincount", "repeat_interleave"),
)
READ = ("tolist", "numpy", "cpu", "__array__")


class Waits(TorchDispatchMode):
    """While active, counts what waits for the device; `places` says where, as `file:line function`."""

    def __init__(self, on_device: Any = ()) -> None:
        super().__init__()
        self.places: Counter[str] = Counter()
        self._kept: dict[int, Any] = {}  # storages, kept alive so that no other gets their address
        self.on_device(on_device)

    @property
    def count(self) -> int:
        return sum(self.places.values())

    def on_device(self, content: Any) -> None:
        """Mark tensors, in whatever they are held, as lying on the device."""
        for each in tree_leaves(content):
            if isinstance(each, Tensor) and each.numel():
                storage = each.untyped_storage()
                self._kept[storage.data_ptr()] = storage

    def holds(self, tensor: object) -> bool:
        """Whether a tensor lies on the device."""
        return isinstance(tensor, Tensor) and tensor.numel() > 0 and tensor.untyped_storage().data_ptr() in self._kept

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = tree_leaves((args, kwargs or {}))
        there = any(map(self.holds, given))
        if there:
            name = func._schema.name.removeprefix("aten::")
            booleans = name.startswith("index") and any(
                isinstance(each, Tensor) and each.dtype == torch.bool for each in tree_leaves(args[1:2])
            )
            if (name in SIZED_BY_NUMBERS and self.holds(args[0])) or booleans:
                self._note()
        result = func(*args, **(kwargs or {}))
        if there:
            self.on_device(result)
            if func._schema.name.startswith("aten::_fused"):  # an optimiser's own counts lie where its parameters do
                self.on_device(given)
        return result

    def _note(self) -> None:
        frames = traceback.extract_stack()
        ours = [f for f in frames if "/torch/" not in f.filename and f.filename != __file__]
        self.places[f"{ours[-1].filename.rpartition('/')[2]}:{ours[-1].lineno} {ours[-1].name}"] += 1

    def __enter__(self) -> "Waits":
        def counting(name: str) -> Any:
            method = getattr(Tensor, name)

            def read(tensor: Tensor, *args: Any, **kwargs: Any) -> Any:
                if self.holds(tensor):
                    self._note()
                return method(tensor, *args, **kwargs)

            return read

        self._patches = [patch.object(Tensor, name, counting(name)) for name in READ]
        for each in self._patches:
            each.start()
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        for each in self._patches:
            each.stop()


def waits_of(walked: Any, steps: int = 2) -> Counter[str]:
    """The waits while a strategy, set up as `tiny.walk` does it, learns the first experiences of its stream."""
    realised, strategy = walked.realised, walked.strategy
    with Waits(strategy.state_dict()) as waits:
        if realised.hidden:
            realised.begin_hidden()
            parts = map(realised.experience, realised.steps[:steps])
            given = ((waits.on_device([part.x, part.y]), part)[1] for part in parts)
            strategy.learn(HiddenStream(given, realised.space, realised.protocol))
            return waits.places
        for positions in realised.steps[:steps]:
            realised.begin(positions)
            experience = realised.experience(positions)
            masks = (realised.space.mask(), realised.space.exemplar_mask())
            waits.on_device([experience.x, experience.y, experience.tasks, masks, strategy.state_dict()])
            strategy.learn(experience)
    return waits.places
