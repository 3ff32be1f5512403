"""Composites: reductions to their parts bit for bit, one gradient of all parts, and what cannot be combined."""

import copy
import io
import pickle
from itertools import permutations

import cloudpickle
import pytest
import torch
from clarena_native.backbones.small import Mlp
from clarena_native.strategies.architecture.frozen import FrozenFeatures
from clarena_native.strategies.distillation.lwf import LwF
from clarena_native.strategies.projection.agem import AGEM
from clarena_native.strategies.projection.gem import GEM
from clarena_native.strategies.references.finetune import Finetune
from clarena_native.strategies.regularisation.ewc import EWC
from clarena_native.strategies.regularisation.l2 import L2
from clarena_native.strategies.regularisation.mas import MAS
from clarena_native.strategies.regularisation.si import SI
from clarena_native.strategies.replay.er import ER
from exact import DoubleStream, Smooth, begin, end, gradients
from tiny import SCENARIOS, same, walk

import clarena
from clarena import GradientStrategy, UsageError, cross_entropy
from clarena.plugins.composite import Composite, compose, part_names
from clarena.plugins.host import Host, PluginSources

SGD = {"optimizer": "sgd", "learning_rate": 0.05}
"""The optimiser of GEM, for all: then nothing else differs."""

NORM = {"backbone": Mlp, "options": {"hidden": (16,), "norm": "batch", "dropout": 0.2}}

OFF = {"ewc": {"strength": 0.0}, "lwf": {"strength": 0.0, "warmup": 0}, "gem": {"buffer_size": 0}}
ON = {
    "ewc": {"strength": 20.0},
    "lwf": {"strength": 2.0, "temperature": 3.0, "warmup": 1},
    "gem": {"buffer_size": 9, "margin": 0.3},
}
PARTS = {"ewc": EWC, "lwf": LwF, "gem": GEM}


def make(*classes, **parts):
    return compose(classes)(parts=parts)


def host():
    return Host.discover(PluginSources(third_party=False))


# --- C1: reductions


@pytest.mark.parametrize("scenario", SCENARIOS)
@pytest.mark.parametrize("alone", [None, "ewc", "lwf", "gem"])
def test_c1_with_all_other_parts_off_it_is_the_one_that_is_left(alone, scenario):
    """In every order of the parts."""
    if alone is None:
        single = walk(type("Plain", (Finetune,), {"needs": GEM.needs})(), scenario, **SGD, **NORM).finish()
    else:
        plain = type(alone, (PARTS[alone],), {"needs": GEM.needs})  # the optimiser is GEM's
        single = walk(plain(**ON[alone]), scenario, **SGD, **NORM).finish()
    for order in permutations(PARTS):
        values = {name: (ON if name == alone else OFF)[name] for name in order}
        together = walk(make(*(PARTS[name] for name in order), **values), scenario, **SGD, **NORM).finish()
        assert same(together.parameters(), single.parameters()), order
        assert same(list(together.strategy.model.buffers()), list(single.strategy.model.buffers()))


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_c1_parts_that_are_off_draw_from_no_stream_of_another(scenario):
    """A-GEM and ER both use the `buffer` stream."""
    for on, off in ((AGEM, ER), (ER, AGEM)):
        kind = type(on.name, (on,), {"needs": AGEM.needs})
        single = walk(kind(buffer_size=9), scenario, **SGD).finish()
        values = {on.name: {"buffer_size": 9}, off.name: {"buffer_size": 0}}
        for order in ((on, off), (off, on)):
            together = walk(make(*order, **values), scenario, **SGD).finish()
            assert same(together.parameters(), single.parameters())


def test_every_part_is_felt():
    """Switching any one of three off changes the outcome: none is lost on the way."""
    outcomes = []
    for off in (None, *PARTS):
        values = {name: (OFF if name == off else ON)[name] for name in PARTS}
        outcomes.append(walk(make(*PARTS.values(), **values), "class", **SGD).finish().parameters())
    for i, one in enumerate(outcomes):
        assert not any(same(one, other) for other in outcomes[:i])


