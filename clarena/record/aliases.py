"""Which identities of code are proven to be one: `identities.jsonl` in the root of a store, a JSON line for each.

{"strategy": "ewc", "old": "<64 hex digits>", "new": "<64 hex digits>", "evidence": {"kind": "same bytes"}}
{"strategy": "ewc", "old": …, "new": …, "evidence": {"kind": "attested", "rows": […], "runs": […]}}

Records are never rewritten: one keeps the identity of the code it was made with, and whoever looks for a row of today
follows the table. `same bytes` holds for all rows of the strategy: the file whose bytes' hash the old record has is the
file of the new identity. `attested` holds for the rows that were run again and for no other: two versions may agree at
one setting and differ at another. No torch here.
"""

import json
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError

from clarena.errors import StoreError
from clarena.protocol.frozen import FrozenModel
from clarena.record.record import Cell, Record
from clarena.record.writing import json_lines, write_atomic

IDENTITIES = "identities.jsonl"

Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class SameBytes(FrozenModel):
    """The file of the new identity has the bytes' hash that the old record is known by."""

    kind: Literal["same bytes"] = "same bytes"


class AttestedRun(FrozenModel):
    """One seed that was run again; SHA-256 of the arrays of its predictions, before and now."""

    track: Digest
    seed: Annotated[int, Field(ge=0)]
    old_predictions: Digest
    new_predictions: Digest


class Attested(FrozenModel):
    """The new code made the same predictions, bit for bit.

    Attributes:
        rows: the rows of the old code that this holds for.
        runs: what was run again.
        environment: of the new runs.
    """

    kind: Literal["attested"] = "attested"
    rows: Annotated[list[Digest], Field(min_length=1)]
    runs: Annotated[list[AttestedRun], Field(min_length=1)]
    environment: dict[str, str] = {}


class Alias(FrozenModel):
    """`old` and `new` are `StrategyInfo.code` of one strategy, and proven to be one."""

    strategy: str
    old: Digest
    new: Digest
    evidence: Annotated[SameBytes | Attested, Field(discriminator="kind")]

    def holds_for(self, cell: Cell) -> bool:
        """Whether it was proven for this cell, which is one of the old code."""
        if (cell.strategy.name, cell.strategy.code) != (self.strategy, self.old):
            return False
        if isinstance(self.evidence, SameBytes):
            return True
        proven = all(run.old_predictions == run.new_predictions for run in self.evidence.runs)
        return proven and cell.row in self.evidence.rows


class Aliases:
    """A table of aliases, to be followed in both directions, over several steps."""

    def __init__(self, aliases: Iterable[Alias] = ()) -> None:
        self.all = tuple(aliases)
        self._by_old: dict[str, list[Alias]] = {}
        self._by_new: dict[str, list[Alias]] = {}
        for alias in self.all:
            self._by_old.setdefault(alias.old, []).append(alias)
            self._by_new.setdefault(alias.new, []).append(alias)

    def newest(self, cell: Cell) -> Cell:
        """The cell as its newest proven code has it, or itself: the row that it counts for is that one's."""
        seen = {code := cell.strategy.code}
        while onward := [a.new for a in self._by_old.get(code, ()) if a.new not in seen and a.holds_for(cell)]:
            seen.add(code := onward[-1])
            cell = with_code(cell, code)
        return cell

    def earlier(self, cell: Cell) -> Iterator[Cell]:
        """The cells of earlier code that are proven to be this one, newest first."""
        seen, waiting = {cell.strategy.code}, [cell]
        while waiting:
            here = waiting.pop(0)
            for alias in reversed(self._by_new.get(here.strategy.code, ())):
                old = with_code(here, alias.old)
                if alias.old not in seen and alias.holds_for(old):
                    seen.add(alias.old)
                    waiting.append(old)
                    yield old

    def is_earlier(self, record: Record) -> bool:
        """Whether a record is of before there were identities, and its code is not proven to be that of a later row."""
        return not self.newest(record.cell).strategy.identity


def with_code(cell: Cell, code: str) -> Cell:
    """The cell as it is called under other code."""
    return cell.model_copy(update={"strategy": cell.strategy.model_copy(update={"identity": code})})


def read_aliases(folder: Path) -> Aliases:
    """The table beside records, empty where there is none; raises `StoreError` for a line that cannot be read."""
    path = folder / IDENTITIES
    try:
        status = path.stat()
    except OSError:
        return Aliases()
    return _read(path, status.st_mtime_ns, status.st_size)


def add_aliases(folder: Path, aliases: Iterable[Alias]) -> None:
    """Add to the table in a folder, in one move; what it holds already is not added again."""
    known = read_aliases(folder).all
    table = [*known, *(alias for alias in aliases if alias not in known)]
    lines = [json.dumps(alias.model_dump(mode="json"), ensure_ascii=False) for alias in table]
    write_atomic(folder / IDENTITIES, "".join(f"{line}\n" for line in lines).encode())


@lru_cache(maxsize=16)
def _read(path: Path, time: int, size: int) -> Aliases:
    found = []
    try:
        lines = json_lines(path)
    except (OSError, UnicodeDecodeError) as error:
        raise StoreError(f"{path} cannot be read ({error}). Mend it, or move it away.") from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            found.append(Alias.model_validate_json(line))
        except (ValidationError, RecursionError) as error:
            first = error.errors()[0]["msg"] if isinstance(error, ValidationError) else "it is nested too deeply"
            raise StoreError(f"{path}, line {number}: {first}. Mend or remove that line.") from error
    return Aliases(found)
