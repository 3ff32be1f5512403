"""Files of ViTs as timm, torchvision and google-research publish them: loaded whole or refused, and then prompted.

The networks are small ones of the same classes as ViT-B/16, and each library itself says what is right.
"""

import numpy as np
import pytest
import torch
from clarena_native.strategies.prompts.coda_prompt import CodaPrompt
from clarena_native.strategies.prompts.dualprompt import DualPrompt
from clarena_native.strategies.prompts.l2p import L2P
from clarena_vision.backbones import TorchvisionModel, ViT, models
from cli_command import smoke
from faces import Case, FaceTests, Parts
from tiny import walk
from torch import nn
from torchvision.models import _api

from clarena import UsageError

IMAGES = torch.rand(3, 3, 20, 20)


@pytest.fixture
def torchvision_name(monkeypatch):
    """A ViT of torchvision's with two layers, by a name of its own, as `vit_b_16` is made."""
    name = "vit_two_layers"

    def make(*, weights: models.ViT_B_16_Weights | None = None, **options):
        sizes = {"image_size": 32, "patch_size": 8, "num_layers": 2, "num_heads": 3, "hidden_dim": 12, "mlp_dim": 20}
        return ViT(**sizes, **options)

    make.__module__ = "torchvision.models.vision_transformer"
    monkeypatch.setitem(_api.BUILTIN_MODELS, name, make)
    return name


def drawn(network: nn.Module) -> nn.Module:
    """With no parameter at a tidy value (biases and classifiers begin at 0)."""
    noise = torch.Generator().manual_seed(0)
    for parameter in network.parameters():
        parameter.data = 0.2 * torch.randn(parameter.shape, generator=noise)
    return network.eval()


def save(state, path):
    if path.suffix == ".safetensors":
        safetensors = pytest.importorskip("safetensors.torch")
        safetensors.save_file(state, path)
    else:
        torch.save(state, path)
    return str(path)


def resized(images, size, mean, std, mode):
    images = nn.functional.interpolate(images, (size, size), mode=mode, antialias=True)
    return (images - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)


def torchvision_file(name, path, classes=1000, early=False):
    original = drawn(models.get_model(name, num_classes=classes))
    state = dict(original.state_dict())
    if early:  # the names in the files of 2022
        for place, old in (("0", "linear_1"), ("3", "linear_2")):
            state = {key.replace(f".mlp.{place}.", f".mlp.{old}."): value for key, value in state.items()}
        assert any("linear_2.bias" in key for key in state)
    return original, save(state, path)


@pytest.mark.parametrize("early", [False, True])
@pytest.mark.parametrize("classes", [1000, 21843])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_torchvisions_files_give_torchvisions_features(torchvision_name, tmp_path, suffix, classes, early):
    original, path = torchvision_file(torchvision_name, tmp_path / f"vit{suffix}", classes, early)
    backbone = TorchvisionModel.of(torchvision_name)((3, 20, 20), weights=path, resize=32).eval()
    statistics = models.ViT_B_16_Weights.DEFAULT.transforms()
    expected = original(resized(IMAGES, 32, statistics.mean, statistics.std, "bilinear"))
    torch.testing.assert_close(original.heads(backbone(IMAGES)), expected)
    assert expected.std(0).max() > 0.01  # it tells images apart
    assert not [name for name in backbone.state_dict() if "heads" in name]


