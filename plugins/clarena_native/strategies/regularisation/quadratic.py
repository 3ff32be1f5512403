"""A quadratic penalty around anchors, the common form of EWC, MAS, SI and L2."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from clarena import Model


class QuadraticPenalty(nn.Module):
    """½ Σᵢ importanceᵢ (θᵢ − anchorᵢ)², over the parameters that existed when the anchors were set.

    Both are flat vectors over `model.parameters()` in order. A head grows by new parameters at the end, so the
    vectors stay aligned and new outputs are free of the penalty.

    A step of plain SGD at rate η multiplies the distance to an anchor by 1 − η · strength · importance: it diverges
    unless |1 − η · strength · importance| < 1. A difference from the papers: beside a strategy that needs plain SGD the
    composite bounds the rate of each parameter by 1 / (strength · importance) (see `clarena.plugins.composite`).
    Adam divides by the size of the gradient and needs no bound.

    Attributes:
        importance: [parameters at the last consolidation], not negative.
        anchor: the same shape.
    """

    importance: Tensor
    anchor: Tensor

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self.register_buffer("importance", torch.zeros(0, device=device))
        self.register_buffer("anchor", torch.zeros(0, device=device))

    @torch.no_grad()
    def set(self, importance: Tensor, anchor: Tensor) -> None:
        """Replace both vectors."""
        self.importance, self.anchor = importance, anchor

    def value(self, model: Model) -> Tensor:
        """The penalty at the model's present parameters, a scalar that autograd can differentiate."""
        theta = flat(model)[: len(self.anchor)]
        return 0.5 * (self.importance * (theta - self.anchor).square()).sum()

    @torch.no_grad()
    def add_gradient(self, model: Model, strength: float) -> None:
        """Add strength · importance · (θ − anchor) to each parameter's gradient, in place and without autograd."""
        params = list(model.parameters())
        sizes, total = [], 0
        for p in params:
            if total == len(self.anchor):
                break
            sizes.append(p.numel())
            total += p.numel()
        for p, importance, anchor in zip(params, self.importance.split(sizes), self.anchor.split(sizes)):
            if p.grad is not None:
                p.grad.addcmul_(importance.view_as(p), p - anchor.view_as(p), value=strength)


def flat(model: Model) -> Tensor:
    """All parameters as one vector, in the order of `model.parameters()`."""
    return torch.cat([p.flatten() for p in model.parameters()])


def flat_gradient(parameters: Iterable[nn.Parameter]) -> Tensor:
    """A copy of the gradients of these parameters as one vector; zero where there is none."""
    return torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in parameters])


def spread(model: Model, estimates: Iterable[Tensor]) -> Tensor:
    """Estimates for the trainable parameters as one vector over all of them; zero for those that are frozen."""
    given = iter(estimates)
    return torch.cat([(next(given) if p.requires_grad else torch.zeros_like(p)).flatten() for p in model.parameters()])


def grown(vector: Tensor, length: int) -> Tensor:
    """The vector with zeros for the parameters that have come since."""
    return torch.cat([vector, vector.new_zeros(length - len(vector))])
