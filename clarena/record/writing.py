"""Writing files: in one move, kept by the disk, and with a message where that cannot be. And what is read of them."""

import errno
import os
from pathlib import Path

from clarena.errors import StoreError

DIGEST_BYTES = 32
"""Files with states begin with the SHA-256 of what follows."""


def write_atomic(path: Path, content: bytes) -> None:
    """Write a file in one move: a reader sees the old content or the new, never a part.

    Raises:
        StoreError: when the disk is full or the folder cannot be written; the old content stays.
    """
    make_folder(path.parent)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        _sync(path.parent)
    except BaseException as error:  # an interrupt leaves nothing behind either
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise StoreError(f"Cannot write {path}: {error.strerror}. What was finished before is safe.") from error
        raise


def state_sha256(path: Path) -> str:
    """The SHA-256 of the state in a file of one, such as a kept model's, as the file says it."""
    with path.open("rb") as file:
        return file.read(DIGEST_BYTES).hex()


def json_lines(path: Path) -> list[str]:
    """The lines of a file of JSON lines: only a newline ends one; other separators of lines may stand within a text.

    Raises:
        OSError, UnicodeDecodeError: the file cannot be read.
    """
    text = path.read_text(encoding="utf-8")
    return text.removesuffix("\n").split("\n") if text else []


def make_folder(folder: Path) -> None:
    try:
        made = [each for each in (folder, *folder.parents) if not os.path.exists(each)]
        folder.mkdir(parents=True, exist_ok=True)
        for each in reversed(made):
            _sync(each.parent)
    except OSError as error:
        raise StoreError(f"Cannot create {folder}: {error.strerror}. Choose another store with --store.") from error


def _sync(folder: Path) -> None:
    """Have the disk keep the entries of a folder, without which the files in it are lost when the power fails."""
    if os.name != "posix":  # elsewhere a folder cannot be opened
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some file systems of the network keep none
            raise
    finally:
        os.close(descriptor)
