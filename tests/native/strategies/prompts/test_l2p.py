"""L2P: the definition written out slowly, which keys and prompts move, and what stays to the bit."""

import copy

import pytest
import torch
from clarena_native.backbones.small import Mlp
from clarena_native.backbones.transformers import TextTransformer, ViTTiny
from clarena_native.strategies.architecture.frozen import FrozenFeatures
from clarena_native.strategies.prompts.l2p import L2P, Prompted
from tiny import SCENARIOS, walk
from torch.nn import functional as F

import clarena
from clarena import UsageError
from clarena.checks.tiny import TinyTransformer

SMALL = {"pool": 6, "chosen": 2, "length": 3}
ON = {"backbone": TinyTransformer}
RESET = {"optimizer": "adam", "optimizer_state": "reset"}


def kept(strategy) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in strategy.model.named_parameters()}


def moved(strategy, before: dict[str, torch.Tensor], name: str) -> set[int]:
    """The rows of a parameter that are not the bits they were."""
    now = dict(strategy.model.named_parameters())[name]
    return {row for row in range(len(now)) if not torch.equal(now[row], before[name][row])}


def test_the_answer_and_the_distance_are_those_of_the_paper():
    torch.manual_seed(0)
    backbone = ViTTiny((1, 8, 8), width=12, depth=2).double()
    model = Prompted(backbone, **SMALL).double()
    model.head.grow(4)
    model.head.double()
    model.draw()
    x = torch.rand(5, 1, 8, 8, dtype=torch.float64)
    scores, distance = model.answer(x)
    distances = []
    for one, found in zip(x, scores):
        tokens = backbone.embed(one[None]).values[0]
        query = backbone(one[None])[0]
        away = torch.stack([1 - (query @ key) / (query.norm() * key.norm()) for key in model.keys])
        near = away.argsort()[:2]
        x_p = torch.cat([*(model.prompts[i] for i in near), tokens])
        hidden = backbone.encoder(x_p[None])[0]
        torch.testing.assert_close(found, model.head(hidden[:6].mean(0)))
        distances.append(away[near].sum())
    torch.testing.assert_close(distance, torch.stack(distances).mean())


def test_a_gradient_of_the_distance_reaches_the_chosen_keys_alone():
    torch.manual_seed(0)
    model = Prompted(TinyTransformer((1, 4, 4)), **SMALL)
    model.head.grow(2)
    model.draw()
    x = torch.rand(3, 1, 4, 4)
    chosen = set(model.nearness(model.backbone(x)).topk(2).indices.flatten().tolist())
    assert 0 < len(chosen) < 6
    scores, distance = model.answer(x)
    distance.backward(retain_graph=True)
    assert {row for row in range(6) if model.keys.grad[row].any()} == chosen
    assert model.prompts.grad is None
    model.zero_grad()
    F.cross_entropy(scores, torch.tensor([0, 1, 1])).backward()
    assert model.keys.grad is None  # which prompts are chosen has no derivative
    assert {row for row in range(6) if model.prompts.grad[row].any()} == chosen
    assert all(parameter.grad is None for parameter in model.backbone.parameters())


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_what_is_not_chosen_and_what_is_frozen_keeps_its_bits(scenario):
    ours = walk(L2P(**SMALL), scenario, **ON, **RESET, epochs=1)
    touched = False
    for position in range(3):
        ours.realised.begin([position])
        experience = ours.realised.experience([position])
        before = kept(ours.strategy)
        query = ours.strategy.model.backbone(experience.x)
        # Keys move as they are chosen, and with them what is chosen: so those that can be are watched.
        chosen: set[int] = set()
        nearness = ours.strategy.model.nearness

        def watch(query, nearness=nearness, chosen=chosen):
            near = nearness(query)
            chosen.update(near.topk(2).indices.flatten().tolist())
            return near

        ours.strategy.model.nearness = watch
        ours.strategy.learn(experience)
        del ours.strategy.model.nearness
        alone = scenario != "domain" and len(experience.classes) == 1  # one class to choose from: the loss is 0
        assert moved(ours.strategy, before, "prompts") == (set() if alone else chosen)
        assert moved(ours.strategy, before, "keys") == chosen
        touched |= len(chosen) < 6
        now = dict(ours.strategy.model.named_parameters())
        assert all(torch.equal(now[name], value) for name, value in before.items() if name.startswith("backbone."))
        assert torch.equal(ours.strategy.model.backbone(experience.x), query)
    assert touched  # some prompt was left alone, else nothing is shown


