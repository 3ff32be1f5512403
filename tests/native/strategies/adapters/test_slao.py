"""SLAO: where an experience begins, what a merger leaves, and sequential LoRA where nothing is merged."""

import copy

import pytest
import torch
from clarena_native.strategies.adapters.lora import LoRA
from clarena_native.strategies.adapters.slao import SLAO
from tiny import SCENARIOS, walk
from tiny_language import language_walk

from clarena import UsageError
from clarena.checks.tiny import TinyTransformer

ON = {"backbone": TinyTransformer}
QUICK = {"learning_rate": 0.02, "epochs": 4}


def pairs(strategy) -> list[tuple[torch.Tensor, torch.Tensor]]:
    (branch,) = strategy.lora.branches
    return [(a.detach().clone(), b.detach().clone()) for a, b in zip(branch.down, branch.up, strict=True)]


def test_an_experience_begins_with_an_orthonormal_basis_of_the_last_a_and_the_last_b():
    ours = walk(SLAO(rank=3), **ON, **QUICK)
    began: list = []
    ours.strategy.replay = lambda batch: (began or began.extend(pairs(ours.strategy)), batch)[1]
    ours.step(0)
    for position in (1, 2):
        before = pairs(ours.strategy)
        began.clear()
        ours.step(position)
        for (last_a, last_b), (a, b) in zip(before, began, strict=True):
            torch.testing.assert_close(a @ a.T, torch.eye(3))
            torch.testing.assert_close(last_a @ a.T @ a, last_a)  # they span the same
            assert torch.equal(b, last_b)


def test_a_merger_is_a_step_of_b_that_becomes_shorter():
    ours = walk(SLAO(rank=2, scale=0.5), "domain", **ON, **QUICK)
    merged = [torch.zeros(32, 2, dtype=torch.float64) for _ in range(2)]
    x = ours.realised.test.x
    for position in range(3):
        ours.step(position)
        trained = pairs(ours.strategy)
        merged = [m + (b.double() - m) / (position + 1) ** 0.5 for m, (_, b) in zip(merged, trained, strict=True)]
        backbone = copy.deepcopy(ours.strategy.model.backbone)
        weight = backbone.get_parameter("layers.layers.0.self_attn.in_proj_weight")
        for rows, m, (a, _) in zip((slice(0, 32), slice(64, 96)), merged, trained, strict=True):
            weight.data[rows] += (0.5 * m @ a.double()).float()
        with torch.no_grad():
            scores = ours.strategy.model.head(backbone(x))
        torch.testing.assert_close(ours.strategy.predict(x), scores, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(merged[0], trained[0][1].double(), atol=1e-3)


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_after_one_experience_it_is_lora_bit_for_bit(scenario):
    ours, plain = (walk(cls(rank=2), scenario, **ON, **QUICK) for cls in (SLAO, LoRA))
    for walked in (ours, plain):
        walked.step(0)
    x, task = ours.realised.test.x, 0 if scenario == "task" else None
    assert torch.equal(ours.strategy.predict(x, task), plain.strategy.predict(x, task))


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_with_full_steps_it_is_lora_from_an_orthonormal_a_bit_for_bit(scenario):
    class Orthonormal(LoRA):
        """Trained on, from an A made orthonormal."""

        name = "orthonormal"

        def before_experience(self, experience):
            if experience.position:
                for a in self.lora.branches[0].down:
                    a.data = torch.linalg.qr(a.data.T).Q.T.contiguous()

    ours, plain = walk(SLAO(rank=2, fade=0), scenario, **ON), walk(Orthonormal(rank=2), scenario, **ON)
    for position in range(3):
        ours.step(position)
        plain.step(position)
        x, task = ours.realised.test.x, position if scenario == "task" else None
        assert torch.equal(ours.strategy.predict(x, task), plain.strategy.predict(x, task))


def test_what_it_keeps_does_not_grow():
    ours = walk(SLAO(rank=2), "domain", **ON)
    sizes = []
    for position in range(3):
        ours.step(position)
        sizes.append({name: value.shape for name, value in ours.strategy.model.state_dict().items()})
    assert sizes[0] == sizes[1] == sizes[2]


def test_every_target_is_learned_and_a_rank_that_cannot_be_is_refused(tmp_path):
    spoken = language_walk(SLAO(rank=2), tmp_path).finish()
    assert all(b.any() for b in spoken.strategy.lora.branches[0].up)
    with pytest.raises(UsageError, match=r"slao.rank = 33 is more than the 32 inputs of a weight of tiny-transformer"):
        walk(SLAO(rank=33), **ON)
