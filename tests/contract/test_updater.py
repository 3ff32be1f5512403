"""The updater beyond the training loop: horizons, parts of a batch, groups, precision, and what goes on behind it."""

import copy
import re
from itertools import pairwise

import pytest
import torch
from clarena_native.backbones.small import Mlp
from clarena_native.strategies.architecture.den import DEN
from clarena_native.strategies.architecture.expand import Expand
from clarena_native.strategies.architecture.frozen import FrozenFeatures
from clarena_native.strategies.architecture.pnn import PNN
from clarena_native.strategies.distillation.lwf import LwF
from clarena_native.strategies.meta.la_maml import CMAML, LaMAML
from clarena_native.strategies.meta.mer import MER
from clarena_native.strategies.projection.agem import AGEM
from clarena_native.strategies.projection.gem import GEM
from clarena_native.strategies.references.finetune import Finetune
from clarena_native.strategies.regularisation.ewc import EWC
from clarena_native.strategies.regularisation.l2 import L2
from clarena_native.strategies.regularisation.si import SI
from clarena_native.strategies.replay.der import DER
from clarena_native.strategies.replay.er import ER
from clarena_native.strategies.replay.gdumb import GDumb
from clarena_native.strategies.replay.icarl import ICaRL
from exact import DoubleStream, begin
from hypothesis import given
from hypothesis import strategies as st
from tiny import SCENARIOS, same, walk
from tiny_language import language_walk
from torch import nn
from torch.nn import functional as F
from torch.optim import lr_scheduler

from clarena import Batch, PluginError, Strategy, Updater, UsageError, cross_entropy
from clarena.contract.updater import joined
from clarena.plugins.composite import compose
from clarena.protocol.protocol import Protocol
from clarena.toolbox.schedule import Budget, Clock, rates

COSINE = {"schedule": "cosine", "epochs": 6, "optimizer": "sgd", "learning_rate": 0.05}
STEPS = (5, 2, 3)  # of a pass over each experience: 33, 13 and 22 samples in batches of 8


DOUBLE = {"benchmark": DoubleStream, "optimizer": "sgd", "learning_rate": 0.05}
DOUBLE |= {"backbone": Mlp, "options": {"hidden": [6]}}


@pytest.fixture
def double():
    """Parameters come in double precision, as the inputs of the double stream do."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture
def told(monkeypatch):
    """The rate of every step that any optimiser makes, by optimiser, in order."""
    made: list[list[float]] = []
    new = Updater.__init__

    def watched(self, *args, **kwargs):
        new(self, *args, **kwargs)
        made.append([])
        self.optimizer.register_step_post_hook(
            lambda optimizer, args, kwargs, mine=made[-1]: mine.append(optimizer.param_groups[0]["lr"])
        )

    monkeypatch.setattr(Updater, "__init__", watched)
    return made


def cosine(rate: float, passes: int) -> list[float]:
    """What torch makes of a rate in so many passes."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=rate)
    scheduler, found = lr_scheduler.CosineAnnealingLR(optimizer, T_max=passes), []
    for _ in range(passes):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return found


def each(rates: list[float], steps: int) -> list[float]:
    return [rate for rate in rates for _ in range(steps)]


# --- horizons: everyone's own


def test_the_horizon_is_the_budget_of_each_experience(told):
    walk(Finetune, **COSINE).finish()
    assert told == [each(cosine(0.05, 6), steps) for steps in STEPS]


def test_lwf_has_one_schedule_for_its_warm_up_and_one_for_what_is_left(told):
    walk(LwF(warmup=2), "task", **COSINE).finish()
    first, *later = STEPS
    expected = [each(cosine(0.05, 6), first)]
    for steps in later:
        expected += [each(cosine(0.05, 2), steps), each(cosine(0.05, 4), steps)]
    assert told == expected


def test_gdumb_has_one_for_its_passes_over_the_buffer(told):
    walk(GDumb(epochs=7), buffer_size=12, **COSINE).finish()
    assert told == [each(cosine(0.05, 7), 2)] * 3  # 12 exemplars, in batches of 8


