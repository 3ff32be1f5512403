"""Which outputs exist and which are in play, as far as the stream has revealed them."""

from collections.abc import Sequence

import torch
from torch import Tensor

from clarena.contract.target import Classes, Target
from clarena.protocol.protocol import Protocol, Scenario


class OutputSpace:
    """Which outputs exist and which are in play, as far as the stream has revealed them.

    The host tells it of each experience as it begins (where boundaries are hidden, of labels as they come); a strategy
    asks it for the mask of exemplars.
    """

    def __init__(
        self,
        scenario: Scenario,
        protocol: Protocol,
        outputs: int,
        device: torch.device,
        target: Target | None = None,
        names: Sequence[str] = (),
    ) -> None:
        """`names`: of all outputs of the stream; they are told as the outputs come into being."""
        self.scenario = scenario
        self.target = target or Classes()
        self.loss_over = protocol.loss_over
        self.device = device
        self.outputs = outputs
        self._names = tuple(names)
        self.full = outputs if protocol.heads == "full" or scenario == "domain" else None
        self.seen: set[int] = set()
        self.current: set[int] = set()
        self.tasks: list[frozenset[int]] = []
        self._training: Tensor | None = None
        self._exemplars: Tensor | None = None
        self._by_task: Tensor | None = None

    def begin(self, groups: list[frozenset[int]]) -> None:
        """Reveal the outputs of an experience; a union of several (cumulative, joint) reveals one group for each."""
        self.current = set().union(*groups)
        self.seen |= self.current
        self.tasks = groups if len(groups) > 1 else [*self.tasks, *groups]
        self._put_in_play()

    def reveal(self, labels: Tensor) -> None:
        """Reveal the outputs that a batch's labels (on the CPU) show: where boundaries are hidden, no group is told."""
        found = self.target.shown(labels, self.outputs)
        if not found <= self.seen:
            self.seen |= found
            self._put_in_play()

    def _put_in_play(self) -> None:
        if self.scenario == "task":
            self._by_task = torch.stack([self._row(task) for task in self.tasks])
        elif self.scenario == "class":
            trained = {"seen": self.seen, "current": self.current, "all": set(range(self.width))}[self.loss_over]
            others = set(range(self.width)) if self.loss_over == "all" else self.seen
            self._training, self._exemplars = self._row_or_none(trained), self._row_or_none(others)

    @property
    def width(self) -> int:
        """The number of outputs a head has by now."""
        return self.full if self.full is not None else max(self.seen, default=-1) + 1

    @property
    def names(self) -> tuple[str, ...]:
        """What the outputs that a head has by now are called."""
        return self._names[: self.width]

    def mask(self, task: Tensor | None = None) -> Tensor | None:
        """The outputs over which the loss of stream samples with these task labels runs: bool [batch or 1, outputs]."""
        return self._training if self._by_task is None or task is None else self._by_task[task]

    def exemplar_mask(self, task: Tensor | None = None) -> Tensor | None:
        """The same for exemplars: the outputs of their task, or all seen so far."""
        return self._exemplars if self._by_task is None or task is None else self._by_task[task]

    def in_play(self, task: int | None = None) -> list[int]:
        """The outputs among which a prediction is chosen, in ascending order."""
        if self.scenario == "domain":
            return list(range(self.width))
        return sorted(self.seen if task is None else self.tasks[task])

    def _row(self, labels: set[int] | frozenset[int]) -> Tensor:
        row = torch.zeros(self.width, dtype=torch.bool)
        row[sorted(labels)] = True
        return row.to(self.device, non_blocking=True)  # else the host would wait for the device

    def _row_or_none(self, labels: set[int]) -> Tensor | None:
        return None if len(labels) == self.width else self._row(labels)[None]
