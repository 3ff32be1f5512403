"""The devices that runs are made on: one by name, or several among which cells are dealt out."""

import torch

from clarena.errors import UsageError

CPU = torch.device("cpu")
KNOWN = "Use cpu, mps, cuda, cuda:N, or several: cuda:0,1,2."


def device_named(name: str) -> torch.device:
    """The device of this name; raises `UsageError` where there is none such here."""
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UsageError(f"There is no device {name!r}. {KNOWN}") from error
    if device.type not in ("cpu", "cuda", "mps"):
        raise UsageError(f"Device {name!r} is not supported. {KNOWN}")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise UsageError("This torch finds no MPS device. Use --device cpu; MPS takes a Mac with Apple's own chip.")
    if device.type == "cuda":
        if not torch.cuda.is_available():
            raise UsageError("This torch finds no CUDA device. Use --device cpu, or install a CUDA build of torch.")
        if (device.index or 0) >= torch.cuda.device_count():
            raise UsageError(f"There is no {name!r}: this machine has {torch.cuda.device_count()} CUDA device(s).")
    return device


def device_names(given: str) -> list[str]:
    """The names of one device or of several, of which those after the first may be numbers alone: `cuda:0,1,2`."""
    first, *others = (name.strip() for name in given.split(","))
    kind = first.partition(":")[0]
    return [first, *(f"{kind}:{name}" if name.isdecimal() else name for name in others)]


def check_devices(given: str) -> None:
    """Raise `UsageError` where one of these devices is not here, or is named twice."""
    names = device_names(given)
    for name in names:
        device_named(name)
    if len({torch.device(name) for name in names}) < len(names):
        raise UsageError(f"--device {given} names a device twice. To make several runs on one, give --jobs.")