@pytest.mark.needs("timm")
class TestTimm:
    @pytest.fixture(autouse=True)
    def _timm(self):
        import timm
        from clarena_vision.timm_backbones import TimmModel

        self.timm, self.backbone = timm, TimmModel.of("test_vit")

    def original(self, classes=1000):
        return drawn(self.timm.create_model("test_vit", num_classes=classes))

    def expected(self, original):
        cfg = original.pretrained_cfg
        return original(resized(IMAGES, 160, cfg["mean"], cfg["std"], self.backbone.interpolation))

    @pytest.mark.parametrize("classes", [1000, 21843])
    @pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
    def test_timms_files_give_timms_features(self, tmp_path, suffix, classes):
        original = self.original(classes)
        path = save(original.state_dict(), tmp_path / f"vit{suffix}")
        backbone = self.backbone((3, 20, 20), weights=path, resize=160).eval()
        expected = self.expected(original)
        torch.testing.assert_close(original.head(backbone(IMAGES)), expected)
        assert expected.std(0).max() > 0.01
        assert not [name for name in backbone.state_dict() if "head" in name]

    @pytest.mark.parametrize("pre_logits", [False, True])
    def test_google_researchs_files_give_what_timm_makes_of_them(self, tmp_path, pre_logits):
        original = self.original()
        arrays = flax(original)
        if pre_logits:  # in those of ImageNet-21k of 2020
            arrays |= {"pre_logits/kernel": np.ones((64, 64), "f4"), "pre_logits/bias": np.ones(64, "f4")}
        np.savez(tmp_path / "vit.npz", **arrays)
        backbone = self.backbone((3, 20, 20), weights=str(tmp_path / "vit.npz"), resize=160).eval()
        torch.testing.assert_close(original.head(backbone(IMAGES)), self.expected(original))
        theirs = drawn(self.timm.create_model("test_vit", num_classes=0))
        theirs.load_pretrained(str(tmp_path / "vit.npz"))
        own = backbone.network.state_dict()
        assert own.keys() == theirs.state_dict().keys()
        assert all(torch.equal(own[name], value) for name, value in theirs.state_dict().items())

    @pytest.mark.parametrize(
        ("change", "message"),
        [(lambda state: state.pop("blocks.5.attn.proj.bias"), r"it lacks blocks\.5\.attn\.proj\.bias\.$"),
         (lambda state: state.update(dist_token=torch.ones(1)), r"it has besides dist_token\.$"),
         (lambda state: state.update(pos_embed=torch.ones(1, 197, 64)),
          r"it has in another shape pos_embed \[1, 197, 64\], not \[1, 101, 64\]\.$")],
    )  # fmt: skip
    def test_tensors_that_do_not_fit_are_named(self, tmp_path, change, message):
        state = self.original().state_dict()
        change(state)
        with pytest.raises(UsageError, match=r"holds the weights of another network: " + message):
            self.backbone((3, 160, 160), weights=save(state, tmp_path / "vit.pth"))

    @pytest.mark.parametrize(
        ("change", "message"),
        [(lambda found: found.pop("Transformer/encoderblock_2/MultiHeadDotProductAttention_1/key/bias"),
          r"shape blocks\.2\.attn\.qkv\.bias \[128\], not \[192\]\.$"),
         (lambda found: found.update({"Transformer/temperature": np.ones(1)}),
          r"it has besides Transformer/temperature\.$"),
         (lambda found: found.update(words=np.array(["a"])), "cannot be read; is it whole"),
         (lambda found: found.update(code=np.array([print], dtype=object)), "cannot be read; is it whole")],
    )  # fmt: skip
    def test_arrays_that_do_not_fit_are_named(self, tmp_path, change, message):
        arrays = flax(self.original())
        change(arrays)
        np.savez(tmp_path / "vit.npz", **arrays)
        with pytest.raises(UsageError, match=message):
            self.backbone((3, 160, 160), weights=str(tmp_path / "vit.npz"))

    @pytest.mark.parametrize("strategy", [L2P, DualPrompt, CodaPrompt])
    def test_prompts_and_prefixes_learn_on_them_and_leave_them_as_they_were(self, tmp_path, strategy):
        original = self.original()
        options = {"weights": save(original.state_dict(), tmp_path / "vit.pth"), "resize": 160, "normalise": False}
        learns(walk(strategy(), backbone=self.backbone, options=options, epochs=1), original)


def learns(ours, original):
    """One experience: all but the backbone moves, and that holds the file's bits."""
    model = ours.strategy.model
    ours.step(0)
    held = dict(original.named_parameters())
    for name, value in model.backbone.network.named_parameters():
        assert torch.equal(value, held[name])
    x = ours.realised.test.x[:2]
    with torch.no_grad():
        prompted, plain = ours.strategy.predict(x), model.head(model.backbone.eval()(x))
    assert not torch.allclose(prompted, plain, atol=1e-5)


@pytest.mark.parametrize("strategy", [L2P, DualPrompt, CodaPrompt])
def test_they_learn_on_torchvisions_files_too(torchvision_name, tmp_path, strategy):
    original, path = torchvision_file(torchvision_name, tmp_path / "vit.pth", early=True)
    options = {"weights": path, "resize": 32, "normalise": False}
    learns(walk(strategy(), backbone=TorchvisionModel.of(torchvision_name), options=options, epochs=1), original)


def test_arrays_are_for_timm(torchvision_name, tmp_path):
    np.savez(tmp_path / "vit.npz", cls=np.ones((1, 1, 12)))
    with pytest.raises(UsageError, match=r"timm's ViTs alone are read from: --backbone timm:vit_base_patch16_224\."):
        TorchvisionModel.of(torchvision_name)((3, 32, 32), weights=str(tmp_path / "vit.npz"))


class TestTorchvisionFace(FaceTests):
    """Prompts, prefixes and adapters in the blocks of a file's network, each written out."""

    @pytest.fixture
    def case(self, torchvision_name, tmp_path) -> Case:
        _, path = torchvision_file(torchvision_name, tmp_path / "vit.pth", early=True)

        def parts(block) -> Parts:
            a = block.self_attention
            return Parts(
                block.ln_1, (a.in_proj_weight, a.in_proj_bias), (a.out_proj.weight, a.out_proj.bias), block.ln_2,
                block.mlp[0], block.mlp[3], a.num_heads,
            )  # fmt: skip

        backbone = TorchvisionModel.of(torchvision_name)((3, 20, 20), weights=path, resize=32)
        return Case(backbone, IMAGES.double(), parts, lambda b: b.network.encoder.ln)


