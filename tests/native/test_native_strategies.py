"""Every native strategy, found through the host: the conformance kit, all backbones, switches, and no side effects."""

import inspect

import pytest
import torch
from clarena_native.backbones.small import Cnn, Mlp
from clarena_native.strategies.adapters.low_rank import LowRank
from exact import begin, surroundings
from tiny import SCENARIOS, same, walk

from clarena import GradientStrategy, UsageError
from clarena.checks import TinyStream
from clarena.contract.strategy import Strategy
from clarena.plugins.composite import compose, overrides
from clarena.plugins.host import Host, PluginSources
from clarena.protocol.protocol import Scenario
from clarena.testing import parametrize_with_checks
from clarena.toolbox.states import same as alike

HOST = Host.discover(PluginSources(third_party=False))
CLASSES: list[type[Strategy]] = [HOST.strategies.load(e.name) for e in HOST.strategies if e.plugin == "native"]
CASES = [(cls, scenario) for cls in CLASSES for scenario in SCENARIOS if scenario in cls.scenarios]
KNOWN = {"stream_length": "known"}
SEQUENTIAL = [cls for cls in CLASSES if issubclass(cls, GradientStrategy) and overrides(cls, "step")]
"""The meta-learning line: many small steps for one batch, so each run takes ten times as long as others."""


def name_of(value: object) -> str:
    return value.name if isinstance(value, type) and issubclass(value, Strategy) else str(value)


def needed(cls: type[Strategy]) -> dict[str, str]:
    """What of the protocol a strategy cannot do without."""
    return KNOWN if "known_stream_length" in cls.needs else {}


@pytest.mark.matrix("check")
@parametrize_with_checks([*(cls for cls in CLASSES if cls not in SEQUENTIAL), HOST.strategy("er+lwf+si")])
def test_conformance(check):
    check()


@parametrize_with_checks(SEQUENTIAL, ["task"])
def test_conformance_of_sequential_ones(check):
    check()


@pytest.mark.slow
@pytest.mark.matrix
@parametrize_with_checks(SEQUENTIAL, ["class", "domain"])
def test_conformance_of_sequential_ones_elsewhere(check):
    check()


@pytest.mark.matrix
@pytest.mark.parametrize("norm", ["none", "batch", "group", "layer"])
@pytest.mark.parametrize("backbone", [Mlp, Cnn], ids=lambda cls: cls.name)
@pytest.mark.parametrize(("cls", "scenario"), CASES, ids=name_of)
def test_two_experiences_on_every_native_backbone(cls, scenario, backbone, norm):
    """They end with finite scores of every test sample; batches of one sample and experiences of one class occur."""
    size = {"hidden": (8,)} if backbone is Mlp else {"widths": (4,), "features": 8}
    options = {**size, "norm": norm}
    if "tokens" in cls.needs or cls.name in ("aper", "ease"):  # which add to blocks of tokens
        with pytest.raises(UsageError, match=f"The backbone {backbone.name} works on no tokens"):
            walk(cls, scenario, backbone=backbone, options=options, epochs=1)
        return
    strategy = cls
    if issubclass(cls, LowRank):
        with pytest.raises(UsageError, match=f"{backbone.name} has no .* to which LoRA could be added. It has: other"):
            walk(cls, scenario, backbone=backbone, options=options, epochs=1)
        strategy = cls(on=("other",))
    if cls.name == "den" and norm != "none":  # its units come and go, and statistics over them would move with that
        with pytest.raises(UsageError, match=r"den .*norm"):
            walk(cls, scenario, backbone=backbone, options=options, epochs=1)
        return
    ours = walk(strategy, scenario, backbone=backbone, options=options, epochs=1, **needed(cls))
    for position in range(min(2, len(ours.realised.steps))):
        ours.step(position)
    asked = ours.realised.space.tasks if scenario == "task" else [ours.realised.space.in_play()]
    for task, outputs in enumerate(asked):
        scores = ours.strategy.predict(ours.realised.test.x, task if scenario == "task" else None)
        assert torch.isfinite(scores[:, sorted(outputs)]).all()


