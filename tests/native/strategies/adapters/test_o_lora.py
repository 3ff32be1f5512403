"""O-LoRA: its penalty number by number, whom it reaches, and IncLoRA without it."""

import numpy as np
import pytest
import torch
from clarena_native.strategies.adapters.lora import LoRA
from clarena_native.strategies.adapters.o_lora import OLoRA
from tiny import SCENARIOS, same, walk

from clarena.checks.tiny import TinyTransformer

ON = {"backbone": TinyTransformer}


def third_branch(**options):
    """A strategy in its third experience, with no matrix at 0."""
    ours = walk(OLoRA(rank=3, **options), **ON).finish()
    noise = torch.Generator().manual_seed(1)
    for p in ours.strategy.lora.branches.parameters():
        p.data = torch.randn(p.shape, generator=noise)
    return ours


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_without_its_penalty_it_is_lora_with_a_branch_each_bit_for_bit(scenario):
    ours = walk(OLoRA(strength=0, rank=2), scenario, **ON, weight_decay=0.1).finish()
    plain = walk(LoRA(branches="each", rank=2), scenario, **ON, weight_decay=0.1).finish()
    assert same(ours.parameters(), plain.parameters())
    assert ours.predict() == plain.predict()
    held = walk(OLoRA(rank=2), scenario, **ON, weight_decay=0.1).finish()
    assert not same(held.parameters(), plain.parameters())


@pytest.mark.parametrize(("overlap", "measure"), [("squares", np.square), ("absolute", np.abs)])
def test_the_penalty_is_a_sum_over_weights_branches_and_pairs_of_rows(overlap, measure):
    strategy = third_branch(strength=0.7, overlap=overlap, decay=0.3).strategy
    expected = 0.0
    first, second, newest = ([a.detach().double().numpy() for a in b.down] for b in strategy.lora.branches)
    for older in (first, second):
        for theirs, ours in zip(older, newest, strict=True):
            for j in range(3):
                for k in range(3):
                    expected += 0.7 * measure(theirs[j] @ ours[k])
    for p in strategy.lora.branches[-1].parameters():
        expected += 0.3 * np.sqrt((p.detach().double().numpy() ** 2).sum())
    assert float(strategy.penalty().detach()) == pytest.approx(expected, rel=1e-5)


def test_it_reaches_the_newest_a_alone():
    strategy = third_branch().strategy
    strategy.zero_grad()
    strategy.penalty().backward()
    names = {name for name, p in strategy.model.named_parameters() if p.grad is not None and p.grad.any()}
    assert names == {"adapter.branches.2.down.0", "adapter.branches.2.down.1"}


def test_there_is_none_at_first_nor_where_rows_are_orthogonal():
    ours = walk(OLoRA(rank=2), **ON)
    ours.step(0)
    assert ours.strategy.penalty() is None
    strategy = third_branch().strategy
    for rows in zip(*(branch.down for branch in strategy.lora.branches), strict=True):
        basis = torch.linalg.qr(torch.randn(rows[0].shape[1], 9))[0].T
        for place, a in enumerate(rows):
            a.data = basis[3 * place : 3 * place + 3].clone()
    assert float(strategy.penalty().detach()) < 1e-10
    # What an older branch looks at, the newest one leaves as it is.
    for older, a, b in zip(strategy.lora.branches[0].down, *(getattr(strategy.lora.branches[2], half) for half in
                           ("down", "up")), strict=True):  # fmt: skip
        x = torch.randn(5, 3) @ older
        torch.testing.assert_close(x @ (b @ a).T, torch.zeros(5, len(b)), rtol=0, atol=1e-5)


def test_subspaces_of_experiences_meet_less():
    def overlap(strength: float) -> float:
        ours = walk(OLoRA(strength=strength, rank=4), **ON, epochs=10, learning_rate=0.02)
        ours.step(0)
        ours.step(1)
        first, second = ours.strategy.lora.branches
        return sum(float((a @ b.T).detach().square().sum()) for a, b in zip(first.down, second.down, strict=True))

    assert overlap(0.5) < 0.1 * overlap(0)
