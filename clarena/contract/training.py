"""The training loop, written once: `GradientStrategy`. A strategy says what differs from it."""

from typing import Any

import torch
from torch import Tensor

from clarena.contract.experience import Batch, Experience
from clarena.contract.strategy import Context, Strategy


class GradientStrategy(Strategy):
    """Learns by gradient steps on batches of the stream.

    As it stands it is fine-tuning. The methods below stand in the order in which they happen; a strategy overrides
    those in which it differs.
    """

    optimizer: torch.optim.Optimizer | None = None
    experience: Experience = None  # type: ignore[assignment]  # while it learns: hooks need not ask

    def setup(self, context: Context) -> None:
        """Build the model; a subclass calls this first and adds its own state after."""
        super().setup(context)
        self.optimizer = None
        self.experience = None  # type: ignore[assignment]
        self._saved_optimizer: dict[str, Any] = {}

    def learn(self, experience: Experience) -> None:
        """The loop."""
        self.experience = experience
        self.context.grow(self.model)
        self.before_experience(experience)
        self.optimizer = self._next_optimizer()
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
            self.optimizer.add_param_group({"params": new})  # type: ignore[union-attr]

    def before_experience(self, experience: Experience) -> None:
        """Prepare: record targets, warm up a head, take a snapshot."""

    def step(self, batch: Batch) -> None:
        """One step: gradient of the loss, of the penalty, adjustment, update."""
        batch = self.replay(batch)
        self.model.zero_grad()
        batch.scores = self.model(batch.x)
        loss = self.loss(batch)
        extra = self.distil(batch)
        if extra is not None:
            loss = loss + extra
        loss.backward()
        self.after_backward(batch)
        self.backward_penalty()
        self.adjust_gradients(batch)
        self.optimizer.step()  # type: ignore[union-attr]
        self.after_step(batch)
        self.experience.meter.replayed += len(batch) - batch.fresh
        self.experience.meter.observe(loss)

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

        A composite that steps by plain SGD asks once, as an experience begins, so as not to step too far. None: there
        is no such penalty.
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
        return {"optimizer": kept} if (kept := self._kept_optimizer_state()) else {}

    def _kept_optimizer_state(self) -> dict[str, dict[str, Any]]:
        if self.context.protocol.optimizer_state == "reset":
            return {}
        if self.optimizer is None:
            return self._saved_optimizer
        named, state = self.model.named_parameters(), self.optimizer.state
        return {name: state[parameter] for name, parameter in named if parameter in state}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Keep the optimiser's state until there is an optimiser to load it into."""
        self.optimizer = None
        self._saved_optimizer = state.get("optimizer", {})

    def _next_optimizer(self) -> torch.optim.Optimizer:
        """The optimiser for the next experience: a new one, with the state of the last where it is kept.

        State goes by parameter: those that are new (a grown head) start without any, and what is no longer trained
        loses its own.
        """
        named = {name: p for name, p in self.model.named_parameters() if p.requires_grad}
        kept = self._kept_optimizer_state()
        optimizer = self.context.optimizer(named.values())
        for name in named.keys() & kept.keys():
            optimizer.state[named[name]] = {key: value.to(named[name].device) for key, value in kept[name].items()}
        return optimizer
