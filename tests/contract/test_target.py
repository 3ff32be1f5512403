"""Targets: every likelihood by brute force in float64, and what does not fit, in words."""

import importlib.util
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from clarena_native.backbones.small import Mlp
from clarena_native.strategies.projection.agem import AGEM
from clarena_native.strategies.references.finetune import Finetune
from clarena_native.strategies.regularisation.ewc import EWC
from clarena_native.strategies.regularisation.mas import MAS
from clarena_native.strategies.replay.der import DER
from clarena_native.strategies.replay.er import ER
from clarena_native.strategies.replay.icarl import ICaRL
from hypothesis import given
from hypothesis import strategies as st
from tiny import CPU, same

from clarena import DataError, PluginError, Target, UsageError
from clarena.checks.declared import Broken
from clarena.checks.tiny import TinyStream
from clarena.contract.outputs import OutputSpace
from clarena.contract.target import Classes, Text, Tokens
from clarena.protocol.protocol import NamedPart, Protocol, Track
from clarena.run.data import load
from clarena.run.realisation import CellClasses, Realisation
from clarena.testing import check_target

EXAMPLE = Path(__file__).parents[2] / "plugins" / "examples" / "counts.py"
SPEC = importlib.util.spec_from_file_location("counts", EXAMPLE)
COUNTS = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(COUNTS)
Counts = COUNTS.Counts

TAGS = torch.tensor([[0, 1, -100], [2, -100, -100], [1, 1, 0]])
LABELS = {
    Classes: (torch.tensor([0, 1, 2, 1]), 4),
    Tokens: (TAGS, 4),
    Text: (TAGS, 4),
    Counts: (torch.tensor([[0, 1, 3], [2, 0, 0], [1, 5, 1]], dtype=torch.int32), 3),
}


def scores_of(target, seed=0, dtype=torch.float64):
    y, outputs = LABELS[target]
    chance = torch.Generator().manual_seed(seed)
    return torch.randn(len(y), *target().positions(y), outputs, generator=chance, dtype=dtype)


@pytest.mark.parametrize("target", LABELS)
def test_what_comes_with_clarena_is_one_likelihood(target):
    check_target(target, *LABELS[target])


# ---- Fisher directions, by enumeration ----


def gradient(asked, scores, y, mask=None):
    leaf = scores.clone().requires_grad_()
    return torch.autograd.grad(-asked.loss(leaf, y, mask, "sum"), leaf)[0]


def gram(directions):
    flat = torch.stack([d.flatten() for d in directions])
    return flat.T @ flat


@pytest.mark.parametrize("mask", [None, torch.tensor([[True, False, True, True]])])
def test_exact_directions_of_classes_are_the_sum_over_all_classes(mask):
    asked = Classes()
    for scores in scores_of(Classes).split(1):
        p = (scores if mask is None else scores.masked_fill(~mask, -torch.inf)).softmax(-1)[0]
        wanted = sum(
            p[c] * gram([gradient(asked, scores, torch.tensor([c]), mask)])
            for c in range(4)
            if mask is None or bool(mask[0, c])
        )
        found = gram(asked.directions(scores, None, mask, "exact", torch.Generator()))
        torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-15)


def test_the_curvature_of_divergence_is_the_sum_over_all_labellings_of_a_sequence():
    """Of two tokens that count and one that does not: 16 labellings, each with its probability."""
    scores = scores_of(Tokens)[:1]
    y = torch.tensor([[0, 1, -100]])
    wanted = torch.zeros(12, 12, dtype=torch.float64)
    for labels in product(range(4), repeat=2):
        drawn = torch.tensor([[*labels, -100]])
        wanted += (-Tokens().loss(scores, drawn, None, "sum")).exp() * gram([gradient(Tokens(), scores, drawn)])
    found = torch.autograd.functional.hessian(lambda s: Tokens().divergence(s, scores, y != -100), scores)
    torch.testing.assert_close(2 * found.reshape(12, 12), wanted, rtol=1e-12, atol=1e-14)


def test_exact_directions_of_counts_are_the_sum_over_all_counts():
    """Poisson probabilities, up to counts whose weight is less than rounding."""
    (scores,) = scores_of(Counts)[:1].split(1)
    wanted = torch.zeros(3, 3, dtype=torch.float64)
    for k in range(3):
        for count in range(80):
            y = torch.zeros(1, 3)
            y[0, k] = count
            weight = torch.distributions.Poisson(scores[0, k].exp()).log_prob(torch.tensor(float(count))).exp()
            wanted[k, k] += weight * gradient(Counts(), scores, y)[0, k] ** 2
    found = gram(Counts().directions(scores, None, None, "exact", torch.Generator()))
    torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-12)


def test_directions_without_labels_or_a_closed_form_are_refused():
    with pytest.raises(DataError, match="Labels are needed"):
        list(Counts().directions(scores_of(Counts), None, None, "empirical", torch.Generator()))
    with pytest.raises(UsageError, match="too many for scores"):
        list(Tokens().directions(scores_of(Tokens), None, None, "exact", torch.Generator()))

    class Bare(Counts):
        """Has neither."""

        exact_directions, draw = Target.exact_directions, Target.draw

    for kind in ("exact", "sample"):
        with pytest.raises(UsageError, match=r"of counts .* Choose"):
            list(Bare().directions(scores_of(Counts), None, None, kind, torch.Generator()))


