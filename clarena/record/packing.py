"""Packing: from a store's folders to one archive and one summary a row, with a ledger; and to the same bytes again.

rows/<track>-<digest>/<strategy>-<row>.zip      all runs of the row: see `clarena.record.archive`
                                      .toml     what a person reviews
rows/ledger.jsonl                               see `clarena.record.ledger`
rows/identities.jsonl                           which rows are one: carried along from the store
"""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from clarena.errors import StoreError
from clarena.record.archive import Archive, Run, archive_of
from clarena.record.ledger import LEDGER, entered, lines, with_entry
from clarena.record.reader import record_of
from clarena.record.recomputation import Checked
from clarena.record.record import Cell
from clarena.record.row_summary import row_summary
from clarena.record.store import Damaged, Store
from clarena.record.writing import json_lines, write_atomic

IDENTITIES = "identities.jsonl"


@dataclass(frozen=True)
class Packed:
    """What was packed: archives that were written and that were there already, runs in them, and what was left out."""

    written: tuple[Path, ...]
    kept: tuple[Path, ...]
    runs: int
    left_out: tuple[Damaged, ...]


def pack_store(store: Store, out: Path) -> Packed:
    """Put every run of a store into its row's archive below `out`; runs that an archive holds already stay in it.

    Raises:
        StoreError: `out` cannot be written, or an archive there is damaged.
    """
    found, damaged = store.read()
    rows: dict[tuple[str, str], list[Checked]] = {}
    for each in found:
        rows.setdefault((each.record.track_digest, each.record.cell.row), []).append(each)
    written: list[Path] = []
    kept: list[Path] = []
    runs = 0
    try:
        out.mkdir(parents=True, exist_ok=True)
        with FileLock(out / ".lock"):
            _check_ledger(out)
            for group in sorted(rows.values(), key=lambda group: home(out, group[0].record.cell)):
                path = home(out, group[0].record.cell)
                held, clashes = _joined(path, store, group)
                damaged += clashes
                (written if _write(out, path, held) else kept).append(path)
                runs += len(held)
            _carry_identities(store.path / IDENTITIES, out / IDENTITIES)
    except OSError as error:
        raise StoreError(f"Cannot write to {out}: {error.strerror}. Choose another with --out.") from error
    return Packed(tuple(written), tuple(kept), runs, tuple(damaged))


def _check_ledger(out: Path) -> None:
    """Raise `StoreError` where the ledger was altered, or lists an archive that is gone and would be made anew."""
    listed, problems = entered(out)
    missing = (out / name for name in listed if not (out / name).exists())
    problems += [f"The archive {path} is missing: {LEDGER} lists it." for path in missing]
    if problems:
        raise StoreError(f"{problems[0]} Take a whole copy of {out} first.")


def home(out: Path, cell: Cell) -> Path:
    """Where the archive of a cell's row is."""
    track, info = cell.track, cell.strategy
    return out / f"{_plain(track.label)}-{track.digest[:8]}" / f"{_plain(info.name)}-{cell.row[:8]}.zip"


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower().replace("++", "-pp")).strip("-")[:60] or "row"


def _joined(path: Path, store: Store, group: list[Checked]) -> tuple[dict[str, Run], list[Damaged]]:
    """The runs that an archive holds, by cell, and those that a store adds; what contradicts it is left out."""
    held: dict[str, Run] = {}
    if path.exists():
        archive = Archive(path)
        for number in range(len(archive.lines)):
            run = archive.run(number)
            held[str(run.content["cell_id"])] = run
    clashes = []
    for checked in group:
        cell = checked.record.cell
        address = store.folder(cell).relative_to(store.path).as_posix()
        run = store.at(address)
        known = held.setdefault(checked.record.cell_id, run)
        if known.content != run.content:
            said = f"{path} holds another record of {cell.label} than {store.home(cell)}. Archives only grow: it stays."
            clashes.append(Damaged(store.home(cell), said))
    return held, clashes


def _write(out: Path, path: Path, held: Mapping[str, Run]) -> bool:
    """Write archive, summary and ledger; False where the archive holds just these runs."""
    content = archive_of(list(held.values()))
    sha256 = hashlib.sha256(content).hexdigest()
    new = not path.exists() or path.read_bytes() != content
    if new:
        write_atomic(path, content)
    records = [record_of(run.content, f"A record of {path}") for run in held.values()]
    summary = row_summary(sorted(records, key=lambda record: record.cell.seed), path.name, sha256, len(content))
    told = path.with_suffix(".toml")
    if not told.exists() or told.read_bytes() != summary.encode():
        write_atomic(told, summary.encode())
    name = path.relative_to(out).as_posix()
    if entered(out)[0].get(name) != sha256:  # last: what a kill leaves unentered is entered by the next attempt
        write_atomic(out / LEDGER, "".join(f"{line}\n" for line in with_entry(lines(out), name, sha256)).encode())
    return new


def _carry_identities(source: Path, target: Path) -> None:
    """Add the lines that say which rows are one."""
    if source.exists():
        before = json_lines(target) if target.exists() else []
        more = [line for line in json_lines(source) if line not in before]
        if more:
            write_atomic(target, "".join(f"{line}\n" for line in (*before, *more)).encode())
