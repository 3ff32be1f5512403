"""N-LoRA: its penalty entry by entry, IncLoRA without it, and terms that become sparse."""

import pytest
import torch
from clarena_native.backbones.small import Mlp
from clarena_native.strategies.adapters.lora import LoRA
from clarena_native.strategies.adapters.n_lora import NLoRA
from tiny import SCENARIOS, same, walk

from clarena.checks.tiny import TinyTransformer

ON = {"backbone": TinyTransformer}


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_without_its_penalty_it_is_lora_with_a_branch_each_bit_for_bit(scenario):
    ours = walk(NLoRA(strength=0, rank=2), scenario, **ON, weight_decay=0.1).finish()
    plain = walk(LoRA(branches="each", rank=2), scenario, **ON, weight_decay=0.1).finish()
    assert same(ours.parameters(), plain.parameters())
    assert ours.predict() == plain.predict()


@pytest.mark.parametrize(
    ("on", "tokens"), [(("query", "value"), True), (("other",), False)], ids=["square", "not square"]
)
def test_the_penalty_is_the_sum_of_all_absolute_entries(on, tokens):
    place = ON if tokens else {"backbone": Mlp, "options": {"hidden": (5, 4)}}
    ours = walk(NLoRA(strength=0.7, rank=2, scale=3.0, on=on), **place)
    ours.step(0)
    ours.strategy.grow()
    noise = torch.Generator().manual_seed(1)
    for p in ours.strategy.lora.branches.parameters():
        p.data = torch.randn(p.shape, generator=noise)
    expected = 0.0
    newest = ours.strategy.lora.branches[-1]
    shapes = set()
    for a, b in zip(newest.down, newest.up, strict=True):
        shapes.add((len(b), a.shape[1]))
        a, b = a.tolist(), b.tolist()
        for row in b:
            for column in range(len(a[0])):
                expected += 0.7 * abs(sum(value * a[j][column] for j, value in enumerate(row)))
    assert shapes == ({(32, 32)} if tokens else {(5, 16), (4, 5)})
    assert float(ours.strategy.penalty().detach()) == pytest.approx(expected, rel=1e-5)


def test_it_reaches_the_newest_branch_alone():
    ours = walk(NLoRA(rank=2), **ON).finish()
    ours.strategy.zero_grad()
    ours.strategy.penalty().backward()
    reached = {name for name, p in ours.strategy.model.named_parameters() if p.grad is not None and p.grad.any()}
    assert {name.split(".")[2] for name in reached} == {"2"}
    assert all(name.startswith("adapter.branches.") for name in reached)


def test_terms_become_sparse():
    def small(strength: float) -> float:
        """The share of entries below a hundredth of the largest."""
        ours = walk(NLoRA(strength=strength, rank=2), "task", **ON, epochs=20, learning_rate=0.01)
        ours.step(0)
        (branch,) = ours.strategy.lora.branches
        terms = torch.stack([(b @ a).abs() for a, b in zip(branch.down, branch.up, strict=True)]).detach()
        return float((terms < 0.01 * terms.max()).float().mean())

    assert small(0.01) > small(0) + 0.3