# ---- Loss, divergence, answers ----


@given(st.integers(1, 6), st.integers(1, 5), st.integers(2, 6), st.integers(0, 2**31), st.booleans())
def test_the_loss_of_tokens_is_the_mean_over_those_that_count(samples, time, outputs, seed, masked):
    chance = torch.Generator().manual_seed(seed)
    scores = torch.randn(samples, time, outputs, generator=chance, dtype=torch.float64)
    y = torch.randint(outputs, (samples, time), generator=chance)
    y[torch.rand(samples, time, generator=chance) < 0.4] = -100
    y[0, 0] = 0
    mask = torch.ones(1, outputs, dtype=torch.bool)
    mask[0, int(y.max()) + 1 :] = not masked
    total, count = 0.0, 0
    for n, t in product(range(samples), range(time)):
        if y[n, t] != -100:
            weights = [float(scores[n, t, c].exp()) for c in range(outputs) if mask[0, c]]
            total += np.log(sum(weights)) - float(scores[n, t, y[n, t]])
            count += 1
    assert float(Tokens().loss(scores, y, mask)) == pytest.approx(total / count, rel=1e-9)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_divergence_with_outputs_left_out_is_that_of_the_rest(temperature):
    for target in LABELS:
        scores, old, (y, outputs) = scores_of(target, 1), scores_of(target, 2), LABELS[target]
        mask, counted = torch.ones(1, outputs, dtype=torch.bool), target().counted(y)
        mask[0, 1] = False
        rest = mask[0].nonzero().flatten()
        found = target().divergence(scores, old, counted, mask, temperature)
        wanted = target().divergence(scores[..., rest], old[..., rest], counted, None, temperature)
        torch.testing.assert_close(found, wanted, rtol=1e-12, atol=0)


def test_labels_show_the_outputs_there_are():
    assert Classes().shown(torch.tensor([0, 3, 3]), 5) == {0, 3}
    assert Tokens().shown(TAGS, 4) == {0, 1, 2}
    assert Tokens().labels_by_output(TAGS, 4).tolist() == [2, 3, 1, 0]
    assert Counts().shown(LABELS[Counts][0], 3) == {0, 1, 2}
    assert Counts().labels_by_output(LABELS[Counts][0], 3).tolist() == [3, 3, 3]


def test_ignored_labels_show_no_output_where_boundaries_are_hidden():
    space = OutputSpace("domain", Protocol(), 4, CPU, Tokens())
    space.reveal(TAGS)
    assert space.seen == {0, 1, 2}


# ---- The check notices ----


class Doubled(Counts):
    """Its loss is twice what its draws belong to."""

    def loss(self, *args):
        return 2 * super().loss(*args)


class Summed(Counts):
    """Its mean is a sum."""

    def loss(self, scores, y, mask=None, reduction="mean"):
        return super().loss(scores, y, mask, "sum" if reduction == "mean" else reduction)


class WithoutRoot(Counts):
    """Its directions are weighted by λ, not √λ."""

    def exact_directions(self, scores, mask):
        return super().exact_directions(2 * scores, mask)


class Squares(Counts):
    """Its divergence is another likelihood's."""

    def divergence(self, scores, old, counted=None, mask=None, temperature=1.0):
        return super().divergence(scores, old, counted, mask, temperature) + (scores - old).square().sum(-1).mean()


class Lopsided(Counts):
    """Its divergence pulls elsewhere."""

    def divergence(self, scores, old, counted=None, mask=None, temperature=1.0):
        return super().divergence(scores, old + 1, counted, mask, temperature)


class Deaf(Counts):
    """It does not listen to the mask."""

    def loss(self, scores, y, mask=None, reduction="mean"):
        return super().loss(scores, y, None, reduction)


class Relative(Counts):
    """Its answers depend on the batch."""

    def answers(self, scores, y, columns):
        return {"rate": scores - scores.mean()}


class Missing(Counts):
    """It says of what was asked that it was not."""

    def answers(self, scores, y, columns):
        return {"rate": scores.sqrt()}


class Padded(Tokens):
    """It distils padding."""

    def divergence(self, scores, old, counted=None, mask=None, temperature=1.0):
        return super().divergence(scores, old, None, mask, temperature)


class Sharper(Tokens):
    """Its divergence is twice what it should be, and no closed form of its directions says so."""

    def divergence(self, scores, old, counted=None, mask=None, temperature=1.0):
        return 2 * super().divergence(scores, old, counted, mask, temperature)


class Softer(Tokens):
    """It draws labels from a softer softmax than its loss is of."""

    def directions(self, scores, y, mask, kind, generator):
        return Target.directions(self, scores, y, mask, kind, generator)

    def draw(self, scores, generator):
        return super().draw(scores / 3, generator)


