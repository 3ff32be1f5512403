"""Rows: what the stream hands out before conversion, and how each becomes an input of the model.

A row is as it is stored (uint8, mapped from disk) where its experience has no transform, or one that only moves
values; else it is the input itself. A test decides, once for a stream, so the conversion is one function for all of
its experiences: `context.inputs`.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor

from clarena.toolbox.mapped import require_unchanged
from clarena.toolbox.together import chosen, columns, count, device_of, each, joined, moved, same, size

KEPT = 2**28
"""Bytes of inputs up to which those of an experience are converted once; of more, batch by batch as they are used."""

AHEAD = 2
"""Batches that are read before they are asked for, where they are read one by one."""

TRIED = 16
"""Rows on which it is tried how they may be converted."""

Transform = Callable[[Any], Any]


@dataclass(frozen=True, eq=False)
class Conversion:
    """How what is stored becomes a row, and a row an input.

    Attributes:
        convert: what a benchmark makes of stored rows: `benchmark.inputs`.
        as_stored: whether rows are what is stored, moved at most; else they are the inputs.
    """

    convert: Transform
    as_stored: bool

    def __call__(self, rows: Any) -> Any:
        """Inputs [n, …] of rows [n, …], on their device; the same for every experience of the stream."""
        return self.convert(rows) if self.as_stored else rows

    def prepared(self, stored: Any, transform: Transform | None) -> Any:
        """The rows [n, …] of an experience that sees its inputs through `transform`, of what is stored [n, …]."""
        if not self.as_stored:
            stored = self.convert(stored)
        return stored if transform is None else transform(stored)


def conversion(convert: Transform, stored: Any, transforms: Iterable[Transform | None]) -> Conversion:
    """How the samples of a stream are converted, found by trying.

    Rows are kept as stored where that is smaller, each is converted by itself to the same bits as among others, and
    every transform, applied to what is stored, gives the same bits after the conversion as applied to the inputs.

    Args:
        convert: as of `Conversion`.
        stored: samples of the source [n, …], at least one.
        transforms: of the experiences.
    """
    every = Conversion(convert, as_stored=False)
    rows = _tried(stored)
    inputs = convert(each(torch.clone, rows))
    if size(rows) >= size(inputs) or not _one_by_one(convert, rows, inputs):
        return every
    for transform in {id(t): t for t in transforms if t is not None}.values():
        try:
            there = convert(transform(each(torch.clone, rows)))
        except Exception:  # whatever a transform of numbers with fractions raises for bytes
            return every
        if not same(there, transform(each(torch.clone, inputs))):
            return every
    return Conversion(convert, as_stored=True)


def _tried(stored: Any) -> Any:
    """Rows to try on: some of those there, evenly spaced; of bytes as many by chance, for blank ones show little."""
    n = count(stored)
    some = chosen(stored, torch.linspace(0, n - 1, min(n, TRIED)).long())
    if any(column.dtype != torch.uint8 for column in columns(some)):
        return some
    generator = torch.Generator().manual_seed(0)
    shuffled = each(lambda x: torch.randint(256, x.shape, dtype=torch.uint8, generator=generator), some)
    return joined([some, shuffled])


def _one_by_one(convert: Transform, rows: Any, together: Any) -> bool:
    """Whether rows become the same inputs alone, and among others."""
    alone = [convert(chosen(rows, torch.tensor([i]))) for i in range(count(rows))]
    return same(joined(alone), together)


@dataclass(frozen=True, eq=False)
class Part:
    """Samples of one source that are seen alike.

    Attributes:
        stored: the source [n, …], on the CPU: in memory, or mapped from a file.
        index: which of its rows these are, int64 [samples], on the CPU.
        transform: through which their inputs are seen; None leaves them as they are.
    """

    stored: Any
    index: Tensor
    transform: Transform | None = None

    def read(self, place: Tensor) -> Any:
        """What is stored of the samples at `place` [n], copied; raises `DataError` where their file was changed."""
        for column in columns(self.stored):
            require_unchanged(column)
        return chosen(self.stored, self.index[place])


class Rows:
    """The samples of an experience, in order, as rows and as inputs on the device.

    Inputs that take no more than `KEPT` bytes are converted at once and kept. Of more none is kept: every batch is
    read when its turn comes, a little ahead in a thread of its own, moved, and converted on the device.
    """

    def __init__(self, parts: Sequence[Part], convert: Conversion, device: torch.device) -> None:
        self.parts, self.conversion, self.device = _merged(parts), convert, device
        self._ends = torch.tensor([len(p.index) for p in self.parts]).cumsum(0)

    @classmethod
    def of(cls, inputs: Any) -> "Rows":
        """Inputs [n, …] that are rows already, where they are."""
        there = Part(inputs, torch.arange(count(inputs)))
        made = cls([there], Conversion(lambda x: x, as_stored=False), device_of(inputs))
        made.kept = inputs
        return made

    def __len__(self) -> int:
        return int(self._ends[-1])

    def ready(self) -> "Rows":
        """These, converted where they are few: before a clock runs."""
        _ = self.kept
        return self

    @cached_property
    def kept(self) -> Any:
        """All inputs, converted once; None where they are too many."""
        if not self._few:
            return None
        return joined([self.conversion(rows) for rows in self._all()])

    @cached_property
    def kept_rows(self) -> Any:
        """All rows, where inputs are kept: what a buffer copies from."""
        if not self.conversion.as_stored:
            return self.kept
        return joined(list(self._all()))

    def _all(self) -> Iterator[Any]:
        return (self._prepared(p, p.read(torch.arange(len(p.index)))) for p in self.parts)

    def inputs(self) -> Any:
        """All inputs at once [n, …], however many they are."""
        return self.kept if self._few else self._made(self._read(torch.arange(len(self))))[0]

    def batches(self, places: Sequence[Tensor], there: Sequence[Tensor]) -> Iterator[tuple[Any, Callable[[], Any]]]:
        """For each batch its inputs [batch, …], and what gives its rows [batch, …] when called.

        Args:
            places: positions of the samples, on the CPU.
            there: the same on the device.
        """
        if self._few:
            yield from map(self.at, places, there)
        else:
            yield from map(self._made, ahead(self._read, places))

    def at(self, place: Tensor, there: Tensor) -> tuple[Any, Callable[[], Any]]:
        """The same for one batch."""
        if not self._few:
            return self._made(self._read(place))
        return chosen(self.kept, there), lambda: chosen(self.kept_rows, there)

    def _made(self, read: tuple[list[tuple[Part, Any]], Tensor | None]) -> tuple[Any, Callable[[], Any]]:
        rows = self._gathered(read)
        return self.conversion(rows), lambda: rows

    @cached_property
    def _few(self) -> bool:
        """Whether all inputs together are few enough to be kept, or cannot be had one by one."""
        if not len(self):
            return True
        parts = [p for p in self.parts if len(p.index)]
        tried = parts[0].read(torch.arange(min(len(parts[0].index), TRIED)))
        inputs = self._converted(parts[0], tried)
        if size(inputs) // count(inputs) * len(self) <= KEPT:
            return True
        return not all(_one_by_one(partial(self._converted, p), tried, self._converted(p, tried)) for p in parts)

    def _converted(self, p: Part, stored: Any) -> Any:
        return self.conversion(self._prepared(p, each(torch.clone, stored)))  # whatever is done in place

    def _prepared(self, p: Part, stored: Any) -> Any:
        return self.conversion.prepared(moved(stored, self.device), p.transform)

    def _read(self, place: Tensor) -> tuple[list[tuple[Part, Any]], Tensor | None]:
        """What is stored of the samples at `place`, part by part, and their order in the batch where parts mix."""
        if len(self.parts) == 1:
            return [(self.parts[0], self._pinned(self.parts[0].read(place)))], None
        owner = torch.bucketize(place, self._ends, right=True)
        starts = torch.cat([torch.zeros(1, dtype=torch.int64), self._ends])
        found = [
            (self.parts[k], self._pinned(self.parts[k].read(place[owner == k] - starts[k])))
            for k in owner.unique().tolist()
        ]
        return found, self._pinned(owner.argsort(stable=True).argsort())

    def _gathered(self, read: tuple[list[tuple[Part, Any]], Tensor | None]) -> Any:
        found, order = read
        rows = joined([self._prepared(p, stored) for p, stored in found])
        return rows if order is None else chosen(rows, order.to(self.device, non_blocking=True))

    def _pinned(self, rows: Any) -> Any:
        """In memory from which a device copies without making the host wait."""
        return each(Tensor.pin_memory, rows) if self.device.type == "cuda" else rows


def _merged(parts: Sequence[Part]) -> list[Part]:
    """The parts, those that follow one another and are seen alike as one."""
    merged: list[Part] = []
    for p in parts:
        last = merged[-1] if merged else None
        if last is not None and last.stored is p.stored and last.transform is p.transform:
            merged[-1] = Part(p.stored, torch.cat([last.index, p.index]), p.transform)
        else:
            merged.append(p)
    return merged


def ahead(load: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
    """What `load` makes of each item in turn, of the next ones already in a thread of its own."""
    coming: deque[Future[Any]] = deque()
    with ThreadPoolExecutor(1) as pool:
        for item in items:
            coming.append(pool.submit(load, item))
            if len(coming) > AHEAD:
                yield coming.popleft().result()
        while coming:
            yield coming.popleft().result()