def test_pnn_has_one_for_each_column(told):
    walk(PNN(), "task", **COSINE).finish()
    assert told == [each(cosine(0.05, 6), steps) for steps in STEPS]


def test_den_has_one_for_each_phase_in_passes_of_the_experience(told):
    walk(DEN(tau=1e9, shares=(1, 1, 0, 2, 2)), "task", backbone=Mlp, options={"hidden": [6]}, **COSINE).finish()
    expected = [each(cosine(0.05, 6), STEPS[0])]
    for steps in STEPS[1:]:
        expected += [each(cosine(0.05, passes), steps) for passes in (1, 1, 2, 2)]
    assert told == expected


def test_den_shrinks_by_the_rate_of_the_step_just_made(monkeypatch):
    """Under SGD the rate is all there is to a step's length."""
    shrunk, plain = [], DEN._shrink

    def watched(self, given):
        shrunk.append({float(rate) for each in given.values() for rate in each.flatten()})
        plain(self, given)

    monkeypatch.setattr(DEN, "_shrink", watched)
    walk(DEN(), "task", backbone=Mlp, options={"hidden": [6]}, **COSINE).step(0)
    assert shrunk == [{float(torch.tensor(rate))} for rate in each(cosine(0.05, 6), 5)]


@pytest.mark.parametrize("cls", [MER, LaMAML, CMAML])
def test_meta_learners_multiply_their_own_rates_by_the_factor(cls):
    """A step at half the rate is that of a learner whose own rates are half as large."""
    ours = walk(cls(), "domain", **COSINE)
    experience = begin(ours, 0)
    batches, found = experience.batches(), []
    for _ in range(3 * STEPS[0] + 1):
        batch = next(batches)
        found.append(ours.strategy.updater.factor)
    own = ours.strategy.learning_rate
    assert found == [rate / own for rate in each(cosine(own, 6), 5)[: len(found)]]
    assert found[-1] == pytest.approx(0.5)
    half = walk(cls(), "domain", **COSINE | {"schedule": "constant"})
    begin(half, 0)
    half.strategy.model.load_state_dict(ours.strategy.model.state_dict())
    if cls is MER:
        half.strategy.learning_rate = ours.strategy.learning_rate * found[-1]
    else:
        half.strategy.outer_rate = (ours.strategy.outer_rate or ours.strategy.learning_rate) * found[-1]
        half.strategy.alpha = half.strategy.alpha * found[-1]
        ours.strategy.meta_rate = half.strategy.meta_rate = 0.0
    for one in (ours, half):
        one.strategy.experience = experience
        one.strategy.step(copy.copy(batch))
    for left, right in zip(ours.parameters(), half.parameters(), strict=True):
        torch.testing.assert_close(left, right, rtol=1e-6, atol=1e-7)
    full = walk(cls(), "domain", **COSINE)
    begin(full, 0)
    assert not same(ours.parameters(), full.parameters())


def test_a_schedule_over_hidden_boundaries_falls_at_every_step_of_the_stream(told):
    hidden = {"boundaries": "hidden", "optimizer_state": "kept", "stream_length": "known"}
    ours = walk(Finetune, **COSINE | hidden | {"epochs": 2})
    ours.realised.begin_hidden()
    parts = (ours.realised.experience(positions) for positions in ours.realised.steps)
    ours.strategy.learn(ours.realised.hidden_stream(parts))
    assert told == [cosine(0.05, 2 * sum(STEPS))]
    groups = ours.strategy.optimizer.param_groups
    assert len(groups) > 1  # a head that has grown, and its rate with the others'
    assert len({group["lr"] for group in groups}) == 1


def test_who_counts_steps_of_his_own_has_milestones_in_proportion():
    protocol = Protocol(epochs=10, schedule="milestones", milestones=(4, 8), gamma=0.5)
    assert rates(protocol, 1.0, 10) == [1.0] * 4 + [0.5] * 4 + [0.25] * 2
    assert rates(protocol, 1.0, 20) == [1.0] * 8 + [0.5] * 8 + [0.25] * 4
    assert rates(protocol, 1.0, 5) == [1.0] * 2 + [0.5] * 2 + [0.25]
    assert rates(protocol, 1.0, 1) == [1.0]


