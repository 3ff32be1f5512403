"""Features on disk: each file whole or not at all, known by what it was made of, and no more than a number of bytes."""

import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from numpy.lib import format as npy
from torch import Tensor

from clarena.errors import DataError, StoreError, UsageError, unknown_name
from clarena.record.writing import write_atomic
from clarena.toolbox.downloads import data_root, user_path
from clarena.toolbox.mapped import mapped

LIMIT = "20GB"
"""Bytes that a cache may hold, unless CLARENA_CACHE_LIMIT says otherwise."""

UNITS = {"": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12}

OLD = 24 * 3600
"""Seconds after which a part that was never finished is nobody's work any more."""


def cache_root() -> Path:
    """The folder that holds cached features: `CLARENA_CACHE`, or `features` where downloaded data are."""
    given = os.environ.get("CLARENA_CACHE")
    return user_path(given) if given else data_root() / "features"


def cache_limit() -> int:
    """Bytes that the cache may hold; raises `UsageError` where CLARENA_CACHE_LIMIT is no size."""
    return size_named(os.environ.get("CLARENA_CACHE_LIMIT") or LIMIT, "CLARENA_CACHE_LIMIT")


def size_named(text: str, what: str) -> int:
    """The bytes of a size such as `500MB`; raises `UsageError` where it is none."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?b)?\s*", text.lower())
    if not found:
        raise UsageError(f"{what} = {text!r} is no size. Give one such as 500MB or 20GB.")
    return int(float(found[1]) * UNITS[found[2] if found[2] not in (None, "b") else ""])


@dataclass(frozen=True)
class Entry:
    """Features that are kept.

    Attributes:
        key: what they were made of, in 64 hexadecimal digits.
        facts: `backbone`, `of` (whose inputs), `rows`, `shape`, `dtype`, `bytes` and `sha256` (of the file).
        used: when they were last read, in seconds since 1970.
    """

    key: str
    facts: Mapping[str, Any]
    used: float

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return int(self.facts["bytes"])


class Cache:
    """A folder of features: `KEY.npy` with numbers, and `KEY.json` that says what they are, written last."""

    def __init__(self, root: Path | None = None) -> None:
        self.root = cache_root() if root is None else root

    def entries(self) -> list[Entry]:
        """What is kept, the most recently used first."""
        found = [self._entry(path) for path in self.root.glob("*.json")] if self.root.is_dir() else []
        return sorted((entry for entry in found if entry), key=lambda entry: -entry.used)

    def kept(self, key: str) -> Tensor | None:
        """The features of this key, mapped from their file; None where there are none.

        Raises:
            DataError: when the file was altered.
        """
        entry = self._entry(self._facts(key))
        if entry is None:
            return None
        path = self._numbers(key)
        try:
            if _sha256(path) != entry.facts["sha256"]:
                raise DataError(
                    f"The cached features {path} were altered on disk: their SHA-256 is not the one that was written "
                    f"down. Remove them, and they are computed again: clarena cache clear {key[:12]}"
                )
            features = mapped(path)
        except FileNotFoundError:  # removed in the meantime
            return None
        with suppress(OSError):  # a cache that others fill may be read alone
            os.utime(self._facts(key))
        return features

    def fill(self, key: str, parts: Iterable[Tensor], rows: int, facts: Mapping[str, Any]) -> Tensor:
        """The features of this key; computed now and kept, unless they are there or another process is at it.

        Args:
            parts: features [n, …] that together have `rows`; begun only where they are not there.
            facts: see `Entry`.

        Raises:
            StoreError: when they cannot be written.
            UsageError: when they are more than the cache may hold.
        """
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            with FileLock(self.root / f".{key}.lock"):
                features = self.kept(key)
                if features is None:
                    self._write(key, parts, rows, facts)
                    self.trim(cache_limit(), spare=key)
                    features = self.kept(key)
        except OSError as error:
            raise StoreError(
                f"The features cannot be kept in {self.root}: {error.strerror}. Make room (clarena cache), or set "
                "CLARENA_CACHE to another folder."
            ) from error
        if features is None:
            raise StoreError(f"{self._numbers(key)} was removed as soon as it was written. Run it again.")
        return features

    def trim(self, limit: int, spare: str = "") -> list[Entry]:
        """Remove what was not used for longest until no more than `limit` bytes are left; what was removed.

        Who has a file open keeps it to the end. `spare`: a key that stays.
        """
        entries, removed = self.entries(), []
        total = sum(entry.size for entry in entries)
        for entry in reversed(entries):
            if total > limit and entry.key != spare:
                self._remove(entry.key)
                removed.append(entry)
                total -= entry.size
        self._sweep()
        return removed

    def clear(self, keys: Iterable[str] = ()) -> list[Entry]:
        """Remove these features, by the beginnings of their keys, or all of them; what was removed.

        Raises:
            UsageError: for a key that is not there.
        """
        entries = self.entries()
        wanted = list(keys)
        for key in wanted:
            if not any(entry.key.startswith(key) for entry in entries):
                raise unknown_name("key of cached features", key, [entry.key[:12] for entry in entries])
        removed = [entry for entry in entries if not wanted or any(entry.key.startswith(key) for key in wanted)]
        for entry in removed:
            self._remove(entry.key)
        self._sweep()
        return removed

    def _write(self, key: str, parts: Iterable[Tensor], rows: int, facts: Mapping[str, Any]) -> None:
        temporary = self.root / f".{key}.part"
        digest, shape, dtype = hashlib.sha256(), (0,), torch.float32
        try:
            with temporary.open("w+b") as file:
                for number, part in enumerate(parts):
                    numbers = part.contiguous().numpy()
                    if number == 0:
                        shape, dtype = (rows, *numbers.shape[1:]), part.dtype
                        self._require_room(rows * (numbers.nbytes // len(numbers)))
                        header = {"descr": npy.dtype_to_descr(numbers.dtype), "fortran_order": False, "shape": shape}
                        npy.write_array_header_1_0(file, header)
                    file.write(numbers.data)
                file.seek(0)
                while block := file.read(2**20):
                    digest.update(block)
                size = file.tell()
                os.fsync(file.fileno())
            temporary.replace(self._numbers(key))
        finally:
            temporary.unlink(missing_ok=True)
        about = {
            **facts,
            "rows": rows,
            "shape": list(shape[1:]),
            "dtype": str(dtype).removeprefix("torch."),
            "bytes": size,
            "sha256": digest.hexdigest(),
        }
        write_atomic(self._facts(key), json.dumps(about, indent=1).encode())

    def _require_room(self, needed: int) -> None:
        free, limit = shutil.disk_usage(self.root).free, cache_limit()
        if needed > limit:
            raise UsageError(
                f"The features take {needed / 1e9:.1f} GB, and the cache may hold {limit / 1e9:.1f} GB. Allow more "
                "(CLARENA_CACHE_LIMIT=100GB), or keep them in half the space: --set backbone.frozen=float16."
            )
        if needed > free:
            raise StoreError(
                f"The features take {needed / 1e9:.1f} GB, and {self.root} has {free / 1e9:.1f} GB left. Make room "
                "(clarena cache), or set CLARENA_CACHE to a folder with more."
            )

    def _entry(self, path: Path) -> Entry | None:
        """What a file of facts stands for; None where its features are not there, in full length."""
        try:
            facts, used = json.loads(path.read_bytes()), path.stat().st_mtime
            whole = self._numbers(path.stem).stat().st_size == facts["bytes"]
            text = {facts["backbone"], facts["of"], facts["dtype"], facts["sha256"]}
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(
                f"{path} cannot be read ({error}). Remove it, and its features are computed again."
            ) from error
        if not whole or not all(isinstance(each, str) for each in text):
            raise DataError(
                f"The cached features {self._numbers(path.stem)} are not as long as they were written. Remove them and "
                f"{path.name}, and they are computed again."
            )
        return Entry(path.stem, facts, used)

    def _remove(self, key: str) -> None:
        self._facts(key).unlink(missing_ok=True)  # first: without it there is nothing
        self._numbers(key).unlink(missing_ok=True)

    def _sweep(self) -> None:
        """Remove what processes that were ended have left: parts, and numbers without facts."""
        now = time.time()
        for path in [*self.root.glob(".*.part"), *self.root.glob("*.npy")]:
            left = path.name.startswith(".") or not self._facts(path.stem).exists()
            if left and now - path.stat().st_mtime > OLD:
                path.unlink(missing_ok=True)

    def _numbers(self, key: str) -> Path:
        return self.root / f"{key}.npy"

    def _facts(self, key: str) -> Path:
        return self.root / f"{key}.json"


_known: dict[tuple[str, int, int], str] = {}
"""SHA-256 of files that this process has read through, by path, inode and time."""


def _sha256(path: Path) -> str:
    facts = path.stat()
    place = str(path), facts.st_ino, facts.st_mtime_ns
    if place not in _known:
        with path.open("rb") as file:
            _known[place] = hashlib.file_digest(file, "sha256").hexdigest()
    return _known[place]
