"""The training loop: against a loop written by hand, the order of its methods, and its memory of the optimiser."""

import copy
import io
from functools import partial
from itertools import pairwise
from zlib import crc32

import numpy as np
import pytest
import torch
from clarena_native.strategies.references.finetune import Finetune
from clarena_native.strategies.regularisation.ewc import EWC
from clarena_native.strategies.replay.er import ER
from tiny import SCENARIOS, same, walk
from torch import nn
from torch.nn import functional as F
from torch.optim import lr_scheduler

from clarena import GradientStrategy

OPTIMISERS = {
    "sgd": {"optimizer": "sgd", "momentum": 0.9, "weight_decay": 0.01, "learning_rate": 0.05},
    "adam": {"optimizer": "adam"},
    "adamw": {"optimizer": "adamw", "weight_decay": 0.1},
}


def stream_of_seeds(seed, name, experience):
    """The generator that the seed policy promises, from its definition; nothing of the host's is used."""
    entropy = np.random.SeedSequence([seed, crc32(name.encode()), experience + 1])
    state = int(entropy.generate_state(1, np.uint64)[0] >> 1)
    return torch.Generator().manual_seed(state)


def linear_from(generator, fan_in, fan_out):
    """A layer drawn as `torch.nn.Linear` draws it, after one number of the `init` stream."""
    torch.manual_seed(int(torch.randint(2**62, (), generator=generator)))
    return nn.Linear(fan_in, fan_out)


def by_hand(realised, seed, protocol, kept, schedule=None):
    """Fine-tuning in plain torch, for a growing head: parameters after each experience, backbone first.

    `schedule`: torch's scheduler of an optimiser, stepped once per pass; it begins anew with each experience.
    """
    init = stream_of_seeds(seed, "init", -1)
    trunk = linear_from(init, 16, 32)
    if realised.track.scenario == "domain":
        blocks = [linear_from(init, 32, realised.stream.outputs)]
    else:
        blocks, init = [], None
    fused = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
    make = torch.optim.SGD if protocol.optimizer == "sgd" else partial(fused[protocol.optimizer], fused=True)
    rates = {"lr": protocol.learning_rate, "weight_decay": protocol.weight_decay}
    rates |= {"momentum": protocol.momentum} if protocol.optimizer == "sgd" else {}
    optimiser, history = None, []
    for i, split in enumerate(realised.stream.splits):
        x, y = realised.data.x_train[split.train].float(), split.y_train
        labels = sorted(set(y.tolist()))
        if realised.track.scenario != "domain":
            blocks.append(linear_from(stream_of_seeds(seed, "init", i), 32, len(labels)))
        parameters = [*trunk.parameters(), *(p for block in blocks for p in block.parameters())]
        if optimiser is None or not kept:
            optimiser = make(parameters, **rates)
        elif realised.track.scenario != "domain":
            optimiser.add_param_group({"params": list(blocks[-1].parameters())})
        order = stream_of_seeds(seed, "data", i)
        for group in optimiser.param_groups:
            group["lr"] = group["initial_lr"] = protocol.learning_rate
        scheduler = None if schedule is None else schedule(optimiser)
        for _ in range(protocol.epochs):
            permutation = torch.randperm(len(y), generator=order)
            for start in range(0, len(y), protocol.batch_size):
                rows = permutation[start : start + protocol.batch_size]
                features = F.relu(trunk(x[rows].flatten(1)))
                scores = torch.cat([block(features) for block in blocks], 1)
                if realised.track.scenario == "task":
                    hidden = [c for c in range(scores.shape[1]) if c not in labels]
                    scores = scores.index_fill(1, torch.tensor(hidden, dtype=torch.long), float("-inf"))
                optimiser.zero_grad()
                F.cross_entropy(scores, y[rows]).backward()
                if protocol.clip_norm:
                    nn.utils.clip_grad_norm_(parameters, protocol.clip_norm)
                optimiser.step()
            if scheduler is not None:
                scheduler.step()
        history.append([p.detach().clone() for p in parameters])
    return history


