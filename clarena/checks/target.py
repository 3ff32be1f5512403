"""What every likelihood keeps: a target's loss, directions, divergence and answers fit each other."""

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from clarena.checks.declared import require
from clarena.contract.target import Target
from clarena.errors import UsageError
from clarena.toolbox.categorical import FisherKind

DRAWS = 3000
"""Labels drawn for each sample, whose directions are averaged."""

HESSIANS = 200
"""Labels drawn for each sample, at which the loss is differentiated twice."""

STEP = 1e-4
"""Of the central differences of its gradient, which are then right to about eight digits."""

SIGMAS = 6.0
"""Standard errors that an average over them may be off."""

FAR = 50.0
"""What is added to scores that must not count."""


def check_target(target: type[Target], y: Tensor, outputs: int) -> None:
    """Check that a target's loss, directions, divergence and answers are those of one likelihood, at random scores.

    Args:
        target: the class.
        y: some labels [n, …], three samples or more, each of a few positions at most. Where outputs can be left out of
            play, none shows the last one.
        outputs: how many there are.

    Raises:
        Broken: with the first rule that is broken, and by how much.
    """
    asked, chance = target(), torch.Generator().manual_seed(0)
    asked.check(y, outputs, "The labels")
    scores, old = torch.randn(2, len(y), *asked.positions(y), outputs, generator=chance, dtype=torch.float64)
    _check_loss(asked, scores, y)
    _check_divergence(asked, scores, old, y)
    expected = [_expected_curvature(asked, scores[i : i + 1], y[i : i + 1]) for i in range(len(y))]
    _check_exact(asked, scores, y, expected)
    _check_drawn(asked, scores, y, torch.stack([fisher for fisher, _ in expected]))
    _check_curvature(asked, scores, y, expected)
    _check_what_does_not_count(asked, scores, old, y)
    _check_answers(asked, scores, y, outputs)


def _size(asked: Target, y: Tensor) -> int:
    """How many samples, or positions of theirs, count."""
    counted = asked.counted(y)
    return len(y) if counted is None else int(counted.sum())


def _check_loss(asked: Target, scores: Tensor, y: Tensor) -> None:
    leaf = scores.clone().requires_grad_()
    each = asked.loss(leaf, y, None, "none").flatten()
    total, size = asked.loss(leaf, y, None, "sum"), _size(asked, y)
    _same("loss, summed,", total, each.sum(), "the sum of its parts")
    _same("loss, averaged,", asked.loss(leaf, y), total / size, f"a part in {size} of the sum")
    torch.autograd.gradcheck(lambda s: asked.loss(s, y, None, "sum"), (leaf,))
    (gradient,) = torch.autograd.grad(total, leaf)
    (direction,) = asked.directions(scores, y, None, "empirical", torch.Generator())
    _same("The empirical direction", direction, -gradient, "minus the gradient of the loss")


def _check_divergence(asked: Target, scores: Tensor, old: Tensor, y: Tensor) -> None:
    leaf, counted = scores.clone().requires_grad_(), asked.counted(y)
    torch.autograd.gradcheck(lambda s: asked.divergence(s, old, counted), (leaf,))
    (gradient,) = torch.autograd.grad(asked.divergence(leaf, scores, counted), leaf)
    _same("The gradient of divergence at equal scores", gradient, torch.zeros_like(gradient), "0")
    require(
        bool(asked.divergence(old, scores, counted) >= asked.divergence(scores, scores, counted)),
        "divergence is smaller for other scores than for equal ones.",
    )


def _directions(asked: Target, scores: Tensor, y: Tensor, kind: FisherKind, chance: torch.Generator) -> list[Tensor]:
    found: Iterable[Tensor] = asked.directions(scores, y, None, kind, chance)
    return [direction.flatten() for direction in found]


