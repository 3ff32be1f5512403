"""Which precision products and convolutions have while a run lasts, whatever this process had set before.

torch has two interfaces to the same switches. The old one (`allow_tf32`, `set_float32_matmul_precision`) cannot even be
read once the new one (`fp32_precision`, since torch 2.9) has been used in a way that it has no words for: it raises. So
the new one is cleared first, after which the old one can say everything, and both agree for as long as a run lasts.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch

from clarena.protocol.protocol import Protocol

MATMUL = {"highest": ("ieee", "ieee"), "high": ("tf32", "tf32"), "medium": ("tf32", "bf16")}
"""What each word of the old interface means for products on CUDA and on the CPU."""


@contextmanager
def precise(protocol: Protocol, device: torch.device) -> Iterator[None]:
    """Inside, float32 is what the protocol says it is; afterwards every switch is as it was.

    On the CPU nothing is rounded: where a processor can, "medium" would have it round to bfloat16. cuDNN's switches are
    touched for CUDA alone: their first state, TF32 unless more is said, cannot be put back, and CUDA runs have a
    process to themselves.
    """
    rounded = protocol.precision == "tf32" and device.type == "cuda"
    with ExitStack() as undo:
        _clear(undo, device)
        _set(undo, torch.set_float32_matmul_precision, _matmul_precision(), "high" if rounded else "highest")
        if device.type == "cuda":
            allowed = _answer(lambda: torch.backends.cudnn.allow_tf32)
            _set(undo, partial(setattr, torch.backends.cudnn, "allow_tf32"), allowed is not False, rounded)
        yield


def _clear(undo: ExitStack, device: torch.device) -> None:
    """Have the new interface say nothing, outermost first: what an inner switch then says is its own."""
    backends: Any = torch.backends
    if not hasattr(backends.cuda.matmul, "fp32_precision"):  # torch before 2.9
        return
    switches: list[tuple[Any, Callable[[str], Any]]] = [
        (backends, partial(setattr, backends, "fp32_precision")),
        # Setting `mkldnn.fp32_precision` sets the outermost one (torch 2.13).
        (backends.mkldnn, lambda value: backends.mkldnn.set_flags(_fp32_precision=value)),
        (backends.cudnn, partial(setattr, backends.cudnn, "fp32_precision")),
    ]
    inner = [backends.mkldnn.matmul, backends.mkldnn.conv, backends.mkldnn.rnn, backends.cuda.matmul]
    if device.type == "cuda":
        inner += [backends.cudnn.conv, backends.cudnn.rnn]
    switches += [(switch, partial(setattr, switch, "fp32_precision")) for switch in inner]
    for switch, put in switches:
        _set(undo, put, switch.fp32_precision, "none")


def _matmul_precision() -> str:
    """The old interface's word for products, once the new one says nothing: the word that agrees with what is set."""
    if (word := _answer(torch.get_float32_matmul_precision)) is not None:
        return str(word)
    backends: Any = torch.backends
    cuda, cpu = backends.cuda.matmul, backends.mkldnn.matmul
    try:
        for cuda.fp32_precision, cpu.fp32_precision in MATMUL.values():
            if (word := _answer(torch.get_float32_matmul_precision)) is not None:
                return str(word)
    finally:
        cuda.fp32_precision = cpu.fp32_precision = "none"
    return "highest"


def _set(undo: ExitStack, put: Callable[[Any], Any], before: Any, value: Any) -> None:
    undo.callback(put, before)
    put(value)


def _answer(ask: Callable[[], Any]) -> Any:
    """What the old interface says; None where it raises, for the new one says otherwise."""
    try:
        return ask()
    except RuntimeError:
        return None
