"""Low-rank terms and bottlenecks: 0 when new, what the mathematics says after, and a backbone that is as it was."""

import copy
import io

import pytest
import torch
from clarena_native.backbones.small import Cnn, Mlp
from clarena_native.backbones.transformers import TextTransformer, ViTTiny
from faces import left_behind
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from clarena import Adapters, Lora, UsageError, added, observed
from clarena.toolbox.adapters import ROLES, weights
from clarena.toolbox.structure import STRUCTURE, prepare, structure_of

X = torch.rand(3, 1, 8, 8)


def vit() -> ViTTiny:
    torch.manual_seed(0)
    return ViTTiny((1, 8, 8), width=12, depth=2).requires_grad_(False).eval()


def lively(adapter: nn.Module) -> nn.Module:
    """With no parameter at 0."""
    noise = torch.Generator().manual_seed(3)
    for parameter in adapter.parameters():
        parameter.data = 0.3 * torch.randn(parameter.shape, generator=noise, dtype=parameter.dtype)
    return adapter


def bits(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


NEW = [
    {"kind": "lora", "rank": 0}, {"kind": "lora", "rank": 3, "on": ("all",)}, {"kind": "lora", "rank": 2},
    {"kind": "adapter", "bottleneck": 0}, {"kind": "adapter", "bottleneck": 3},
    {"kind": "adapter", "bottleneck": 3, "place": "beside"},
]  # fmt: skip


@pytest.mark.parametrize("options", NEW, ids=lambda options: "-".join(map(str, options.values())))
def test_what_is_new_adds_nothing_in_any_mode_bit_for_bit(options):
    backbone = vit()
    names, before = list(backbone.state_dict()), bits(backbone)
    adapter = backbone.adapt(**options)
    adapter.grow()
    for training in (False, True):
        backbone.train(training)
        for grad in (False, True):  # torch chooses its kernels by what takes gradients, and they round differently
            with torch.set_grad_enabled(grad):
                touched = [backbone.get_parameter(weight.name) for weight in getattr(adapter, "on_weights", [])]
                for parameter in touched:
                    parameter.requires_grad_(grad and options["rank"] > 0)
                plain = backbone(X.clone().requires_grad_(grad))
                backbone.requires_grad_(False)
                with adapter.on(backbone):
                    assert torch.equal(backbone(X.clone().requires_grad_(grad)), plain)
    assert names == list(backbone.state_dict())
    assert all(torch.equal(before[name], value) for name, value in backbone.state_dict().items())
    assert not list(left_behind(backbone))


@pytest.mark.parametrize("on", [("query", "value"), ("key",), ("output", "other"), ("all",)])
def test_lora_is_a_network_with_other_weights(on):
    backbone = vit().double()
    adapter = backbone.adapt("lora", rank=2, on=on, scale=0.5)
    adapter.grow()
    lively(adapter)
    merged = copy.deepcopy(backbone)
    state = merged.state_dict()
    for branch in adapter.branches:
        for weight, a, b in zip(adapter.on_weights, branch.down, branch.up, strict=True):
            start, stop = weight.rows
            for row in range(start, stop):
                for column in range(weight.shape[1]):
                    state[weight.name][row, column] += 0.5 * (b[row - start] * a[:, column]).sum().detach()
    x = X.double()
    with adapter.on(backbone):
        torch.testing.assert_close(backbone(x), merged(x), rtol=1e-12, atol=1e-12)
    with adapter.on(backbone, only=[1]), added(backbone, adapter.terms([0])):  # and so are terms that are added apart
        torch.testing.assert_close(backbone(x), merged(x), rtol=1e-12, atol=1e-12)
    assert not torch.allclose(backbone(x), merged(x))


def test_an_adapter_adds_to_what_a_block_gives():
    backbone = vit()
    adapter = lively(backbone.adapt("adapter", bottleneck=3, scale=0.5))
    adapter.grow()
    x = backbone.embed(X).values
    for layer, bottleneck in zip(backbone.encoder.layers, adapter.branches[0], strict=True):
        y = layer(x)
        x = y + 0.5 * ((y @ bottleneck.down.weight.T + bottleneck.down.bias).clamp(min=0) @ bottleneck.up.weight.T
                       + bottleneck.up.bias)  # fmt: skip
    with adapter.on(backbone):
        torch.testing.assert_close(backbone(X), backbone.encoder.norm(x)[:, 0])
    with adapter.on(backbone, only=[1]):  # the second branch is new
        assert torch.equal(backbone(X), vit()(X))


@pytest.mark.parametrize("kind", ["lora", "adapter"])
def test_gradients_reach_the_newest_branch_alone(kind):
    backbone = vit().train()
    adapter = backbone.adapt(kind, **({"rank": 2} if kind == "lora" else {"bottleneck": 8}))
    lively(adapter)
    adapter.grow()
    lively(adapter.branches[-1])
    with adapter.on(backbone):
        backbone(X).square().sum().backward()
    assert all(p.grad is None and not p.requires_grad for p in adapter.branches[0].parameters())
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in adapter.branches[1].parameters())
    assert all(p.grad is None for p in backbone.parameters())


