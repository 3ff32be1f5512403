"""The residual network and the transformers: published sizes, shapes, and what may depend on what."""

import pytest
import torch
from clarena_native.backbones.resnet import ResNet18
from clarena_native.backbones.transformers import TextTransformer, ViTTiny

import clarena
from clarena import UsageError


def numbers(model: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def test_sizes_are_the_published_ones():
    head = 512 * 10 + 10
    assert numbers(ResNet18((3, 32, 32))) + head == 11_173_962  # the usual count for CIFAR-10
    assert numbers(ResNet18((3, 32, 32), width=20)) == 1_093_140  # "1.09 M" of reduced ResNet-18
    assert numbers(ViTTiny((3, 224, 224), patch=16)) + 192 * 1000 + 1000 == 5_717_416  # DeiT-Ti


@pytest.mark.parametrize("norm", ["none", "batch", "group", "layer"])
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 32, 32), (1, 9, 5)])
def test_a_residual_network_takes_small_images(shape, norm):
    model = ResNet18(shape, width=4, norm=norm)
    assert model(torch.randn(2, *shape)).shape == (2, model.features) == (2, 32)
    assert model(torch.randn(1, *shape)).isfinite().all()


def test_a_residual_network_with_silent_blocks_passes_the_stem_on():
    model = ResNet18((1, 8, 8), width=4, norm="none").eval()
    for block in model.blocks:
        for parameter in block.residual[-1].parameters():
            torch.nn.init.zeros_(parameter)
    x = torch.randn(3, 1, 8, 8)
    first = model.stem(x)
    assert torch.equal(model.blocks[0](first), first)


def test_every_patch_counts():
    model = ViTTiny((1, 8, 8), width=12, depth=1).eval()
    x = torch.randn(1, 1, 8, 8)
    for row in (0, 4):
        for column in (0, 4):
            changed = x.clone()
            changed[..., row, column] += 1
            assert not torch.allclose(model(changed), model(x))
    assert not torch.allclose(model(x.flip(-1)), model(x))  # and where it stands


def test_padding_changes_nothing():
    model = TextTransformer((6,), 50).eval()
    text = torch.tensor([[3, 4, 5, 0, 0, 0]])
    longer = torch.tensor([[3, 4, 5, 0, 0, 0], [9, 8, 7, 6, 5, 4]])
    torch.testing.assert_close(model(text), model(text[:, :3]))
    torch.testing.assert_close(model(longer)[:1], model(text))
    assert model(torch.zeros(2, 6, dtype=torch.long)).isfinite().all()


def test_no_token_sees_those_after_it():
    model = TextTransformer((6,), 50, per_token=True).eval()
    a = torch.tensor([[1, 2, 3, 4, 5, 6]])
    b = torch.tensor([[1, 2, 3, 9, 9, 9]])
    one, other = model(a), model(b)
    assert one.shape == (1, 6, 128)
    torch.testing.assert_close(one[:, :3], other[:, :3])
    assert not torch.allclose(one[:, 3:], other[:, 3:])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ResNet18((64,)), r"resnet18 needs images .* \(64,\)"),
        (lambda: ViTTiny((64,)), "vit-tiny needs images"),
        (lambda: ViTTiny((1, 28, 30), patch=4), "patches of 4×4, but they are 28×30"),
        (lambda: ViTTiny((1, 8, 8), width=10, heads=3), "vit-tiny cannot divide a width of 10 among 3 heads"),
        (lambda: TextTransformer((8,), 50, width=10, heads=3), "text-transformer cannot divide"),
    ],
)
def test_what_cannot_be_built_says_why(make, message):
    with pytest.raises(UsageError, match=message):
        make()


@pytest.mark.parametrize(
    ("backbone", "encode", "message"),
    [("text-transformer", "bag", "takes tokens, and the inputs of split:a are numbers"),
     ("mlp", "tokens", "takes numbers, and the inputs of split:a are tokens")],
)  # fmt: skip
def test_backbone_and_inputs_must_fit(tmp_path, backbone, encode, message):
    (tmp_path / "a.csv").write_text("text,label\n" + "".join(f"word{i} it,{i % 2}\n" for i in range(20)))
    settings = {"benchmark": {"encode": encode, "experiences": 2, "words": 50}}
    with pytest.raises(UsageError, match=message):
        clarena.evaluate(
            "finetune", benchmark=f"split:{tmp_path}/a.csv", backbone=backbone, settings=settings, store=tmp_path
        )
