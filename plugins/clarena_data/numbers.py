"""Tables of numbers: each column of numbers is a feature."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from clarena import Benchmark, Data, DataError, RowForm, Samples, Scenario, Stream, in_order

from .tables import (
    ROW_NUMBERS,
    SPLIT,
    TEXT_COLUMNS,
    Table,
    ignored,
    labels_if_any,
    labels_of,
    new_table,
    numbers_in,
    parts_of,
    samples_of,
)
from .texts import dealt

Standardise = Annotated[
    bool,
    Field(
        description="Subtract from each number its mean over the training samples of the first experience, and divide "
        "by its standard deviation there (1 where that is 0), in all experiences alike: nothing looks ahead."
    ),
]


class Standardised(Benchmark):
    """A stream whose inputs may be standardised by what its first experience holds.

    The first experience is another one under each seed; the data that a track is made of are the numbers as stored.

    Attributes:
        standardise: whether they are.
    """

    standardise: bool

    def stream(self, data: Data, scenario: Scenario, generator: np.random.Generator) -> Stream:
        """That of the next class in line, each experience seen through the same scaling where that is asked for."""
        stream: Stream = super().stream(data, scenario, generator)  # type: ignore[safe-super]
        if not self.standardise or not stream.splits:
            return stream
        x = self.inputs(data.x_train[stream.splits[0].train]).double()
        spread = x.std(0, correction=0)
        scaling = Scaling(x.mean(0).float(), torch.where(spread > 0, spread, 1.0).float())
        splits = tuple(
            replace(split, transform=scaling if split.transform is None else Chain(scaling, split.transform))
            for split in stream.splits
        )
        return replace(stream, splits=splits)


@dataclass(frozen=True, eq=False)
class Scaling:
    """Subtracts `mean` from every input [batch, …] and divides by `spread`, both [1, …] less the batch."""

    mean: Tensor
    spread: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        """The scaled inputs."""
        mean, spread = (part.to(x.device, non_blocking=True) for part in (self.mean, self.spread))
        return (x - mean) / spread


@dataclass(frozen=True, eq=False)
class Chain:
    """One transform after another."""

    first: Callable[[Tensor], Tensor]
    then: Callable[[Tensor], Tensor]

    def __call__(self, x: Tensor) -> Tensor:
        """The inputs through both."""
        return self.then(self.first(x))


def features(table: Table) -> tuple[dict[str, np.ndarray[Any, Any]], list[str]]:
    """The columns of numbers, float64 [n] each, and a note of each column that is left out.

    Raises:
        DataError: where a number is missing or not finite.
    """
    _, labels = labels_of(table)
    found, notes = {}, []
    for name, column in table.columns.items():
        if name in (*labels, SPLIT):
            continue
        if name in ROW_NUMBERS:
            notes.append(f"{table.path.name}: the column {name!r} numbers the rows, and is left out.")
            continue
        numbers, odd = numbers_in(column)
        if odd is not None:
            shown = str(column[odd])[:40]
            notes.append(
                f"{table.path.name}: the column {name!r} is ignored: {shown!r} in line {table.lines[odd]} is no number"
                + (" (decimals are written with a point)." if "," in shown else ".")
            )
            continue
        with np.errstate(over="ignore"):
            missing = np.flatnonzero(~np.isfinite(numbers.astype(np.float32)))
        if len(missing) == len(numbers):
            notes.append(f"{table.path.name}: the column {name!r} is empty, and ignored.")
            continue
        if len(missing):
            row = int(missing[0])
            raise DataError(
                f"{table.where(row)}: {name} is {column[row]!r}, and {len(missing)} rows have no finite number there. "
                "Fill them in, remove those rows, or remove the column."
            )
        found[name] = numbers
    return found, notes


def read_numbers(table: Table, test_share: float, what: str) -> tuple[Data, list[str]]:
    """The features of a table as float32 [n, columns], and their names.

    Classes whose names are whole numbers are in the order of these, others in that of their names.

    Raises:
        DataError: without a column of numbers; otherwise as `features` and `dealt`.
    """
    labels, _ = labels_of(table)
    columns, notes = features(table)
    if not columns and len(table.lines):
        raise DataError(
            f"{table.path} has no column {' or '.join(TEXT_COLUMNS)} with texts, and none of numbers; it has: "
            f"{', '.join(table.columns)}. {' '.join(notes)}".rstrip()
        )
    names = in_order(set(labels))
    y, out = dealt(labels, parts_of(table), names, test_share, what)
    x = torch.from_numpy(np.stack([numbers.astype(np.float32) for numbers in columns.values()], axis=1))
    notes, encoding = [*table.notes, *notes], {"columns": list(columns)}
    data = Data(x[~out], y[~out], x[out], y[out], tuple(names), notes=tuple(notes), encoding=encoding)
    return data, list(columns)


def read_new_numbers(path: Path, form: RowForm) -> Samples:
    """New samples of a table, by the names of the columns that a model was trained on, in whatever order they stand.

    Raises:
        DataError: where one of these columns is missing, or holds no number.
    """
    table, columns = new_table(path), list(form.encoding["columns"])
    missing = [name for name in columns if name not in table.columns]
    if missing:
        raise DataError(
            f"{path} has no column {', '.join(missing)}, which this model was trained on; it has: "
            f"{', '.join(table.columns)}."
        )
    found = []
    for name in columns:
        numbers, odd = numbers_in(table.columns[name])
        with np.errstate(over="ignore"):
            narrow = numbers.astype(np.float32)
        if odd is None and len(bad := np.flatnonzero(~np.isfinite(narrow))):
            odd = int(bad[0])
        if odd is not None:
            raise DataError(f"{table.where(odd)}: {name} is {table.columns[name][odd]!r}, and must be a finite number.")
        found.append(narrow)
    labels, used = labels_if_any(table)
    return samples_of(table, form.rows(np.stack(found, axis=1)), labels, ignored(table, [*columns, *used]))


def require_columns(path: Path, found: list[str], known: list[str]) -> None:
    """Raise `DataError` where the tables of several domains have other columns, or another order of them."""
    if found != known:
        odd = sorted(set(found) ^ set(known))
        what = f"differ in their columns: {', '.join(odd[:5])}" if odd else "have their columns in another order"
        raise DataError(f"{path} and the table before it {what}. Make them alike.")
