"""States as files: plain data and tensors, no pickle, behind a SHA-256, since torch does not notice every bit."""

import hashlib
import io
from typing import Any

import torch

from clarena.record.writing import DIGEST_BYTES


def packed(content: dict[str, Any]) -> bytes:
    """What a file holds of plain data and tensors."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    saved = buffer.getvalue()
    return hashlib.sha256(saved).digest() + saved


def unpacked(content: bytes, device: torch.device) -> dict[str, Any]:
    """What was packed, its tensors on the device; raises whatever is wrong with it, ValueError for an altered byte."""
    digest, content = content[:DIGEST_BYTES], content[DIGEST_BYTES:]
    if hashlib.sha256(content).digest() != digest:
        raise ValueError("it is damaged: the SHA-256 differs")
    found: dict[str, Any] = torch.load(io.BytesIO(content), map_location=device, weights_only=True)
    return found
