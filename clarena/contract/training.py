"""The training loop, written once: `GradientStrategy`. A strategy says what differs from it."""

from typing import Any

import torch
from torch import Tensor

from clarena.contract.experience import Batch, Experience
from clarena.contract.strategy import Context, Strategy
from clarena.contract.updater import Factors, Updater, joined, shared, total


class GradientStrategy(Strategy):
    """Learns by gradient steps on batches of the stream.

    As it stands it is fine-tuning. The methods below stand in the order in which they happen; a strategy overrides
    those in which it differs.
    """

    updater: Updater = None  # type: ignore[assignment]  # while it learns: hooks need not ask
    experience: Experience = None  # type: ignore[assignment]  # while it learns: hooks need not ask

    def setup(self, context: Context) -> None:
        """Build the model; a subclass calls this first and adds its own state after."""
        super().setup(context)
        self.updater = None  # type: ignore[assignment]
        self.experience = None  # type: ignore[assignment]
        self._saved_optimizer: dict[str, Any] = {}

    def learn(self, experience: Experience) -> None:
        """The loop."""
        self.experience = experience
        self.context.grow(self.model)
        self.before_experience(experience)
        self.updater = self._next_updater()
        self.train()
        for batch in experience.batches():
            self._follow_head()
            self.step(batch)
        self.after_experience(experience)
        self.experience = None  # type: ignore[assignment]

    def _follow_head(self) -> None:
        """Grow the head for labels that this batch is the first to show, as happens where boundaries are hidden."""
        if self.model.head.outputs < self.context.space.width:
            older = set(self.model.parameters())
            self.context.grow(self.model)
            new = [p for p in self.model.parameters() if p not in older]
            self.updater.add(new, self.parameter_groups())

    @property
    def optimizer(self) -> torch.optim.Optimizer | None:
        """The updater's optimiser; for reading."""
        return None if self.updater is None else self.updater.optimizer

    def parameter_groups(self) -> Factors:
        """Parameters, each group with the factor of its rate; those in none have the rate itself.

        Factors are hyper-parameters of the row. It is asked as an experience begins, and when a head has grown.
        """
        return ()

    def before_experience(self, experience: Experience) -> None:
        """Prepare: record targets, warm up a head, take a snapshot."""

    def step(self, batch: Batch) -> None:
        """One step: gradients of the loss, part by part; of the penalty; adjustment; update, clipped."""
        parts: list[Batch] = []
        losses: list[Tensor] = []
        for part, share in self.updater.parts(batch):
            part = self.replay(part)
            if not parts:
                self.model.zero_grad()
            part.scores = self.model(part.x)
            loss = self.loss(part)
            extra = self.distil(part)
            if extra is not None:
                loss = loss + extra
            loss = shared(loss, share)
            loss.backward()
            parts.append(part)
            losses.append(loss.detach())
        batch = joined(parts)
        self.after_backward(batch)
        self.backward_penalty()
        self.adjust_gradients(batch)
        self.updater.step()
        self.after_step(batch)
        self.experience.meter.replayed += len(batch) - batch.fresh
        self.experience.meter.observe(total(losses))

    def replay(self, batch: Batch) -> Batch:
        """What is trained on besides the stream: the batch, with exemplars joined to it."""
        return batch

    def loss(self, batch: Batch) -> Tensor:
        """The task loss on `batch.scores`, a scalar: of classes, cross-entropy over the outputs in play."""
        assert batch.scores is not None
        return self.context.target.loss(batch.scores, batch.y, batch.mask)

    def distil(self, batch: Batch) -> Tensor | None:
        """A term of the scores that is added to the loss; None adds nothing."""
        return None

    def after_backward(self, batch: Batch) -> None:
        """`p.grad` now holds the gradient of the loss alone, no penalty in it."""

    def penalty(self) -> Tensor | None:
        """A term of the parameters alone, a scalar; None adds nothing."""
        return None

    def backward_penalty(self) -> None:
        """Add the penalty's gradient to `p.grad`; override it where a closed form is cheaper than autograd."""
        penalty = self.penalty()
        if penalty is not None:
            penalty.backward()

    def stiffness(self) -> Tensor | None:
        """The second derivative of a quadratic penalty by each parameter that it holds [parameters], from the first on.

        A composite that steps by plain SGD asks at the first step of an experience, and whenever its rate changes, so
        as not to step too far. None: there is no such penalty.
        """
        return None

    def adjust_gradients(self, batch: Batch) -> None:
        """The last word on `p.grad` before the optimiser."""

    def after_step(self, batch: Batch) -> None:
        """Write to a buffer; `batch.scores` are still those from before the update."""

    def after_experience(self, experience: Experience) -> None:
        """Consolidate: importances, exemplars, a teacher."""

    def get_extra_state(self) -> dict[str, Any]:
        """The optimiser's state by parameter, where it lives on from experience to experience."""
        return {"optimizer": kept} if (kept := self._kept()) else {}

    def _kept(self) -> dict[str, dict[str, Any]]:
        if self.context.protocol.optimizer_state == "reset":
            return {}
        return self._saved_optimizer if self.updater is None else self.updater.state(self.model)

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Keep the optimiser's state until there is an updater to load it into."""
        self.updater = None  # type: ignore[assignment]
        self._saved_optimizer = state.get("optimizer", {})

    def _next_updater(self) -> Updater:
        """The updater for the next experience: a new one, with the optimiser's state of the last where it is kept.

        State goes by parameter: those that are new (a grown head) start without any, and what is no longer trained
        loses its own.
        """
        named = {name: p for name, p in self.model.named_parameters() if p.requires_grad}
        updater = self.context.updater(named.values(), factors=self.parameter_groups())
        updater.adopt(named, self._kept())
        return updater
