"""Import torchvision, also where a wheel built for CUDA sits beside a CPU-only torch."""

import sys
from importlib import import_module
from types import ModuleType

import torch

from clarena import DataError

# Such a wheel cannot load its compiled operators, and its Python side then misses those it takes for granted.
_OPERATORS = ("nms", "qnms")
_SCHEMA = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
_libraries: list[torch.library.Library] = []  # an operator lasts as long as the library that defined it


def import_torchvision() -> ModuleType:
    """The torchvision package; its data sets and transforms work even where its compiled operators do not.

    Raises:
        DataError: when torchvision is not installed.
    """
    try:
        return import_module("torchvision")
    except ModuleNotFoundError as error:
        if error.name != "torchvision":
            raise
        raise DataError(
            "This needs torchvision, which is not installed. Run: pip install 'clarena-bench[vision]'"
        ) from error
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
    library = torch.library.Library("torchvision", "FRAGMENT")
    for operator in _OPERATORS:
        library.define(operator + _SCHEMA)
    _libraries.append(library)
    for module in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        del sys.modules[module]  # half imported
    return import_module("torchvision")
