"""What moves parameters: the protocol's optimiser with its schedule, clipping and accumulation, written once.

Rates are those of torch's own schedulers, stepped once per pass. What holds in a step (rates that nobody else has
changed, clipping, parts that were added up) is tied to the optimiser's `step` itself, whoever calls it: a strategy, or
a loop of another library's.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from math import inf
from typing import Any

import torch
from torch import Tensor, nn

from clarena.contract.experience import Batch, _full_mask
from clarena.errors import PluginError, UsageError
from clarena.protocol.protocol import Protocol
from clarena.toolbox import together
from clarena.toolbox.schedule import Clock, rates, scheduled

Factors = Sequence[tuple[Iterable[nn.Parameter], float]]
"""Groups of parameters, each with the factor by which its rate differs from that of all others."""


class Updater:
    """The protocol's optimiser over some parameters, for as long as one caller trains them.

    Attributes:
        optimizer: torch's. Its settings are for reading: what they are is part of what is held equal.
    """

    def __init__(
        self,
        params: Iterable[nn.Parameter],
        make: Callable[[Any, float], torch.optim.Optimizer],
        protocol: Protocol,
        learning_rate: float,
        clock: Clock | None,
        factors: Factors = (),
        counted: Callable[[Tensor], Tensor | None] = lambda y: None,
    ) -> None:
        """`make`: the optimiser of groups and a rate; `counted`: which positions of labels count, as targets say."""
        if clock is None and scheduled(protocol):
            raise PluginError(
                "An updater with a schedule was asked for where nothing is being learned, so nobody knows for how long "
                "it is. Make it in learn, once per experience, or say for how long: context.updater(params, steps=…)."
            )
        params = list(params)
        if not params:
            raise UsageError(
                "There is nothing to train: the backbone is frozen, nothing was added to it, and its head has no "
                "weights of its own, as one that scores classes by their names. Take a strategy that trains or adds "
                "something, or a head that learns: --set backbone.labels=linear, where the backbone has it."
            )
        self.protocol, self.learning_rate, self._counted = protocol, learning_rate, counted
        groups = self._grouped(params, factors)
        self.optimizer = make(groups, learning_rate)
        self._rules = Rules(protocol, clock or Clock(1, 1))
        self._rules.accept(self.optimizer)
        self.optimizer.register_step_pre_hook(self._rules.before)
        self.optimizer.register_step_post_hook(self._rules.after)

    def step(self) -> None:
        """Clip the gradients where the protocol says so, and move the parameters.

        Raises:
            PluginError: when the optimiser's settings were changed, or accumulation is asked for and was not made.
        """
        self.optimizer.step()

    def rate(self, p: nn.Parameter) -> float:
        """The learning rate by which the step at hand moves a parameter (between two steps, the last one moved it)."""
        for group in self.optimizer.param_groups:
            if any(p is q for q in group["params"]):
                return group["lr"]  # type: ignore[no-any-return]
        raise PluginError("A rate was asked for of a parameter that this updater does not move.")

    @property
    def factor(self) -> float:
        """What the schedule multiplies rates by at this moment: 1 at full size."""
        if not self._rules.scheduled:
            return 1.0
        return self._rules.rate(self.learning_rate) / self.learning_rate

    def parts(self, batch: Batch) -> Iterator[tuple[Batch, float | Tensor]]:
        """The parts of a step, each with its share of the batch; the batch as it is where the protocol has one part.

        The gradient of the step is the sum of the parts' gradients, each times its share: of the samples or, where
        only some positions of these count, of the positions that do (then a scalar on the device, for which nothing
        waits). A batch of fewer samples than parts has one part for each.
        """
        if self._rules.scheduled:
            self._rules.follow(self.optimizer)
        self._rules.cut, n = True, len(batch)
        count = min(self._rules.parts, n)
        if count <= 1:
            yield batch, 1.0
            return
        ends, counted = [n * part // count for part in range(count + 1)], self._counted(batch.y)
        for start, end in pairwise(ends):
            share = (end - start) / n if counted is None else counted[start:end].sum() / counted.sum()
            yield batch._part(slice(start, end), min(max(batch.fresh - start, 0), end - start)), share

    def descend(
        self, batch: Batch, loss: Callable[[Batch], Tensor], penalty: Callable[[], Tensor] | None = None
    ) -> Tensor:
        """A whole step, for a loop of one's own: gradients of `loss` part by part, then the update.

        Args:
            batch: what the step learns from.
            loss: of a part of it, a mean over samples.
            penalty: a term of the parameters alone, added to it.

        Returns:
            The loss of the batch without the penalty, a scalar.
        """
        self.optimizer.zero_grad()
        losses = []
        for part, share in self.parts(batch):
            value = loss(part)
            whole = value if penalty is None else value + penalty()
            shared(whole, share).backward()
            losses.append(shared(value.detach(), share))
        self.step()
        return total(losses)

    def add(self, params: Iterable[nn.Parameter], factors: Factors = ()) -> None:
        """Take on parameters that have come since, such as those of a grown head."""
        for group in self._grouped(params, factors):
            self.optimizer.add_param_group(group)
        self._rules.accept(self.optimizer)

    def begin_pass(self, place: int, passes: int) -> None:
        """Say which pass begins, from 0, of how many; for a loop whose batches the host does not hand out."""
        self._rules.clock = Clock(passes, passes, told=place)
        self._rules.follow(self.optimizer)

    def state(self, model: nn.Module) -> dict[str, dict[str, Any]]:
        """The optimiser's state by name of the parameter."""
        state = self.optimizer.state
        return {name: state[parameter] for name, parameter in model.named_parameters() if parameter in state}

    def adopt(self, named: Mapping[str, nn.Parameter], state: Mapping[str, Mapping[str, Any]]) -> None:
        """Go on from an earlier updater's state: parameters that are new start without any."""
        for name in named.keys() & state.keys():
            kept = {key: value.to(named[name].device) for key, value in state[name].items()}
            self.optimizer.state[named[name]] = kept

    def _grouped(self, params: Iterable[nn.Parameter], factors: Factors) -> list[dict[str, Any]]:
        """Groups as torch has them, one for each rate: those of all other parameters first."""
        own = {p: factor for group, factor in factors for p in group}
        for factor in own.values():
            if not 0 < factor < inf:
                raise PluginError(f"A group of parameters has its rate times {factor}. Make it a positive number.")
        grouped: dict[float, list[nn.Parameter]] = {}
        for p in params:
            grouped.setdefault(own.get(p, 1.0), []).append(p)
        return [{"params": grouped[f], "lr": self.learning_rate * f} for f in sorted(grouped, key=lambda f: f != 1)]