@pytest.mark.needs("timm")
class TestTimmFace(FaceTests):
    @pytest.fixture
    def case(self, tmp_path) -> Case:
        import timm
        from clarena_vision.timm_backbones import TimmModel

        path = save(drawn(timm.create_model("test_vit")).state_dict(), tmp_path / "vit.pth")

        def parts(block) -> Parts:
            a = block.attn
            return Parts(
                block.norm1, (a.qkv.weight, a.qkv.bias), (a.proj.weight, a.proj.bias), block.norm2,
                block.mlp.fc1, block.mlp.fc2, a.num_heads,
            )  # fmt: skip

        backbone = TimmModel.of("test_vit")((3, 20, 20), weights=path, resize=160)
        return Case(backbone, IMAGES.double(), parts, lambda b: b.network.norm)


@pytest.mark.parametrize("library", ["torchvision", pytest.param("timm", marks=pytest.mark.needs("timm"))])
def test_low_rank_terms_are_added_to_the_files_weights(library, torchvision_name, tmp_path):
    """The features are those of a file whose query and value weights have had the terms added by hand."""
    if library == "timm":
        import timm
        from clarena_vision.timm_backbones import TimmModel

        original, cls, size = drawn(timm.create_model("test_vit")), TimmModel.of("test_vit"), 160
    else:
        original, _ = torchvision_file(torchvision_name, tmp_path / "vit.pth")
        cls, size = TorchvisionModel.of(torchvision_name), 32
    state = original.state_dict()
    backbone = cls((3, 20, 20), weights=save(state, tmp_path / "before.pth"), resize=size).eval()
    lora = backbone.adapt("lora", rank=2, on=("query", "value"))
    for parameter in lora.parameters():
        nn.init.normal_(parameter)
    changed = 0
    for name, term in lora.terms().items():
        key = name.removeprefix("network.")
        assert [bool(rows.any()) for rows in term.chunk(3)] == [True, False, True]
        state[key] = state[key] + term.detach()
        changed += 1
    assert changed == len(backbone.stages())
    after = cls((3, 20, 20), weights=save(state, tmp_path / "after.pth"), resize=size).eval()
    with torch.no_grad(), lora.on(backbone):
        torch.testing.assert_close(backbone(IMAGES), after(IMAGES), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(backbone(IMAGES), after(IMAGES), atol=1e-3)


def flax(network: nn.Module) -> dict[str, np.ndarray]:
    """A timm ViT's tensors as google-research's files have them, written out."""
    state = {name: value.numpy() for name, value in network.state_dict().items()}
    heads, width = network.blocks[0].attn.num_heads, network.embed_dim
    arrays = {
        "cls": state["cls_token"],
        "Transformer/posembed_input/pos_embedding": state["pos_embed"],
        "embedding/kernel": state["patch_embed.proj.weight"].transpose(2, 3, 1, 0),
        "embedding/bias": state["patch_embed.proj.bias"],
        "Transformer/encoder_norm/scale": state["norm.weight"],
        "Transformer/encoder_norm/bias": state["norm.bias"],
        "head/kernel": state["head.weight"].T,
        "head/bias": state["head.bias"],
    }
    for place in range(len(network.blocks)):
        ours, theirs = f"blocks.{place}", f"Transformer/encoderblock_{place}"
        attention = f"{theirs}/MultiHeadDotProductAttention_1"
        for part, weight, bias in zip(
            ("query", "key", "value"),
            np.split(state[f"{ours}.attn.qkv.weight"], 3),
            np.split(state[f"{ours}.attn.qkv.bias"], 3),
        ):
            arrays[f"{attention}/{part}/kernel"] = weight.T.reshape(width, heads, -1)
            arrays[f"{attention}/{part}/bias"] = bias.reshape(heads, -1)
        arrays[f"{attention}/out/kernel"] = state[f"{ours}.attn.proj.weight"].T.reshape(heads, -1, width)
        arrays[f"{attention}/out/bias"] = state[f"{ours}.attn.proj.bias"]
        for norm, name in (("norm1", "LayerNorm_0"), ("norm2", "LayerNorm_2")):
            arrays[f"{theirs}/{name}/scale"] = state[f"{ours}.{norm}.weight"]
            arrays[f"{theirs}/{name}/bias"] = state[f"{ours}.{norm}.bias"]
        for layer, name in (("fc1", "Dense_0"), ("fc2", "Dense_1")):
            arrays[f"{theirs}/MlpBlock_3/{name}/kernel"] = state[f"{ours}.mlp.{layer}.weight"].T
            arrays[f"{theirs}/MlpBlock_3/{name}/bias"] = state[f"{ours}.mlp.{layer}.bias"]
    return arrays


@pytest.mark.needs("timm")
def test_a_file_is_named_on_the_command_line(tmp_path):
    import timm

    path = save(drawn(timm.create_model("test_vit", num_classes=21843)).state_dict(), tmp_path / "vit.pth")
    outcome = smoke(
        tmp_path / "store", "dualprompt", "--benchmark", "split-digits", "--seeds", 1,
        "--backbone", "timm:test_vit", "--set", f"backbone.weights={path}", "--set", "backbone.resize=160",
        "--set", "backbone.normalise=false",
    )  # fmt: skip
    assert outcome.code == 0, outcome.err
    assert "dualprompt" in outcome.out