@pytest.mark.parametrize("kept", ["reset", "kept"])
@pytest.mark.parametrize("optimiser", OPTIMISERS)
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_finetune_is_a_plain_torch_loop_bit_for_bit(scenario, optimiser, kept):
    ours = walk(Finetune, scenario, seed=3, optimizer_state=kept, **OPTIMISERS[optimiser])
    expected = by_hand(ours.realised, 3, ours.realised.protocol, kept == "kept")
    ours.realised.set_up(ours.strategy)  # the loop by hand has drawn from the global generators
    for position, parameters in enumerate(expected):
        ours.step(position)
        assert same(ours.parameters(), parameters), f"after experience {position + 1}"


def rising(optimiser, then):
    """The rate rises over three passes before another scheduler begins."""
    rise = lr_scheduler.LinearLR(optimiser, start_factor=0.25, total_iters=3)
    return lr_scheduler.SequentialLR(optimiser, [rise, then], milestones=[3])


SCHEDULES = {
    "cosine": ({"schedule": "cosine"}, lambda o: lr_scheduler.CosineAnnealingLR(o, T_max=8)),
    "milestones": (
        {"schedule": "milestones", "milestones": (2, 5), "gamma": 0.3},
        lambda o: lr_scheduler.MultiStepLR(o, milestones=[2, 5], gamma=0.3),
    ),
    "warmup": ({"warmup": 3}, lambda o: lr_scheduler.LinearLR(o, start_factor=0.25, total_iters=3)),
    "warmup and cosine": (
        {"schedule": "cosine", "warmup": 3},
        lambda o: rising(o, lr_scheduler.CosineAnnealingLR(o, T_max=5)),
    ),
    "warmup and milestones": (
        {"schedule": "milestones", "milestones": [4, 6], "warmup": 3},
        lambda o: rising(o, lr_scheduler.MultiStepLR(o, milestones=[1, 3], gamma=0.1)),
    ),
}


@pytest.mark.parametrize("kept", ["reset", "kept"])
@pytest.mark.parametrize("optimiser", OPTIMISERS)
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_schedules_are_those_of_torch_stepped_once_per_pass_bit_for_bit(schedule, optimiser, kept):
    fields, make = SCHEDULES[schedule]
    protocol = OPTIMISERS[optimiser] | fields | {"epochs": 8, "optimizer_state": kept}
    ours = walk(Finetune, "class", seed=3, **protocol)
    expected = by_hand(ours.realised, 3, ours.realised.protocol, kept == "kept", make)
    ours.realised.set_up(ours.strategy)
    for position, parameters in enumerate(expected):
        ours.step(position)
        assert same(ours.parameters(), parameters), f"after experience {position + 1}"


@pytest.mark.parametrize("optimiser", ["sgd", "adam"])
def test_gradients_are_clipped_as_torch_clips_them_bit_for_bit(optimiser):
    protocol = OPTIMISERS[optimiser] | {"clip_norm": 0.5, "schedule": "cosine", "epochs": 3}
    ours = walk(Finetune, "task", seed=3, **protocol)
    make = lambda o: lr_scheduler.CosineAnnealingLR(o, T_max=3)  # noqa: E731
    expected = by_hand(ours.realised, 3, ours.realised.protocol, False, make)
    ours.realised.set_up(ours.strategy)
    assert same(ours.finish().parameters(), expected[-1])
    free = walk(Finetune, "task", seed=3, **protocol | {"clip_norm": None}).finish()
    assert not same(free.parameters(), expected[-1])  # it was felt


def test_moments_are_kept_for_old_parameters_and_new_ones_start_without():
    ours = walk(Finetune, "task", optimizer="adam", optimizer_state="kept")
    steps = [5 * 2, 2 * 2, 3 * 2]  # batches of 8 from 33, 13 and 22 samples, in two passes
    counted = []
    for position in range(3):
        ours.step(position)
        state = ours.strategy.optimizer.state
        counted.append([int(state[p]["step"]) for p in ours.strategy.model.parameters()])
    first, second, third = steps
    assert counted[0] == [first] * 4
    assert counted[1] == [first + second] * 4 + [second] * 2
    assert counted[2] == [first + second + third] * 4 + [second + third] * 2 + [third] * 2