@given(st.integers(1, 12), st.integers(1, 12), st.integers(1, 5))
def test_a_clock_of_steps_gives_every_pass_the_same_number(passes, per_pass, beyond):
    clock = Clock(passes, passes * per_pass)
    seen = []
    for clock.steps in range(passes * per_pass + beyond):
        seen.append(clock.place)
    assert seen == [place for place in range(passes) for _ in range(per_pass)] + [passes - 1] * beyond


def test_without_anything_to_learn_from_a_schedule_has_no_horizon():
    ours = walk(Finetune, **COSINE)
    with pytest.raises(PluginError, match="Make it in learn"):
        ours.strategy.context.updater(ours.strategy.model.parameters())
    ours.strategy.context.updater(ours.strategy.model.parameters(), steps=3)
    assert Budget().clock(None, None) is None


# --- parts of a batch


class Tall(Finetune):
    """Notes what it is handed."""

    name = "tall"

    def setup(self, context):
        super().setup(context)
        self.calls, self.seen = [], []

    def replay(self, batch):
        self.calls.append(f"replay {len(batch)}")
        return batch

    def after_backward(self, batch):
        self.calls.append(f"after_backward {len(batch)}")

    def penalty(self):
        self.calls.append("penalty")
        return None

    def adjust_gradients(self, batch):
        self.calls.append(f"adjust_gradients {len(batch)}")

    def after_step(self, batch):
        self.calls.append(f"after_step {len(batch)}")
        self.seen.append(batch)


def test_parts_are_replayed_alone_and_the_step_is_made_with_all_of_the_batch():
    ours = walk(Tall, "task", accumulation=3, epochs=1)
    experience = ours.step(0)  # 33 samples in batches of 8, so the last one has a single sample
    once = ["after_backward 8", "penalty", "adjust_gradients 8", "after_step 8"]
    assert ours.strategy.calls[: 3 + len(once)] == ["replay 2", "replay 3", "replay 3", *once]
    assert ours.strategy.calls[-5:] == ["replay 1", *(call.replace("8", "1") for call in once)]
    twin = walk(Finetune, "task", epochs=1)
    twin.realised.begin([0])
    for whole, plain in zip(ours.strategy.seen, twin.realised.experience([0]).batches(), strict=True):
        for name in ("x", "y", "task", "index"):
            assert torch.equal(getattr(whole, name), getattr(plain, name))
        assert whole.scores is not None
        assert (whole.fresh, len(whole.scores)) == (len(plain), len(plain))
    assert experience.meter.loss_steps == experience.meter.steps == 5


