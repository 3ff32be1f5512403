"""CODA-Prompt: the sum and its weights written out, the penalty, Gram-Schmidt, and when there is no room for more."""

import numpy as np
import pytest
import torch
from clarena_native.backbones.transformers import ViTTiny
from clarena_native.strategies.prompts.coda_prompt import CodaPrompt, Composed, orthonormal, skewness
from faces import Case, lively, outputs, torch_parts
from tiny import walk
from torch.nn import functional as F

import clarena
from clarena import UsageError

VIT = {"backbone": ViTTiny, "options": {"patch": 2, "width": 12, "depth": 2}}
RESET = {"optimizer": "adam", "optimizer_state": "reset"}
PLAIN = {"optimizer": "sgd", "momentum": 0.0, "weight_decay": 0.0, "batch_size": 1000, "epochs": 1}


def test_the_prefix_is_the_sum_of_all_components_weighted_by_attended_queries():
    torch.manual_seed(0)
    backbone = lively(ViTTiny((1, 8, 8), width=12, depth=3))
    model = Composed(backbone, (0, 2), components=3, length=4)
    model.add()
    model.add()
    model.head.grow(4)
    for part in (*model.double().parts, model.head):
        for parameter in part.parameters():
            torch.nn.init.normal_(parameter)
    x = torch.rand(5, 1, 8, 8, dtype=torch.float64)
    case = Case(backbone, x, torch_parts, lambda b: b.encoder.norm)
    for one, scores in zip(x, model(x)):
        query, prefixes = backbone(one[None])[0], {}
        for place, block in enumerate((0, 2)):
            p = torch.zeros(4, 12, dtype=torch.float64)
            for prompts, keys, attentions in zip(*model.parts):
                for m in range(3):
                    seen = query * attentions[place, m]
                    alpha = (seen @ keys[place, m]) / (seen.norm() * keys[place, m].norm())
                    p = p + alpha * prompts[place, m].view(4, 12)
            prefixes[block] = p[None, :2], p[None, 2:]
        expected = model.head(outputs(case, backbone.embed(one[None]).values, prefixes, None)[:, 0])
        torch.testing.assert_close(scores[None], expected)


def test_the_penalty_is_the_distance_from_orthonormal_rows():
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(2, 3, 7))
    expected = sum(np.linalg.norm(block @ block.T - np.eye(3)) ** 2 for block in rows)
    assert float(skewness(torch.tensor(rows))) == pytest.approx(expected)
    straight = np.stack([np.linalg.qr(block.T)[0].T for block in rows])
    assert float(skewness(torch.tensor(straight))) == pytest.approx(0, abs=1e-20)
    assert float(skewness(torch.tensor(2 * straight))) == pytest.approx(2 * 3 * 9)


def test_one_step_moves_by_the_gradient_of_the_papers_loss():
    """Of the second experience, so that components that are frozen are in the sum and in the penalty."""
    weight, rate = 0.3, 0.1
    ours, theirs = (
        walk(CodaPrompt(components=2, length=4, orthogonality=weight), "domain", **VIT, **PLAIN) for _ in "ab"
    )
    for walked, rates in ((ours, (rate, rate)), (theirs, (rate, 1e-30))):
        for position, now in enumerate(rates):
            walked.strategy.context.learning_rate = now
            experience = walked.step(position)
    model = theirs.strategy.model  # at what the second experience began with
    penalty = 0.0
    for part in model.parts:
        b = torch.cat(list(part), dim=1)
        for block in b:
            penalty = penalty + ((block @ block.T - torch.eye(4)) ** 2).sum()
    (F.cross_entropy(model(experience.x), experience.y) + weight * penalty).backward()
    moved = dict(ours.strategy.model.named_parameters())
    compared = 0
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(moved[name], parameter - rate * parameter.grad, rtol=1e-4, atol=1e-5)
            compared += name.endswith(".1")
        elif not name.startswith("head"):
            assert torch.equal(moved[name], parameter)
    assert compared == 3


def gram_schmidt(rows: np.ndarray, basis: list[np.ndarray]) -> list[np.ndarray]:
    """One row after another."""
    made: list[np.ndarray] = []
    for row in rows:
        for other in basis + made:
            row = row - (row @ other) * other
        made.append(row / np.linalg.norm(row))
    return made


def test_gram_schmidt_is_the_one_of_the_books_behind_rows_of_any_length_and_angle():
    rng = np.random.default_rng(0)
    older, new = rng.normal(size=(3, 9)), rng.normal(size=(4, 9))
    older[1] = 0.9 * older[0] + 0.1 * older[1]
    found = orthonormal(torch.tensor(new)[None], torch.tensor(older)[None])[0].numpy()
    np.testing.assert_allclose(found, gram_schmidt(new, gram_schmidt(older, [])), atol=1e-10)


def test_new_components_are_orthogonal_to_those_that_were_trained():
    ours = walk(CodaPrompt(components=3, start="orthogonal", orthogonality=0.0), **VIT, learning_rate=0.05)
    ours.step(0)
    ours.step(1)
    model = ours.strategy.model
    assert model.skewness().item() > 0.1  # what was trained is so no more
    ours.strategy.context.learning_rate = 1e-30
    ours.step(2)
    for part in model.parts:
        assert (part[2] @ torch.cat([part[0], part[1]], dim=1).mT).abs().max() < 1e-6
        torch.testing.assert_close(part[2] @ part[2].mT, torch.eye(3).expand(2, 3, 3), rtol=0, atol=1e-6)


def test_more_orthogonal_components_than_a_row_has_numbers_are_refused():
    told = r"3 experiences of 5 components need 15 rows orthogonal to each other, and there are 12 numbers in one"
    with pytest.raises(UsageError, match=told):  # at once, where the number of experiences is known
        walk(CodaPrompt(components=5, start="orthogonal"), **VIT, stream_length="known")
    ours = walk(CodaPrompt(components=5, start="orthogonal"), **VIT)
    ours.step(0)
    ours.step(1)
    with pytest.raises(UsageError, match=told + r".*Lower coda-prompt\.components, or set coda-prompt\.start=random"):
        ours.step(2)
    walk(CodaPrompt(components=5), **VIT, epochs=1).finish()  # random ones may be as many as one likes


def test_the_penalty_keeps_components_apart():
    def left(weight: float) -> float:
        ours = walk(CodaPrompt(components=4, orthogonality=weight), **VIT, **RESET, epochs=4)
        return float(ours.finish().strategy.model.skewness().detach())

    assert left(0.1) < 0.5 * left(0.0)


def test_a_prompt_has_two_halves(tmp_path):
    with pytest.raises(UsageError, match=r"length"):
        clarena.evaluate(
            "coda-prompt", benchmark="split-digits", backbone="vit-tiny", seeds=1, store=tmp_path,
            settings={"coda-prompt.length": 7},
        )  # fmt: skip


def test_in_a_backbone_of_many_blocks_the_first_five_have_prefixes():
    for depth, blocks in ((1, (0,)), (7, (0, 1, 2, 3, 4))):
        ours = walk(CodaPrompt(), backbone=ViTTiny, options={"patch": 2, "width": 12, "depth": depth})
        assert ours.strategy.model.blocks == blocks
