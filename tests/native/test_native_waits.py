"""No step of a native waits for the device, but those that say so."""

import pytest
from test_native_strategies import CASES, HOST, SEQUENTIAL, name_of, needed
from tiny import walk
from waits import waits_of

SAID = {"gem": "gem.py"}
"""Strategies whose docstring says that a step waits, and the file in which it does."""


LEARNED = [(cls, scenario) for cls, scenario in CASES if cls not in SEQUENTIAL or scenario == "task"]
SUMS = [(HOST.strategy("ewc+lwf+agem"), "task"), (HOST.strategy("si+mas+er"), "class")]


@pytest.mark.parametrize(("cls", "scenario"), [*LEARNED, *SUMS], ids=name_of)
def test_waits_do_not_grow_with_the_number_of_steps(cls, scenario):
    """One pass more, and as many waits: those at the boundaries."""
    short, long = (waits_of(walk(cls, scenario, epochs=epochs, limit=12, **needed(cls))) for epochs in (2, 3))
    growing = {place for place in long if long[place] > short[place]}
    assert [place for place in growing if not place.startswith(SAID.get(cls.name, "nowhere"))] == []
    assert bool(growing) == (cls.name in SAID)


def test_a_wait_in_every_step_would_be_noticed():
    class Curious(HOST.strategies.load("finetune")):
        """Looks at the loss."""

        def loss(self, batch):
            loss = super().loss(batch)
            self.last = float(loss.detach())
            return loss

    short, long = (sum(waits_of(walk(Curious, "task", epochs=epochs)).values()) for epochs in (2, 6))
    assert long > 2 * short
