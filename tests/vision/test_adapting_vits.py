"""Low-rank terms of the ViTs of torchvision and timm."""

import pytest
from adapting import ADAPTING, adapts
from clarena_vision.backbones import TorchvisionModel, ViT
from torch import nn


class TinyTorchvision(TorchvisionModel):
    """A ViT of torchvision's with two layers."""

    name = "torchvision:two-layers"
    network_name = "vit_b_16"

    @classmethod
    def build(cls, published):
        network = ViT(image_size=16, patch_size=8, num_layers=2, num_heads=3, hidden_dim=12, mlp_dim=20)
        network.heads.head = nn.Identity()
        return network, ["heads.head"]


@pytest.fixture
def timm():
    import timm
    from clarena_vision.timm_backbones import TimmModel

    class TinyTimm(TimmModel):
        name = "timm:two-layers"
        network_name = "vit_tiny_patch16_224"

        @classmethod
        def build(cls, published):
            sizes = {"img_size": 16, "patch_size": 8, "embed_dim": 12, "depth": 2, "num_heads": 3}
            return timm.create_model(cls.network_name, num_classes=0, in_chans=3, **sizes), ["head"]

    return TinyTimm


@pytest.mark.parametrize("strategy", ADAPTING, ids=lambda cls: cls.name)
def test_a_strategy_of_low_rank_terms_works_on_torchvisions(strategy):
    adapts(strategy, backbone=TinyTorchvision, benchmark_options={"scale": 4})


@pytest.mark.needs("timm")
@pytest.mark.parametrize("strategy", ADAPTING, ids=lambda cls: cls.name)
def test_a_strategy_of_low_rank_terms_works_on_timms(strategy, timm):
    adapts(strategy, backbone=timm, benchmark_options={"scale": 4})
