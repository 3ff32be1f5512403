"""Torchvision's and timm's networks as backbones: their own numbers, their inputs, and files of weights."""

import io
import json
import pickle
import warnings
from pathlib import Path
from urllib.error import URLError

import pytest
import torch
from clarena_native.strategies.architecture.frozen import FrozenFeatures
from clarena_native.torchvision_cpu import import_torchvision
from clarena_vision import weights as files
from clarena_vision.backbones import ResNet18ImageNet, TorchvisionModel, models
from cli_command import clarena, smoke
from tiny import walk
from torch import nn

from clarena import ClarenaWarning, UsageError

Small = TorchvisionModel.of("shufflenet_v2_x0_5")
MEAN = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
STD = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)


def numbers(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def lively(network: nn.Module) -> nn.Module:
    """With running statistics that fit its random weights: else it would say the same of every image."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    network(torch.randn(16, 3, 40, 40))
    return network.eval()


@pytest.fixture(scope="module")
def original() -> nn.Module:
    torch.manual_seed(0)
    return lively(models.shufflenet_v2_x0_5())


@pytest.fixture(scope="module")
def file(original: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "small.pt"
    torch.save(original.state_dict(), path)
    return path


@pytest.mark.parametrize(
    ("name", "features", "published"),  # numbers of parameters from torchvision's own table
    [("resnet18", 512, 11_689_512), ("squeezenet1_1", 512, 1_235_496), ("mobilenet_v3_small", 1024, 2_542_856),
     ("efficientnet_b0", 1280, 5_288_548), ("googlenet", 1024, 6_624_904)],
)  # fmt: skip
def test_a_network_has_lost_its_classifier_and_nothing_else(name, features, published):
    backbone = TorchvisionModel.of(name)((3, 64, 64))
    assert backbone.features == features
    assert numbers(backbone) + (features + 1) * 1000 == published
    assert numbers(ResNet18ImageNet((1, 8, 8))) == 11_689_512 - 513_000


@pytest.mark.parametrize("channels", [1, 3])
def test_weights_give_the_scores_that_torchvision_gives(original, file, channels):
    images = torch.rand(4, channels, 24, 24)
    resized = import_torchvision().transforms.functional.resize(images, [40, 40], antialias=True)
    backbone = Small((channels, 24, 24), weights=str(file), resize=40).eval()
    expected = original((resized.expand(-1, 3, -1, -1) - MEAN) / STD)
    torch.testing.assert_close(original.fc(backbone(images)), expected)
    assert (expected[0] - expected[1]).abs().max() > 0.01
    raw = Small((channels, 24, 24), weights=str(file), normalise=False).eval()
    torch.testing.assert_close(original.fc(raw(images)), original(images.expand(-1, 3, -1, -1)))


def test_random_weights_take_inputs_as_they_are(original):
    backbone = Small((3, 16, 16)).eval()
    backbone.network.load_state_dict({k: v for k, v in original.state_dict().items() if not k.startswith("fc.")})
    images = torch.randn(2, 3, 16, 16)
    torch.testing.assert_close(original.fc(backbone(images)), original(images))


def test_what_is_normalised_twice_is_noticed_once(file):
    backbone = Small((1, 8, 8), weights=str(file))
    with pytest.warns(ClarenaWarning, match=r"should be in 0 … 1; they run from -1\.00 to 1\.00"):
        backbone(torch.tensor([-1.0, 1.0]).view(2, 1, 1, 1).expand(-1, -1, 8, 8))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        backbone(-torch.ones(2, 1, 8, 8))


def test_a_batch_of_one_leaves_the_running_statistics():
    backbone = Small((3, 8, 8)).train()
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    alone = backbone(torch.rand(1, 3, 8, 8))
    assert alone.isfinite().all()
    assert all(torch.equal(value, before[name]) for name, value in backbone.state_dict().items())
    assert all(module.training for module in backbone.modules())
    backbone(torch.rand(2, 3, 8, 8))
    assert not torch.equal(backbone.network.conv1[1].running_mean, before["network.conv1.1.running_mean"])


def spoiled(how: str, whole: bytes) -> bytes:
    state = torch.load(io.BytesIO(whole), weights_only=True)
    if how == "truncated":
        return whole[: len(whole) // 2]
    if how == "empty":
        return b""
    if how == "code":
        return pickle.dumps(print, protocol=2)
    if how == "list":
        state = [1, 2]
    elif how == "checkpoint":
        state = {"epoch": 3, "state_dict": state}
    elif how == "keys":
        state["stem.weight"] = state.pop("conv1.0.weight")
    elif how == "shape":
        state["conv1.0.weight"] = state["conv1.0.weight"][:5]
    torch.save(state, buffer := io.BytesIO())
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("truncated", "cannot be read; is it whole"),
        ("empty", "cannot be read; is it whole"),
        ("code", "cannot be read; is it whole"),
        ("list", r"holds no state dict \(tensors by name\), but list"),
        ("checkpoint", "holds no state dict .* but epoch, state_dict"),
        ("keys", r"another network: it lacks conv1\.0\.weight; it has besides stem\.weight"),
        ("shape", r"another network: it has in another shape conv1\.0\.weight \[5, 3, 3, 3\], not \[24, 3, 3, 3\]"),
    ],
)
def test_a_spoiled_file_is_refused_with_the_reason(file, tmp_path, how, message):
    path = tmp_path / "spoiled.pt"
    path.write_bytes(spoiled(how, file.read_bytes()))
    with pytest.raises(UsageError, match=message):
        Small((3, 8, 8), weights=str(path))


@pytest.mark.needs("safetensors")
def test_safetensors_are_read_as_well(original, tmp_path):
    import safetensors.torch

    path = tmp_path / "small.safetensors"
    safetensors.torch.save_file(original.state_dict(), path)
    assert torch.equal(Small((3, 8, 8), weights=str(path)).network.conv1[0].weight, original.conv1[0].weight)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(UsageError, match="cannot be read"):
        Small((3, 8, 8), weights=str(path))


def test_published_weights_come_from_torchs_cache(original, file, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    url = models.ShuffleNet_V2_X0_5_Weights.DEFAULT.url
    cached = tmp_path / "hub" / "checkpoints" / url.rpartition("/")[2]

    def unreachable(*args, **options):
        raise URLError("Name or service not known")

    monkeypatch.setattr(torch.hub, "download_url_to_file", unreachable)
    with pytest.raises(UsageError, match=r"could not be downloaded from https.*\n.*weights=PATH"):
        Small((3, 8, 8), weights="default")
    cached.write_bytes(file.read_bytes())
    backbone = Small((3, 8, 8), weights="default")
    assert torch.equal(backbone.network.conv1[0].weight, original.conv1[0].weight)
    assert Small.fingerprint({"weights": "default"}) == Small.fingerprint({"weights": str(file)}) == files.sha256(file)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ResNet18ImageNet((64,)), r"resnet18-imagenet needs images .* \(64,\)"),
        (lambda: ResNet18ImageNet((2, 8, 8)), r"1 or 3 channels"),
        (lambda: TorchvisionModel.of("vit_b_32")((3, 32, 32)), r"does not take images of 32×32 .*backbone\.resize"),
        (
            lambda: TorchvisionModel.of("resnet19"),
            "no torchvision classifier named 'resnet19'.\nDid you mean 'resnet18'",
        ),
        (lambda: ResNet18ImageNet((3, 8, 8), weights="nowhere.pt"), "there is no file at .*nowhere.pt"),
    ],
)
def test_what_cannot_be_built_says_why(make, message):
    with pytest.raises(UsageError, match=message):
        make()


def test_a_name_stands_for_one_class():
    assert TorchvisionModel.of("resnet18") is TorchvisionModel.of("resnet18")
    assert TorchvisionModel.of("resnet18").name == "torchvision:resnet18"


def test_a_track_knows_weights_by_their_content(file, tmp_path):
    def digest(weights: object) -> str:
        backbone = ("--backbone", Small.name, "--set", f"backbone.weights={weights}")
        planned = smoke(tmp_path / "runs", "finetune", "--seeds", 1, "--dry-run", "--json", *backbone)
        assert planned.code == 0, planned.err
        return planned.data["track_digest"]

    copy, other = tmp_path / "copy.pt", tmp_path / "other.pt"
    copy.write_bytes(file.read_bytes())
    torch.save({k: v + 1 for k, v in torch.load(file, weights_only=True).items()}, other)
    assert digest(file) == digest(copy)
    assert len({digest(file), digest(other), digest("none")}) == 3


def test_frozen_features_are_those_of_the_file(file):
    ours = walk(
        FrozenFeatures(freeze="from_start"), "class", backbone=Small, options={"weights": str(file), "normalise": False}
    )
    for position in range(3):
        ours.step(position)
    learned, given = ours.strategy.model.backbone.network.state_dict(), torch.load(file, weights_only=True)
    assert learned
    assert all(torch.equal(value, given[name]) for name, value in learned.items())


@pytest.mark.parametrize("arguments", [
    ("pnn", "--scenario", "task", "--backbone", "resnet18-imagenet"),
    ("den", "--scenario", "task", "--backbone", "resnet18-imagenet"),
    ("finetune", "--backbone", "resnet18-imagenet", "--set", "backbone.weights=nowhere.pt"),
])  # fmt: skip
def test_what_cannot_work_is_said_before_anything_runs(tmp_path, arguments):
    outcome = smoke(tmp_path, *arguments)
    assert outcome.code == 2
    assert "cannot serve" in outcome.err or "there is no file" in outcome.err
    assert not list(tmp_path.rglob("*.json"))


def test_both_are_listed_without_their_libraries():
    listed = {each["name"]: each for each in json.loads(clarena("list", "--json").out)["backbones"]}
    assert {"resnet18-imagenet", "torchvision:NAME", "timm:NAME"} <= set(listed)


@pytest.mark.needs("timm")
class TestTimm:
    """What comes with the extra `timm`."""

    @pytest.fixture(autouse=True)
    def _timm(self):
        import_torchvision()
        import timm

        self.timm = timm
        from clarena_vision import timm_backbones

        self.module = timm_backbones
        self.backbone = timm_backbones.TimmModel.of("test_resnet.r160_in1k")

    def test_weights_give_the_scores_that_timm_gives(self, tmp_path):
        original = lively(self.timm.create_model("test_resnet"))
        torch.save(original.state_dict(), tmp_path / "small.pt")
        backbone = self.backbone((1, 32, 32), weights=str(tmp_path / "small.pt")).eval()
        images = torch.rand(2, 1, 32, 32)
        expected = original((images.expand(-1, 3, -1, -1) - 0.5) / 0.5)  # what timm declares for this one
        torch.testing.assert_close(original.fc(backbone(images)), expected)
        assert (expected[0] - expected[1]).abs().max() > 0.01
        assert numbers(backbone) + numbers(original.fc) == numbers(original)

    def test_published_weights_come_from_the_hub(self, tmp_path, monkeypatch):
        from safetensors.torch import save_file

        original = self.timm.create_model("test_resnet")
        save_file(original.state_dict(), tmp_path / "model.safetensors")
        asked = []

        def snapshot(repository, files, option):
            asked.append((repository, files))
            return tmp_path

        monkeypatch.setattr(self.module, "snapshot", snapshot)
        backbone = self.backbone((3, 32, 32), weights="default")
        assert torch.equal(backbone.network.conv1[0].weight, original.conv1[0].weight)
        assert set(map(str, asked)) == {"('timm/test_resnet.r160_in1k', ['model.safetensors'])"}

    def test_an_unknown_name_gets_the_closest_ones(self):
        with pytest.raises(UsageError, match=r"no model of timm named 'resnet19'\.\nDid you mean 'resnet18'"):
            self.module.TimmModel.of("resnet19")