class Rules:
    """What holds before and after each step of an optimiser; it knows nothing of who holds the optimiser."""

    def __init__(self, protocol: Protocol, clock: Clock) -> None:
        self.protocol, self.clock = protocol, clock
        self.scheduled, self.parts, self.clip_norm = scheduled(protocol), protocol.accumulation, protocol.clip_norm
        self.bases: list[float] = []  # by group: its rate at full size
        self.settings: list[dict[str, Any]] = []  # by group: what the host has set
        self.cut = False  # whether the step's batch was handed out in parts

    def accept(self, optimizer: torch.optim.Optimizer) -> None:
        """Groups that the host has just added are as they should be."""
        new = [_settings(group) for group in optimizer.param_groups[len(self.settings) :]]
        self.bases += [settings["lr"] for settings in new]
        self.settings += new
        self.follow(optimizer)

    def rate(self, base: float) -> float:
        """The present rate of a group that has this one at full size."""
        return rates(self.protocol, base, self.clock.passes)[self.clock.place] if self.scheduled else base

    def follow(self, optimizer: torch.optim.Optimizer) -> None:
        """Give every group the rate of the present pass; raise `PluginError` where one was changed by another hand."""
        self._check(optimizer)
        if self.scheduled:
            for group, settings, base in zip(optimizer.param_groups, self.settings, self.bases):
                group["lr"] = settings["lr"] = self.rate(base)

    def before(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        """Check and set the rates, and clip."""
        self.follow(optimizer)
        if self.parts > 1 and not self.cut:
            raise PluginError(
                f"A step was made on a batch as a whole, and the protocol cuts it into {self.parts} parts. Take the "
                "step's gradients from updater.parts(batch), or let updater.descend(batch, loss) make the step; a "
                "strategy that cannot declares the need 'whole_batches'."
            )
        if self.clip_norm is not None:
            clipped = [p for group in optimizer.param_groups for p in group["params"]]
            nn.utils.clip_grad_norm_(clipped, self.clip_norm)

    def after(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        """Count."""
        self.clock.steps += 1
        self.cut = False

    def _check(self, optimizer: torch.optim.Optimizer) -> None:
        groups = optimizer.param_groups
        if len(groups) == len(self.settings) and all(map(_same, groups, self.settings)):
            return
        raise PluginError(
            "The optimiser's settings (param_groups) were changed behind the host's back; learning rates are part of "
            "what is held equal. Return groups with a factor of their own from parameter_groups(), or set "
            "learning_rate for the row; a rate that falls with time is the protocol's: protocol.schedule."
        )


def _settings(group: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in group.items() if name != "params"}


def _same(group: Mapping[str, Any], settings: Mapping[str, Any]) -> bool:
    """Whether a group has these settings and no others; a tensor in place of a number is another (to look waits)."""
    if len(group) != len(settings) + 1:  # its parameters besides
        return False
    for name, value in settings.items():
        there = group.get(name)
        if there is not value and (type(there) is not type(value) or there != value):
            return False
    return True


def shared(loss: Tensor, share: float | Tensor) -> Tensor:
    """A part's loss times its share; that of the only part as it is, to the bit."""
    return loss if isinstance(share, float) and share == 1 else loss * share


def total(losses: Sequence[Tensor]) -> Tensor:
    """The sum of the parts' losses, each already times its share; the one there is, to the bit."""
    return losses[0] if len(losses) == 1 else torch.stack(list(losses)).sum()


def joined(parts: Sequence[Batch]) -> Batch:
    """The parts of a step as one batch again: the stream's samples first, then the exemplars of all parts."""
    if len(parts) == 1:
        return parts[0]
    pieces = [part.stream() for part in parts] + [part.exemplars() for part in parts if len(part) > part.fresh]

    def column(name: str) -> Any:
        columns = [getattr(piece, name) for piece in pieces]
        return None if any(column is None for column in columns) else together.joined(columns)

    masks = [piece.mask for piece in pieces]
    outputs = next((mask.shape[1] for mask in masks if mask is not None), 0)
    whole = [_full_mask(mask, len(piece), outputs, piece.y) for mask, piece in zip(masks, pieces)]
    return Batch(
        **{name: column(name) for name in ("x", "y", "task", "index", "scores")},
        mask=torch.cat(whole) if outputs else None,
        fresh=sum(part.fresh for part in parts),
        _rows=lambda: together.joined([part.stream().rows for part in parts]),
        views=parts[0].views,
    )
