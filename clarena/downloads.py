"""Data sets that are downloaded once: where they lie, and how a file gets there whole or not at all."""

import hashlib
import os
import shutil
import urllib.request
from http.client import HTTPException
from pathlib import Path

from filelock import FileLock

from clarena.errors import DataError

TIMEOUT = 60
"""Seconds without an answer after which a download is given up."""


def data_root() -> Path:
    """The folder that holds downloaded data sets: `CLARENA_DATA`, or `~/.cache/clarena`."""
    return Path(os.environ.get("CLARENA_DATA") or "~/.cache/clarena").expanduser().absolute()


def fetch(path: str, url: str, sha256: str) -> Path:
    """The file at `path` under the data root, downloaded where it is not there yet.

    What is downloaded is moved to its place only when it is complete and its digest is right, so that a half-written
    file is never read. Processes that start together wait for one another: a file is downloaded once.

    Args:
        path: relative to `data_root()`.
        url: where it is published.
        sha256: of its bytes, in hexadecimal.

    Raises:
        DataError: when the file is damaged, or absent and not to be had.
    """
    target = data_root() / path
    if _is_whole(target, sha256):
        return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(target.with_name(f".{target.name}.lock")):
            if not _is_whole(target, sha256):
                _download(target, url, sha256)
    except OSError as error:
        raise DataError(
            f"{target} is not there, and nothing can be written there: {error}.\n"
            "Set CLARENA_DATA to a folder you can write to."
        ) from error
    return target


def _is_whole(target: Path, sha256: str) -> bool:
    """Whether the file is there; raises `DataError` where it is there and is another one."""
    if not target.exists():
        return False
    with target.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != sha256:
        raise DataError(
            f"{target} is damaged or of another version: its SHA-256 is {found}, not {sha256}. Move it away, and it is "
            "downloaded again."
        )
    return True


def _download(target: Path, url: str, sha256: str) -> None:
    part = target.with_name(f".{target.name}.part")
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT) as answer, part.open("wb") as file:
            shutil.copyfileobj(answer, file)
        with part.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != sha256:
            raise DataError(
                f"What {url} sent is not the file that was published ({part.stat().st_size} bytes, SHA-256 {found}): "
                "the download broke off, or the file has changed there. Nothing was kept; try again."
            )
        part.replace(target)
    except (OSError, HTTPException) as error:
        if isinstance(error, PermissionError):
            raise
        raise DataError(
            f"{target} is missing, and could not be downloaded from {url}: {error}.\n"
            "Run once online, or set CLARENA_DATA to a folder that has it."
        ) from error
    finally:
        part.unlink(missing_ok=True)
