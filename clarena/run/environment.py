"""Where a run happens: deterministic settings for the process, and a description of hardware and versions."""

import os
import platform
import sys
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from clarena.errors import ClarenaError, ClarenaWarning, UsageError
from clarena.protocol.protocol import Protocol
from clarena.run.devices import CPU
from clarena.run.precision import precise

WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"
"""Without it, matrix products on CUDA are not deterministic. It is read once, so worker processes begin with it."""
WORKSPACE_SIZE = ":4096:8"


@contextmanager
def configured(protocol: Protocol, device: torch.device = CPU) -> Iterator[None]:
    """Inside, this process is deterministic and has one thread; the caller's own settings come back afterwards.

    On few cores one thread per run and a run per core beats two threads in one run by far.

    Raises:
        ClarenaError: when torch does not let itself be set, as after `torch.backends.disable_global_flags()`.
    """
    undo = ExitStack()
    try:
        _configure(undo, protocol, device)
    except Exception as error:  # torch has no one error for it
        with suppress(Exception):
            undo.close()
        message = f"This process's settings of torch cannot be changed ({type(error).__name__}: {_line(error)})."
        raise ClarenaError(f"{message} Undo what keeps them as they are, or start Python afresh.") from error
    try:
        yield
    finally:
        try:
            undo.close()
        except Exception as error:  # the record is written by now, and must not be lost over this
            what = f"Settings of torch could not be put back ({type(error).__name__}: {_line(error)})."
            warnings.warn(f"{what} Start Python afresh before you use it for something else.", ClarenaWarning, 2)


def _configure(undo: ExitStack, protocol: Protocol, device: torch.device) -> None:
    """Make all settings, each with what takes it back."""
    if WORKSPACE not in os.environ:
        os.environ[WORKSPACE] = WORKSPACE_SIZE
        undo.callback(os.environ.pop, WORKSPACE, None)
    undo.callback(torch.set_num_threads, torch.get_num_threads())
    torch.set_num_threads(1)
    undo.callback(torch.set_deterministic_debug_mode, torch.get_deterministic_debug_mode())
    # The same as use_deterministic_algorithms(True), which imports a compiler first and takes most of a second.
    torch.set_deterministic_debug_mode("error")
    switches: list[tuple[Any, str]] = [
        (torch.utils.deterministic, "fill_uninitialized_memory"),  # costs time and protects nothing here
        (torch.backends.cudnn, "benchmark"),
    ]
    for owner, name in switches:
        undo.callback(setattr, owner, name, getattr(owner, name))
        setattr(owner, name, False)
    undo.enter_context(precise(protocol, device))


def _line(error: Exception) -> str:
    return " ".join(str(error).split())


def working_directory() -> str:
    """Where this process is; raises `UsageError` where that no longer exists."""
    try:
        return os.getcwd()
    except OSError as error:
        raise UsageError("The working directory no longer exists. Change to one that does: cd ~") from error


def synchronise(device: torch.device) -> None:
    """Wait for the device, so that a clock read next is honest."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


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
    try:
        import resource
    except ImportError:  # Windows: not measured
        return 0
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