@pytest.mark.parametrize("parts", [2, 4, 8])
@pytest.mark.parametrize("scenario", SCENARIOS)
@pytest.mark.parametrize("strategy", [Finetune, EWC, SI, L2, LwF, GEM, AGEM, PNN, FrozenFeatures], ids=lambda c: c.name)
def test_gradients_of_parts_add_up_to_that_of_the_batch(strategy, scenario, parts, double):
    """In double precision, for losses that are means over samples, whatever the sizes of the parts."""
    if scenario not in strategy.scenarios:
        return
    settings = DOUBLE | {"momentum": 0.5}
    walks = [walk(strategy, scenario, accumulation=n, **settings).finish() for n in (1, parts)]
    states = [{k: v for k, v in w.strategy.state_dict().items() if torch.is_tensor(v)} for w in walks]
    assert states[0].keys() == states[1].keys()
    for name, value in states[0].items():
        torch.testing.assert_close(states[1][name], value, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("parts", [2, 3])
@pytest.mark.parametrize("strategy", [Finetune, LwF])
def test_parts_of_tokens_weigh_as_many_as_count(strategy, parts, double, tmp_path):
    """The last sequence of a text is shorter: its part is a smaller share of the mean over all tokens."""
    settings = {"optimizer": "sgd", "learning_rate": 0.1, "batch_size": 6, "epochs": 3}
    walks = [language_walk(strategy, tmp_path, accumulation=n, **settings) for n in (1, parts)]
    counts = [(split.y_train != -100).sum(1) for split in walks[0].realised.stream.splits]
    assert all(int(count.min()) < int(count.max()) for count in counts)
    whole, cut = ([p.detach() for p in one.finish().strategy.parameters()] for one in walks)
    for left, right in zip(whole, cut, strict=True):
        torch.testing.assert_close(left, right, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("strategy", [GDumb, DEN])
def test_loops_of_their_own_add_up_the_same(strategy, double):
    one, three = (walk(strategy, "task", accumulation=n, **DOUBLE).finish() for n in (1, 3))
    for (name, left), right in zip(one.strategy.named_parameters(), three.strategy.parameters(), strict=True):
        torch.testing.assert_close(left, right, rtol=1e-8, atol=1e-10, msg=name)


@pytest.mark.parametrize(
    "strategy", [ER(replay_size=5), DER(replay_size=5), ER(draw="pass"), ICaRL()], ids=lambda s: s.name
)
def test_exemplars_come_in_parts_too(strategy):
    """Drawn, a share for each part, rounded up; dealt, each once in a pass, as without parts."""
    whole, parts = (walk(copy.deepcopy(strategy), "class", accumulation=n, epochs=3) for n in (1, 2))
    replayed = [[one.step(position).meter.replayed for position in range(3)] for one in (whole, parts)]
    if getattr(strategy, "draw", "step") == "pass" or isinstance(strategy, ICaRL):
        assert replayed[0] == replayed[1]
    else:
        steps = 3 * STEPS[1]
        assert replayed[0][1] == 5 * steps
        assert replayed[1][1] == 2 * 3 * steps  # batches of 8 and 5: two parts, three exemplars each
    assert parts.strategy.predict(parts.realised.test.x).isfinite().all()


@given(st.integers(1, 20), st.integers(0, 6), st.integers(1, 8), st.booleans())
def test_cut_and_joined_again_a_batch_is_what_it_was(fresh, exemplars, parts, masked):
    rows = fresh + exemplars
    batch = Batch(
        x=torch.arange(rows * 2.0).view(rows, 2),
        y=torch.arange(rows),
        task=None,
        index=torch.cat([torch.arange(fresh), -torch.ones(exemplars, dtype=torch.long)]),
        mask=torch.arange(rows * 3).view(rows, 3) % 2 == 0 if masked else None,
        fresh=fresh,
        scores=torch.arange(rows * 3.0).view(rows, 3),
    )
    protocol = Protocol(accumulation=parts)
    updater = Updater([nn.Parameter(torch.ones(1))], lambda g, rate: torch.optim.SGD(g, lr=rate), protocol, 0.1, None)
    cut = list(updater.parts(batch))
    assert sum(share for _, share in cut) == pytest.approx(1)
    assert all(len(part) for part, _ in cut)
    again = joined([part for part, _ in cut])
    assert again.fresh == fresh
    for name in ("x", "y", "index", "mask", "scores"):
        left, right = getattr(again, name), getattr(batch, name)
        assert (left is None and right is None) or torch.equal(left, right)


class AtOnce(Finetune):
    """Steps on whole batches."""

    name = "at-once"

    def step(self, batch):
        self.model.zero_grad()
        cross_entropy(self.model(batch.x), batch.y, batch.mask).backward()
        self.updater.step()


def test_a_step_on_the_whole_batch_is_refused_where_it_should_come_in_parts():
    walk(AtOnce).finish()
    with pytest.raises(PluginError, match=re.escape("updater.parts(batch)")):
        walk(AtOnce, accumulation=2).finish()


# --- groups


class Slowly(Finetune):
    """The backbone learns at a tenth of the rate."""

    name = "slowly"

    def parameter_groups(self):
        return [(self.model.backbone.parameters(), 0.1)]


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_groups_have_rates_of_their_own_and_torchs_schedulers_bit_for_bit(schedule):
    ours = walk(Slowly, "domain", **COSINE | {"schedule": schedule, "momentum": 0.9})
    model = copy.deepcopy(ours.strategy.model)
    ours.step(0)
    twin = walk(Finetune, "domain", **COSINE)
    twin.realised.begin([0])
    heads, backbone = list(model.head.parameters()), list(model.backbone.parameters())
    optimizer = torch.optim.SGD(
        [{"params": heads, "lr": 0.05}, {"params": backbone, "lr": 0.05 * 0.1}], lr=0.05, momentum=0.9
    )
    scheduler = lr_scheduler.CosineAnnealingLR(optimizer, T_max=6)
    for number, batch in enumerate(twin.realised.experience([0]).batches(), 1):
        optimizer.zero_grad()
        F.cross_entropy(model(batch.x), batch.y).backward()
        optimizer.step()
        if schedule == "cosine" and number % STEPS[0] == 0:
            scheduler.step()
    expected = [p.detach() for p in model.parameters()]
    assert same(ours.parameters(), expected)


def test_a_grown_head_joins_at_its_own_rate():
    ours = walk(Slowly, "class", boundaries="hidden", optimizer_state="kept", optimizer="sgd", learning_rate=0.5)
    ours.realised.begin_hidden()
    parts = (ours.realised.experience(positions) for positions in ours.realised.steps)
    ours.strategy.learn(ours.realised.hidden_stream(parts))
    updater, model = ours.strategy.updater, ours.strategy.model
    assert {updater.rate(p) for p in model.head.parameters()} == {0.5}
    assert {updater.rate(p) for p in model.backbone.parameters()} == {0.05}
    with pytest.raises(PluginError, match="does not move"):
        updater.rate(nn.Parameter(torch.ones(1)))


@pytest.mark.parametrize("factor", [0.0, -1.0, float("nan"), float("inf")])
def test_a_factor_is_a_positive_number(factor):
    class Odd(Slowly):
        def parameter_groups(self):
            return [(self.model.backbone.parameters(), factor)]

    with pytest.raises(PluginError, match="Make it a positive number"):
        walk(Odd).step(0)


class AlsoSlowly(Slowly):
    """The same again."""

    name = "also-slowly"


def test_in_a_composite_one_part_at_most_has_groups():
    ours = walk(compose((EWC, Slowly)), "domain", optimizer="sgd", learning_rate=0.5)
    ours.step(0)
    assert {ours.strategy.updater.rate(p) for p in ours.strategy.model.backbone.parameters()} == {0.05}
    with pytest.raises(UsageError, match="slowly and also-slowly each gives parameters rates of their own"):
        compose((Slowly, AlsoSlowly))


def test_a_composite_bounds_the_rate_of_the_moment():
    """With a schedule, no step overshoots an anchor, and one that the schedule has made short enough is left alone."""
    protocol = COSINE | {"warmup": 2, "epochs": 6}
    ours = walk(compose((L2, GEM)), "domain", **protocol)
    ours.strategy.running[0].strength = 1 / 0.04
    ours.step(0)
    seen = []
    adjust = type(ours.strategy).adjust_gradients

    class Watching(type(ours.strategy)):
        def adjust_gradients(self, batch):
            adjust(self, batch)
            rate = self.updater.rate(next(self.model.parameters()))
            seen.append((rate, float(self._slowed[0].min())))

    ours.strategy.__class__ = Watching
    ours.step(1)
    rate = ours.strategy.context.learning_rate
    expected = rates(ours.realised.protocol, rate, 6)
    assert [rate for rate, _ in seen] == each(expected, STEPS[1])
    for rate, slowed in seen:
        assert slowed == pytest.approx(min(1.0, 0.04 / rate))
    assert {slowed == 1 for _, slowed in seen} == {True, False}


# --- behind its back


def meddling(how):
    """A strategy that does something to its optimiser after its third step."""

    class Meddler(Finetune):
        name = "meddler"

        def after_step(self, batch):
            if self.experience.meter.steps == 3:
                how(self.optimizer)

    return Meddler


MEDDLING = {
    "rate": lambda o: o.param_groups[0].update(lr=0.1),
    "rate as a tensor": lambda o: o.param_groups[0].update(lr=torch.tensor(o.param_groups[0]["lr"])),
    "decay": lambda o: o.param_groups[0].update(weight_decay=0.5),
    "moments": lambda o: o.param_groups[0].update(betas=(0.5, 0.5)),
    "a group": lambda o: o.add_param_group({"params": [nn.Parameter(torch.ones(1))]}),
    "a scheduler": lambda o: lr_scheduler.StepLR(o, 1),
}


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
@pytest.mark.parametrize("how", MEDDLING)
def test_what_is_changed_behind_the_back_is_noticed_at_the_next_step(how, schedule):
    ours = walk(meddling(MEDDLING[how]), schedule=schedule)
    with pytest.raises(PluginError, match="behind the host's back"):
        ours.step(0)
    assert ours.strategy.experience.meter.steps == 4


def test_reading_them_is_fine():
    walk(meddling(lambda o: [dict(group) for group in o.param_groups])).finish()


class Stranger(Strategy):
    """A loop of before there was an updater."""

    name = "stranger"

    def learn(self, experience):
        self.context.grow(self.model)
        optimizer = self.context.optimizer(self.model.parameters(), learning_rate=0.02)
        self.train()
        for batch in experience.batches():
            optimizer.zero_grad()
            cross_entropy(self.model(batch.x), batch.y, batch.mask).backward()
            optimizer.step()


def test_a_bare_optimiser_still_works_and_follows_the_protocol():
    protocol = COSINE | {"clip_norm": 0.3}
    stranger, finetune = walk(Stranger, **protocol), walk(Finetune, **protocol | {"learning_rate": 0.02})
    assert same(stranger.finish().parameters(), finetune.finish().parameters())


# --- precision


def test_bf16_is_autocast_around_the_model_in_training_and_nowhere_else():
    ours = walk(Finetune, "domain", precision="bf16", epochs=2, optimizer="sgd", learning_rate=0.05)
    model = copy.deepcopy(ours.strategy.model)
    model.precision = "float32"
    ours.step(0)
    twin = walk(Finetune, "domain", epochs=2)
    twin.realised.begin([0])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    for batch in twin.realised.experience([0]).batches():
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = F.cross_entropy(model(batch.x), batch.y)
        loss.backward()
        optimizer.step()
    assert same(ours.parameters(), [p.detach() for p in model.parameters()])
    assert {p.dtype for p in ours.parameters()} == {torch.float32}
    x = ours.realised.test.x
    with torch.no_grad():
        assert torch.equal(ours.strategy.predict(x), model.eval()(x))
    plain = walk(Finetune, "domain", epochs=2, optimizer="sgd", learning_rate=0.05)
    plain.step(0)
    assert not same(ours.parameters(), plain.parameters())  # something was rounded


@pytest.mark.parametrize("strategy", [EWC, LwF, ER, DER, ICaRL, GEM, AGEM, SI, GDumb], ids=lambda c: c.name)
def test_in_bf16_all_that_is_kept_stays_float32(strategy):
    ours = walk(strategy, "class", precision="bf16").finish()
    state = [v for v in ours.strategy.state_dict().values() if torch.is_tensor(v) and v.is_floating_point()]
    assert {v.dtype for v in state} == {torch.float32}
    assert all(v.isfinite().all() for v in state if v.numel() and strategy is not ICaRL)


@pytest.mark.parametrize("strategy", [PNN, DEN, Expand])
def test_a_network_of_ones_own_is_not_reached_by_bf16(strategy):
    with pytest.raises(UsageError, match="precision=bf16 does not reach"):
        walk(strategy, "task", precision="bf16", backbone=Mlp, options={"hidden": [6]})


def test_rates_of_a_warm_up_rise_and_those_after_it_fall():
    found = rates(Protocol(epochs=20, schedule="cosine", warmup=5), 0.1, 20)
    assert all(a < b for a, b in pairwise(found[:6]))
    assert all(a > b for a, b in pairwise(found[5:]))
    assert found[0] == pytest.approx(0.1 / 6)
    assert found[5] == 0.1


def test_nothing_to_train_is_told_in_words():
    with pytest.raises(UsageError, match="There is nothing to train"):
        walk(Finetune).strategy.context.updater(iter(()))