def test_a_reset_optimiser_counts_from_zero():
    ours = walk(Finetune, "task", optimizer="adam", optimizer_state="reset").finish()
    assert {int(state["step"]) for state in ours.strategy.optimizer.state.values()} == {3 * 2}
    assert ours.strategy.get_extra_state() == {}


class Recorder(GradientStrategy):
    """Writes down what is called, in order, and what the gradient is at each moment."""

    name = "recorder"

    def setup(self, context):
        super().setup(context)
        self.calls = []
        self.gradients = {}

    def note(self, call):
        self.calls.append(call)
        self.gradients[call] = [None if p.grad is None else p.grad.clone() for p in self.model.parameters()]

    def before_experience(self, experience):
        assert self.experience is experience
        assert self.model.outputs == experience.outputs  # the head has grown
        self.note("before_experience")

    def replay(self, batch):
        self.note("replay")
        assert batch.scores is None
        return batch

    def loss(self, batch):
        self.note("loss")
        assert batch.scores is not None
        return super().loss(batch)

    def distil(self, batch):
        self.note("distil")
        return 0.25 * batch.scores.square().sum()

    def after_backward(self, batch):
        self.note("after_backward")

    def penalty(self):
        self.note("penalty")
        return 3 * sum(p.sum() for p in self.model.parameters())

    def adjust_gradients(self, batch):
        self.note("adjust_gradients")
        self.before = [p.detach().clone() for p in self.model.parameters()]
        for p in self.model.parameters():
            p.grad.fill_(2.0)

    def after_step(self, batch):
        self.note("after_step")
        self.after = [p.detach().clone() for p in self.model.parameters()]
        with torch.no_grad():
            features = F.relu(F.linear(batch.x.flatten(1), *self.before[:2]))
            scores = torch.cat([F.linear(features, w, b) for w, b in zip(self.before[2::2], self.before[3::2])], 1)
        torch.testing.assert_close(batch.scores, scores)  # from before the update

    def after_experience(self, experience):
        assert experience.passes_left == 0
        self.note("after_experience")


STEP = ["replay", "loss", "distil", "after_backward", "penalty", "adjust_gradients", "after_step"]


def test_the_methods_are_called_in_the_order_in_which_they_stand():
    ours = walk(Recorder, "class", optimizer="sgd", epochs=1)
    experience = ours.step(0)
    assert ours.strategy.calls == ["before_experience", *STEP * 5, "after_experience"]
    assert experience.meter.steps == 5
    assert ours.strategy.experience is None
    overridable = [name for name in vars(GradientStrategy) if name in {*STEP, "before_experience", "after_experience"}]
    assert overridable == ["before_experience", *STEP, "after_experience"]  # the file reads in that order, too


def test_each_moment_sees_the_gradient_it_is_promised():
    ours = walk(Recorder, "task", optimizer="sgd", learning_rate=0.5, epochs=1, batch_size=100)
    ours.step(0)
    seen = ours.strategy.gradients
    twin = walk(Finetune, "task", epochs=1, batch_size=100)
    twin.realised.begin([0])
    batch = next(twin.realised.experience([0]).batches())
    twin.strategy.context.grow(twin.strategy.model)
    scores = twin.strategy.model(batch.x)
    loss = F.cross_entropy(scores, batch.y) + 0.25 * scores.square().sum()
    of_loss = torch.autograd.grad(loss, list(twin.strategy.model.parameters()))
    for got, expected in zip(seen["after_backward"], of_loss, strict=True):
        torch.testing.assert_close(got, expected)  # no penalty in it
    for got, expected in zip(seen["adjust_gradients"], of_loss, strict=True):
        torch.testing.assert_close(got, expected + 3)
    for before, after in zip(ours.strategy.before, ours.strategy.after, strict=True):
        torch.testing.assert_close(after, before - 0.5 * 2)  # adjust_gradients has the last word


class OtherPath(EWC):
    """EWC whose penalty goes through autograd instead of its closed form."""

    name = "other-path"
    backward_penalty = GradientStrategy.backward_penalty


