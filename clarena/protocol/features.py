"""How a track says that its backbone is frozen, so that features stand for its inputs."""

from collections.abc import Mapping
from typing import Any, Literal

from clarena.errors import UsageError

Precision = Literal["float32", "float16"]
"""What features are kept as."""


def frozen(options: Mapping[str, Any]) -> tuple[dict[str, Any], Precision | None]:
    """The options of a backbone itself, and what its features are kept as where `frozen` says that they are computed
    once; raises `UsageError` where it says something else."""
    own = dict(options)
    said = own.pop("frozen", None)
    if said in (None, False, "false", "none"):
        return own, None
    if said in (True, "true", "float32"):
        return own, "float32"
    if said == "float16":
        return own, "float16"
    raise UsageError(
        f"backbone.frozen = {said!r} is not valid: true (features are computed once, and kept as float32), float16 "
        "(kept in half the space) or false."
    )
