"""What DualPrompt and CODA-Prompt have in common: what stays to the bit, what an answer hangs on, who is refused."""

import copy

import pytest
import torch
from clarena_native.backbones.small import Mlp
from clarena_native.backbones.transformers import TextTransformer, ViTTiny
from clarena_native.strategies.architecture.frozen import FrozenFeatures
from clarena_native.strategies.prompts.coda_prompt import CodaPrompt
from clarena_native.strategies.prompts.dualprompt import DualPrompt
from tiny import SCENARIOS, walk

import clarena
from clarena import UsageError

VIT = {"backbone": ViTTiny, "options": {"patch": 2, "width": 12, "depth": 2}}
RESET = {"optimizer": "adam", "optimizer_state": "reset"}
MADE = {
    "dualprompt": lambda: DualPrompt(general_length=2, expert_length=3),
    "coda-prompt": lambda: CodaPrompt(components=3, length=4),
}
OFF = {
    "dualprompt": [{"general_length": 0, "expert_length": 0}, {"general_blocks": (), "expert_blocks": ()}],
    "coda-prompt": [{"components": 0}, {"length": 0}, {"blocks": ()}],
}
BOTH = pytest.mark.parametrize("name", list(MADE))
CLASSES = {"dualprompt": DualPrompt, "coda-prompt": CodaPrompt}


def kept(ours) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in ours.strategy.model.named_parameters()}


@BOTH
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_what_earlier_experiences_brought_keeps_its_bits(name, scenario):
    ours = walk(MADE[name](), scenario, **VIT, **RESET, weight_decay=0.01)
    old: dict[str, torch.Tensor] = {}
    for position in range(3):
        ours.step(position)
        now = kept(ours)
        assert all(torch.equal(now[key], value) for key, value in old.items())
        grown = {key for key in now if key.startswith(("experts", "keys", "prompts", "attentions", "backbone"))}
        assert {key for key in grown if not key.startswith("backbone")} - old.keys()
        if position:  # else the backbone's are new as well
            assert all(key.rpartition(".")[2] == str(position) for key in grown - old.keys())
        old = {key: now[key] for key in grown}


@BOTH
def test_an_optimiser_holds_what_is_trained_and_earlier_parts_have_no_gradient(name):
    ours = walk(MADE[name](), **VIT)
    held, make = [], ours.strategy.context.updater

    def updater(params):
        made = make(list(params))
        held.append({p for group in made.optimizer.param_groups for p in group["params"]})
        return made

    ours.strategy.context.updater = updater
    model = ours.strategy.model
    for position in range(3):
        gradients: dict[str, bool] = {}
        zero = ours.strategy.zero_grad

        def look(zero=zero, gradients=gradients):
            gradients.update({key: p.grad is not None for key, p in model.named_parameters()})
            zero()

        ours.strategy.zero_grad = look
        ours.step(position)
        ours.strategy.zero_grad = zero
        trained = {key for key, p in model.named_parameters() if p in held[-1]}
        assert trained == {
            key
            for key in gradients
            if key.startswith(("head", "general"))
            or (key.rpartition(".")[2] == str(position) and "backbone" not in key)
        }
        assert not {key for key, has in gradients.items() if has} - trained


@BOTH
def test_the_outputs_of_earlier_classes_stay_where_they_are_whatever_the_loss_is_over(name):
    for loss_over in ("seen", "current"):
        ours = walk(MADE[name](), "class", **VIT, **RESET, loss_over=loss_over)
        ours.step(0)
        first = copy.deepcopy(ours.strategy.model.head.blocks[0])
        ours.step(1)
        ours.step(2)
        assert all(map(torch.equal, first.parameters(), ours.strategy.model.head.blocks[0].parameters()))


@pytest.mark.parametrize(("name", "off"), [(name, off) for name in OFF for off in OFF[name]])
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_without_prompts_it_is_a_classifier_of_frozen_features_bit_for_bit(name, off, scenario):
    none = walk(CLASSES[name](**off), scenario, **VIT, **RESET, loss_over="current", heads="growing")
    frozen = walk(FrozenFeatures(freeze="from_start"), scenario, **VIT, **RESET, loss_over="current", heads="growing")
    for position in range(3):
        none.step(position)
        frozen.step(position)
        ours, theirs = (dict(walked.strategy.model.named_parameters()) for walked in (none, frozen))
        assert all(torch.equal(ours[key], value) for key, value in theirs.items())
        task = position if scenario == "task" else None
        x = none.realised.test.x
        assert torch.equal(none.strategy.predict(x, task), frozen.strategy.predict(x, task))


@BOTH
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_an_answer_does_not_hang_on_what_is_asked_beside_it(name, scenario):
    ours = walk(MADE[name](), scenario, **VIT, epochs=3, learning_rate=0.05).finish()
    x, task = ours.realised.test.x, 1 if scenario == "task" else None
    whole = ours.strategy.predict(x, task)
    alone = torch.cat([ours.strategy.predict(one[None], task) for one in x])
    torch.testing.assert_close(alone, whole, rtol=1e-5, atol=1e-5)
    order = torch.randperm(len(x))
    torch.testing.assert_close(ours.strategy.predict(x[order], task), whole[order], rtol=1e-5, atol=1e-5)


@BOTH
def test_augmentation_does_not_reach_a_frozen_backbone(name):
    plain, augmented = (walk(MADE[name](), **VIT, augmentation=kind).finish() for kind in (None, "crop-flip"))
    assert all(map(torch.equal, plain.parameters(), augmented.parameters()))


@pytest.mark.parametrize(
    ("name", "wanted", "option"),
    [("dualprompt", {"general_blocks": (0, 2)}, r"dualprompt\.general_blocks = \[0, 2\]"),
     ("dualprompt", {"expert_blocks": (-1,)}, r"dualprompt\.expert_blocks = \[-1\]"),
     ("coda-prompt", {"blocks": (1, 1)}, r"coda-prompt\.blocks = \[1, 1\]")],
)  # fmt: skip
def test_blocks_that_are_not_there_are_refused(name, wanted, option):
    with pytest.raises(UsageError, match=rf"{option}, but vit-tiny has 2 blocks, numbered from 0.*Choose among 0 to 1"):
        walk(CLASSES[name](**wanted), **VIT)


@BOTH
def test_features_for_every_token_are_refused(name):
    context = walk(MADE[name](), **VIT).realised.context()
    context.make_backbone = lambda: TextTransformer((4,), 9, per_token=True, width=12)
    with pytest.raises(UsageError, match="Here text-transformer has features for every token"):
        MADE[name]().setup(context)
    context.make_backbone = lambda: TextTransformer((4,), 9, width=12)
    MADE[name]().setup(context)


@BOTH
def test_a_backbone_without_tokens_is_refused_before_anything_runs(name, tmp_path):
    with pytest.raises(UsageError, match="The backbone mlp works on no tokens: choose one that does, such as vit-tiny"):
        clarena.evaluate(name, benchmark="split-digits", backbone="mlp", seeds=1, store=tmp_path)
    assert not list(tmp_path.iterdir())
    with pytest.raises(UsageError, match="works on no tokens"):
        walk(MADE[name](), backbone=Mlp)
