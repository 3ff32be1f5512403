"""Who cannot have the protocol's way of making a step, found before anything runs."""

from collections.abc import Callable, Mapping
from typing import Any

import torch

from clarena.contract.strategy import NEEDS, Strategy
from clarena.errors import UsageError
from clarena.protocol.protocol import Protocol
from clarena.run.devices import device_names
from clarena.toolbox.schedule import scheduled

Asks = Callable[[Protocol], bool]

REFUSED: dict[str, tuple[Asks, str, str]] = {
    "unclipped": (lambda p: p.clip_norm is not None, "clips gradients (clip_norm)", "clip_norm=none"),
    "whole_batches": (lambda p: p.accumulation > 1, "cuts batches into parts (accumulation)", "accumulation=1"),
    "constant_rate": (scheduled, "changes the rate (schedule, warmup)", "schedule=constant and warmup=0"),
    "float32": (lambda p: p.precision == "bf16", "computes in bfloat16 (precision)", "precision=float32"),
}
"""By need: whether a protocol is against it, what it does, and a protocol that is not."""

BF16 = ("avx512_bf16", "amx_bf16", "avx10_2", "bf16", "sve_bf16")
"""Names under which `torch.cpu.get_capabilities` tells of instructions for bfloat16 (x86, then ARM)."""


def check_updates(cls: type[Strategy], protocol: Protocol) -> None:
    """Raise `UsageError` where a strategy declares that it cannot have what the protocol asks for."""
    for need, (asks, does, instead) in REFUSED.items():
        if need in cls.needs and asks(protocol):
            raise UsageError(
                f"{cls.name} {NEEDS[need]}; this protocol {does}. Leave {cls.name} out, or take another track: "
                f"protocol.{instead}."
            )


def check_precision(protocol: Protocol, devices: str) -> None:
    """Raise `UsageError` for bf16 on a device without instructions for it, where torch would imitate it slowly.

    Also where this release of torch cannot tell. `devices`: one, or several as `--device` has them.
    """
    if protocol.precision != "bf16":
        return
    for name in device_names(devices):
        if lack := _lack(torch.device(name)):
            raise UsageError(
                f"protocol.precision=bf16: {lack}. Take another device, or another track: protocol.precision=float32."
            )


def _lack(device: torch.device) -> str | None:
    """Why a device cannot have bfloat16, or None."""
    if device.type == "cuda":
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return None
        return f"{torch.cuda.get_device_name(device)} has no arithmetic in bfloat16"
    if device.type == "mps":
        return None if torch.backends.mps.is_macos_or_newer(14, 0) else "it takes macOS 14 or newer"
    ask: Callable[[], Mapping[str, Any]] | None = getattr(torch.cpu, "get_capabilities", None)
    if ask is None:
        return (
            f"torch {torch.__version__} cannot say whether this processor has arithmetic in bfloat16, a newer one can"
        )
    found = ask()
    if any(found.get(name) for name in BF16):
        return None
    return f"this processor ({found.get('architecture', 'unknown')}) has no arithmetic in bfloat16"