@given(branches=st.integers(1, 4), rank=st.integers(0, 2), kind=st.sampled_from(["lora", "adapter"]))
@settings(max_examples=10, deadline=None)
def test_branches_are_built_again_from_a_file(branches, rank, kind):
    def made() -> nn.Module:
        return vit().adapt(kind, **({"rank": rank} if kind == "lora" else {"bottleneck": rank}))

    original = made()
    for _ in range(branches - 1):
        lively(original)
        original.grow()
    file = io.BytesIO()
    torch.save(dict(original.state_dict()) | {STRUCTURE: structure_of(original)}, file)
    file.seek(0)
    restored = made()
    restored.load_state_dict(prepare(restored, torch.load(file, weights_only=True)))
    assert len(restored.branches) == branches
    assert [p.requires_grad for p in restored.parameters()] == [p.requires_grad for p in original.parameters()]
    backbone = vit()
    with original.on(backbone):
        expected = backbone(X)
    with restored.on(backbone):
        assert torch.equal(backbone(X), expected)


def test_growing_renames_nothing():
    adapter = vit().adapt("lora", rank=2)
    before = dict(adapter.named_parameters())
    adapter.grow()
    assert all(after is before[name] for name, after in list(adapter.named_parameters())[: len(before)])


@pytest.mark.parametrize("options", [{"kind": "lora", "rank": 2}, {"kind": "adapter", "bottleneck": 2}])
def test_what_fails_within_leaves_nothing_behind(options):
    backbone = vit()
    before, adapter = backbone(X), lively(backbone.adapt(**options))
    with pytest.raises(RuntimeError), adapter.on(backbone):
        backbone(torch.rand(3, 5))
    assert torch.equal(backbone(X), before)
    assert not list(left_behind(backbone))


def test_weights_are_found_with_what_they_do():
    found = weights(TextTransformer((4,), 9, width=12, depth=1, heads=3))
    assert [(w.role, w.rows, w.shape) for w in found] == [
        ("query", (0, 12), (36, 12)), ("key", (12, 24), (36, 12)), ("value", (24, 36), (36, 12)),
        ("output", (0, 12), (12, 12)), ("other", (0, 48), (48, 12)), ("other", (0, 12), (12, 48)),
    ]  # fmt: skip
    backbone = vit()
    assert {w.role for w in weights(backbone)} == set(ROLES)
    for weight in weights(backbone):
        assert backbone.state_dict()[weight.name].shape == weight.shape


