"""Submissions as reviewable text, in an append-only ledger whose every line carries the hash of the one before.

leaderboard/submissions/ledger.jsonl
                       /<slug>/bundle.zip            as it was submitted
                              /manifest.json, source/…, records/…      its parts, for people and for the board
                              /verdict-0002.json     by the number of its entry in the ledger

`standing` says what is known of submitted rows, `stores` where their records are.
"""

import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Annotated, Literal

from filelock import FileLock
from pydantic import Field

from clarena.errors import ClarenaError, StoreError, UsageError
from clarena.protocol.frozen import FrozenModel
from clarena.record.aliases import Aliases
from clarena.record.writing import json_lines, write_atomic
from clarena.submission.bundle import RECORDS, Bundle, read_bundle, sha256
from clarena.submission.evidence import evidence
from clarena.submission.manifest import BundleError, Digest, Manifest, read_json
from clarena.submission.verdict import SeasonRow, Verdict, outcome
from clarena_leaderboard.contents import Badge, Log

LEDGER, BUNDLE = "ledger.jsonl", "bundle.zip"
Kind = Literal["bundle", "verdict"]
OUTSIDE = {LEDGER, "README.md", ".gitignore", ".lock"}
"""Files of the folder that are no part of a submission."""
BEGINNING = "0" * 64
"""What the first entry carries in place of a hash."""


class LedgerEntry(FrozenModel):
    """A line of the ledger.

    Attributes:
        number: from 1 on, without a gap.
        kind: a bundle was added, or a verdict on one.
        slug: of the submission, the name of its folder.
        files: SHA-256 of what was added, by path within the folder of submissions.
        previous: SHA-256 of the line before.
    """

    number: Annotated[int, Field(ge=1)]
    kind: Kind
    slug: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9+._-]*-[0-9a-f]{8}$")]
    date: date
    files: Annotated[dict[str, Digest], Field(min_length=1)]
    previous: Digest


@dataclass(frozen=True)
class Standing:
    """What is known of a row beside its runs.

    Attributes:
        badge: `verified` where the last verdict says so, `claimed` until then; empty for a reference.
        hidden: its runs on hidden seeds, each with the verdict that tells of them; in the order of the verdicts.
        log: None for a reference, which has hidden runs only.
    """

    badge: Badge
    hidden: tuple[tuple[Verdict, SeasonRow], ...] = ()
    log: Log | None = None


def add(root: Path, bundle_path: Path, verdict_path: Path | None = None) -> list[LedgerEntry]:
    """Enter a bundle, a verdict on it, or both; returns the new entries. Everything is written, or nothing.

    Raises:
        BundleError: the bundle or the verdict cannot be believed, or they do not belong together.
        UsageError: there is no such file, or it was entered before.
        StoreError: the ledger was altered, or cannot be written.
    """
    bundle = read_bundle(bundle_path)
    verdict = None if verdict_path is None else _verdict(verdict_path, bundle)
    slug = f"{bundle.manifest.name}-{bundle.digest[:8]}"
    with _locked(root):
        entries = _chain(root)
        known = any(entry.slug == slug for entry in entries)
        if known and verdict is None:
            raise UsageError(f"{slug} is in the ledger already. A verdict on it is added with --verdict FILE.")
        new: list[tuple[Kind, Mapping[str, bytes]]] = []
        if not known:
            _check_new(root, bundle, entries)
            parts = {**bundle.parts, BUNDLE: bundle_path.read_bytes()}
            new.append(("bundle", {f"{slug}/{name}": content for name, content in parts.items()}))
        if verdict is not None:
            new.append(("verdict", {f"{slug}/verdict-{len(entries) + len(new) + 1:04}.json": verdict}))
        return _enter(root, slug, entries, new)


def _enter(
    root: Path, slug: str, entries: list[LedgerEntry], new: Sequence[tuple[Kind, Mapping[str, bytes]]]
) -> list[LedgerEntry]:
    """Write files, then the ledger; when that fails, the files are taken away again."""
    lines = [entry.model_dump_json() for entry in entries]
    files = {name: content for _, group in new for name, content in group.items()}
    for kind, group in new:
        previous = sha256(lines[-1].encode()) if lines else BEGINNING
        hashes = {name: sha256(content) for name, content in sorted(group.items())}
        entry = LedgerEntry(
            number=len(lines) + 1,
            kind=kind,
            slug=slug,
            date=date.today(),
            files=hashes,
            previous=previous,
        )
        lines.append(entry.model_dump_json())
        entries = [*entries, entry]
    fresh = new[0][0] == "bundle"
    try:
        if fresh:
            shutil.rmtree(root / slug, ignore_errors=True)  # left by an attempt that was killed: no entry names it
        for name, content in files.items():
            write_atomic(root / name, content)
        write_atomic(root / LEDGER, "".join(f"{line}\n" for line in lines).encode())
    except BaseException:
        if fresh:
            shutil.rmtree(root / slug, ignore_errors=True)
        else:
            for name in files:
                (root / name).unlink(missing_ok=True)
        raise
    return entries[-len(new) :]