def test_the_outputs_of_earlier_classes_stay_where_they_are_whatever_the_loss_is_over():
    for loss_over in ("seen", "current"):
        ours = walk(L2P(**SMALL), "class", **ON, **RESET, loss_over=loss_over)
        ours.step(0)
        first = copy.deepcopy(ours.strategy.model.head.blocks[0])
        ours.step(1)
        ours.step(2)
        assert all(map(torch.equal, first.parameters(), ours.strategy.model.head.blocks[0].parameters()))
    full = walk(L2P(**SMALL), "class", **ON, **RESET, heads="full", stream_length="known")
    full.step(0)
    seen = sorted(full.realised.space.seen)
    before = full.strategy.model.head.blocks[0].weight[seen].clone()
    full.step(1)
    assert torch.equal(full.strategy.model.head.blocks[0].weight[seen], before)


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_without_prompts_it_is_a_classifier_of_frozen_features_bit_for_bit(scenario):
    none = walk(L2P(chosen=0), scenario, **ON, **RESET, loss_over="current", heads="growing")
    frozen = walk(FrozenFeatures(freeze="from_start"), scenario, **ON, **RESET, loss_over="current", heads="growing")
    for position in range(3):
        none.step(position)
        frozen.step(position)
        ours, theirs = (dict(walked.strategy.model.named_parameters()) for walked in (none, frozen))
        assert all(torch.equal(ours[name], value) for name, value in theirs.items())
        assert ours.keys() - theirs.keys() == {"prompts", "keys"}
        task = position if scenario == "task" else None
        x = none.realised.test.x
        assert torch.equal(none.strategy.predict(x, task), frozen.strategy.predict(x, task))


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_asked_one_by_one_it_answers_as_in_a_batch(scenario):
    ours = walk(L2P(), scenario, **ON).finish()
    x, task = ours.realised.test.x, 0 if scenario == "task" else None
    whole = ours.strategy.predict(x, task)
    alone = torch.cat([ours.strategy.predict(one[None], task) for one in x])
    torch.testing.assert_close(alone, whole, rtol=1e-5, atol=1e-5)
    assert torch.equal(alone.argmax(1), whole.argmax(1))
    order = torch.randperm(len(x))
    torch.testing.assert_close(ours.strategy.predict(x[order], task), whole[order], rtol=1e-5, atol=1e-5)


def test_the_pull_draws_keys_to_the_queries_that_choose_them():
    def reached(pull: float) -> float:
        ours = walk(L2P(**SMALL, pull=pull), "class", **ON, **RESET, epochs=4)
        ours.step(0)
        model = ours.strategy.model
        query = model.backbone(ours.realised.data.x_train[ours.realised.stream.splits[0].train])
        return float(model.nearness(query).topk(2).values.detach().mean())

    assert reached(1.0) > reached(0.0) + 0.02


def test_keys_do_not_move_without_a_pull():
    ours = walk(L2P(**SMALL, pull=0.0), "class", **ON, **RESET)
    before = kept(ours.strategy)
    ours.finish()
    assert moved(ours.strategy, before, "keys") == set()
    assert moved(ours.strategy, before, "prompts")


def test_augmentation_does_not_reach_a_frozen_backbone():
    plain, augmented = (walk(L2P(**SMALL), "class", **ON, augmentation=kind) for kind in (None, "crop-flip"))
    for walked in (plain, augmented):
        walked.finish()
    assert all(map(torch.equal, plain.parameters(), augmented.parameters()))


def test_more_prompts_than_there_are_cannot_be_chosen():
    with pytest.raises(UsageError, match=r"l2p\.chosen = 5 is more than there are prompts: l2p\.pool = 4"):
        walk(L2P(pool=4), **ON)


def test_a_language_model_is_refused():
    strategy = L2P()
    context = walk(L2P(), **ON).realised.context()
    context.make_backbone = lambda: TextTransformer((4,), 9, per_token=True, width=12)
    with pytest.raises(UsageError, match="In text-transformer no token sees those after it"):
        strategy.setup(context)


def test_a_backbone_without_tokens_is_refused_before_anything_runs(tmp_path):
    with pytest.raises(UsageError, match="The backbone mlp works on no tokens: choose one that does, such as vit-tiny"):
        clarena.evaluate("l2p", benchmark="split-digits", backbone="mlp", seeds=1, store=tmp_path)
    assert not list(tmp_path.iterdir())
    with pytest.raises(UsageError, match="works on no tokens"):
        walk(L2P(), backbone=Mlp)
