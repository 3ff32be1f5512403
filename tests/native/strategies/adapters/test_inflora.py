"""InfLoRA: the space of old inputs and the designed directions by NumPy's SVD, and what they leave alone."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from clarena_native.backbones.transformers import TextTransformer, ViTTiny
from clarena_native.strategies.adapters.inflora import InfLoRA, Space
from clarena_native.strategies.architecture.frozen import FrozenFeatures
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import SCENARIOS, walk
from tiny_language import language_walk

from clarena import UsageError
from clarena.checks.tiny import TinyTransformer

ON = {"backbone": TinyTransformer}


def remembered(old: np.ndarray, h: np.ndarray, share: float) -> np.ndarray:
    """Gradient projection memory as the papers have it: M [in, k] after inputs H [in, n], one direction at a time."""
    u, s, _ = np.linalg.svd(h - old @ old.T @ h, full_matrices=False)
    total, held = (h**2).sum(), ((old.T @ h) ** 2).sum()
    for direction, value in zip(u.T, s, strict=True):
        if held >= share * total or value**2 <= 1e-12 * total:
            break
        old, held = np.column_stack([old, direction]), held + value**2
    return old


def projection(basis: np.ndarray) -> np.ndarray:
    return basis @ basis.T


def held_by(space: Space) -> np.ndarray:
    """The projection onto M of a space."""
    return np.eye(len(space.basis)) - space.onto_rest().numpy()


@given(seed=st.integers(0, 999), width=st.integers(2, 9), shares=st.lists(st.floats(0.3, 1), min_size=1, max_size=4))
@settings(max_examples=30, deadline=None)
def test_a_space_is_that_of_the_memory_of_gradients_whichever_half_is_kept(seed, width, shares):
    numbers = np.random.default_rng(seed)
    space, old = Space(width, torch.zeros((), dtype=torch.float64)), np.zeros((width, 0))
    for share in shares:
        h = numbers.normal(size=(width, 20)) * numbers.gamma(0.3, size=(width, 1))
        old = remembered(old, h, share)
        space.add(torch.from_numpy(h @ h.T), share)
        np.testing.assert_allclose(held_by(space), projection(old), atol=1e-5)
        basis = space.basis
        assert basis.shape[1] == min(old.shape[1], width - old.shape[1])
        torch.testing.assert_close(basis.T @ basis, torch.eye(basis.shape[1], dtype=basis.dtype))


def inputs_of_first_layer(ours, x: torch.Tensor) -> np.ndarray:
    """H [in, tokens] of the attention in the first layer, in float64: no term lies before it."""
    backbone = ours.strategy.model.backbone
    with torch.no_grad():
        h = backbone.layers.layers[0].norm1(backbone.embed(x).values)
    return h.flatten(0, 1).double().numpy().T


@pytest.mark.parametrize("energy", ["squares", "fourth"])
def test_directions_are_the_first_of_the_new_inputs_outside_the_old_space(energy):
    ours = walk(InfLoRA(rank=4, threshold=0.8, growth=0.05, energy=energy), **ON)
    old = np.zeros((32, 0))
    for position in range(3):
        experience = ours.step(position)
        h = inputs_of_first_layer(ours, experience.x)
        if energy == "fourth":
            h = h @ h.T  # as the code has it: the second moment in the place of the inputs
        expected = np.linalg.svd(h - projection(old) @ h)[0][:, :4].T / np.sqrt(3)
        for b in ours.strategy.lora.branches[position].down:  # keys and values
            signs = np.sign((expected * b.numpy()).sum(1, keepdims=True))
            np.testing.assert_allclose(b.numpy(), signs * expected, atol=1e-5)
        old = remembered(old, h, 0.8 + 0.05 * position)
        np.testing.assert_allclose(held_by(ours.strategy.spaces[0]), projection(old), atol=1e-5)


def test_directions_are_a_third_of_orthonormal_and_outside_the_space():
    ours = walk(InfLoRA(rank=4, threshold=0.9), **ON)
    for position in range(3):
        (space,) = ours.strategy.spaces
        old = held_by(space)
        experience = ours.step(position)
        for a, b in zip(
            *(getattr(ours.strategy.lora.branches[position], half) for half in ("up", "down")), strict=True
        ):
            torch.testing.assert_close(b @ b.T, torch.eye(4) / 3)
            assert np.linalg.norm(b.double().numpy() @ old) < 1e-6
            inside = experience.x.new_tensor(old) @ torch.randn(32, 5)
            assert (a @ (b @ inside)).abs().max() < 1e-5
    assert experience.meter.scanned == 2 * len(experience)


def test_a_step_of_a_is_a_step_of_the_weight_within_the_span_of_b():
    """Proposition 1, for one step of plain SGD from A = 0: ΔW = −η ∂L/∂W BᵀB."""
    ours = walk(InfLoRA(rank=4), "domain", **ON, optimizer="sgd", learning_rate=0.1, batch_size=200, epochs=1)
    model = ours.strategy.model
    seen = []
    head = [p.detach().clone() for p in model.head.parameters()]
    ours.strategy.replay = lambda batch: seen.append(batch) or batch
    ours.step(0)
    (batch,) = seen
    weight = model.backbone.get_parameter("layers.layers.0.self_attn.in_proj_weight").requires_grad_()
    features = model.backbone(batch.x)
    loss = torch.nn.functional.cross_entropy(features @ head[0].T + head[1], batch.y)
    (gradient,) = torch.autograd.grad(loss, weight)
    terms = ours.strategy.lora.terms()["layers.layers.0.self_attn.in_proj_weight"]
    b = ours.strategy.lora.branches[0].down[0]
    torch.testing.assert_close(terms[32:], -0.1 * gradient[32:] @ b.T @ b, rtol=1e-4, atol=1e-7)
    assert terms[32:].any()
    assert not terms[:32].any()  # queries have none


def test_where_nothing_is_free_nothing_changes():
    """With all of the energy the first experience takes the whole space, and later terms add 0."""
    ours = walk(InfLoRA(rank=4, threshold=1), "class", backbone=ViTTiny,
                options={"width": 6, "depth": 1, "heads": 1, "patch": 2})  # fmt: skip
    ours.step(0)
    (space,) = ours.strategy.spaces
    rest = space.onto_rest()
    assert rest.trace() < 1.5  # normalised inputs have no mean, so that one direction may hold nothing
    x = ours.realised.test.x
    before = ours.strategy.model.adapter.terms()
    ours.step(1)
    ours.step(2)
    after = ours.strategy.model.adapter.terms()
    h = ours.strategy.model.backbone.encoder.layers[0].norm1(ours.strategy.model.backbone.embed(x).values)
    for name, term in before.items():
        torch.testing.assert_close(h @ (after[name] - term).T, torch.zeros(*h.shape[:2], 18), rtol=0, atol=1e-5)


def test_positions_where_a_text_has_ended_do_not_count():
    ours = walk(InfLoRA(rank=2), backbone=TextTransformer, options={"width": 8, "depth": 2, "heads": 2},
                benchmark_options={"levels": 9})  # fmt: skip
    backbone = ours.strategy.model.backbone
    x = torch.randint(1, 9, (5, 16))
    lengths = [16, 3, 7, 1, 12]
    for row, length in zip(x, lengths, strict=True):
        row[length:] = 0
    moments = ours.strategy._moments(SimpleNamespace(scan=lambda: [SimpleNamespace(x=x[:2]), SimpleNamespace(x=x[2:])]))
    expected = [torch.zeros(8, 8).double() for _ in "12"]
    with torch.no_grad():
        for row, length in zip(x, lengths, strict=True):
            tokens = backbone.embed(row[None, :length]).values  # without what stands behind
            for layer, found in zip(backbone.encoder.layers, expected, strict=True):
                h = layer.norm1(tokens)[0].double()
                found += h.T @ h
                tokens = layer(tokens)
    for found, sums in zip(moments, expected, strict=True):
        torch.testing.assert_close(found, sums, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_rank_0_is_a_head_on_a_frozen_backbone_bit_for_bit(scenario):
    none = walk(InfLoRA(rank=0), scenario, **ON, loss_over="current", heads="growing")
    frozen = walk(FrozenFeatures(freeze="from_start"), scenario, **ON, loss_over="current", heads="growing")
    for position in range(3):
        experience = none.step(position)
        frozen.step(position)
        assert experience.meter.scanned == 0
        ours, theirs = (dict(walked.strategy.model.named_parameters()) for walked in (none, frozen))
        assert all(torch.equal(ours[name], value) for name, value in theirs.items())


@pytest.mark.parametrize("scenario", ["class", "task"])
def test_what_is_old_keeps_its_bits_whatever_the_protocol(scenario):
    ours = walk(InfLoRA(rank=2), scenario, **ON, loss_over="seen", weight_decay=0.1, optimizer_state="kept")
    for position in range(3):
        before = {name: p.detach().clone() for name, p in ours.strategy.model.named_parameters()}
        ours.step(position)
        now = dict(ours.strategy.model.named_parameters())
        held = {p for group in ours.strategy.optimizer.param_groups for p in group["params"]}
        moved = {name for name, p in before.items() if not torch.equal(now[name], p)}
        trained = {name for name, p in now.items() if p in held}
        assert trained == {f"adapter.branches.{position}.up.{place}" for place in range(2)} | {
            f"head.blocks.{position}.weight", f"head.blocks.{position}.bias",
        }  # fmt: skip
        designed = {f"adapter.branches.{position}.down.{place}" for place in range(2)}
        assert moved <= trained | designed


def test_the_share_stops_at_1_and_every_target_is_learned(tmp_path):
    ours = walk(InfLoRA(rank=2, threshold=0.9, growth=0.2), **ON)
    shares = []
    add = Space.add
    Space.add = lambda self, moment, share: (shares.append(share), add(self, moment, share))[1]
    try:
        ours.finish()
    finally:
        Space.add = add
    assert shares == [0.9, 1.0, 1.0]
    spoken = language_walk(InfLoRA(rank=2), tmp_path).finish()
    assert all(a.any() for a in spoken.strategy.lora.branches[-1].up)


def test_a_weight_whose_inputs_nobody_is_shown_is_refused():
    with pytest.raises(UsageError, match=r"Nobody is shown what .*out_proj.weight is multiplied by"):
        walk(InfLoRA(on=("output",)), **ON)