@pytest.mark.parametrize("order", list(permutations([EWC, LwF, MAS])))
def test_the_order_of_terms_that_add_up_does_not_matter(order):
    """Up to rounding: a sum in another order."""
    values = {"ewc": {"strength": 5.0}, "lwf": {"warmup": 0, "strength": 3.0}, "mas": {"strength": 0.5}}
    first = walk(make(EWC, LwF, MAS, **values), "class", **SGD).finish()
    other = walk(make(*order, **values), "class", **SGD).finish()
    for p, q in zip(first.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(p, q)


# --- C2, C3: the gradient


@pytest.fixture
def double():
    torch.set_default_dtype(torch.float64)
    yield {"benchmark": DoubleStream, "backbone": Smooth}
    torch.set_default_dtype(torch.float32)


def spied(ours):
    """Makes steps, and gives the gradient of each before and after it was adjusted."""
    strategy, model, seen = ours.strategy, ours.strategy.model, []

    def adjust_gradients(batch):
        seen.append(flat_gradient(model))
        type(strategy).adjust_gradients(strategy, batch)
        seen.append(flat_gradient(model))

    def step(batch):
        seen.clear()
        strategy.adjust_gradients = adjust_gradients
        strategy.step(batch)
        del strategy.adjust_gradients
        return seen

    return step


def flat(tensors):
    return torch.cat([t.detach().flatten() for t in tensors])


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_c3_the_gradient_before_projection_is_the_sum_of_the_parts(scenario, double):
    """Cross-entropy, a distillation for each old head, and λ F (θ − θ*) of each penalty, by hand in float64."""
    values = {"ewc": {"strength": 7.0}, "lwf": {"strength": 2.0, "warmup": 0}, "mas": {"strength": 0.3}}
    ours = walk(make(EWC, LwF, MAS, **values), scenario, **SGD, **double)
    ours.step(0)
    ours.step(1)
    experience, model = begin(ours, 2), ours.strategy.model
    ewc, lwf, mas = ours.strategy.running
    heads = {"class": [[0, 1, 2, 3]], "domain": [[0, 1, 2]], "task": [[0, 1, 2], [3]]}[scenario]
    step = spied(ours)
    for batch in experience.batches(1):
        scores = model(batch.x)
        loss = cross_entropy(scores, batch.y, batch.mask)
        for head in heads:
            q = (lwf.recorded[batch.index][:, head] / 2.0).softmax(1)
            loss = loss - 2.0 * (q * (scores[:, head] / 2.0).log_softmax(1)).sum(1).mean()
        expected, theta = flat(gradients(ours, loss)), flat(ours.parameters())
        for weight, held in ((7.0, ewc.consolidated), (2 * 0.3, mas.consolidated)):
            old = len(held.anchor)
            expected[:old] += weight * held.importance * (theta[:old] - held.anchor)
        before, after = step(batch)
        torch.testing.assert_close(before, expected, rtol=1e-10, atol=1e-13)
        assert torch.equal(before, after)


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_c2_the_final_gradient_keeps_gems_constraints_although_penalties_pull_elsewhere(scenario, double):
    values = {"ewc": {"strength": 200.0}, "lwf": {"strength": 3.0}, "gem": {"buffer_size": 12, "margin": 0.0}}
    ours = walk(make(EWC, LwF, GEM, **values), scenario, **SGD, **double)
    step, violated = spied(ours), 0
    for position in range(3):
        experience = begin(ours, position)
        for batch in experience.batches():
            memories = memory_gradients(ours, ours.strategy.running[2])
            before, after = step(batch)
            for g in memories:
                rounding = 1e-9 * (1 + g.norm() * before.norm())
                violated += int(g @ before < -rounding)
                assert g @ after >= -rounding
        end(ours, experience)
    assert violated


def flat_gradient(model):
    return torch.cat([p.grad.flatten() for p in model.parameters()]).clone()


def memory_gradients(ours, gem):
    """The gradient of the plain cross-entropy on each past experience's exemplars."""
    stored = gem.buffer.everything()
    found = []
    for position in range(ours.strategy.experience.position):
        rows = stored["experience"] == position
        task = stored["task"][rows] if "task" in stored else None
        mask = gem.context.space.exemplar_mask(task)
        labels = stored["y"][rows]
        loss = cross_entropy(ours.strategy.model(stored["x"][rows]), labels, mask)
        found.append(torch.cat([g.flatten() for g in gradients(ours, loss)]))
    return found


# --- C4: consolidation


def test_c4_each_part_consolidates_once_in_the_order_named():
    calls = []

    def noted(cls):
        def after_experience(self, experience):
            calls.append((cls.name, experience.position))
            assert self.experience is experience
            cls.after_experience(self, experience)

        return type(cls.__name__, (cls,), {"after_experience": after_experience})

    for order in ((EWC, LwF, MAS), (MAS, LwF, EWC)):
        calls.clear()
        ours = walk(compose(tuple(map(noted, order)))(), "class").finish()
        assert calls == [(cls.name, position) for position in range(3) for cls in order]
        assert all(part.experience is None for part in ours.strategy.running)


def test_importances_do_not_depend_on_company():
    """EWC's Fisher and SI's displacement are those of the shared model at the end of the experience."""
    together = walk(make(EWC, SI, LwF, ewc={"strength": 0.0}, si={"strength": 0.0}, lwf=OFF["lwf"])).finish()
    alone = [walk(cls(strength=0.0)).finish() for cls in (EWC, SI)]
    for part, single in zip(together.strategy.running, alone):
        assert same(list(part.consolidated.buffers()), list(single.strategy.consolidated.buffers()))


# --- one model, one optimiser


def test_the_parts_share_one_model_and_one_optimiser():
    ours = walk(make(EWC, LwF), "task", optimizer="adam", optimizer_state="kept").finish()
    assert all(part.model is ours.strategy.model for part in ours.strategy.running)
    assert all(part.optimizer is None for part in ours.strategy.running)
    ours.realised.set_up(ours.strategy)
    assert len(ours.strategy.running) == 2
    assert len(dict(ours.strategy.named_children())) == 3


def test_a_part_with_a_learning_rate_of_its_own_sets_it_for_all():
    ours = walk(make(LwF, GEM, gem={"learning_rate": 0.25}), learning_rate=0.01, optimizer="adam")
    ours.step(0)
    optimiser = ours.strategy.optimizer
    assert isinstance(optimiser, torch.optim.SGD)
    assert [group["lr"] for group in optimiser.param_groups] == [0.25]
    assert {part.context.learning_rate for part in ours.strategy.running} == {0.25}  # LwF's warm-up, too


class Fast(GradientStrategy):
    """Wants another learning rate."""

    name = "fast"

    def setup(self, context):
        from dataclasses import replace

        super().setup(replace(context, learning_rate=0.7))


def test_two_learning_rates_do_not_go_together():
    with pytest.raises(UsageError, match=r"fast\+gem has one learning rate, but fast and gem set different ones"):
        walk(make(Fast, GEM))


@pytest.mark.parametrize(
    "order", [(FrozenFeatures, ER), (ER, FrozenFeatures), (FrozenFeatures, EWC), (MAS, FrozenFeatures)]
)
def test_frozen_stays_frozen_in_company(order):
    ours = walk(make(*order), "class", optimizer="sgd", momentum=0.9, weight_decay=0.1, **NORM)
    ours.step(0)
    before = copy.deepcopy(ours.strategy.model.backbone.state_dict())
    ours.finish(1)
    after = ours.strategy.model.backbone.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_exemplars_of_er_are_not_distilled_and_do_not_reach_si():
    ours = walk(make(ER, LwF, SI, L2), "task").finish()
    assert len(ours.predict()) == len(ours.realised.test.labels)


# --- sums of anything train


@pytest.mark.parametrize("projection", ["gem", "agem"])
@pytest.mark.parametrize("strength", [1e3, 1e6, 1e12])
@pytest.mark.parametrize("penalty", ["ewc", "mas", "si", "l2"])
def test_beside_plain_sgd_no_penalty_is_too_stiff(penalty, strength, projection):
    """The loss of each experience stays near that without a penalty, where one may only keep it from falling."""
    classes = [host().strategies.load(name) for name in (penalty, "lwf", projection)]
    for scenario in SCENARIOS:
        ours = walk(make(*classes, **{penalty: {"strength": strength}}), scenario, **NORM)
        assert all(ours.step(position).meter.mean_loss < 10 for position in range(3))


def test_a_bounded_step_never_overshoots_an_anchor_and_moves_no_bit_where_it_is_not_needed():
    ours = walk(make(EWC, L2, GEM, ewc={"strength": 1000.0}, l2={"strength": 5.0}), "task")
    ours.step(0)
    begin(ours, 1)
    composite, model = ours.strategy, ours.strategy.model
    rate = composite.context.learning_rate
    ewc, l2, _ = composite.running
    held = flat(model.parameters())[: len(l2.consolidated.anchor)]
    a = 1000.0 * ewc.consolidated.importance + 5.0
    slowed = flat(composite._rates())
    torch.testing.assert_close(slowed, torch.minimum(torch.tensor(1.0), 1 / (rate * a)))
    assert (rate * a > 2).any()  # these would diverge
    assert (rate * a < 1).any()  # and these need nothing
    assert (1 - rate * slowed * a).abs().max() < 1
    assert (slowed[rate * a < 1] == 1).all()
    assert len(held) == len(slowed) < len(flat(model.parameters()))  # new outputs are free


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_soft_penalties_take_plain_steps(scenario):
    """Bit for bit as if nobody had said how stiff they are."""

    class Unsaid(EWC):
        """Says nothing of it."""

        def stiffness(self):
            return None

    said, unsaid = (make(cls, GEM, ewc={"strength": 5.0}) for cls in (EWC, Unsaid))
    assert same(
        walk(said, scenario, **NORM).finish().parameters(), walk(unsaid, scenario, **NORM).finish().parameters()
    )


def test_an_adaptive_optimiser_is_left_to_its_own_rates():
    ours = walk(make(EWC, L2, ewc={"strength": 1e6}), "task", optimizer="adam")
    ours.step(0)
    begin(ours, 1)
    assert ours.strategy._rates() == []


COMPOSABLE = ["finetune", "ewc", "mas", "si", "l2", "lwf", "er", "der", "der++", "gem", "agem", "frozen"]
PAIRS = [pair for pair in permutations(COMPOSABLE, 2) if {"gem", "agem", "frozen"} & set(pair)]


@pytest.mark.parametrize("pair", PAIRS, ids="+".join)
def test_every_pair_with_a_projection_or_a_frozen_backbone_trains(pair):
    """In either order: what one part does as an experience begins must not surprise the other."""
    try:
        cls = host().strategy("+".join(pair))
    except UsageError:
        assert set(pair) == {"gem", "agem"}
        return
    ours = walk(cls, "task")
    assert all(ours.step(position).meter.mean_loss < 10 for position in range(3))


# --- copies, and the state


@pytest.mark.parametrize("way", ["deepcopy", "pickle", "state"])
def test_copied_or_saved_in_the_middle_it_goes_on_bit_for_bit(way):
    protocol = {"optimizer": "adam", "optimizer_state": "kept"}
    whole = walk(make(EWC, LwF, ER, ewc=ON["ewc"]), "task", **protocol).finish()
    half = walk(make(EWC, LwF, ER, ewc=ON["ewc"]), "task", **protocol)
    half.step(0)
    if way == "deepcopy":
        twin = copy.deepcopy(half)
    elif way == "pickle":
        assert type(pickle.loads(pickle.dumps(half.strategy))) is type(half.strategy)
        twin = cloudpickle.loads(cloudpickle.dumps(half))  # the realisation names the class, which no module holds
    else:
        file = io.BytesIO()
        torch.save(half.strategy.state_dict(), file)
        file.seek(0)
        twin = walk(make(EWC, LwF, ER, ewc=ON["ewc"]), "task", **protocol)
        twin.realised.begin([0])
        twin.strategy.load_state_dict(torch.load(file, weights_only=True))
    assert same(half.finish(1).parameters(), whole.parameters())
    assert same(twin.finish(1).parameters(), whole.parameters())
    assert twin.strategy.parts == {"ewc": ON["ewc"]}


# --- what cannot be combined says why


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("ewc+ewc", "names a part twice"),
        ("ewc+joint", "joint cannot be part of ewc.joint: .*given other data"),
        ("gdumb+ewc", "gdumb cannot be part of gdumb.ewc: it has its own learn"),
        ("ewc+icarl", "icarl cannot be part of ewc.icarl: it has its own predict"),
        ("er+der", "er and der each has a task loss of its own. Keep one"),
        ("ewc+lvf", "Did you mean 'lwf'"),
    ],
)
def test_incompatible_parts_say_why(name, reason):
    with pytest.raises(UsageError, match=reason):
        host().strategy(name)


