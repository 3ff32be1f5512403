"""DualPrompt: attention with its prefixes written out, whose prompt an input is given, what moves keys and prompts."""

import pytest
import torch
from clarena_native.backbones.transformers import ViTTiny
from clarena_native.strategies.prompts.dualprompt import DualPrompt, DualPrompted
from faces import Case, lively, outputs, torch_parts
from tiny import walk
from torch.nn import functional as F

from clarena import UsageError

VIT = {"backbone": ViTTiny, "options": {"patch": 2, "width": 12, "depth": 2}}
RESET = {"optimizer": "adam", "optimizer_state": "reset"}


def made(general=(0, 1), expert=(1, 3), experiences=3, depth=4) -> DualPrompted:
    """In float64, with prompts far from 0."""
    torch.manual_seed(0)
    backbone = lively(ViTTiny((1, 8, 8), width=12, depth=depth))
    model = DualPrompted(backbone, general, expert, 2, 3)
    for _ in range(experiences):
        model.add()
    model.head.grow(4)
    for name, parameter in model.double().named_parameters():
        if not name.startswith("backbone"):
            torch.nn.init.normal_(parameter)
    return model


def by_hand(model: DualPrompted, x: torch.Tensor, which: int) -> torch.Tensor:
    """Scores of one input [1, …] by the prompts of one experience: softmax over prefix and keys, written out."""
    case = Case(model.backbone, x, torch_parts, lambda b: b.encoder.norm)
    tokens, prefixes = model.backbone.embed(x).values, {}
    for block in range(len(model.backbone.stages())):
        keys, values = [], []
        if block in model.general_blocks:
            g_k, g_v = model.general[model.general_blocks.index(block)]
            keys.append(g_k)
            values.append(g_v)
        if block in model.expert_blocks:
            e_k, e_v = model.experts[which][model.expert_blocks.index(block)]
            keys.append(e_k)
            values.append(e_v)
        if keys:
            prefixes[block] = torch.cat(keys)[None], torch.cat(values)[None]
    return model.head(outputs(case, tokens, prefixes, None)[:, 0])


def test_each_input_is_given_the_prompt_whose_key_is_nearest():
    model, x = made(), torch.rand(12, 1, 8, 8, dtype=torch.float64)
    with torch.no_grad():
        for key, one in zip(model.keys, x):  # so that not all inputs are nearest to the same
            key.copy_(model.backbone(one[None])[0])
    found, chosen = model(x).detach(), set()
    for one, scores in zip(x, found):
        query = model.backbone(one[None])[0]
        away = [(1 - (query @ key) / (query.norm() * key.norm())).item() for key in model.keys]
        which = away.index(min(away))
        chosen.add(which)
        torch.testing.assert_close(scores[None], by_hand(model, one[None], which))
    assert len(chosen) > 1


def test_training_uses_the_newest_prompt_and_pulls_its_key_alone():
    model, x = made(), torch.rand(5, 1, 8, 8, dtype=torch.float64)
    tokens = model.backbone.embed(x)
    scores = model.answer(tokens, slice(-1, None))
    torch.testing.assert_close(scores, torch.cat([by_hand(model, one[None], 2) for one in x]))
    F.cross_entropy(scores, torch.tensor([0, 1, 2, 3, 0])).backward()
    assert {name for name, p in model.named_parameters() if p.grad is not None and p.grad.any()} == {
        "general", "experts.2", "head.blocks.0.weight", "head.blocks.0.bias",
    }  # fmt: skip
    assert not any(p.grad is not None for name, p in model.named_parameters() if name.startswith(("keys", "experts.0")))


