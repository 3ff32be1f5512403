"""Import Avalanche: once, in the order that works, and with a clear word where it is missing."""

from importlib import import_module
from importlib.util import find_spec
from types import ModuleType

from clarena_native.torchvision_cpu import import_torchvision


def import_avalanche() -> ModuleType:
    """The avalanche package, also where a torchvision built for CUDA sits beside a CPU-only torch; takes seconds.

    Raises:
        ModuleNotFoundError: when it is not installed; the host then says how to install it.
    """
    if find_spec("avalanche") is None:
        raise ModuleNotFoundError("No module named 'avalanche'", name="avalanche")
    import_torchvision()
    return import_module("avalanche")
