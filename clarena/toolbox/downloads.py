"""Data sets that are downloaded once: where they lie, and how a file gets there whole or not at all."""

import hashlib
import os
import shutil
import urllib.request
from http.client import HTTPException
from pathlib import Path

from filelock import FileLock

from clarena.errors import DataError, UsageError
from clarena.toolbox.files import require_file

TIMEOUT = 60
"""Seconds without an answer after which a download is given up."""


def data_root() -> Path:
    """The folder that holds downloaded data sets: `CLARENA_DATA`, or `~/.cache/clarena`.

    Raises:
        UsageError: where neither is set nor there is a home directory, as in some containers.
    """
    return user_path(os.environ.get("CLARENA_DATA") or "~/.cache/clarena")


def user_path(path: str | Path) -> Path:
    """What a person means by a path: absolute, and `~` is the home directory. Symbolic links stay as they are.

    Raises:
        UsageError: for `~` where no home directory is known.
    """
    try:
        return Path(os.path.abspath(Path(path).expanduser()))
    except RuntimeError as error:
        raise UsageError(
            f"{path} begins in a home directory, and none is known here. Set HOME or give a whole path; for data that "
            "are downloaded, set CLARENA_DATA."
        ) from error


def fetch(path: str, url: str, digest: str) -> Path:
    """The file at `path` under the data root, downloaded where it is not there yet.

    What is downloaded is moved to its place only when it is complete and its digest is right, so that a half-written
    file is never read. Processes that start together wait for one another: a file is downloaded once.

    Args:
        path: relative to `data_root()`.
        url: where it is published.
        digest: of its bytes, in hexadecimal: SHA-256, or MD5 where the authors publish no better one.

    Raises:
        DataError: when the file is damaged, or absent and not to be had.
    """
    target = data_root() / path
    if _is_whole(target, digest):
        return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(target.with_name(f".{target.name}.lock")):
            if not _is_whole(target, digest):
                _download(target, url, digest)
    except OSError as error:
        raise DataError(
            f"{target} is not there, and nothing can be written there: {error}.\n"
            "Set CLARENA_DATA to a folder you can write to."
        ) from error
    return target


def _is_whole(target: Path, digest: str) -> bool:
    """Whether the file is there; raises `DataError` where it is there and is another one."""
    if not require_file(target).exists():
        return False
    kind, found = _digest_of(target, digest)
    if found != digest:
        raise DataError(
            f"{target} is damaged or of another version: its {kind} is {found}, not {digest}. Move it away, and it is "
            "downloaded again."
        )
    return True


def _digest_of(path: Path, like: str) -> tuple[str, str]:
    """The kind of digest that `like` is, told by its length, and that of the file."""
    kind, algorithm = ("MD5", "md5") if len(like) == 32 else ("SHA-256", "sha256")
    with path.open("rb") as file:
        return kind, hashlib.file_digest(file, algorithm).hexdigest()


def _download(target: Path, url: str, digest: str) -> None:
    part = target.with_name(f".{target.name}.part")
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT) as answer, part.open("wb") as file:
            shutil.copyfileobj(answer, file)
        kind, found = _digest_of(part, digest)
        if found != digest:
            raise DataError(
                f"What {url} sent is not the file that was published ({part.stat().st_size} bytes, {kind} {found}): "
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
