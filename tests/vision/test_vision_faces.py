"""The face of torchvision's and timm's networks: tokens of their ViTs, stages of others."""

import pytest
import torch
from clarena_vision.backbones import TorchvisionModel, ViT
from faces import Case, FaceTests, Parts
from torch import nn

from clarena import UsageError

X = torch.rand(3, 3, 16, 16, dtype=torch.float64)


class TinyTorchvision(TorchvisionModel):
    """A ViT of torchvision's with two layers."""

    name = "torchvision:two-layers"
    network_name = "vit_b_16"

    @classmethod
    def build(cls, published):
        network = ViT(image_size=16, patch_size=8, num_layers=2, num_heads=3, hidden_dim=12, mlp_dim=20)
        network.heads.head = nn.Identity()
        return network, ["heads.head"]


def torchvision_parts(block) -> Parts:
    a = block.self_attention
    return Parts(
        block.ln_1, (a.in_proj_weight, a.in_proj_bias), (a.out_proj.weight, a.out_proj.bias), block.ln_2,
        block.mlp[0], block.mlp[3], a.num_heads,
    )  # fmt: skip


class TestTorchvision(FaceTests):
    @pytest.fixture
    def case(self) -> Case:
        torch.manual_seed(0)
        return Case(TinyTorchvision((3, 16, 16)), X, torchvision_parts, lambda b: b.network.encoder.ln)


def timm_parts(block) -> Parts:
    a = block.attn
    return Parts(
        block.norm1, (a.qkv.weight, a.qkv.bias), (a.proj.weight, a.proj.bias), block.norm2,
        block.mlp.fc1, block.mlp.fc2, a.num_heads,
    )  # fmt: skip


@pytest.mark.needs("timm")
@pytest.mark.parametrize("pooled", ["token", "avg"])
class TestTimm(FaceTests):
    @pytest.fixture
    def case(self, pooled: str) -> Case:
        import timm
        from clarena_vision.timm_backbones import TimmModel

        class Tiny(TimmModel):
            name = "timm:two-layers"
            network_name = "vit_tiny_patch16_224"

            @classmethod
            def build(cls, published):
                sizes = {"img_size": 16, "patch_size": 8, "embed_dim": 12, "depth": 2, "num_heads": 3}
                network = timm.create_model(cls.network_name, num_classes=0, global_pool=pooled, fc_norm=False, **sizes)
                return network, ["head"]

        torch.manual_seed(0)
        return Case(Tiny((3, 16, 16)), X, timm_parts, lambda b: b.network.norm)


@pytest.mark.parametrize(
    ("name", "stages"),
    [("resnet18", ["layer1", "layer2", "layer3", "layer4"]),
     ("squeezenet1_1", [f"features.{place}" for place in range(13)])],
)  # fmt: skip
def test_other_networks_have_stages_and_no_tokens(name, stages):
    backbone = TorchvisionModel.of(name)((3, 64, 64)).eval()
    assert list(backbone.stages()) == [f"network.{stage}" for stage in stages]
    passed = []
    for stage in backbone.stages().values():
        stage.register_forward_hook(lambda module, *_: passed.append(module))
    backbone(torch.rand(1, 3, 64, 64))
    assert passed == list(backbone.stages().values())
    with pytest.raises(UsageError, match=f"torchvision:{name} works on no tokens"):
        backbone.embed(torch.rand(1, 3, 64, 64))


@pytest.mark.needs("timm")
def test_timm_says_itself_where_features_are_taken():
    from clarena_vision.timm_backbones import TimmModel

    backbone = TimmModel.of("resnet18")((3, 64, 64))
    assert list(backbone.stages()) == [f"network.{name}" for name in ("act1", "layer1", "layer2", "layer3", "layer4")]
    with pytest.raises(UsageError, match="timm:resnet18 works on no tokens"):
        backbone.embed(torch.rand(1, 3, 64, 64))