class Borrows(GradientStrategy):
    """Joins exemplars to the batch, and has no loss of its own."""

    name = "borrows"

    def replay(self, batch):
        return batch


class ClassOnly(GradientStrategy):
    """Runs in the class scenario only."""

    name = "class-only"
    scenarios = frozenset({"class"})


class TaskOnly(GradientStrategy):
    """Runs in the task scenario only."""

    name = "task-only"
    scenarios = frozenset({"task"})


def test_projections_exemplars_and_scenarios_that_do_not_go_together():
    with pytest.raises(UsageError, match="gem and agem each adjusts the gradient"):
        compose((GEM, AGEM))
    with pytest.raises(UsageError, match="the loss of er knows its own exemplars only, and borrows would replay"):
        compose((ER, Borrows))
    with pytest.raises(UsageError, match="no scenario in common"):
        compose((ClassOnly, TaskOnly))
    assert compose((EWC, ClassOnly)).scenarios == {"class"}


def test_a_composite_learns_what_all_its_parts_can():
    class OfClasses(GradientStrategy):
        """Of classes."""

        name = "of-classes"
        targets = frozenset({"classes", "tokens"})

    class OfText(GradientStrategy):
        """Of text."""

        name = "of-text"
        targets = frozenset({"text"})

    assert compose((EWC, SI)).targets is None
    assert compose((EWC, OfClasses)).targets == {"classes", "tokens"}
    with pytest.raises(UsageError, match="no target in common"):
        compose((OfClasses, OfText))


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("ewc", ["ewc"]),
        ("ewc+lwf", ["ewc", "lwf"]),
        ("der++", ["der++"]),
        ("der+++ewc", ["der++", "ewc"]),
        ("ewc+der++", ["ewc", "der++"]),
        ("ewc+lwf+gem", ["ewc", "lwf", "gem"]),
    ],
)
def test_names_of_parts(name, parts):
    assert part_names(name) == parts


