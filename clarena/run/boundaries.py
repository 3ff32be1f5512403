"""Who can learn where boundaries are hidden: found out from what a strategy does, not from what it says.

A strategy needs no boundaries if being told of one changes nothing. So it rehearses: the first batches of the first two
experiences, once in two calls of `learn` with everything told, and once in a single call in which nothing is.
Parameters, buffers and the optimiser's state have to end alike, bit for bit.
"""

from dataclasses import dataclass
from typing import Any, cast

import torch

from clarena.contract.experience import Experience, HiddenStream
from clarena.contract.strategy import NEEDS, Strategy
from clarena.errors import PluginError, UsageError
from clarena.protocol.protocol import Track
from clarena.record.record import StrategyInfo
from clarena.run.environment import configured
from clarena.run.realisation import CellClasses, Realisation
from clarena.toolbox.states import differing

STEPS = 3
"""Of each rehearsed experience: a penalty that is anchored at a boundary has no gradient in the first step after it."""


def admit(track: Track, parts: CellClasses, info: StrategyInfo, seed: int) -> None:
    """Raise `UsageError` where boundaries are hidden and the strategy, as it is set, cannot do without them."""
    if track.protocol.boundaries == "known":
        return
    if track.scenario == "task":
        raise UsageError(
            "Boundaries cannot be hidden in the task scenario: a task label says which experience a sample belongs to. "
            "Use the class or the domain scenario, or protocol.boundaries=known."
        )
    needs = parts.strategy.needs
    if "all_data" in needs:  # all in one call, whatever the boundaries
        return
    reason = next(
        (f"it {NEEDS[need]}; boundaries are hidden" for need in ("boundaries", "past_data") if need in needs), None
    )
    reason = reason or _found_out(track, parts, info, seed)
    if reason:
        raise UsageError(f"{info.name} cannot learn on this track: {reason}. Or leave protocol.boundaries=known.")


def _found_out(track: Track, parts: CellClasses, info: StrategyInfo, seed: int) -> str | None:
    """Why the strategy needs boundaries, or None; a faulty one is let through, to fail in a run of its own."""
    # A schedule is one thing over an experience and another over the stream, whatever a strategy does.
    still = {"schedule": "constant", "milestones": (), "warmup": 0}
    short = track.protocol.model_copy(update={"epochs": 1, "limit": STEPS * track.protocol.batch_size} | still)
    rehearsal = Rehearsal(track.model_copy(update={"protocol": short}), parts, info, seed)
    with configured(short):
        try:
            told = rehearsal.told()
        except Exception:
            return None
        try:
            untold = rehearsal.untold(revealed=True)
        except PluginError as error:
            return str(error)
        except Exception as error:  # whatever a strategy raises that counted on a boundary
            return f"where boundaries are hidden it fails ({type(error).__name__}: {error})"
        if differing(told, untold):
            return "being told of boundaries changes what it learns, and here they are hidden"
        try:
            rehearsal.untold(revealed=False)
        except Exception as error:
            return (
                f"it cannot take outputs that come with a batch ({type(error).__name__}: {error}). With heads that are "
                "full it can: --set protocol.heads=full --set protocol.stream_length=known"
            )
    return None


@dataclass(frozen=True)
class Rehearsal:
    """A strategy on the beginning of a stream, each time anew; what is returned is its state at the end."""

    track: Track
    parts: CellClasses
    info: StrategyInfo
    seed: int

    def told(self) -> dict[str, Any]:
        """Two experiences in two calls, all outputs there from the first on."""
        _, strategy, experiences = self._begin(revealed=True)
        for experience in experiences:
            strategy.learn(experience)
        return dict(strategy.state_dict())

    def untold(self, revealed: bool) -> dict[str, Any]:
        """The same in one call, with all outputs from the start or with those of a batch as it comes."""
        realised, strategy, experiences = self._begin(revealed)
        strategy.learn(cast(Experience, HiddenStream(iter(experiences), realised.space, realised.protocol)))
        return dict(strategy.state_dict())

    def _begin(self, revealed: bool) -> tuple[Realisation, Strategy, list[Experience]]:
        realised = Realisation(self.track, self.parts, self.seed, torch.device("cpu"))
        strategy = realised.set_up(self.parts.strategy(**self.info.hyperparameters), self.info.learning_rate)
        realised.begin_hidden()
        experiences = [realised.experience(positions) for positions in realised.steps[:2]]
        if revealed:
            for experience in experiences:
                realised.space.reveal(experience.y)
        return realised, strategy, experiences
