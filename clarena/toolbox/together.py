"""Rows and inputs: a tensor, or a named tuple of tensors that belong together and are treated as one.

Numbers beside ids, or a text beside an image, make one sample. What is done to samples (chosen, joined, moved) is done
to every tensor of the tuple; none of these functions looks at values.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor


def each(function: Callable[..., Any], *rows: Any) -> Any:
    """What a function makes of every tensor, in a tuple of the same kind; of several tuples, place by place."""
    first = rows[0]
    return type(first)(*map(function, *rows)) if isinstance(first, tuple) else function(*rows)


def columns(rows: Any) -> tuple[Tensor, ...]:
    """The tensors: one, or those of the tuple."""
    return rows if isinstance(rows, tuple) else (rows,)


def shape_of(rows: Any) -> Any:
    """The shape of one sample; of a tuple, a tuple of shapes by the same names."""
    return each(lambda column: tuple(column.shape[1:]), rows)


def kinds(rows: Any) -> tuple[str, ...]:
    """The names of the tensors of a named tuple; none for a tensor."""
    return getattr(rows, "_fields", ())


def form_of(rows: Any) -> str:
    """Shape and type of one sample, in words."""
    told = [f"{list(column.shape[1:])} of {str(column.dtype).removeprefix('torch.')}" for column in columns(rows)]
    return ", ".join(f"{kind} {text}" for kind, text in zip(kinds(rows), told)) or told[0]


def count(rows: Any) -> int:
    """How many samples there are."""
    return len(columns(rows)[0])


def size(rows: Any) -> int:
    """Bytes of all of them."""
    return sum(column.numel() * column.element_size() for column in columns(rows))


def device_of(rows: Any) -> torch.device:
    """Where they are."""
    return columns(rows)[0].device


def chosen(rows: Any, index: Tensor) -> Any:
    """The samples at some positions, int64 [n], copied."""
    return each(lambda column: column.index_select(0, index), rows)


def part(rows: Any, where: slice | int) -> Any:
    """A stretch of the samples, or one of them."""
    return each(lambda column: column[where], rows)


def cut(rows: Any, size: int) -> list[Any]:
    """The samples in parts of `size`."""
    return [part(rows, slice(start, start + size)) for start in range(0, count(rows), size)]


def joined(parts: Sequence[Any]) -> Any:
    """Samples one after another."""
    return parts[0] if len(parts) == 1 else each(lambda *column: torch.cat(column), *parts)


def moved(rows: Any, device: torch.device) -> Any:
    """The same on a device, without waiting for it."""
    return each(lambda column: column.to(device, non_blocking=True), rows)


def same(one: Any, other: Any) -> bool:
    """Whether two are alike, bit for bit, in type and in shape."""
    if type(one) is not type(other):
        return False
    pairs = list(zip(columns(one), columns(other), strict=True))
    return all(a.dtype == b.dtype and a.shape == b.shape and torch.equal(_bits(a), _bits(b)) for a, b in pairs)


def _bits(x: Tensor) -> Tensor:
    return x.contiguous().view(torch.uint8) if x.ndim and x.dtype != torch.bool else x
