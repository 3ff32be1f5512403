"""Strategies that stand on the face, through the whole kit: LoRA for each experience, and prefixes of attention."""

import pytest
import torch
from clarena_native.backbones.small import Mlp
from clarena_native.backbones.transformers import TextTransformer, ViTTiny
from clarena_native.strategies.regularisation.l2 import L2
from tiny import walk
from torch import nn

from clarena import GradientStrategy, Model, UsageError
from clarena.plugins.composite import compose
from clarena.testing import parametrize_with_checks


class Adapted(Model):
    """A frozen backbone with LoRA, which the model holds and so the updater moves."""

    def __init__(self, backbone, precision):
        super().__init__(backbone.requires_grad_(False), precision=precision)
        self.lora = backbone.adapt("lora", rank=2)

    def forward(self, x):
        with self.lora.on(self.backbone):
            return super().forward(x)


class LoraPerExperience(GradientStrategy):
    """Adds low-rank terms for each experience to a backbone that stays as it is."""

    name = "lora-per-experience"
    reference = "Hu et al. 2022, LoRA: Low-rank adaptation of large language models. Made up for a test."
    needs = frozenset({"adapters"})

    def setup(self, context):
        super().setup(context)
        with context.seeds.scope("init"):
            self.model = Adapted(self.model.backbone, context.protocol.precision)
        context.grow(self.model)

    def before_experience(self, experience):
        if experience.position > 0:
            with self.context.seeds.scope("init"):
                self.model.lora.grow()


class Prefixed(Model):
    """A frozen backbone with a prefix in its first block."""

    def __init__(self, backbone):
        super().__init__(backbone.requires_grad_(False))
        self.keys, self.values = (nn.Parameter(0.1 * torch.randn(1, 3, backbone.token_width)) for _ in "kv")

    def forward(self, x):
        return self.head(self.backbone.encode(self.backbone.embed(x), {0: (self.keys, self.values)}))


class Prefix(GradientStrategy):
    """Learns a prefix of attention, and the head."""

    name = "prefix"
    reference = "Li & Liang 2021, Prefix-tuning. Made up for a test."
    needs = frozenset({"prefixes", "float32"})

    def setup(self, context):
        super().setup(context)
        with context.seeds.scope("init"):
            self.model = Prefixed(self.model.backbone)
        context.grow(self.model)


@parametrize_with_checks([LoraPerExperience, Prefix], ["class"])
def test_conformance(check):
    check()


def test_older_terms_and_the_backbone_keep_their_bits():
    ours = walk(LoraPerExperience, "class")
    kept: dict[str, torch.Tensor] = {}
    for position in range(3):
        ours.step(position)
        now = dict(ours.strategy.model.named_parameters())
        assert all(torch.equal(value, now[name]) for name, value in kept.items())
        kept = {name: p.detach().clone() for name, p in now.items() if name.startswith(("lora", "backbone"))}
    branches = ours.strategy.model.lora.branches
    assert [any(b.abs().sum() > 0 for b in branch.up) for branch in branches] == [True] * 3  # each has learned


@pytest.mark.parametrize(
    ("strategy", "message"),
    [(Prefix, "The backbone mlp works on no tokens"), (LoraPerExperience, "mlp has no query and no value to which")],
)  # fmt: skip
def test_a_backbone_that_cannot_is_refused_in_setup(strategy, message):
    with pytest.raises(UsageError, match=message):
        walk(strategy, backbone=Mlp)


def test_needs_are_met_by_what_has_tokens():
    for backbone in (ViTTiny((1, 8, 8), width=12, depth=2), TextTransformer((4,), 9, width=12)):
        context = walk(Prefix).realised.context()
        context.make_backbone = lambda backbone=backbone: backbone
        assert context.backbone() is backbone


def test_a_sum_refuses_a_part_that_puts_a_model_of_its_own_together():
    refused = r"lora-per-experience cannot be part of l2\+lora-per-experience: it puts a model of its own together"
    with pytest.raises(UsageError, match=refused):
        walk(compose((L2, LoraPerExperience)))
