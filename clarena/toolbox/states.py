"""Comparing what strategies remember: nested states, bit for bit."""

from typing import Any

import numpy as np
import torch
from torch import Tensor


def same(a: Any, b: Any) -> bool:
    """Whether nested states are equal, tensors bit for bit."""
    if isinstance(a, Tensor) or isinstance(b, Tensor):
        return isinstance(a, Tensor) and isinstance(b, Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(np.array_equal(a, b))


def differing(a: dict[str, Any], b: dict[str, Any]) -> str:
    """The keys at which two states differ, for a message; empty where they are equal."""
    keys = [key for key in {**a, **b} if key not in a or key not in b or not same(a[key], b[key])]
    return ", ".join(keys[:5]) + (", …" if len(keys) > 5 else "")
