"""`ewc+lwf+gem`: several strategies as one, on one shared model.

Each step makes one forward pass. The task loss, all distillation terms and all penalties are added; the gradient is
adjusted once; each part consolidates once, in the order in which the parts are named:

    g = ∇(L + Σ distillation) + Σ ∇penalty,    then the projection, then the optimiser.

At most one part may have a task loss of its own, and at most one may adjust gradients. A part that replaces the loop,
the step or the prediction cannot share it with others. There is one optimiser: a part that sets a learning rate sets it
for all. What a part sees of the loss's gradient (SI) has the distillation terms in it.

Where a part needs plain SGD, its rate η was not chosen with the penalties of the others in view, and the adaptive
optimiser that theirs were chosen for is gone. A quadratic penalty with the second derivative aᵢ = Σ λΩᵢ by parameter i
multiplies the distance to its anchor by 1 − ηaᵢ in each step, which diverges unless |1 − ηaᵢ| < 1. So there each
parameter has the rate ηᵢ = min(η, 1/aᵢ), with its own η of the moment: no step overshoots an anchor, whatever λ is.
Then, for a loss whose gradient has a Lipschitz constant L ≤ 1/η, as SGD without a penalty needs, loss and penalties
together cannot rise: their curvature is at most L + aᵢ along parameter i, and 1/ηᵢ = max(1/η, aᵢ) ≥ (L + aᵢ) / 2.
Minima stay where they are, and where ηaᵢ ≤ 1 for all i, every bit is that of SGD. What is projected is this step.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Annotated, Any, ClassVar, Self

import torch
from pydantic import Field
from torch import Tensor

from clarena.contract.backbone import Model
from clarena.contract.experience import Batch, Experience
from clarena.contract.strategy import Context, Strategy
from clarena.contract.training import GradientStrategy
from clarena.contract.updater import Factors
from clarena.errors import UsageError, unknown_name
from clarena.plugins.parameters import parse

GROUPS = ("parameter_groups", "gives parameters rates of their own")

Values = Mapping[str, Mapping[str, Any]]
"""Hyper-parameters by part."""


def part_names(name: str) -> list[str]:
    """The parts of `ewc+lwf`; a name that ends in plus signs (`der++`) keeps them. One entry means no composite."""
    return re.split(r"\+(?=[a-z0-9])", name)


class Composite(GradientStrategy):
    """Several strategies on one shared model: penalties add up, and the gradient is adjusted once."""

    members: ClassVar[tuple[type[GradientStrategy], ...]] = ()

    def __init__(
        self,
        *,
        parts: Annotated[
            dict[str, dict[str, Any]] | None,
            Field(description="Hyper-parameters by part; what is left out is its default."),
        ] = None,
    ) -> None:
        super().__init__()
        self.parts = parts

    @classmethod
    def complete(cls, values: Values) -> dict[str, dict[str, Any]]:
        """Checked hyper-parameters of every part, defaults filled in; raises `UsageError` for what does not fit."""
        names = [member.name for member in cls.members]
        for name in values:
            if name not in names:
                raise unknown_name(f"part of {cls.name}", name, names)
        return {member.name: parse(member, values.get(member.name, {}), member.name) for member in cls.members}

    def setup(self, context: Context) -> None:
        """Build one model, and give it to every part."""
        super().setup(context)
        shared = _SharedModel(**vars(context), shared=self.model)
        values = self.complete(self.parts or {})
        self.running = [member(**values[member.name]) for member in self.members]
        for number, part in enumerate(self.running, 1):
            part.setup(shared)
            if part.model is not self.model:
                raise UsageError(f"{part.name} cannot be part of {self.name}: it puts a model of its own together.")
            self.add_module(f"part_{number}", part)
        self._agree_on_learning_rate()

    def _agree_on_learning_rate(self) -> None:
        """Give everyone the learning rate that a part has set; raises `UsageError` where two differ."""
        own = [part for part in self.running if part.context.learning_rate != self.context.learning_rate]
        rates = {part.context.learning_rate for part in own}
        if len(rates) > 1:
            names = " and ".join(part.name for part in own)
            raise UsageError(f"{self.name} has one learning rate, but {names} set different ones. Give them the same.")
        for rate in rates:
            for strategy in (self, *self.running):
                strategy.context = replace(strategy.context, learning_rate=rate)

    def train(self, mode: bool = True) -> Self:
        """The mode of the shared model is for the part to decide that has a say in it."""
        super().train(mode)
        for part in self.running if hasattr(self, "running") else ():
            if overrides(type(part), "train"):
                part.train(mode)
        return self

    def before_experience(self, experience: Experience) -> None:
        for part in self.running:
            part.experience = experience
            part.before_experience(experience)
        self._slowed_at = 0.0  # the schedule's factor; no rates are bounded yet

    @torch.no_grad()
    def _rates(self) -> list[Tensor]:
        """ηᵢ/η of the parameters that penalties hold, one tensor for each in order; none unless by plain SGD."""
        held = [a for a in (part.stiffness() for part in self.running) if a is not None and len(a)]
        if not (self.context.plain_sgd and held):
            return []
        total = torch.zeros_like(max(held, key=len))
        for a in held:
            total[: len(a)] += a
        slowed, done = [], 0
        for p in self.model.parameters():
            if done == len(total):
                break
            stiff = total[done : done + p.numel()].view(p.shape)
            slowed.append((self.updater.rate(p) * stiff).clamp(min=1).reciprocal() if p.requires_grad else stiff)
            done += p.numel()
        return slowed

    def parameter_groups(self) -> Factors:
        return next((p.parameter_groups() for p in self.running if overrides(type(p), "parameter_groups")), ())

    def replay(self, batch: Batch) -> Batch:
        for part in self.running:
            batch = part.replay(batch)
        return batch

    def loss(self, batch: Batch) -> Tensor:
        for part in self.running:
            if overrides(type(part), "loss"):
                return part.loss(batch)
        return super().loss(batch)

    def distil(self, batch: Batch) -> Tensor | None:
        total = None
        for part in self.running:
            term = part.distil(batch)
            if term is not None:
                total = term if total is None else total + term
        return total

    def after_backward(self, batch: Batch) -> None:
        for part in self.running:
            part.after_backward(batch)

    def backward_penalty(self) -> None:
        for part in self.running:
            part.backward_penalty()

    def adjust_gradients(self, batch: Batch) -> None:
        if self._slowed_at != self.updater.factor:
            self._slowed, self._slowed_at = self._rates(), self.updater.factor
        for p, slowed in zip(self.model.parameters(), self._slowed):
            if p.grad is not None:
                p.grad.mul_(slowed)
        for part in self.running:
            part.adjust_gradients(batch)

    def after_step(self, batch: Batch) -> None:
        for part in self.running:
            part.after_step(batch)

    def after_experience(self, experience: Experience) -> None:
        for part in self.running:
            part.after_experience(experience)
            part.experience = None  # type: ignore[assignment]
        self._slowed = []

    def __reduce__(self) -> tuple[Any, ...]:
        # The class was made on the fly: a copy makes it again from its parts.
        return _blank, (self.members,), self.__dict__


@dataclass(kw_only=True)
class _SharedModel(Context):
    """A context whose model is there already."""

    shared: Model

    def model(self) -> Model:
        return self.shared


@cache
def compose(classes: tuple[type[Strategy], ...]) -> type[Composite]:
    """The class of a composite.

    Raises:
        UsageError: when the parts cannot be combined, with the part and the reason.
    """
    name = "+".join(cls.name for cls in classes)
    _check_parts(name, classes)
    members = tuple(cls for cls in classes if issubclass(cls, GradientStrategy))
    off = {cls.name: dict(cls.off) for cls in members if cls.off is not None}
    facts = {
        "__doc__": f"{' and '.join(cls.name for cls in classes)} on one shared model; penalties add up.",
        "__module__": __name__,
        "name": name,
        "members": members,
        "scenarios": frozenset.intersection(*(cls.scenarios for cls in classes)),
        "targets": _targets(classes),
        "reference": "; ".join(cls.reference for cls in classes),
        "needs": frozenset().union(*(cls.needs for cls in classes)),
        "off": {"parts": off} if len(off) == len(members) else None,
        "family": " + ".join(dict.fromkeys(cls.family for cls in classes if cls.family)),
        "carries": "; ".join(f"{cls.name}: {cls.carries}" for cls in classes),
    }
    return type("_".join(cls.__name__ for cls in classes), (Composite,), facts)


def overrides(cls: type[Strategy], method: str) -> bool:
    """Whether a strategy has its own version of a method of the training loop."""
    return getattr(cls, method) is not getattr(GradientStrategy, method)


def _check_parts(name: str, classes: Sequence[type[Strategy]]) -> None:
    if len({cls.name for cls in classes}) < len(classes):
        raise UsageError(f"{name} names a part twice. Name each once.")
    for cls in classes:
        loop = issubclass(cls, GradientStrategy)
        whole = [method for method in ("learn", "step", "predict") if loop and overrides(cls, method)]
        if not loop or whole:
            owned = " and ".join(whole) or "learn"
            raise UsageError(f"{cls.name} cannot be part of {name}: it has its own {owned}, which no other can share.")
        if cls.needs & {"past_data", "all_data"}:
            raise UsageError(f"{cls.name} cannot be part of {name}: it is a reference that is given other data.")
    for method, what in (("loss", "has a task loss of its own"), ("adjust_gradients", "adjusts the gradient"), GROUPS):
        owners = [cls.name for cls in classes if overrides(cls, method)]
        if len(owners) > 1:
            raise UsageError(f"{name} cannot be combined: {' and '.join(owners)} each {what}. Keep one of them.")
    for owner in (cls for cls in classes if overrides(cls, "loss")):
        others = [cls.name for cls in classes if overrides(cls, "replay") and cls is not owner]
        if others:
            raise UsageError(
                f"{name} cannot be combined: the loss of {owner.name} knows its own exemplars only, and "
                f"{' and '.join(others)} would replay others."
            )
    if not frozenset.intersection(*(cls.scenarios for cls in classes)):
        raise UsageError(f"{name} cannot be combined: its parts have no scenario in common.")
    if _targets(classes) == frozenset():
        raise UsageError(f"{name} cannot be combined: its parts have no target in common.")


def _targets(classes: Sequence[type[Strategy]]) -> frozenset[str] | None:
    """What all of them can learn; None: everything."""
    limited = [cls.targets for cls in classes if cls.targets is not None]
    return frozenset.intersection(*limited) if limited else None


def _blank(members: tuple[type[GradientStrategy], ...]) -> Composite:
    cls = compose(members)
    return cls.__new__(cls)
