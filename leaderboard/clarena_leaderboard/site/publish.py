"""Writing a site: only what changed is made again, and a reader sees the old site or the new one, never a part."""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from clarena.errors import ClarenaError, UsageError

MANIFEST = "manifest.json"
GENERATOR = "clarena leaderboard build"

_NAME = re.compile(r"[a-z0-9][a-z0-9.-]*(/[a-z0-9][a-z0-9.-]*)*")

Read = Callable[[str], str]
"""Gives the text of a file that an earlier part made."""


@dataclass(frozen=True)
class Part:
    """Files that are made together.

    Attributes:
        name: what the manifest calls it.
        key: digest of all they are made of, the code included; they are made again only where it changed.
        make: gives their texts by path, of which the manifest keeps the SHA-256.
    """

    name: str
    key: str
    make: Callable[[Read], Mapping[str, str]]


@dataclass(frozen=True)
class Report:
    """How many files were made, how many kept as they were, and how many of the old site are gone."""

    made: int
    kept: int
    removed: int


def known_site(out: Path) -> dict[str, Any]:
    """The manifest of the site at `out`; empty where there is no site.

    Raises:
        UsageError: where `out` is anything but a site of ours or an empty folder, or holds files that are none of it.
    """
    _recover(out)
    if not out.exists():
        return {}
    if not out.is_dir():
        raise UsageError(f"{out} is a file. Name a folder with --out.")
    held = {path.relative_to(out).as_posix() for path in out.rglob("*") if not path.is_dir()}
    if not held:
        return {}
    try:
        manifest = json.loads((out / MANIFEST).read_text(encoding="utf-8"))
        ours = manifest["generator"] == GENERATOR
        known = {file for part in manifest["parts"].values() for file, _ in part["files"].items()} | {MANIFEST}
        ours = ours and all(_NAME.fullmatch(file) for file in known)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        ours, known = False, set()
    if not ours:
        raise UsageError(f"{out} holds something that is no leaderboard. Name another folder with --out.")
    if strangers := sorted(held - known):
        raise UsageError(
            f"{out} holds files that are no part of the leaderboard and would be lost: {', '.join(strangers[:5])}"
            f"{' …' if len(strangers) > 5 else ''}. Move them away, or name another folder with --out."
        )
    return dict(manifest)


def publish(out: Path, parts: Iterable[Part]) -> Report:
    """Make what changed, beside the old site, and swap the two; on any failure the old one stays as it is.

    Args:
        out: the site's folder.
        parts: in the order in which they are made.

    Raises:
        ClarenaError: where `out` is none of ours, another build is at work, or the disk cannot be written.
    """
    out = out.resolve()  # the folder behind a link is what is swapped, and the link stays
    out.parent.mkdir(parents=True, exist_ok=True)
    staging = out.parent / f".{out.name}.new"
    lock = FileLock(out.parent / f".{out.name}.lock")
    try:
        with lock.acquire(timeout=0):
            try:
                return _publish(out, staging, parts)
            finally:
                shutil.rmtree(staging, ignore_errors=True)
    except Timeout:
        raise ClarenaError(f"Another build is writing {out}. Wait for it to end.") from None
    except OSError as error:
        raise ClarenaError(f"The site {out} cannot be written: {error}. What was there is unchanged.") from error


def _publish(out: Path, staging: Path, parts: Iterable[Part]) -> Report:
    old = known_site(out)
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir()
    written: dict[str, dict[str, Any]] = {}
    made = kept = 0
    for part in parts:
        before = old.get("parts", {}).get(part.name, {})
        if before.get("key") == part.key and all(_digest(out / file) == d for file, d in before["files"].items()):
            for file in before["files"]:
                _take_over(out / file, staging / file)
            written[part.name] = before
            kept += len(before["files"])
            continue
        files = {}
        for file, text in part.make(lambda path: (staging / path).read_text(encoding="utf-8")).items():
            if not _NAME.fullmatch(file):
                raise ValueError(f"{file!r} is no name for a file of the site.")
            content = text.encode()
            (staging / file).parent.mkdir(parents=True, exist_ok=True)
            (staging / file).write_bytes(content)
            files[file] = hashlib.sha256(content).hexdigest()
        written[part.name] = {"key": part.key, "files": files}
        made += len(files)
    manifest = {"generator": GENERATOR, "parts": written}
    text = json.dumps(manifest, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
    (staging / MANIFEST).write_text(text, encoding="utf-8")
    files_before = {file for part in old.get("parts", {}).values() for file in part["files"]}
    files_now = {file for part in written.values() for file in part["files"]}
    _swap(staging, out)
    return Report(made, kept, len(files_before - files_now))


def _digest(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except FileNotFoundError:
        return ""


def _take_over(old: Path, new: Path) -> None:
    """The same file in the new site: a second name for it, where the file system can."""
    new.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(old, new)
    except OSError:
        shutil.copy2(old, new)


def _swap(staging: Path, out: Path) -> None:
    aside = out.parent / f".{out.name}.old"
    shutil.rmtree(aside, ignore_errors=True)
    if not out.exists():
        staging.rename(out)
        return
    out.rename(aside)
    try:
        staging.rename(out)
    except BaseException:
        aside.rename(out)
        raise
    shutil.rmtree(aside, ignore_errors=True)


def _recover(out: Path) -> None:
    """Bring back the old site where a build was killed in the middle of its swap."""
    aside = out.parent / f".{out.name}.old"
    if aside.exists() and not out.exists():
        aside.rename(out)
