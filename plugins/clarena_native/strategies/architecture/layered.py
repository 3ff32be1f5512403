"""Backbones taken apart into their layers of weights, for strategies that add something to every one of them."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from clarena import Backbone, UsageError, evaluating

PER_UNIT = (nn.Flatten, nn.Identity, nn.ReLU, nn.MaxPool2d, nn.AvgPool2d, nn.Dropout)
"""Modules that treat each unit (neuron or channel) alone, and map 0 to 0."""

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.GroupNorm, nn.LayerNorm)


@dataclass(frozen=True)
class Stack:
    """A backbone that is a plain stack of layers.

    Attributes:
        stem: what stands before the first layer of weights.
        weights: the layers of weights.
        tails: what follows each of them, up to the next: normalisation, activation, pooling, flattening.
        features: the number of features that come out.
    """

    stem: nn.Sequential
    weights: list[nn.Linear | nn.Conv2d]
    tails: list[nn.Sequential]
    features: int


def take_apart(
    backbone: Backbone, input_shape: tuple[int, ...], known: tuple[type[nn.Module], ...], needs: str
) -> Stack:
    """The layers of a backbone whose forward pass is `self.layers(x)`, an `nn.Sequential`.

    Args:
        backbone: its modules are handed over, not copied.
        input_shape: of one input.
        known: modules that may stand between layers of weights.
        needs: which strategy needs this and why, the first half of the message.

    Raises:
        UsageError: for any other backbone.
    """
    layers = getattr(backbone, "layers", None)
    if not isinstance(layers, nn.Sequential):
        raise _refusal(backbone, needs, "it has no `layers` that are an nn.Sequential")
    stem, weights, tails = nn.Sequential(), list[nn.Linear | nn.Conv2d](), list[nn.Sequential]()
    for module in layers:
        if isinstance(module, nn.Linear | nn.Conv2d):
            weights.append(module)
            tails.append(nn.Sequential())
        elif isinstance(module, known):
            (tails[-1] if tails else stem).append(module)
        else:
            raise _refusal(backbone, needs, f"its `layers` hold {type(module).__name__}")
    if not weights:
        raise _refusal(backbone, needs, "its `layers` hold neither Linear nor Conv2d")
    probe = torch.ones(2, *input_shape, device=weights[0].weight.device)
    with torch.no_grad(), evaluating(backbone):
        if not torch.equal(backbone(probe), layers(probe)):
            raise _refusal(backbone, needs, "its forward pass does more than call `layers`")
    return Stack(stem, weights, tails, backbone.features)


def _refusal(backbone: Backbone, needs: str, why: str) -> UsageError:
    return UsageError(
        f"{needs}, but the backbone {backbone.name!r} cannot serve: {why}. "
        "Use --backbone mlp or cnn, or another strategy."
    )


def require_task(strategy: str, task: int | None, possible: Sequence[int]) -> int:
    """The task label, if it is a possible one.

    Raises:
        UsageError: when it is missing or unknown.
    """
    if task is None:
        raise UsageError(f"{strategy} needs the task label, and got none. Run it in the task scenario.")
    if task not in possible:
        labels = ", ".join(map(str, possible)) or "none yet"
        raise UsageError(f"{strategy} does not know task {task}. Task labels it can take now: {labels}.")
    return task


def at_labels(scores: Tensor, labels: Tensor, outputs: int) -> Tensor:
    """Scores [batch, outputs] with those of one task [batch, labels] at its labels, and 0 elsewhere."""
    return scores.new_zeros(len(scores), outputs).index_copy(1, labels, scores)