def _expected_curvature(asked: Target, scores: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """The Fisher information of one sample as E_y[∂² −ln p / ∂s²], and how far chance and differences may have it off.

    The loss alone says it, at labels that are drawn: neither directions nor divergence take part.
    """
    counted = asked.counted(y)
    labels = asked.draw(scores.repeat_interleave(HESSIANS, 0), torch.Generator().manual_seed(1))
    if counted is not None:
        given = y.repeat_interleave(HESSIANS, 0)
        labels = labels.where(counted.repeat_interleave(HESSIANS, 0), given)

    def gradient(at: Tensor) -> Tensor:
        leaf = at.repeat_interleave(HESSIANS, 0).requires_grad_()
        return torch.autograd.grad(asked.loss(leaf, labels, None, "sum"), leaf)[0].reshape(HESSIANS, -1)

    units = torch.eye(scores.numel(), dtype=scores.dtype).reshape(-1, *scores.shape)
    rows = [(gradient(scores + STEP * unit) - gradient(scores - STEP * unit)) / (2 * STEP) for unit in units]
    hessians = torch.stack(rows, 1)  # [draws, numbers, numbers]
    mean = hessians.mean(0)
    return mean, SIGMAS * hessians.std(0) / HESSIANS**0.5 + 1e-6 * max(1.0, float(mean.abs().max()))


def _check_exact(asked: Target, scores: Tensor, y: Tensor, expected: list[tuple[Tensor, Tensor]]) -> None:
    """The exact directions, where there is a closed form, are those of the loss."""
    for i, (fisher, allowed) in enumerate(expected):
        try:
            found = _directions(asked, scores[i : i + 1], y[i : i + 1], "exact", torch.Generator())
        except UsageError:  # no closed form
            return
        _near("The sum of v vᵀ over exact directions", torch.stack([v.outer(v) for v in found]).sum(0), fisher, allowed)


def _check_drawn(asked: Target, scores: Tensor, y: Tensor, fisher: Tensor) -> None:
    """E[g] = 0 and E[g gᵀ] is the Fisher information, over labels that are drawn."""
    chance = torch.Generator().manual_seed(2)
    many, labels = scores.repeat_interleave(DRAWS, 0), y.repeat_interleave(DRAWS, 0)
    (drawn,) = asked.directions(many, labels, None, "sample", chance)
    g = drawn.reshape(len(y), DRAWS, -1)
    for what, values, wanted in (
        ("The mean of sampled directions", g, torch.zeros_like(g[:, 0])),
        ("The mean of g gᵀ, g sampled,", g[..., None] * g[..., None, :], fisher),
    ):
        error = (values.mean(1) - wanted).abs() - SIGMAS * values.std(1) / DRAWS**0.5
        require(
            bool((error <= 1e-9).all()),
            f"{what} is off by {float(error.max()):.2g} more than chance allows. Do directions belong to another "
            "likelihood than draws?",
        )


def _curvature(asked: Target, scores: Tensor, y: Tensor) -> Tensor:
    """The second derivative [numbers, numbers] of the divergence of one sample, at equal scores."""
    counted = asked.counted(y)
    found: Any = torch.autograd.functional.hessian(lambda s: asked.divergence(s, scores, counted), scores)
    hessian: Tensor = found.reshape(scores.numel(), scores.numel())
    return hessian


def _check_curvature(asked: Target, scores: Tensor, y: Tensor, expected: list[tuple[Tensor, Tensor]]) -> None:
    for i, (fisher, allowed) in enumerate(expected):
        one, label = scores[i : i + 1], y[i : i + 1]
        _near("The curvature of divergence", _curvature(asked, one, label) * _size(asked, label), fisher, allowed)


def _near(what: str, found: Tensor, fisher: Tensor, allowed: Tensor) -> None:
    error = (found - fisher).detach().abs()
    require(
        bool((error <= allowed).all()),
        f"{what} is not the Fisher information, which is the mean curvature of the loss over labels that are drawn: "
        f"it is off by {float(error.max()):.2g}.",
    )


def _check_what_does_not_count(asked: Target, scores: Tensor, old: Tensor, y: Tensor) -> None:
    """Neither outputs out of play nor scores at ignored positions move anything."""
    counted = asked.counted(y)
    everything = torch.ones(1, scores.shape[-1], dtype=torch.bool)
    cases = []
    if scores.shape[-1] > 1:
        all_but_last = everything.clone()
        all_but_last[:, -1] = False
        cases.append(("the last output, which is out of play,", all_but_last, ~all_but_last.expand_as(scores)))
    if counted is not None and not bool(counted.all()):
        cases.append(("positions that are ignored", everything, ~counted[..., None].expand_as(scores)))
    for where, mask, away in cases:
        moved = _values(asked, scores + FAR * away, old - FAR * away, y, mask, away)
        for (what, after), (_, before) in zip(moved, _values(asked, scores, old, y, mask, away)):
            _same(f"{what} with other scores at {where}", after, before, "what it was")


def _values(
    asked: Target, scores: Tensor, old: Tensor, y: Tensor, mask: Tensor, away: Tensor
) -> Iterator[tuple[str, Tensor]]:
    yield "loss", asked.loss(scores, y, mask)
    yield "divergence", asked.divergence(scores, old, asked.counted(y), mask)
    yield "A direction", _masked(asked, scores, y, mask, away)


def _masked(asked: Target, scores: Tensor, y: Tensor, mask: Tensor, away: Tensor) -> Tensor:
    """The two kinds of directions, stacked; also 0 where nothing counts."""
    kinds: tuple[FisherKind, FisherKind] = ("empirical", "sample")
    found = []
    for kind in kinds:
        (direction,) = asked.directions(scores, y, mask, kind, torch.Generator().manual_seed(3))
        _same(
            f"The {kind} direction at what does not count", direction[away], torch.zeros(int(away.sum())).double(), "0"
        )
        found.append(direction)
    return torch.stack(found)


def _check_answers(asked: Target, scores: Tensor, y: Tensor, outputs: int) -> None:
    columns = torch.arange(outputs)
    whole = asked.answers(scores, y, columns)
    for name, kept in whole.items():
        parts = [asked.answers(scores[i : i + 1], y[i : i + 1], columns)[name] for i in range(len(y))]
        lead = (len(y), *asked.positions(y))
        require(
            kept.shape[: len(lead)] == lead, f"The answers {name!r} are {list(kept.shape)}, not {list(lead)} and more."
        )
        fine = torch.isfinite(kept) if kept.is_floating_point() else kept >= 0
        require(bool(fine.all()), f"The answers {name!r} hold −1 or NaN, which stand for what was not asked.")
        require(torch.equal(torch.cat(parts), kept), f"The answers {name!r} depend on what else is in the batch.")


def _same(what: str, found: Tensor, wanted: Tensor, that: str) -> None:
    error = float((found - wanted).detach().abs().max()) if found.numel() else 0.0
    allowed = 1e-9 * max(1.0, float(wanted.detach().abs().max()) if wanted.numel() else 0.0)
    require(error <= allowed, f"{what} is not {that}: it is off by {error:.2g}.")
