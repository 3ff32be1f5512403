"""Files of pre-trained weights: what identifies one, and how it gets into a network whole or not at all."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from clarena import UsageError, user_path

SHOWN = 3
"""How many keys a message names."""


def file_at(path: str, option: str) -> Path:
    """The file at `path`; raises `UsageError` where there is none."""
    file = user_path(path)
    if not file.is_file():
        raise UsageError(
            f"{option}: there is no file at {file}. Give a file of weights (a state dict), or default for those that "
            "were published, or none for random ones."
        )
    return file


def sha256(file: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def put(network: nn.Module, found: Mapping[str, Tensor], file: Path, dropped: Sequence[str], option: str) -> None:
    """Put the weights that were found in a file into a network.

    Args:
        dropped: modules that the network has no more, such as its classifier; what the file holds of them is left out.

    Raises:
        UsageError: when they are those of another network.
    """
    state = {name: value for name, value in found.items() if not _within(name, dropped)}
    own = network.state_dict()
    problems = {
        "lacks": sorted(own.keys() - state.keys()),
        "has besides": sorted(state.keys() - own.keys()),
        "has in another shape": [
            f"{name} {list(state[name].shape)}, not {list(own[name].shape)}"
            for name in own.keys() & state.keys()
            if state[name].shape != own[name].shape
        ],
    }
    told = [f"it {what} {_some(names)}" for what, names in problems.items() if names]
    if told:
        raise UsageError(f"{option}: {file} holds the weights of another network: {'; '.join(told)}.")
    network.load_state_dict(state)


def read(file: Path, option: str) -> dict[str, Tensor]:
    """The state dict in a file of torch's or safetensors' format; no code in it is run.

    Raises:
        UsageError: when it cannot be read.
    """
    if file.suffix == ".npz":
        raise UsageError(
            f"{option}: {file} holds arrays as Flax names them, which timm's ViTs alone are read from: "
            "--backbone timm:vit_base_patch16_224. Others need a state dict of torch's or safetensors' format."
        )
    try:
        if file.suffix == ".safetensors":
            from safetensors.torch import load_file

            state: Any = load_file(file)
        else:
            state = torch.load(file, map_location="cpu", weights_only=True)
    except ModuleNotFoundError as error:
        raise UsageError(f"{option}: reading {file} needs {error.name}. Run: pip install {error.name}") from error
    except Exception as error:  # a damaged file fails in any way whatever
        raise _unreadable(file, option, error) from error
    if not isinstance(state, dict) or not state or not all(isinstance(value, Tensor) for value in state.values()):
        held = _some(sorted(map(str, state))) if isinstance(state, dict) and state else type(state).__name__
        raise UsageError(f"{option}: {file} holds no state dict (tensors by name), but {held}.")
    return state


def arrays(file: Path, option: str) -> dict[str, Tensor]:
    """The arrays in a file of NumPy's format (`.npz`), by name; no code in it is run.

    Raises:
        UsageError: when it cannot be read.
    """
    try:
        with np.load(file, allow_pickle=False) as found:
            return {name: torch.from_numpy(found[name]) for name in found}
    except Exception as error:
        raise _unreadable(file, option, error) from error


def _unreadable(file: Path, option: str, error: Exception) -> UsageError:
    reason = " ".join(str(error).split())[:120]
    return UsageError(f"{option}: {file} cannot be read; is it whole? ({type(error).__name__}: {reason})")


def _within(name: str, modules: Sequence[str]) -> bool:
    return any(name.startswith(f"{module}.") for module in modules)


def _some(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
