"""Rules about the backbone: what reaches into it goes again, and what is frozen keeps its bits."""

from collections.abc import Iterator

import torch
from torch import nn

from clarena.checks.declared import NotApplicable, require
from clarena.checks.tiny import Subject
from clarena.checks.trial import Trial


def check_nothing_left_behind(subject: Subject) -> None:
    """After `learn` and `predict` no module has a hook, a `forward` or a weight put into it that `setup` did not."""
    trial = Trial(subject)
    before = set(_put_in(trial.strategy))
    while trial.done < len(trial.steps):
        trial.step()
        trial.scores()
        new = [what for what in _put_in(trial.strategy) if what not in before]
        require(
            not new,
            f"After experience {trial.done} there is {', '.join(new[:3])}. Use what puts things back, also when it "
            "fails: `with adapter.on(backbone):`, `with added(…):`, or a hook's remove() in `finally`. What stays is "
            "not in the state, so a resumed run does not have it.",
        )


def _put_in(strategy: nn.Module) -> Iterator[str]:
    """What modules hold that is neither theirs nor state, in words."""
    for name, module in strategy.named_modules():
        at = f" at {name}" if name else ""
        hooks = len(module._forward_hooks) + len(module._forward_pre_hooks) + len(module._backward_hooks)
        if hooks:
            yield f"{'a hook' if hooks == 1 else f'{hooks} hooks'}{at}"
        if "forward" in vars(module):
            yield f"another forward{at}"
        yield from (
            f"a weight{at}.{leaf} that is no parameter"
            for leaf, weight in module._parameters.items()
            if weight is not None and not isinstance(weight, nn.Parameter)
        )


def check_frozen_kept(subject: Subject) -> None:
    """A backbone of which nothing takes a gradient, before and after an experience, is the same bits after it."""
    trial = Trial(subject)
    seen = False
    while trial.done < len(trial.steps):
        backbone = _frozen_backbone(trial)
        before = {} if backbone is None else {name: part.clone() for name, part in backbone.state_dict().items()}
        trial.step()
        if backbone is None or _frozen_backbone(trial) is not backbone:
            continue
        seen = True
        changed = [name for name, part in backbone.state_dict().items() if not torch.equal(part, before[name])]
        require(
            not changed,
            f"Experience {trial.done} has changed a frozen backbone: {', '.join(changed[:3])}. Add to its weights "
            "within `with added(…):` instead of in place, and keep its BatchNorm in evaluation mode: override "
            "train(mode), or put it into a Freezable.",
        )
    if not seen:
        raise NotApplicable("its model's backbone is not frozen")


def _frozen_backbone(trial: Trial) -> nn.Module | None:
    backbone = getattr(getattr(trial.strategy, "model", None), "backbone", None)
    if not isinstance(backbone, nn.Module) or not any(True for _ in backbone.parameters()):
        return None
    return None if any(p.requires_grad for p in backbone.parameters()) else backbone