HARD = {
    "backbone": Mlp,
    "options": {"hidden": (16, 16), "norm": "batch", "dropout": 0.3},
    "optimizer": "adam",
    "optimizer_state": "kept",
    "weight_decay": 0.01,
}
SWITCHED = [(cls, scenario) for cls, scenario in CASES if cls.off]


@pytest.mark.parametrize(("cls", "scenario"), SWITCHED, ids=name_of)
def test_switched_off_it_is_finetune_bit_for_bit(cls, scenario):
    """With BatchNorm, dropout, weight decay, and Adam whose state is kept."""
    off = walk(cls(**cls.off), scenario, **HARD, **needed(cls))
    plain = walk(type("Plain", (GradientStrategy,), {"name": "plain", "needs": cls.needs})(), scenario, **HARD)
    if "plain_sgd" in cls.needs:  # it sets a learning rate of its own
        plain = walk(type(plain.strategy)(), scenario, **HARD, learning_rate=off.strategy.context.learning_rate)
    for position in range(3):
        off.step(position)
        plain.step(position)
        assert same(off.parameters(), plain.parameters())
        assert same(list(off.strategy.model.buffers()), list(plain.strategy.model.buffers()))


IMPORTANCES = [
    *[HOST.strategies.load("ewc")(fisher=kind) for kind in ("exact", "empirical", "argmax", "batched")],
    *[HOST.strategies.load("mas")(estimator=kind) for kind in ("per_sample", "batched")],
    HOST.strategies.load("si")(),
    HOST.strategies.load("l2")(),
    HOST.strategies.load("lwf")(),
    HOST.strategies.load("icarl")(),
    compose(tuple(HOST.strategies.load(name) for name in ("ewc", "mas", "lwf")))(),
]


@pytest.mark.parametrize("strategy", IMPORTANCES, ids=lambda s: f"{s.name}-{getattr(s, 'fisher', '')}")
def test_consolidation_has_no_side_effects(strategy):
    """Parameters, gradients, BatchNorm's buffers, modes, the optimiser and every stream of chance stay as they are."""
    scenario: Scenario = "task"
    ours = walk(strategy, scenario, **HARD)
    for position in range(2):
        experience = begin(ours, position)
        for batch in experience.batches():
            strategy.step(batch)
        before = surroundings(ours)
        strategy.after_experience(experience)
        after = surroundings(ours)
        assert [name for name in before if not alike(before[name], after[name])] == []


def test_only_the_sampled_fisher_draws_and_only_from_the_strategys_own_stream():
    strategy = HOST.strategies.load("ewc")(fisher="sample")
    ours = walk(strategy, "class", **HARD)
    experience = begin(ours, 0)
    for batch in experience.batches():
        strategy.step(batch)
    before = surroundings(ours)
    strategy.after_experience(experience)
    after = surroundings(ours)
    assert [name for name in before if not alike(before[name], after[name])] == ["strategy"]


class Alone(TinyStream):
    """A first experience of one class, with fewer samples than a batch."""

    name = "alone"

    def stream(self, data, scenario, generator):
        stream = super().stream(data, scenario, generator)
        first, second, third = stream.splits
        if scenario != "domain":
            to = torch.tensor([1, 2, 3, 0])
            first, second = (type(s)(s.train, to[s.y_train], s.test, to[s.y_test]) for s in (first, second))
        return type(stream)((second, first, third), stream.output_names)


@pytest.mark.parametrize("buffer_size", [0, 2])
@pytest.mark.parametrize(("cls", "scenario"), CASES, ids=name_of)
def test_one_class_first_small_experiences_and_a_buffer_too_small(cls, scenario, buffer_size):
    ours = walk(cls, scenario, benchmark=Alone, batch_size=100, buffer_size=buffer_size, **needed(cls)).finish()
    assert len(ours.predict()) == len(ours.realised.test.labels)


CONTROLS = {"finetune", "joint", "cumulative", "l2", "frozen"}
"""These follow no paper's algorithm."""


@pytest.mark.parametrize("cls", [cls for cls in CLASSES if cls.name not in CONTROLS], ids=name_of)
def test_the_file_lists_its_differences_from_the_paper(cls):
    assert "\nDifferences from the paper" in inspect.getmodule(cls).__doc__
    assert "et al." in cls.reference or "&" in cls.reference
