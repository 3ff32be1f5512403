"""LoRA in a stream: a loop written out, what is trained and what keeps its bits, and rank 0 as a frozen backbone."""

import copy

import pytest
import torch
from clarena_native.backbones.small import Mlp
from clarena_native.backbones.transformers import TextTransformer, ViTTiny
from clarena_native.strategies.adapters.lora import LoRA
from clarena_native.strategies.architecture.frozen import FrozenFeatures
from tiny import SCENARIOS, walk
from tiny_language import language_walk
from torch import nn
from torch.nn import functional as F

import clarena
from clarena import UsageError
from clarena.checks.tiny import TinyTransformer
from clarena.plugins.host import Host, PluginSources

HOST = Host.discover(PluginSources(third_party=False))
ON = {"backbone": TinyTransformer}
SMALL = {"width": 8, "depth": 1, "heads": 2}
BACKBONES = {
    "images": {"backbone": ViTTiny, "options": SMALL | {"patch": 2}},
    "texts": {"backbone": TextTransformer, "options": SMALL, "benchmark_options": {"levels": 9}},
}


def bits(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in module.named_parameters()}


def untouched(before: dict[str, torch.Tensor], module: nn.Module) -> set[str]:
    return {name for name, value in module.named_parameters() if name in before and torch.equal(value, before[name])}


def test_a_stream_is_learned_as_by_a_loop_written_out():
    """The layer as the paper has it, W₀ x + s B (A x), on an MLP, by plain SGD, with a branch for each experience."""
    ours = walk(LoRA(rank=3, scale=0.5, on=("other",), branches="each"), "domain", backbone=Mlp,
                options={"hidden": (7, 6)}, optimizer="sgd", learning_rate=0.1)  # fmt: skip
    model = copy.deepcopy(ours.strategy.model)
    layers = [module for module in model.backbone.modules() if isinstance(module, nn.Linear)]
    (head,) = model.head.blocks
    batches: list[list] = [[], [], []]
    first: list[list] = [[], [], []]
    for position, seen in enumerate(batches):

        def see(batch, seen=seen, began=first[position]):
            if not seen:
                newest = ours.strategy.lora.branches[-1]
                assert not any(b.any() for b in newest.up)
                began += [(a.detach().clone(), b.detach().clone()) for a, b in zip(newest.down, newest.up, strict=True)]
            seen.append(batch)
            return batch

        ours.strategy.replay = see
        ours.step(position)

    def scores(x, pairs):
        x = x.flatten(1)
        for place, layer in enumerate(layers):
            y = x @ layer.weight.T + layer.bias
            for a, b in (branch[place] for branch in pairs):
                y = y + 0.5 * (x @ a.T) @ b.T
            x = y.relu()
        return x @ head.weight.T + head.bias

    pairs: list[list] = []
    for seen, began in zip(batches, first, strict=True):
        pairs.append(began)
        trained = [head.weight, head.bias, *(p.requires_grad_() for pair in began for p in pair)]
        for batch in seen:
            gradients = torch.autograd.grad(F.cross_entropy(scores(batch.x, pairs), batch.y), trained)
            with torch.no_grad():
                for p, gradient in zip(trained, gradients, strict=True):
                    p -= 0.1 * gradient
    for branch, expected in zip(ours.strategy.lora.branches, pairs, strict=True):
        for a, b, (a_, b_) in zip(branch.down, branch.up, expected, strict=True):
            torch.testing.assert_close((a, b), (a_, b_))
            assert b_.any()
    torch.testing.assert_close(ours.strategy.model.head.blocks[0].weight, head.weight)


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_rank_0_is_a_head_on_a_frozen_backbone_bit_for_bit(scenario):
    none = walk(LoRA(rank=0), scenario, **ON, weight_decay=0.1, augmentation="flip")
    frozen = walk(FrozenFeatures(freeze="from_start"), scenario, **ON, weight_decay=0.1, augmentation="flip")
    for position in range(3):
        none.step(position)
        frozen.step(position)
        task, x = (position if scenario == "task" else None), none.realised.test.x
        assert torch.equal(none.strategy.predict(x, task), frozen.strategy.predict(x, task))
    ours, theirs = (bits(walked.strategy.model) for walked in (none, frozen))
    assert all(torch.equal(ours[name], value) for name, value in theirs.items())
    assert not any(ours[name].numel() for name in ours.keys() - theirs.keys())


