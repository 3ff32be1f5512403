"""Where a run happens: deterministic settings for the process, and a description of hardware and versions."""

import os
import platform
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from clarena.errors import UsageError
from clarena.protocol.protocol import Protocol

WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"
"""Without it, matrix products on CUDA are not deterministic."""


def device_named(name: str) -> torch.device:
    """The device of this name; raises `UsageError` where there is none such here."""
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UsageError(f"There is no device {name!r}. Use cpu, cuda, or cuda:N.") from error
    if device.type not in ("cpu", "cuda"):
        raise UsageError(f"Device {name!r} is not supported. Use cpu, cuda, or cuda:N.")
    if device.type == "cuda":
        if not torch.cuda.is_available():
            raise UsageError("This torch finds no CUDA device. Use --device cpu, or install a CUDA build of torch.")
        if (device.index or 0) >= torch.cuda.device_count():
            raise UsageError(f"There is no {name!r}: this machine has {torch.cuda.device_count()} CUDA device(s).")
    return device


@contextmanager
def configured(protocol: Protocol) -> Iterator[None]:
    """Inside, this process is deterministic and has one thread; the caller's own settings come back afterwards.

    On few cores one thread per run and a run per core beats two threads in one run by far.
    """
    switches: list[tuple[Any, str, bool]] = [
        (torch.utils.deterministic, "fill_uninitialized_memory", False),  # costs time and protects nothing here
        (torch.backends.cudnn, "benchmark", False),
        (torch.backends.cuda.matmul, "allow_tf32", protocol.precision == "tf32"),
        (torch.backends.cudnn, "allow_tf32", protocol.precision == "tf32"),
    ]
    before = [getattr(owner, name) for owner, name, _ in switches]
    workspace, threads = os.environ.get(WORKSPACE), torch.get_num_threads()
    mode = torch.get_deterministic_debug_mode()
    try:
        os.environ.setdefault(WORKSPACE, ":4096:8")
        torch.set_num_threads(1)
        # The same as use_deterministic_algorithms(True), which imports a compiler first and takes most of a second.
        torch.set_deterministic_debug_mode("error")
        for owner, name, value in switches:
            setattr(owner, name, value)
        yield
    finally:
        if workspace is None:
            os.environ.pop(WORKSPACE, None)
        torch.set_num_threads(threads)
        torch.set_deterministic_debug_mode(mode)
        for (owner, name, _), value in zip(switches, before):
            setattr(owner, name, value)


def synchronise(device: torch.device) -> None:
    """Wait for the device, so that a clock read next is honest."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def reset_peak_memory(device: torch.device) -> None:
    """Start measuring peak memory anew."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        with suppress(OSError):  # where there is none, the peak is that of the process's life
            Path("/proc/self/clear_refs").write_text("5")  # Linux: resets VmHWM


def peak_memory(device: torch.device) -> int:
    """Bytes at the peak since the last reset: of the allocator on CUDA, resident set of the process elsewhere."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def environment(device: torch.device) -> dict[str, str]:
    """Versions and hardware: the provenance of a record."""
    found = {
        "device": str(device),
        "hardware": torch.cuda.get_device_name(device) if device.type == "cuda" else _cpu(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "threads": str(torch.get_num_threads()),
    }
    if device.type == "cuda":
        found["cuda"] = str(torch.version.cuda)
        found["cudnn"] = str(torch.backends.cudnn.version())
        found["driver"] = _driver()
    for package in ("clarena-bench", "torch", "numpy", "torchvision", "scikit-learn", "avalanche-lib", "continuum"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


@cache
def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    model = next(
        (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")),
        platform.processor(),
    )
    return f"{model or platform.machine()}, {os.cpu_count()} cores"


@cache
def _driver() -> str:
    path = Path("/proc/driver/nvidia/version")
    return path.read_text().splitlines()[0] if path.exists() else "unknown"