@pytest.mark.parametrize("mode", ["separate", "online"])
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_autograd_and_closed_form_of_a_penalty_are_one(scenario, mode):
    """Both are λ F (θ − θ*); they may differ by rounding, which SGD does not blow up."""
    sgd = {"optimizer": "sgd", "learning_rate": 0.05}
    walks = [walk(cls(strength=20.0, mode=mode, decay=0.7), scenario, **sgd).finish() for cls in (EWC, OtherPath)]
    free = walk(Finetune, scenario, **sgd).finish()
    for closed, autograd in zip(walks[0].parameters(), walks[1].parameters(), strict=True):
        torch.testing.assert_close(closed, autograd)
    assert not all(map(torch.allclose, walks[0].parameters(), free.parameters()))  # the penalty was felt


class Thaws(Finetune):
    """Trains the backbone in the first and the last experience only."""

    name = "thaws"

    def before_experience(self, experience):
        self.model.backbone.requires_grad_(experience.position != 1)


class Rehead(Finetune):
    """Trains the newest block of the head only, from the second experience on."""

    name = "rehead"

    def before_experience(self, experience):
        if experience.position:
            self.model.requires_grad_(False)
            self.model.head.blocks[-1].requires_grad_(True)


@pytest.mark.parametrize("state", ["kept", "reset"])
@pytest.mark.parametrize("strategy", [Finetune, EWC, ER, Thaws, Rehead])
@pytest.mark.parametrize("steps", [{}, {"schedule": "cosine", "warmup": 1, "clip_norm": 0.5, "epochs": 4}], ids=len)
def test_saved_after_each_experience_it_goes_on_bit_for_bit(strategy, state, steps):
    for optimiser in ({**kind, **steps} for kind in OPTIMISERS.values()):
        whole = walk(strategy, "task", optimizer_state=state, **optimiser)
        saved = []
        for position in range(3):
            whole.step(position)
            file = io.BytesIO()
            torch.save(whole.strategy.state_dict(), file)
            saved.append(file)
        for done in (1, 2):
            resumed = walk(strategy, "task", optimizer_state=state, **optimiser)
            for position in range(done):
                resumed.realised.begin([position])
            saved[done - 1].seek(0)
            resumed.strategy.load_state_dict(torch.load(saved[done - 1], weights_only=True))
            resumed.finish(done)
            assert same(resumed.parameters(), whole.parameters())
            assert resumed.predict() == whole.predict()


def test_what_is_frozen_stays_bit_identical_whatever_the_optimiser():
    """Weight decay, momentum and Adam's moments move parameters whose gradient is zero; frozen ones are left out."""
    for state in ("kept", "reset"):
        for optimiser in OPTIMISERS.values():
            ours = walk(Rehead, "task", optimizer_state=state, **optimiser)
            ours.step(0)
            parameters = [ours.parameters()]
            for position in (1, 2):
                ours.step(position)
                parameters.append(ours.parameters())
            for before, after in pairwise(parameters):
                assert same(before, after[: len(before)])
                assert not same(after[len(before) :], [torch.zeros_like(p) for p in after[len(before) :]])


def test_a_saved_state_is_kept_until_there_is_an_optimiser_for_it():
    whole = walk(Finetune, optimizer_state="kept")
    whole.step(0)
    state = copy.deepcopy(whole.strategy.state_dict())
    resumed = walk(Finetune, optimizer_state="kept")
    resumed.realised.begin([0])
    resumed.strategy.load_state_dict(state)
    again = resumed.strategy.state_dict()  # saved once more before anything is learned
    third = walk(Finetune, optimizer_state="kept")
    third.realised.begin([0])
    third.strategy.load_state_dict(again)
    assert same(third.finish(1).parameters(), whole.finish(1).parameters())


def test_the_reported_loss_is_the_mean_over_steps():
    ours = walk(Finetune, "domain", epochs=1, optimizer="sgd", learning_rate=1e-12)
    model = copy.deepcopy(ours.strategy.model)
    experience = ours.step(0)
    twin = walk(Finetune, "domain", epochs=1)
    twin.realised.begin([0])
    batches = list(twin.realised.experience([0]).batches())
    losses = [F.cross_entropy(model(batch.x), batch.y).item() for batch in batches]
    assert experience.meter.loss_steps == len(losses) == 5
    assert experience.meter.mean_loss == pytest.approx(sum(losses) / 5, rel=1e-5)