def test_what_weights_are_multiplied_by_is_observed():
    backbone = vit()
    every = weights(backbone)
    seen_by = [weight for weight in every if weight.role != "output"]
    with torch.no_grad(), observed(backbone, seen_by) as inputs:  # torch's fused layers, which show nothing, give way
        backbone(X)
    assert set(inputs) == {weight.name for weight in seen_by}
    x = backbone.embed(X).values
    for place, layer in enumerate(backbone.encoder.layers):
        torch.testing.assert_close(inputs[f"encoder.layers.{place}.self_attn.in_proj_weight"], layer.norm1(x))
        between = x + layer.self_attn(*[layer.norm1(x)] * 3, need_weights=False)[0]
        torch.testing.assert_close(inputs[f"encoder.layers.{place}.linear1.weight"], layer.norm2(between))
        x = layer(x)
    assert not list(left_behind(backbone))
    hidden = "Nobody is shown what .*out_proj.weight is multiplied by"
    with pytest.raises(UsageError, match=hidden), observed(backbone, every):
        pass
    assert not list(left_behind(backbone))
    mlp = Mlp((1, 8, 8), hidden=(5, 4))
    with observed(mlp, weights(mlp)) as inputs:
        mlp(X)
    torch.testing.assert_close(inputs["layers.1.weight"], X.flatten(1))


def test_a_direction_with_a_magnitude_of_its_own_is_a_term_like_any_other():
    """As SD-LoRA has it: α · BA / (‖B‖‖A‖) for the queries alone."""
    backbone = vit().double()
    adapter = lively(backbone.adapt("lora", rank=2, on=("query",)))
    magnitudes = torch.tensor([0.8, 0.3], dtype=torch.float64, requires_grad=True)
    (branch,) = adapter.branches
    terms, merged = {}, copy.deepcopy(backbone)
    for weight, a, b, alpha in zip(adapter.on_weights, branch.down, branch.up, magnitudes, strict=True):
        terms[weight.name] = weight.placed(alpha * b @ a / (b.norm() * a.norm()))
        direction = (b @ a / (b.norm() * a.norm())).detach()
        merged.get_parameter(weight.name)[:12] += alpha.detach() * direction
    with added(backbone, terms):
        features = backbone(X.double())
    torch.testing.assert_close(features, merged(X.double()))
    features.square().sum().backward()
    assert (magnitudes.grad.abs() > 0).all()


def test_a_network_without_attention_has_lora_on_all_its_layers():
    backbone = Mlp((1, 8, 8), hidden=(5, 4)).requires_grad_(False)
    adapter = backbone.adapt("lora", rank=2, on=["all"])
    assert [weight.name for weight in adapter.on_weights] == ["layers.1.weight", "layers.3.weight"]
    lively(adapter)
    with adapter.on(backbone):
        assert not torch.allclose(backbone(X), Mlp((1, 8, 8), hidden=(5, 4))(X))
    assert isinstance(adapter, Lora)
    assert isinstance(vit().adapt("adapter", bottleneck=1), Adapters)


@pytest.mark.parametrize(
    ("adapt", "message"),
    [
        (lambda: Mlp((4,)).adapt("lora", rank=2), "mlp has no query and no value to which LoRA.* It has: other; all"),
        (lambda: vit().adapt("lora", rank=2, on=("queries",)), "no queries.* It has: query, key, value, output, other"),
        (lambda: vit().adapt("lora", rank=-1), "The rank of an adapter is -1. Choose 0, which adds nothing, or more"),
        (lambda: vit().adapt("adapter", bottleneck=-1), "The bottleneck of an adapter is -1"),
        (
            lambda: vit().adapt("adapter", bottleneck=1, place="inside"),
            "after a block or beside its feed-forward half, not",
        ),
        (lambda: vit().adapt("ssf"), "no kind of adapter 'ssf'|kind of adapter"),
        (lambda: Cnn((1, 8, 8)).adapt("adapter", bottleneck=1), "cnn works on no tokens"),
    ],
)
def test_what_cannot_be_added_is_refused_in_words(adapt, message):
    with pytest.raises(UsageError, match=message):
        adapt()
