"""Exemplars per class instead of in total: whoever keeps exemplars keeps so many for each class that was seen."""

from collections import Counter
from copy import deepcopy

import pytest
from clarena_native.strategies.architecture.expand import Expand
from clarena_native.strategies.meta.la_maml import LaMAML
from clarena_native.strategies.meta.mer import MER
from clarena_native.strategies.projection.agem import AGEM
from clarena_native.strategies.projection.gem import GEM
from clarena_native.strategies.replay.der import DER, DERPlusPlus
from clarena_native.strategies.replay.er import ER
from clarena_native.strategies.replay.gdumb import GDumb
from clarena_native.strategies.replay.icarl import ICaRL
from clarena_native.strategies.replay.scr import SCR
from tiny import SCENARIOS, same, walk

from clarena import Context, GradientStrategy, ReplayBuffer, UsageError
from clarena.toolbox.modules import state_bytes

EACH = 2
PER_CLASS = {"buffer_size": 200, "exemplars_per_class": EACH}
KEEPERS = {
    "er": ER,
    "er class_balanced": lambda: ER(policy="class_balanced"),
    "er ring": lambda: ER(policy="ring"),
    "er balanced_random": lambda: ER(policy="balanced_random"),
    "agem": AGEM,
    "gem": GEM,
    "der": DER,
    "der++": DERPlusPlus,
    "icarl": ICaRL,
    "gdumb": lambda: GDumb(epochs=2),
    "mer": MER,
    "la-maml": LaMAML,
    "expand": Expand,
    "scr": SCR,
}
EXACT = ("er class_balanced", "er ring", "er balanced_random", "agem", "gem", "icarl", "gdumb", "expand")
"""Those whose buffer is divided by class, where no class has fewer samples than its exemplars."""


NO_DOMAINS = ("icarl", "expand")
CASES = [
    (name, scenario) for name in KEEPERS for scenario in SCENARIOS if name not in NO_DOMAINS or scenario != "domain"
]


def start(name: str, scenario: str):
    return walk(KEEPERS[name](), scenario, **PER_CLASS)


def stored(strategy) -> list[int]:
    """The labels of its exemplars."""
    if isinstance(strategy, ICaRL):
        return strategy.labels.tolist()
    return strategy.buffer.everything()["y"].tolist()


@pytest.mark.parametrize(("name", "scenario"), CASES)
def test_so_many_are_kept_for_each_class_seen(name, scenario):
    ours = start(name, scenario)
    for position in range(len(ours.realised.steps)):
        ours.step(position)
        seen = ours.realised.space.seen
        labels = stored(ours.strategy)
        assert len(labels) == EACH * len(seen), "all that is granted is used"
        if name in EXACT and scenario != "domain":
            assert Counter(labels) == dict.fromkeys(seen, EACH)


@pytest.mark.parametrize("name", KEEPERS)
def test_a_run_goes_on_from_its_state_after_every_experience(name):
    straight = start(name, "class")
    for position in range(len(straight.realised.steps) - 1):
        straight.step(position)
        state = deepcopy(dict(straight.strategy.state_dict()))
        resumed = start(name, "class")
        for positions in resumed.realised.steps[: position + 1]:
            resumed.realised.begin(positions)
        resumed.strategy.load_state_dict(state)
        resumed.finish(position + 1)
        whole = start(name, "class").finish()
        assert same(resumed.parameters(), whole.parameters())
        assert stored(resumed.strategy) == stored(whole.strategy)


def test_gem_remembers_the_last_samples_of_each_class_of_an_experience():
    ours = start("gem", "class")
    for position in range(len(ours.realised.steps)):
        experience = ours.step(position)
        kept = ours.strategy.buffer.everything()
        assert sorted(kept["experience"].unique().tolist()) == list(range(position + 1))
        mine = kept["x"][kept["experience"] == position].flatten(1)
        theirs = experience.x.flatten(1)
        assert all((theirs == row).all(dim=1).any() for row in mine)


def test_a_quota_of_what_the_stream_holds_is_a_total_of_that():
    """On the first experience, of three classes, six in total and two for each class are one buffer."""
    totals = [walk(ER, buffer_size=6), walk(ER, **PER_CLASS)]
    assert len(totals[0].realised.stream.splits[0].classes) == 3
    for ours in totals:
        ours.step(0)
    assert same(*(ours.parameters() for ours in totals))
    assert stored(totals[0].strategy) == stored(totals[1].strategy)


def test_a_total_of_its_own_is_refused_and_none_at_all_is_granted():
    with pytest.raises(UsageError, match=r"buffer_size = 5 counts exemplars in total.*protocol\.buffer_size=5"):
        walk(ER(buffer_size=5), **PER_CLASS)
    assert len(walk(ER(buffer_size=0), **PER_CLASS).finish().strategy.buffer) == 0


def test_a_strategy_that_asks_for_a_total_is_told_so():
    class Total(GradientStrategy):
        name = "total"

        def setup(self, context: Context) -> None:
            super().setup(context)
            self.buffer = ReplayBuffer(context.buffer_size)

    with pytest.raises(UsageError, match=r"grants 2 for each class seen.*granted_buffer"):
        walk(Total, **PER_CLASS)
    assert walk(Total).strategy.buffer.capacity == 12


def test_the_state_grows_with_the_classes():
    ours = start("er", "class")
    sizes = []
    for position in range(len(ours.realised.steps)):
        ours.step(position)
        stored_x = ours.strategy.buffer.state_dict()["stored_rows"]
        assert len(stored_x) == EACH * len(ours.realised.space.seen)
        sizes.append(state_bytes(ours.strategy.buffer))
    assert sizes == sorted(set(sizes))
