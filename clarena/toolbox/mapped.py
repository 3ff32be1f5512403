"""Arrays that are mapped from a file: read when they are used, copied into no process, shared by all that use them."""

import weakref
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from clarena.errors import DataError

_files: dict[int, tuple[Path, int]] = {}
"""Of tensors that are mapped, by the address of their storage: the file, and how many bytes of it they need."""


def mapped(path: Path) -> Tensor:
    """The array in an `.npy`: nothing of it is read before it is used, and nothing written to it reaches the file.

    Raises:
        DataError: for a file that is damaged, or holds what no tensor can.
    """
    try:
        array = np.load(path, mmap_mode="c")
        tensor = torch.from_numpy(array)
    except (OSError, ValueError, EOFError, TypeError) as error:
        raise DataError(f"{path} cannot be mapped as an .npy of numbers: {error}. Save it again.") from error
    address = tensor.untyped_storage().data_ptr()
    _files[address] = path.absolute(), array.offset + array.nbytes
    weakref.finalize(array, _files.pop, address, None)  # the tensor keeps the array
    return tensor


def require_whole(x: Tensor) -> None:
    """Raise `DataError` where a mapped tensor's file is shorter now: to read what is gone would end the process."""
    path, needed = _files.get(x.untyped_storage().data_ptr(), (None, 0))
    if path is None:
        return
    try:
        there = path.stat().st_size
    except FileNotFoundError:
        return  # who has it open still has all of it
    except OSError as error:
        raise DataError(f"{path}, from which data are read, cannot be looked at: {error}.") from error
    if there < needed:
        raise DataError(
            f"{path} has {there} bytes, and had {needed} or more when a run began to read it. Leave data alone while "
            "they are used: put the file back and start again. What is finished stays."
        )