def _check_new(root: Path, bundle: Bundle, entries: Sequence[LedgerEntry]) -> None:
    """Refuse a bundle that does not bear out what it claims, or claims a row that is here already."""
    with tempfile.TemporaryDirectory() as folder:
        bundle.unpack(Path(folder))
        _, problems = evidence(bundle, Path(folder))
    if problems:
        raise BundleError("\n".join(["The bundle does not bear out what it claims.", *problems]))
    rows = {bundle.manifest.row(claim) for claim in bundle.manifest.claims}
    for known, manifest in _manifests(root, entries):
        if rows & {manifest.row(claim) for claim in manifest.claims}:
            raise UsageError(f"{known.slug} claims the same row: same strategy, source, hyper-parameters and track.")


def _verdict(path: Path, bundle: Bundle) -> bytes:
    """The content of a verdict that may be entered."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UsageError(f"The verdict {path} cannot be read: {error.strerror}.") from error
    verdict: Verdict = read_json(content, Verdict, "verdict")
    if verdict.bundle != bundle.digest:
        raise BundleError(f"The verdict {path} is on another bundle (SHA-256 {verdict.bundle[:12]}…).")
    if verdict.outcome != outcome(verdict.steps):
        raise BundleError(f"The verdict {path} says {verdict.outcome}; its steps amount to {outcome(verdict.steps)}.")
    if verdict.outcome == "invalid":
        raise BundleError("An invalid bundle has no place in the ledger.")
    return content


# ---- Reading ----


@dataclass(frozen=True)
class Audit:
    """What an audit found: the number of entries, the hash of the last line, and problems, one sentence each."""

    entries: int
    head: str
    problems: tuple[str, ...]


def audit(root: Path, head: str | None = None) -> Audit:
    """Check that nothing was altered since it was entered.

    The chain proves that no line changed before the last; that the last lines are there, only a `head` can tell that
    was noted somewhere else.
    """
    problems: list[str] = []
    entries: list[LedgerEntry] = []
    hashes: list[str] = []
    for number, line in enumerate(_lines(root), 1):
        previous, digest = hashes[-1] if hashes else BEGINNING, sha256(line.encode())
        hashes.append(digest)
        try:
            entry: LedgerEntry = read_json(line, LedgerEntry, f"line {number} of the ledger")
        except BundleError as error:
            problems.append(str(error))
            continue
        if entry.number != number:
            problems.append(f"line {number} of the ledger has the number {entry.number}: lines are missing or moved")
        if entry.previous != previous:
            problems.append(f"line {number} of the ledger does not carry the hash of the line before: that was altered")
        entries.append(entry)
    if head is not None and head not in hashes:
        problems.append(f"no line of the ledger has the hash {head}: what was there has been altered or taken away")
    problems += _files_altered(root, entries)
    for slug in [entry.slug for entry in entries if entry.kind == "bundle"]:
        problems += _text_altered(root, slug)
    return Audit(len(hashes), hashes[-1] if hashes else BEGINNING, tuple(problems))


def _files_altered(root: Path, entries: Sequence[LedgerEntry]) -> Iterator[str]:
    """Files that are not what the ledger says."""
    listed: dict[str, str] = {}
    for entry in entries:
        for name, digest in entry.files.items():
            if name in listed:
                yield f"{name} is entered twice"
            listed[name] = digest
    present = {path.relative_to(root).as_posix() for path in root.rglob("*") if not path.is_dir() or path.is_symlink()}
    for name in sorted(present - set(listed) - OUTSIDE):
        yield f"{name} is in no entry of the ledger"
    for name, digest in sorted(listed.items()):
        if name not in present:
            yield f"{name} is missing"
        elif (root / name).is_symlink():
            yield f"{name} is a link, not a file"
        elif sha256((root / name).read_bytes()) != digest:
            yield f"{name} was altered: its SHA-256 is not the one in the ledger"


def _text_altered(root: Path, slug: str) -> Iterator[str]:
    """Where the text that people review is not what the bundle holds."""
    try:
        bundle = read_bundle(root / slug / BUNDLE)
    except ClarenaError as error:
        yield f"{slug}/{BUNDLE}: {error}"
        return
    if slug != f"{bundle.manifest.name}-{bundle.digest[:8]}":
        yield f"{slug} holds the bundle of another submission"
    for name, content in bundle.parts.items():
        path = root / slug / name
        if path.is_file() and path.read_bytes() != content:
            yield f"{slug}/{name} is not what the bundle holds"


def standing(root: Path, aliases: Aliases | None = None) -> Mapping[str, Standing]:
    """What is known of rows beside their runs, by row id; raises `ClarenaError` where the ledger was altered.

    Args:
        aliases: rows and verdicts of earlier code are those of the newest that it is proven to be.
    """
    entries, proven = _chain(root), aliases or Aliases()
    found: dict[str, Standing] = {}
    for added, manifest in _manifests(root, entries):
        verdicts = tuple(_verdicts(root, entries, added.slug))
        hidden: dict[str, list[tuple[Verdict, SeasonRow]]] = {}
        today = {manifest.row(claim): proven.newest(manifest.cell(claim, 0)).row for claim in manifest.claims}
        for _, verdict in verdicts:
            for told in verdict.hidden:
                row = told.model_copy(update={"row": today.get(told.row, told.row)})
                hidden.setdefault(row.row, []).append((verdict, row))
        log = Log(
            slug=added.slug,
            bundle=added.files[f"{added.slug}/{BUNDLE}"],
            entered=added.date.isoformat(),
            authors=tuple(manifest.authors),
            licence=manifest.licence,
            paper=manifest.paper,
            chosen=manifest.chosen,
            verdicts=tuple((day.isoformat(), verdict) for day, verdict in verdicts),
        )
        badge: Badge = "verified" if verdicts and verdicts[-1][1].outcome == "verified" else "claimed"
        claimed = set(today.values())
        found |= {row: Standing(badge, tuple(hidden.get(row, ())), log) for row in claimed}
        for name, ran in hidden.items():
            if name not in claimed and ran[0][1].reference:
                before = found.get(name, Standing(""))
                found[name] = replace(before, hidden=(*before.hidden, *ran))
    return found


def _verdicts(root: Path, entries: Sequence[LedgerEntry], slug: str) -> Iterator[tuple[date, Verdict]]:
    for entry in entries:
        if (entry.slug, entry.kind) == (slug, "verdict"):
            for name in entry.files:
                yield entry.date, read_json(_checked(root, entries, name), Verdict, name)


def stores(root: Path) -> list[Path]:
    """The stores with the records of all submissions, in the order in which they were entered."""
    return [root / entry.slug / RECORDS for entry in _chain(root) if entry.kind == "bundle"]


def _manifests(root: Path, entries: Sequence[LedgerEntry]) -> Iterator[tuple[LedgerEntry, Manifest]]:
    """What each bundle says of itself, with the entry that added it."""
    for entry in entries:
        if entry.kind == "bundle":
            name = f"{entry.slug}/manifest.json"
            yield entry, read_json(_checked(root, entries, name), Manifest, name)


def _checked(root: Path, entries: Sequence[LedgerEntry], name: str) -> bytes:
    """The content of a file that the ledger lists; raises `StoreError` where it is another."""
    digest = next((entry.files[name] for entry in entries if name in entry.files), None)
    try:
        content = (root / name).read_bytes()
    except OSError as error:
        raise StoreError(f"{root / name} cannot be read: {error.strerror}.") from error
    if sha256(content) != digest:
        raise StoreError(f"{root / name} was altered. See: clarena leaderboard audit")
    return content


def _chain(root: Path) -> list[LedgerEntry]:
    """The entries; raises `StoreError` where the chain is broken."""
    entries: list[LedgerEntry] = []
    previous = BEGINNING
    for number, line in enumerate(_lines(root), 1):
        entry: LedgerEntry = read_json(line, LedgerEntry, f"line {number} of the ledger")
        if (entry.number, entry.previous) != (number, previous):
            raise StoreError(f"Line {number} of {root / LEDGER} was altered. See: clarena leaderboard audit")
        previous = sha256(line.encode())
        entries.append(entry)
    return entries


def _lines(root: Path) -> list[str]:
    try:
        return json_lines(root / LEDGER)
    except FileNotFoundError:
        return []
    except (OSError, UnicodeDecodeError) as error:
        raise StoreError(f"The ledger {root / LEDGER} cannot be read: {error}.") from error


@contextmanager
def _locked(root: Path) -> Iterator[None]:
    """One writer at a time."""
    try:
        root.mkdir(parents=True, exist_ok=True)
        with FileLock(root / ".lock"):
            yield
    except OSError as error:
        raise StoreError(f"Cannot write to {root}: {error.strerror}.") from error
