"""States as files: plain data and tensors, no pickle, behind a SHA-256, since torch does not notice every bit."""

import hashlib
import io
from collections.abc import Mapping, Sequence
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


# ---- What a kept model answers with, which its file says and MLflow's signature repeats ----


def answered(content: Mapping[str, Any]) -> list[int]:
    """The outputs that a kept model answers with, in the order of its columns: those that have been seen.

    In the domain scenario those are all.
    """
    outputs = content["outputs"]
    return list(range(len(outputs["names"]))) if content["scenario"] == "domain" else list(outputs["seen"])


def answer_columns(class_names: Sequence[str]) -> list[str]:
    """What the columns of a table of predictions are called: class and probability, and the probability of each."""
    return ["prediction", "probability", *(f"p({name})" for name in class_names)]