def test_the_loss_is_cross_entropy_and_a_pull():
    """One step of plain SGD on one batch moves everything by the gradient of what the paper prints."""
    pull, rate = 0.7, 0.1
    ours = walk(
        DualPrompt(general_length=2, expert_length=3, pull=pull), "domain", **VIT,
        optimizer="sgd", momentum=0.0, weight_decay=0.0, learning_rate=rate, batch_size=1000, epochs=1,
    )  # fmt: skip
    theirs = walk(
        DualPrompt(general_length=2, expert_length=3, pull=pull), "domain", **VIT,
        optimizer="sgd", momentum=0.0, weight_decay=0.0, learning_rate=1e-30, batch_size=1000, epochs=1,
    )  # fmt: skip
    experience = ours.step(0)
    model = theirs.step(0) and theirs.strategy.model  # at the first values
    x, y = experience.x, experience.y
    scores = model.answer(model.backbone.embed(x), slice(-1, None))
    query = model.backbone(x).detach()
    away = torch.stack([1 - (q @ model.keys[0]) / (q.norm() * model.keys[0].norm()) for q in query])
    (F.cross_entropy(scores, y) + pull * away.mean()).backward()
    moved = dict(ours.strategy.model.named_parameters())
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(moved[name], parameter - rate * parameter.grad, rtol=1e-4, atol=1e-5)


def test_a_prompt_begins_as_the_one_before_it_and_a_key_does_not():
    ours = walk(DualPrompt(), "class", **VIT, **RESET)
    ours.step(0)
    ours.strategy.context.learning_rate = 1e-30
    ours.step(1)
    model = ours.strategy.model
    assert torch.equal(model.experts[1], model.experts[0])
    assert not torch.allclose(model.keys[1], model.keys[0], atol=1e-3)
    assert 0 <= model.keys[1].min() <= model.keys[1].max() <= 0.01


def test_the_label_of_a_task_says_which_prompt_it_is():
    ours = walk(DualPrompt(general_length=2, expert_length=3), "task", **VIT, epochs=3, learning_rate=0.05).finish()
    model, x = ours.strategy.model, ours.realised.test.x[:6]
    before = [ours.strategy.predict(x, task) for task in range(3)]
    for task, scores in enumerate(before):
        torch.testing.assert_close(scores, model.answer(model.backbone.embed(x), slice(task, task + 1)).detach())
        expected = torch.cat([by_hand(model, one[None], task) for one in x]).detach()
        torch.testing.assert_close(scores, expected, rtol=1e-4, atol=1e-5)
    for key in model.keys:
        torch.nn.init.normal_(key)
    assert all(torch.equal(ours.strategy.predict(x, task), scores) for task, scores in enumerate(before))
    assert not torch.allclose(before[0], before[2])  # task 1 has one class, and learns nothing


def test_the_pull_draws_a_key_to_the_queries_of_its_experience():
    def reached(pull: float) -> float:
        ours = walk(DualPrompt(pull=pull), "class", **VIT, **RESET, epochs=4)
        experience = ours.step(0)
        model = ours.strategy.model
        return float(F.cosine_similarity(model.backbone(experience.x), model.keys[0][None]).mean())

    assert reached(1.0) > reached(0.0) + 0.02


@pytest.mark.parametrize(
    ("depth", "general", "expert"),
    [(1, (0,), (0,)), (2, (0, 1), (1,)), (3, (0, 1), (2,)), (4, (0, 1), (2, 3)), (6, (0, 1), (2, 3, 4))],
)
def test_where_prompts_are_put_in_backbones_with_few_blocks(depth, general, expert):
    ours = walk(DualPrompt(), "class", backbone=ViTTiny, options={"patch": 2, "width": 12, "depth": depth}, epochs=1)
    ours.step(0)
    model = ours.strategy.model
    assert (model.general_blocks, model.expert_blocks) == (general, expert)
    x = ours.realised.test.x
    scores = ours.strategy.predict(x)
    for prompt in (model.general, model.experts[0]):  # each matters, wherever it is
        kept = prompt.detach().clone()
        torch.nn.init.normal_(prompt)
        assert not torch.allclose(ours.strategy.predict(x), scores, atol=1e-4)
        prompt.data.copy_(kept)


def test_a_pool_smaller_than_the_number_of_experiences_is_refused():
    told = r"has room for dualprompt\.pool = 2 where there are 3 experiences\. Raise it, or leave it out"
    with pytest.raises(UsageError, match=told):  # at once, where the number is known
        walk(DualPrompt(pool=2), **VIT, stream_length="known")
    ours = walk(DualPrompt(pool=2), **VIT)
    ours.step(0)
    ours.step(1)
    with pytest.raises(UsageError, match=told):
        ours.step(2)
    walk(DualPrompt(pool=3), **VIT).finish()
