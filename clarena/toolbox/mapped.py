"""Arrays that are mapped from a file: read when they are used, copied into no process, shared by all that use them."""

import struct
import weakref
import zipfile
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from numpy.lib import format as npy
from torch import Tensor

from clarena.errors import DataError

CHUNK = 2**20
"""Bytes that are read at once where all of a file is looked through."""

_files: dict[int, tuple[Path, int, tuple[int, int]]] = {}
"""Of tensors that are mapped, by the address of their storage: the file, how many bytes of it they need, its stamp."""


def mapped(path: Path, member: str | None = None) -> Tensor:
    """The array in an `.npy`: nothing of it is read before it is used, and nothing written to it reaches the file.

    Args:
        path: of the file; or of an `.npz` that is not compressed.
        member: the name of the array in an `.npz`.

    Raises:
        DataError: for a file that is damaged or compressed, or holds what no tensor can.
    """
    try:
        array = np.load(path, mmap_mode="c") if member is None else _member(path, member)
        tensor = torch.from_numpy(array)
        facts = path.stat()
    except (OSError, ValueError, EOFError, TypeError, KeyError, zipfile.BadZipFile, struct.error) as error:
        raise DataError(f"{path} cannot be mapped as an .npy of numbers: {error}. Save it again.") from error
    address = tensor.untyped_storage().data_ptr()
    _files[address] = path.absolute(), array.offset + array.nbytes, (facts.st_ino, facts.st_mtime_ns)
    weakref.finalize(array, _files.pop, address, None)  # the tensor keeps the array
    return tensor


def require_unchanged(x: Tensor) -> None:
    """Raise `DataError` where the file of a mapped tensor was written to since: what is gone cannot be read, and to
    try would end the process."""
    path, needed, (place, time) = _files.get(x.untyped_storage().data_ptr(), (None, 0, (0, 0)))
    if path is None:
        return
    try:
        facts = path.stat()
    except FileNotFoundError:
        return  # who has it open still has all of it
    except OSError as error:
        raise DataError(f"{path}, from which data are read, cannot be looked at: {error}.") from error
    if facts.st_ino == place and (facts.st_size < needed or facts.st_mtime_ns != time):
        how = (
            f"it has {facts.st_size} bytes, and {needed} are needed" if facts.st_size < needed else "it was written to"
        )
        raise DataError(
            f"{path} was changed while a run read its data: {how}. Leave data alone while they are used: put the file "
            "back and start again. What is finished stays."
        )


def _member(path: Path, member: str) -> "np.memmap[tuple[int, ...], np.dtype[np.generic]]":
    with zipfile.ZipFile(path) as archive, path.open("rb") as file:
        entry = archive.getinfo(f"{member}.npy")
        if entry.compress_type != zipfile.ZIP_STORED:
            raise ValueError(f"{member} is compressed (numpy.savez leaves it as it is)")
        with archive.open(entry) as whole:
            while whole.read(CHUNK):  # to the end, where its checksum is compared
                pass
        file.seek(entry.header_offset)
        name, extra = struct.unpack("<26x2H", file.read(30))  # a local header: its name and an extra field follow
        file.seek(name + extra, 1)
        shape, fortran, dtype = _header(file)
        if dtype.hasobject:
            raise ValueError(f"{member} is an array of Python objects")
        return np.memmap(path, dtype, "c", file.tell(), shape, "F" if fortran else "C")


def _header(file: BinaryIO) -> tuple[tuple[int, ...], bool, "np.dtype[np.generic]"]:
    read = npy.read_array_header_1_0 if npy.read_magic(file) == (1, 0) else npy.read_array_header_2_0
    found: tuple[tuple[int, ...], bool, np.dtype[np.generic]] = read(file)
    return found