@pytest.mark.parametrize("branches", ["one", "each"])
@pytest.mark.parametrize("kind", BACKBONES)
def test_what_is_trained_and_what_keeps_its_bits(kind, branches):
    ours = walk(LoRA(rank=2, branches=branches), "class", **BACKBONES[kind], optimizer_state="kept", weight_decay=0.1)
    strategy, model = ours.strategy, ours.strategy.model
    for position in range(3):
        before = bits(model)
        model.zero_grad()
        ours.step(position)
        newest = 0 if branches == "one" else position
        trained = {f"adapter.branches.{newest}.{half}.{place}" for half in ("down", "up") for place in range(2)}
        names = {p: name for name, p in model.named_parameters()}
        held = {names[p] for group in strategy.optimizer.param_groups for p in group["params"]}
        assert held == trained | {name for name in names.values() if name.startswith("head.")}
        assert untouched(before, model) == before.keys() - held
        assert len(strategy.lora.branches) == newest + 1
    assert {p.requires_grad for p in model.backbone.parameters()} == {False}


@pytest.mark.parametrize("kind", BACKBONES)
def test_a_new_branch_changes_no_score(kind):
    """B = 0: the first step begins with the scores of the backbone, and each later one with those there were."""
    ours = walk(LoRA(rank=2, branches="each"), "domain", **BACKBONES[kind], learning_rate=0.1, epochs=4)
    strategy, model, x = ours.strategy, ours.strategy.model.eval(), ours.realised.test.x
    with torch.no_grad():
        base = model.head(model.backbone(x))
    assert torch.equal(strategy.predict(x), base)
    ours.step(0)
    learned = strategy.predict(x)
    assert not torch.allclose(learned, base)
    strategy.grow()
    assert torch.equal(strategy.predict(x), learned)


def test_merged_into_the_weights_they_answer_the_same():
    ours = walk(LoRA(rank=2, scale=0.5, branches="each"), **BACKBONES["images"], learning_rate=0.05).finish()
    merged = copy.deepcopy(ours.strategy.model.backbone)
    state = merged.state_dict()
    for branch in ours.strategy.lora.branches:
        for weight, a, b in zip(ours.strategy.lora.on_weights, branch.down, branch.up, strict=True):
            state[weight.name][weight.rows[0] : weight.rows[1]] += 0.5 * b.detach() @ a.detach()
    x = ours.realised.test.x
    with torch.no_grad():
        scores = ours.strategy.model.head(merged(x))
    torch.testing.assert_close(scores, ours.strategy.predict(x), rtol=1e-5, atol=1e-5)
    assert not torch.allclose(ours.strategy.model.head(ours.strategy.model.backbone(x)), scores, atol=1e-3)


def test_it_trains_on_views_with_dropout_off():
    modes, shown = [], []

    class Watched(TinyTransformer):
        name = "watched"

        def forward(self, x):
            modes.append((self.training, self.layers.training))
            shown.append(x.detach().clone())
            return super().forward(x)

    def seen(**protocol):
        modes.clear()
        shown.clear()
        ours = walk(LoRA(rank=1), backbone=Watched, **protocol)
        ours.step(0)
        assert set(modes) == {(True, False)}  # what is in it stays in evaluation mode
        return torch.cat(shown)

    assert not torch.equal(seen(), seen(augmentation="crop-flip"))


def test_every_target_is_learned(tmp_path):
    """A token after each token, of a language model: with terms the loss falls further than with a head alone."""

    def first_loss(strategy):
        ours = language_walk(strategy, tmp_path, learning_rate=0.05, epochs=8)
        loss = ours.step(0).meter.mean_loss
        ours.step(1)
        assert all(b.any() for branch in ours.strategy.lora.branches for b in branch.up if b.numel())
        return loss

    assert first_loss(LoRA(rank=2, branches="each")) < first_loss(LoRA(rank=0)) - 0.05


@pytest.mark.parametrize("name", ["er+lora", "ewc+lora", "lora+lwf"])
def test_it_is_part_of_a_composite(name):
    ours = walk(HOST.strategy(name), **ON, learning_rate=0.05).finish()
    assert any(b.any() for b in ours.strategy.model.adapter.branches[0].up)
    assert {p.requires_grad for p in ours.strategy.model.backbone.parameters()} == {False}


def test_layers_that_are_not_there_are_refused_before_anything_runs(tmp_path):
    with pytest.raises(UsageError, match="mlp has no query and no value to which LoRA could be added"):
        clarena.evaluate("lora", benchmark="split-digits", backbone="mlp", seeds=1, store=tmp_path)
    assert not list(tmp_path.iterdir())
    with pytest.raises(UsageError, match=r"lora\.on"):
        clarena.evaluate("lora", benchmark="split-digits", settings={"lora": {"on": ["queries"]}}, store=tmp_path)