FAULTS = {
    Doubled: "The mean of g gᵀ|The mean of sampled directions|The sum of v vᵀ over exact directions",
    Sharper: "The curvature of divergence is not the Fisher information",
    Softer: "The mean of sampled directions|The mean of g gᵀ",
    Summed: "loss, averaged, is not a part in 3 of the sum",
    WithoutRoot: "The sum of v vᵀ over exact directions is not the Fisher information",
    Squares: "The curvature of divergence is not the Fisher information",
    Lopsided: "The gradient of divergence at equal scores is not 0",
    Deaf: "loss with other scores at the last output, which is out of play, is not what it was",
    Relative: "The answers 'rate' depend on what else is in the batch",
    Missing: "hold −1 or NaN",
    Padded: "The mean of g gᵀ|The curvature|divergence with other scores at positions that are ignored",
}


@pytest.mark.parametrize("target", FAULTS)
def test_the_check_notices_a_target_that_is_no_likelihood(target):
    with pytest.raises(Broken, match=FAULTS[target]):
        check_target(target, *LABELS[target.__base__])


# ---- What does not fit ----


def visitors(strategy, scenario="domain", **protocol):
    track = Track(
        benchmark=NamedPart(name="visitors"),
        scenario=scenario,
        backbone=NamedPart(name="mlp", options={"hidden": (16,)}),
        protocol=Protocol(epochs=1, batch_size=32, limit=64, buffer_size=20, learning_rate=0.01, **protocol),
    )
    parts = CellClasses(type(strategy), COUNTS.Visitors, Mlp, {"counts": Counts}.__getitem__)
    realised = Realisation(track, parts, 0, CPU)
    return realised, realised.set_up(strategy)


def test_a_target_that_makes_no_sense_in_a_scenario_is_refused():
    with pytest.raises(
        UsageError, match=r"visitors asks for counts, which makes no sense in the class .*--scenario domain"
    ):
        visitors(Finetune(), "class")


def test_a_strategy_that_cannot_learn_a_target_is_refused():
    class Classifier(Finetune):
        """Knows classes alone."""

        targets = frozenset({"classes"})

    with pytest.raises(UsageError, match="finetune learns classes, and visitors asks for counts"):
        visitors(Classifier())
    assert ICaRL.targets == {"classes"}


def test_a_target_that_goes_by_another_name_is_refused():
    class Renamed(Counts):
        """Is registered as counts."""

        name = "tallies"

    with pytest.raises(PluginError, match="'counts' calls itself 'tallies'"):
        load(COUNTS.Visitors, {}, lambda name: Renamed)
    assert type(load(COUNTS.Visitors, {}, lambda name: Counts).target) is Counts


def test_the_code_of_a_plugins_target_is_part_of_the_track():
    class Other(Counts):
        """Counts with another loss."""

        def loss(self, scores, y, mask=None, reduction="mean"):
            return super().loss(scores, y, mask, reduction)

    class Revised(Classes):
        """Classes, as they may be one day."""

        revision = 2

    plain, other = (load(COUNTS.Visitors, {}, lambda name, t=t: t).fingerprint for t in (Counts, Other))
    assert len({plain, other, COUNTS.Visitors().data().fingerprint()}) == 3
    classes, revised = (load(TinyStream, {}, lambda name, t=t: t).fingerprint for t in (Classes, Revised))
    assert classes == TinyStream().data().fingerprint() != revised


OFF = {ER: {"buffer_size": 0}, EWC: {"strength": 0.0}, MAS: {"strength": 0.0}, DER: {"alpha": 0.0}}


@pytest.mark.parametrize("strategy", OFF)
def test_without_its_mechanism_a_strategy_is_finetune_on_counts_as_well(strategy):
    models = []
    for each in (Finetune(), strategy(**OFF[strategy])):
        realised, made = visitors(each)
        for positions in realised.steps:
            realised.begin(positions)
            made.learn(realised.experience(positions))
        models.append([p.detach() for p in made.model.parameters()])
    assert same(*models)
    assert realised.test.answers(made, realised.space)["rate"].shape == (4 * 64, 3)


def test_a_buffer_holds_labels_of_any_kind_and_is_a_reservoir_where_there_are_no_classes():
    realised, er = visitors(ER())
    realised.begin([0])
    er.learn(realised.experience([0]))
    assert er.buffer.everything()["y"].dtype == torch.int32
    assert er.buffer.everything()["y"].shape == (20, 3)
    assert visitors(AGEM())[1].buffer.policy == "reservoir"


@pytest.mark.parametrize(
    "change",
    [
        {"y_train": torch.zeros(960, 3)},
        {"y_train": torch.zeros(960, 2, dtype=torch.int32)},
        {"y_test": torch.full((800, 3), -1)},
    ],
)
def test_labels_that_are_no_counts_are_refused(change):
    from dataclasses import replace

    data = COUNTS.Visitors().data()
    data.validate(Counts())
    with pytest.raises(DataError, match=r"Give whole numbers, 0 or more, \[n, 3\]"):
        replace(data, **change).validate(Counts())
