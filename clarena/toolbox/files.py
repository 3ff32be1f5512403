"""Files that may change: what is there, told by a stamp, and what is no file at all."""

import hashlib
import os
import stat
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from clarena.errors import DataError

Stamp = tuple[str, int, int, int, str]
"""Path, size in bytes, when its content and when its entry was last changed (ns), SHA-256 where those may not tell."""

RECENT = 2_000_000_000
"""Nanoseconds in which a file may change twice and keep its time: one so young is told by its content as well."""
DEPTH = 3
"""Folders within folders that are looked into: a part, a class, its files."""


def file_stamps(paths: Iterable[Path]) -> tuple[Stamp, ...]:
    """What tells whether any of these files, or those in these folders, has changed; what is absent is told, too.

    Raises:
        DataError: for what is neither a file nor a folder, or cannot be looked at.
    """
    return tuple(stamp for path in paths for stamp in _stamps(path, 0))


def require_file(path: Path) -> Path:
    """That path; raises `DataError` where something is there that is no file, such as a pipe, which might never end."""
    if path.exists() and not path.is_file():
        kind = "a folder" if path.is_dir() else "neither a file nor a folder (a pipe, a socket, or a device)"
        raise DataError(f"{path} is {kind}. Give a file.")
    return path


def readable_name(name: str) -> str:
    r"""A name whose every character is valid UTF-8: what is none of it is written as \udc80 and the like."""
    return name.encode("utf-8", "backslashreplace").decode()


def _stamps(path: Path, depth: int) -> Iterator[Stamp]:
    try:
        facts = path.stat()
        if stat.S_ISDIR(facts.st_mode):
            names = sorted(os.listdir(path)) if depth < DEPTH else []
            for name in names:
                if not name.startswith("."):
                    yield from _stamps(path / name, depth + 1)
        elif stat.S_ISREG(facts.st_mode):
            young = time.time_ns() - max(facts.st_mtime_ns, facts.st_ctime_ns) < RECENT
            content = hashlib.sha256(path.read_bytes()).hexdigest() if young else ""
            yield str(path), facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns, content
        elif depth == 0:
            require_file(path)
    except FileNotFoundError:
        yield str(path), -1, 0, 0, ""
    except OSError as error:
        raise DataError(f"{path} cannot be looked at: {error}.") from error