# --- as the command line sees it


def test_what_a_composite_declares():
    cls = compose((EWC, LwF, GEM))
    assert cls is compose((EWC, LwF, GEM))
    assert issubclass(cls, Composite)
    assert cls.name == "ewc+lwf+gem"
    assert cls.scenarios == {"class", "domain", "task"}
    assert cls.needs == {"plain_sgd"}
    assert cls.off == {"parts": OFF}
    for member in (EWC, LwF, GEM):
        assert member.reference in cls.reference
        assert f"{member.name}: {member.carries}" in cls.carries
    assert cls.__doc__ == "ewc and lwf and gem on one shared model; penalties add up."
    assert compose((EWC, FrozenFeatures)).off is None


def test_hyper_parameters_of_the_parts_are_checked():
    cls = compose((EWC, LwF))
    complete = cls.complete({"ewc": {"strength": "5"}})
    assert complete["ewc"]["strength"] == 5.0
    assert complete["lwf"] == {"strength": 1.0, "temperature": 2.0, "warmup": 1}
    with pytest.raises(UsageError, match=r"ewc\.strength = -1"):
        cls.complete({"ewc": {"strength": -1}})
    with pytest.raises(UsageError, match=r"hyper-parameter of lwf named 'temprature'"):
        cls.complete({"lwf": {"temprature": 1}})
    with pytest.raises(UsageError, match=r"part of ewc\+lwf named 'mas'"):
        cls.complete({"mas": {}})


def test_evaluated_by_name_with_settings_of_a_part(tmp_path):
    results = clarena.evaluate(
        ["ewc+lwf", "ewc"],
        protocol="smoke",
        seeds=1,
        settings={"ewc+lwf.ewc": {"strength": 5}, "backbone": {"hidden": (8,)}},
        store=tmp_path,
        track=False,
        jobs=1,
    )
    assert not results.errors
    record, alone = results.records
    assert record.status == "finished"
    assert record.cell.strategy.name == "ewc+lwf"
    assert record.cell.strategy.hyperparameters["parts"]["ewc"]["strength"] == 5.0
    assert record.cell.strategy.hyperparameters["parts"]["lwf"]["warmup"] == 1
    assert record.cell.strategy.carries == f"ewc: {EWC.carries}; lwf: {LwF.carries}"
    assert record.state_bytes >= alone.state_bytes
    assert record.state_bytes < 1.5 * alone.state_bytes  # the shared model is counted once
