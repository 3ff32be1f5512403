"""The categorical likelihood: a softmax over the outputs in play, for each sample or for each position of one.

With p the softmax of the scores s over the outputs in play, −ln p(c) = logsumexp(s) − s_c, and by the scores
∂ ln p(c) / ∂s = e_c − p. Its Fisher information diag(p) − p pᵀ is Σ_c v_c v_cᵀ with v_c = √p_c (e_c − p).
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Literal, cast

import torch
from torch import Tensor
from torch.nn import functional as F

from clarena.errors import DataError, UsageError

IGNORED = -100
"""The label of a position that does not count, as in PyTorch's cross-entropy."""

FisherKind = Literal["exact", "sample", "empirical"]


def cross_entropy(scores: Tensor, y: Tensor, mask: Tensor | None = None, reduction: str = "mean") -> Tensor:
    """Cross-entropy with the softmax over the outputs in play.

    Args:
        scores: [batch, …, outputs].
        y: [batch, …]; -100 is ignored.
        mask: bool [batch or 1, outputs]; None puts all outputs in play.
        reduction: `mean` over labels, `sum`, or `none`, which gives [batch · …].
    """
    if mask is not None:
        scores = scores.masked_fill(~mask.reshape(len(mask), *[1] * (scores.ndim - 2), -1), -torch.inf)
    return F.cross_entropy(scores.flatten(0, -2), y.flatten(), reduction=reduction)


def soft_cross_entropy(scores: Tensor, old: Tensor, temperature: float = 1.0, in_play: Tensor | None = None) -> Tensor:
    """Cross-entropy between softened softmaxes, −Σ_c p'_c ln p_c with p = softmax(s / T), averaged; no factor T².

    Args:
        scores, old: [batch, …, outputs], before the softmax.
        temperature: T.
        in_play: the outputs that the softmaxes are over, bool [batch, …, outputs]; None: all.

    Source: Hinton et al. 2015, arXiv:1503.02531.
    """
    if in_play is not None:
        scores, old = (s.masked_fill(~in_play, -torch.inf) for s in (scores, old))
    soft, log = (old / temperature).softmax(dim=-1), (scores / temperature).log_softmax(dim=-1)
    if in_play is not None:
        log = log.masked_fill(~in_play, 0)  # 0 · ln 0 = 0
    return -(soft * log).sum(dim=-1).mean()


def categorical_directions(
    scores: Tensor, y: Tensor | None, mask: Tensor | None, kind: FisherKind, generator: torch.Generator
) -> Iterator[Tensor]:
    """Directions v at the scores, for which Σ v vᵀ is the Fisher information of each sample, or in expectation is.

    `exact`: √p(c|x) ∂ log p(c|x) / ∂scores for each c in play; `sample`: ∂ log p(c|x) / ∂scores for one c ~ p(·|x), at
    each position; `empirical`: for c = y.

    Args:
        scores: [n, …, outputs].
        y: [n, …]; needed by `empirical`, and where there are positions, to know which count.
        mask: outputs in play, bool, [outputs] or [n or 1, outputs].
        kind: which expectation over labels.
        generator: on the CPU, draws the labels of `sample`.

    Raises:
        UsageError: `exact` where there are positions.
        DataError: no labels where they are needed.
    """
    made: Mapping[FisherKind, Callable[[], Iterable[Tensor]]] = {
        "exact": lambda: _exact(scores, mask),
        "sample": lambda: _sampled(scores, y, mask, generator),
        "empirical": lambda: _empirical(scores, y, mask),
    }
    yield from made[kind]()


def _exact(scores: Tensor, mask: Tensor | None) -> Iterator[Tensor]:
    """As many directions as any sample has outputs in play.

    The one value read back from the device is that number, and only where there is a mask.
    """
    if scores.dim() != 2:
        raise UsageError(
            f"The exact Fisher sums over all labels, too many for scores of shape {tuple(scores.shape)}. "
            "Choose `sample` or `empirical`."
        )
    in_play = outputs_in_play(scores, mask)
    p = _probabilities(scores, in_play)
    # Each sample's outputs in play come first.
    labels = in_play.byte().argsort(dim=1, descending=True, stable=True)
    passes = scores.shape[1] if mask is None else int(in_play.sum(1).max())
    for label in labels[:, :passes].unbind(1):
        yield p.gather(1, label[:, None]).sqrt() * _log_gradient(p, label)  # p = 0 where not in play


def _sampled(scores: Tensor, y: Tensor | None, mask: Tensor | None, generator: torch.Generator) -> Iterator[Tensor]:
    """One label for each position, by inverse transform."""
    p = _probabilities(scores, outputs_in_play(scores, mask))
    direction = _log_gradient(p, drawn_labels(p, generator))
    yield direction if scores.dim() == 2 else direction * _counted(y)


def drawn_labels(p: Tensor, generator: torch.Generator) -> Tensor:
    """A label for each distribution p [n, …, outputs], int64 [n, …] on its device; `generator` is on the CPU."""
    cumulative = p.double().cpu().cumsum(-1)  # on the CPU: CUDA has no deterministic cumulative sum
    u = torch.rand(p.shape[:-1], generator=generator, dtype=torch.float64)
    return (cumulative <= u[..., None] * cumulative[..., -1:]).sum(-1).to(p.device)


def _empirical(scores: Tensor, y: Tensor | None, mask: Tensor | None) -> Iterator[Tensor]:
    in_play = outputs_in_play(scores, mask)
    p = _probabilities(scores, in_play)
    counted = _counted(y)
    label = cast(Tensor, y).where(counted[..., 0], 0)
    allowed = in_play.gather(-1, label[..., None])  # log 0 = -inf has no gradient
    direction = _log_gradient(p, label).where(allowed, torch.nan)
    yield direction.where(counted, 0)


def _log_gradient(p: Tensor, label: Tensor) -> Tensor:
    """∂ log p(label) / ∂scores = onehot(label) - p."""
    return p.neg().scatter_add_(-1, label[..., None], torch.ones_like(p[..., :1]))


def _probabilities(scores: Tensor, in_play: Tensor) -> Tensor:
    return scores.masked_fill(~in_play, -torch.inf).softmax(-1)


def outputs_in_play(scores: Tensor, mask: Tensor | None) -> Tensor:
    """The mask, [outputs] or [n or 1, outputs], in the shape of the scores [n, …, outputs]."""
    if mask is None:
        return torch.ones_like(scores, dtype=torch.bool)
    if mask.dim() == 2:  # one row of a sample for all its positions
        mask = mask.reshape(len(mask), *[1] * (scores.dim() - 2), -1)
    return mask.to(scores.device).expand_as(scores)


def _counted(y: Tensor | None) -> Tensor:
    """Where a label counts, [n, …, 1]."""
    if y is None:
        raise DataError("Labels are needed here. Pass y with each batch, or choose another kind of Fisher.")
    return (y != IGNORED)[..., None]
