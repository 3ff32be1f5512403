"""Samples as Avalanche reads them, one by one, and a batch of them by one index.

Avalanche asks a data set for single samples and has them joined afterwards. So what it is given of one is a `Row`,
which says where the input lies and reads nothing; joining rows reads them all.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils.data import Dataset
from torch.utils.data._utils.collate import default_collate_fn_map


class Source(Protocol):
    """Where inputs lie."""

    def inputs(self, index: list[int]) -> Tensor:
        """Inputs [len(index), …]."""
        ...

    def rows(self, index: list[int]) -> Tensor:
        """The same before conversion: what is kept."""
        ...


class Pool:
    """Exemplars of one or several buffers, in one tensor from the first read on; what is read is counted."""

    def __init__(self, count: Callable[[int], None], convert: Callable[[Tensor], Tensor] = lambda rows: rows) -> None:
        self._parts: list[Tensor] = []
        self._count, self._convert = count, convert

    def add(self, rows: Tensor) -> int:
        """Take rows [exemplars, …] in; returns where the first of them lies."""
        self._parts.append(rows)
        return sum(map(len, self._parts[:-1]))

    def inputs(self, index: list[int]) -> Tensor:
        """Inputs [len(index), …], without waiting for the device."""
        return self._convert(self.rows(index))

    def rows(self, index: list[int]) -> Tensor:
        """Rows [len(index), …], without waiting for the device."""
        self._count(len(index))
        if len(self._parts) > 1:
            self._parts = [torch.cat(self._parts)]
        (x,) = self._parts
        return x.index_select(0, torch.tensor(index).to(x.device, non_blocking=True))


@dataclass(frozen=True, slots=True, eq=False)
class Row:
    """The input of one sample, not read yet; `default_collate`, `torch.stack` and `torch.cat` join many."""

    source: Source
    index: int

    def unsqueeze(self, dim: int) -> "Row":
        """A batch of one, as MER asks for before `torch.cat`; not read yet either."""
        return self

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Tensor:
        return joined(args[0]) if function in (torch.cat, torch.stack) else NotImplemented


def joined(rows: Sequence[Row], *, converted: bool = True) -> Tensor:
    """The inputs [rows, …], read by one index of each source that they lie in; or what they are before conversion."""
    places: dict[Source, list[int]] = {}
    for place, row in enumerate(rows):
        places.setdefault(row.source, []).append(place)
    parts = []
    for source, found in places.items():
        index = [rows[place].index for place in found]
        parts.append(source.inputs(index) if converted else source.rows(index))
    if len(parts) == 1:
        return parts[0]
    order = torch.tensor([place for found in places.values() for place in found])
    x = torch.cat(parts)
    return x.index_select(0, order.argsort().to(x.device, non_blocking=True))


def _collate(rows: Sequence[Row], *, collate_fn_map: Any = None) -> Tensor:
    return joined(rows)


default_collate_fn_map[Row] = _collate  # several of Avalanche's loaders take no other way to collate


class Samples(Dataset[Any]):
    """Samples as (input, label); the inputs lie in a source, one after another from `start` on."""

    def __init__(self, source: Source, targets: list[int], start: int = 0) -> None:
        self.source, self.targets, self.start = source, targets, start

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Row, int]:
        return Row(self.source, self.start + index), self.targets[index]
