"""The face of the native backbones: stages of all of them, tokens of the transformers."""

import pytest
import torch
from clarena_native.backbones.resnet import ResNet18
from clarena_native.backbones.small import Cnn, Mlp, TruncatedMlp
from clarena_native.backbones.transformers import TextTransformer, ViTTiny
from faces import Case, FaceTests, later, padding, torch_parts

from clarena import UsageError

TEXTS = torch.tensor([[3, 4, 5, 0, 0], [9, 8, 7, 6, 5], [0, 0, 0, 0, 0], [1, 0, 2, 0, 0]])
TEXT = {"width": 12, "depth": 2, "heads": 3}


def vit() -> Case:
    backbone = ViTTiny((3, 8, 8), width=12, depth=2)
    x = torch.rand(4, 3, 8, 8, dtype=torch.float64)
    return Case(backbone, x, torch_parts, lambda b: b.encoder.norm)


def text(per_token: bool) -> Case:
    backbone = TextTransformer((5,), 10, per_token, **TEXT)
    return Case(backbone, TEXTS, torch_parts, lambda b: b.encoder.norm, later if per_token else padding)


@pytest.mark.parametrize("make", [vit, lambda: text(False), lambda: text(True)], ids=["vit", "text", "language"])
class TestTokens(FaceTests):
    @pytest.fixture
    def case(self, make) -> Case:
        torch.manual_seed(0)
        return make()


STAGES = [
    (lambda: Mlp((6,), hidden=(5, 4)), (6,), ["layers.2", "layers.4"]),
    (lambda: Mlp((6,), hidden=(5, 4), norm="layer", dropout=0.1), (6,), ["layers.4", "layers.8"]),
    (lambda: TruncatedMlp((6,), hidden=(5,)), (6,), ["layers.2"]),
    (lambda: Cnn((1, 8, 8), widths=(3, 4), features=5), (1, 8, 8), ["layers.2", "layers.5", "layers.8"]),
    (lambda: ResNet18((1, 8, 8), width=4), (1, 8, 8), ["blocks.1", "blocks.3", "blocks.5", "blocks.7"]),
    (lambda: ViTTiny((1, 8, 8), width=12, depth=2), (1, 8, 8), ["encoder.layers.0", "encoder.layers.1"]),
]


@pytest.mark.parametrize(("make", "shape", "names"), STAGES)
def test_stages_are_passed_in_order_and_lead_to_the_features(make, shape, names):
    backbone, passed = make().eval(), []
    stages = backbone.stages()
    assert list(stages) == names
    assert all(backbone.get_submodule(name) is stage for name, stage in stages.items())
    for name, stage in stages.items():
        stage.register_forward_hook(lambda module, inputs, output, name=name: passed.append((name, output)))
    features = backbone(torch.rand(3, *shape))
    assert [name for name, _ in passed] == names
    last = passed[-1][1]
    if isinstance(backbone, ViTTiny):
        last = backbone.encoder.norm(last)[:, 0]
    assert torch.equal(last.mean((-2, -1)) if last.ndim == 4 else last, features)


@pytest.mark.parametrize("backbone", [Mlp((6,)), Cnn((1, 8, 8)), ResNet18((1, 8, 8), width=4)], ids=lambda b: b.name)
def test_what_works_on_no_tokens_says_so(backbone):
    message = f"{backbone.name} works on no tokens: choose one that does, such as vit-tiny"
    assert backbone.token_width is None
    with pytest.raises(UsageError, match=message):
        backbone.embed(torch.rand(2, *backbone.input_shape))
    with pytest.raises(UsageError, match=message):
        backbone.encode(None)
    with pytest.raises(UsageError, match=f"Adapters stand at blocks of tokens. The backbone {message}"):
        backbone.adapt("adapter", bottleneck=2)
