"""Arrays in one `.npz`: `x_train`, `y_train`, `x_test`, `y_test`."""

import zipfile
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from clarena import Benchmark, Data, DataError

KEYS = ("x_train", "y_train", "x_test", "y_test")


class Pixels(Benchmark):
    """Model inputs from stored samples: uint8 images, channels first or last, or plain numbers.

    Attributes:
        channels_last: whether images are stored as [height, width, channels].
    """

    channels_last: ClassVar[bool] = False

    def __init__(
        self,
        *,
        mean: Annotated[
            tuple[float, ...], Field(description="Subtracted from each channel, pixels being in 0 … 1.")
        ] = (0.5,),
        std: Annotated[tuple[float, ...], Field(description="What each channel is divided by.")] = (0.5,),
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.mean = mean
        self.std = std

    def inputs(self, x: Tensor) -> Tensor:
        """Images [n, channels, height, width], uint8 ones scaled to 0 … 1, then normalised; other numbers as stored."""
        if x.dtype != torch.uint8:
            return x.float()
        x = x.float().div_(255)
        if x.ndim == 4 and self.channels_last:
            x = x.movedim(-1, 1)
        elif x.ndim == 3:
            x = x.unsqueeze(1)
        mean, std = (
            torch.tensor(values, device=x.device).view(-1, *[1] * (x.ndim - 2)) for values in (self.mean, self.std)
        )
        return x.sub_(mean).div_(std)


def read_arrays(path: Path) -> Data:
    """Read an `.npz`; arrays stay of the type they were stored in.

    Raises:
        DataError: for a file that is damaged, lacks an array, or holds what no benchmark can use.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            missing = [key for key in KEYS if key not in file.files]
            if missing:
                raise DataError(
                    f"{path} has no {', '.join(missing)}; it has: {', '.join(file.files) or 'nothing'}. "
                    f"Save it with numpy.savez(path, {', '.join(f'{key}=…' for key in KEYS)})."
                )
            x_train, y_train, x_test, y_test = (file[key] for key in KEYS)
            names = file["class_names"] if "class_names" in file.files else None
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"{path} cannot be read as an .npz of arrays: {error}.") from error
    for part, y in (("y_train", y_train), ("y_test", y_test)):
        if y.ndim != 1 or y.dtype.kind not in "iuUS":
            raise DataError(f"{part} in {path} must be a list of whole numbers or names, not {y.dtype} {y.shape}.")
    for part, x in (("x_train", x_train), ("x_test", x_test)):
        if x.dtype.kind not in "iufb" or x.ndim < 2:
            raise DataError(f"{part} in {path} must be numbers with one row per sample, not {x.dtype} {x.shape}.")
    labels, indices = np.unique(np.concatenate([y_train, y_test]), return_inverse=True)
    known = np.unique(y_train)
    if len(known) < len(labels):
        strange = ", ".join(map(str, np.setdiff1d(labels, known)[:5]))
        raise DataError(f"{path} tests classes that it never trains on: {strange}.")
    if names is not None and labels.dtype.kind in "iu" and int(labels.max()) < len(names):
        class_names = tuple(str(names[label]) for label in labels)
    else:
        class_names = tuple(map(str, labels))
    return Data(
        _tensor(x_train),
        torch.from_numpy(indices[: len(y_train)].astype(np.int64)),
        _tensor(x_test),
        torch.from_numpy(indices[len(y_train) :].astype(np.int64)),
        class_names,
    )


def channels_last(x: Tensor) -> bool:
    """Whether images [n, a, b, c] have their channels (1, 3 or 4) last."""
    return x.ndim == 4 and x.shape[-1] in (1, 3, 4) and x.shape[1] not in (1, 3, 4)


def _tensor(x: NDArray[Any]) -> Tensor:
    if x.dtype.kind in "ub" and x.dtype.itemsize == 1:
        return torch.from_numpy(x.view(np.uint8))
    return torch.from_numpy(x.astype(np.float32, copy=False))
