"""Structure that grows: what a module says of how it is built, so that it is built again before its state is loaded.

A module to which parameters, submodules or unregistered buffers come while it learns has two methods:

    structure()         what there is by now, as plain data: numbers, text, lists and dictionaries
    build(structure)    makes a module that was just set up have this structure

Parents come first, so what a module builds may grow in turn. Growth never renames a parameter: what is kept of one (an
optimiser's state, an importance) goes by its name. For every module, whether it grows or not, the host keeps besides
which parameters take no gradient and which modules are in evaluation mode. And a registered buffer takes the shape and
type of the saved one, so that buffers that only change their size need no `structure()`.

Structure lies in the state, under the key `STRUCTURE`. Like all numbers in it that are no tensors it is not metered.
"""

from collections.abc import Mapping
from copy import copy
from typing import Any, Protocol, TypeGuard

import torch
from torch import Tensor, nn

from clarena.errors import PluginError, StoreError

STRUCTURE = "_structure"
"""The key of a strategy's state under which its structure lies."""


class Growing(Protocol):
    """A module that grows."""

    def structure(self) -> Any:
        """What there is by now: numbers, text, lists and dictionaries."""

    def build(self, structure: Any) -> None:
        """Have this structure; called on a module that was just set up, before its state is loaded."""


def structure_of(root: nn.Module) -> dict[str, Any]:
    """The structure of a module and of all within it, as plain data that shares nothing with them.

    Raises:
        PluginError: where a `structure()` holds anything but numbers, text, lists and dictionaries.
    """
    return {
        "modules": {name: _declared(name, module) for name, module in root.named_modules() if _grows(module)},
        "frozen": [name for name, parameter in root.named_parameters() if not parameter.requires_grad],
        "evaluating": [name for name, module in root.named_modules() if not module.training],
    }


def rebuild(root: nn.Module, structure: Mapping[str, Any]) -> None:
    """Give a module that was just set up the structure of another, parents first.

    Raises:
        PluginError: where it cannot be built.
    """
    for name, wanted in structure["modules"].items():
        try:
            module = root.get_submodule(name)
        except AttributeError as error:
            raise PluginError(
                f"There is no module {name!r} to be built again: {error}. The module that holds it grows too: "
                "give it structure() and build(structure), or make it in setup."
            ) from error
        if not _grows(module):
            raise PluginError(f"{_called(name, module)} had a structure, and has no structure() and build(structure).")
        if _declared(name, module) == wanted:
            continue
        try:
            module.build(wanted)
        except Exception as error:
            raise PluginError(
                f"{_called(name, module)} cannot be built as {wanted}: {type(error).__name__}: {error}"
            ) from error
        if (built := _declared(name, module)) != wanted:
            raise PluginError(f"{_called(name, module)} was to be built as {wanted}, and is then {built}.")
    frozen, evaluating = set(structure["frozen"]), set(structure["evaluating"])
    for name, parameter in root.named_parameters():
        parameter.requires_grad_(name not in frozen)
    for name, module in root.named_modules():
        module.training = name not in evaluating


def prepare(root: nn.Module, state: Mapping[str, Any], device: torch.device | None = None) -> Mapping[str, Any]:
    """Build a module that was just set up so that a saved state fits it; returns the state without the structure.

    Args:
        root: is moved to the device.
        state: a `state_dict` with the `structure_of` the module under `STRUCTURE`.
        device: None leaves everything where it is.

    Raises:
        StoreError: when the state says nothing of its structure.
        PluginError: where the structure cannot be built.
    """
    if STRUCTURE not in state:
        raise StoreError("This state does not say how its module is built, as those of earlier versions of CLArena.")
    rebuild(root, state[STRUCTURE])
    root.to(device)
    for key, value in state.items():
        owner, _, leaf = key.rpartition(".")
        try:
            buffers = root.get_submodule(owner)._buffers
        except AttributeError:
            continue  # `load_state_dict` complains of it
        if isinstance(value, Tensor) and leaf in buffers:
            present = buffers[leaf]
            if present is None or (present.shape, present.dtype) != (value.shape, value.dtype):
                buffers[leaf] = torch.empty_like(value, device=device)
    rest = copy(state)
    del rest[STRUCTURE]  # type: ignore[attr-defined]
    return rest


def _grows(module: nn.Module) -> TypeGuard[Growing]:
    cls = type(module)  # not the module, whose submodules may have any name
    return callable(getattr(cls, "structure", None)) and callable(getattr(cls, "build", None))


def _declared(name: str, module: Growing) -> Any:
    return _plain(module.structure(), f"{_called(name, module)}.structure()")


def _plain(value: Any, where: str) -> Any:
    """A copy of plain data, in which sequences are lists."""
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, list | tuple):
        return [_plain(item, where) for item in value]
    if isinstance(value, dict):
        return {_plain(key, where): _plain(item, where) for key, item in value.items()}
    raise PluginError(
        f"{where} holds {type(value).__name__}. Let it hold numbers, text, lists and dictionaries, and make a tensor a "
        "parameter or a registered buffer."
    )


def _called(name: str, module: Any) -> str:
    return f"{type(module).__name__}{f' at {name}' if name else ''}"
