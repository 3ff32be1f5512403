"""The labelled images that torchvision knows, from small archives in the published layout."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from clarena_native.torchvision_cpu import import_torchvision
from clarena_vision.torchvision_sets import (
    NAMES,
    SplitCifar10,
    SplitCifar100,
    SplitCifar100In20,
    SplitTorchvision,
    load,
)  # fmt: skip
from PIL import Image
from published import md5, noise, offline, stream, unpack_cifar100, write_cifar10, write_cifar100

from clarena import ClarenaWarning, DataError, UsageError
from clarena.plugins.host import Host, PluginSources
from clarena.plugins.parameters import parse
from clarena.protocol.presets import NAMED
from clarena.run.planning import Plan, make_plan

datasets = import_torchvision().datasets


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty data root, and a data set that this process has loaded forgotten."""
    monkeypatch.setenv("CLARENA_DATA", str(tmp_path))
    load.cache_clear()
    return tmp_path


# ---- CIFAR ----


@pytest.fixture
def cifar100(root: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[np.ndarray, np.ndarray]:
    """Two training images and one test image of each class, and the archive that holds them."""
    train, test = noise(0, 200, 3, 32, 32), noise(1, 100, 3, 32, 32)
    archive = root / "cifar-100-python.tar.gz"
    write_cifar100(archive, train, test, 100)
    monkeypatch.setattr(datasets.CIFAR100, "tgz_md5", md5(archive))
    return train, test


@pytest.mark.parametrize(("family", "experiences"), [(SplitCifar100, 10), (SplitCifar100In20, 20)])
def test_cifar100_from_its_archive(cifar100: tuple[np.ndarray, np.ndarray], family: type, experiences: int) -> None:
    made = family(class_order="natural")
    data = made.data()
    assert np.array_equal(data.x_train, cifar100[0])
    assert np.array_equal(data.x_test, cifar100[1])
    assert data.y_train.tolist() == [row % 100 for row in range(200)]
    assert data.class_names[7] == "fine7"
    found = stream(made, data)
    assert [len(split.classes) for split in found.splits] == [100 // experiences] * experiences
    inputs = made.inputs(data.x_train[:1])
    assert inputs[0, 1, 3, 4].item() == pytest.approx((cifar100[0][0, 1, 3, 4] / 255 - 0.4865) / 0.2564, abs=1e-5)


def test_cifar100_as_torchvision_reads_it(
    cifar100: tuple[np.ndarray, np.ndarray], root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unpack_cifar100(root / "cifar-100-python.tar.gz", monkeypatch)
    data = SplitCifar100().data()
    for part, x, y in ((True, data.x_train, data.y_train), (False, data.x_test, data.y_test)):
        theirs = datasets.CIFAR100(root, train=part)
        assert np.array_equal(theirs.data, x.movedim(1, -1))
        assert theirs.targets == y.tolist()
        assert tuple(theirs.classes) == data.class_names


def test_cifar10_in_the_order_of_its_batches(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    batches, test = [noise(seed, 10, 3, 32, 32) for seed in range(5)], noise(5, 10, 3, 32, 32)
    write_cifar10(root / "cifar-10-python.tar.gz", batches, test)
    monkeypatch.setattr(datasets.CIFAR10, "tgz_md5", md5(root / "cifar-10-python.tar.gz"))
    made = SplitCifar10()
    data = made.data()
    assert np.array_equal(data.x_train, np.concatenate(batches))
    assert np.array_equal(data.x_test, test)
    assert [len(split.classes) for split in stream(made, data).splits] == [2] * 5
    smaller = SplitTorchvision.of("CIFAR10")(size=16).data()
    expected = Image.fromarray(batches[0][3].transpose(1, 2, 0)).resize((16, 16), Image.Resampling.BILINEAR)
    assert np.array_equal(smaller.x_train[3], np.asarray(expected))
    assert torch.equal(smaller.y_test, data.y_test)


def test_cifar100_as_one_npz_where_the_archive_is_not(root: Path) -> None:
    arrays = {"x_train": noise(0, 200, 32, 32, 3), "x_test": noise(1, 100, 32, 32, 3)}
    labels = {"y_train": np.arange(200) % 100, "y_test": np.arange(100)}
    np.savez(root / "cifar100.npz", **arrays, **labels)
    made = SplitCifar100()
    data = made.data()
    assert np.array_equal(data.x_train, arrays["x_train"])
    assert made.inputs(data.x_train[:2]).shape == (2, 3, 32, 32)
    stream(made, data)
    np.savez(root / "cifar10.npz", **arrays, **labels)
    with pytest.raises(
        DataError, match=r"cifar10.npz is not CIFAR10: it holds 100 classes of torch.uint8 \(32, 32, 3\)"
    ):
        SplitCifar10().data()


@pytest.mark.parametrize("size", [None, 16])
def test_an_npz_that_was_overwritten_is_read_again(root: Path, size: int | None) -> None:
    labels = {"y_train": np.arange(200) % 100, "y_test": np.arange(100)}
    found = []
    for seed in (0, 2, 2):
        if len(found) < 2:
            x = {"x_train": noise(seed, 200, 32, 32, 3), "x_test": noise(seed + 1, 100, 32, 32, 3)}
            np.savez(root / "cifar100.npz", **x, **labels)
        found.append(SplitCifar100(size=size).data())
    assert found[0].fingerprint() != found[1].fingerprint()
    assert found[1].fingerprint() == found[2].fingerprint()
    assert list(SplitCifar100().source_files()) == [root / "cifar100.npz"]


@pytest.mark.parametrize("option", ["mean", "std"])
def test_means_and_deviations_are_one_or_one_for_each_channel(cifar100: object, option: str) -> None:
    made = SplitCifar100(**{option: (0.5, 0.5)})
    with pytest.raises(UsageError, match=rf"benchmark.{option} has 2 numbers, and inputs .* have 3 channels"):
        made.inputs(made.data().x_train[:1])


def test_a_damaged_archive_is_not_read(cifar100: object, root: Path) -> None:
    archive = root / "cifar-100-python.tar.gz"
    whole = archive.read_bytes()
    for content in (whole[:-1], whole[:1000], b""):
        archive.write_bytes(content)
        with pytest.raises(DataError, match=r"cifar-100-python.tar.gz is damaged.*Move it away"):
            SplitCifar100().data()


def test_test_images_that_are_trained_on_are_counted(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train = noise(0, 200, 3, 32, 32)
    write_cifar100(root / "cifar-100-python.tar.gz", train, train[:100], 100)
    monkeypatch.setattr(datasets.CIFAR100, "tgz_md5", md5(root / "cifar-100-python.tar.gz"))
    with pytest.warns(ClarenaWarning, match="100 of the 100 test samples of CIFAR100 are in its training set"):
        SplitCifar100().data()


def test_more_experiences_than_classes(cifar100: object) -> None:
    made = SplitCifar100(experiences=101)
    with pytest.raises(UsageError, match="Cannot split 100 classes into 101 experiences"):
        stream(made, made.data())


# ---- Names ----


def test_without_torchvision(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchvision", None)
    for made in (SplitCifar100(), SplitTorchvision.of("SVHN")()):
        with pytest.raises(DataError, match=r"needs torchvision, .*pip install 'clarena-bench\[vision\]'"):
            made.data()


def test_names_that_lead_nowhere() -> None:
    with pytest.raises(
        UsageError, match=r"no torchvision data set named 'cifar1000'.\nDid you mean 'CIFAR100'\? .*\n(.*\n)*.*STL10"
    ):
        SplitTorchvision.of("cifar1000")
    for name in ("CocoDetection", "CelebA", "Kinetics", "ImageFolder", "VisionDataset"):
        with pytest.raises(UsageError, match=f"no torchvision data set of images with a class each named '{name}'"):
            SplitTorchvision.of(name)
    assert SplitTorchvision.of("SVHN") is SplitTorchvision.of("SVHN")
    assert SplitTorchvision.of("SVHN").name == "torchvision:SVHN"


@pytest.mark.parametrize("name", NAMES)
def test_what_is_not_there_says_so(name: str, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every entry of the table is understood by torchvision: what it misses is the data, not an option."""

    monkeypatch.setattr("urllib.request.urlopen", offline)
    monkeypatch.setattr("torchvision.datasets.pcam.download_file_from_google_drive", offline)
    with pytest.raises(DataError, match=rf"(?s){root}.*(no network|not (found|present)|URL is broken)") as caught:
        SplitTorchvision.of(name)().data()
    assert "unexpected" not in str(caught.value)
    assert all(path.name.endswith(".lock") for path in root.rglob("*") if path.is_file())


@pytest.mark.data
@pytest.mark.parametrize("name", ["MNIST", "FashionMNIST"])
def test_real_data(name: str) -> None:
    load.cache_clear()
    made = SplitTorchvision.of(name)()
    data = made.data()
    assert data.x_train.shape == (60_000, 1, 28, 28)
    assert data.y_test.bincount().max() <= 1135
    assert [len(split.classes) for split in stream(made, data).splits] == [2] * 5


@pytest.mark.parametrize(
    ("preset", "sizes"),
    [
        ("b0-inc10", [10] * 10),
        ("b50-inc10", [50] + [10] * 5),
        ("b50-inc5", [50] + [5] * 10),
        ("online-cifar100", [5] * 20),
    ],
)
def test_cifar100_as_papers_have_it(cifar100: object, preset: str, sizes: list[int], tmp_path: Path) -> None:
    plan = plan_of(preset, tmp_path)
    track = plan.track
    assert track.label == f"split-cifar100/class/mlp/{preset}"
    made = SplitCifar100(**parse(SplitCifar100, track.benchmark.options, "benchmark"))
    found = [stream(made, made.data(), seed=seed) for seed in (0, 1)]
    assert [len(split.classes) for split in found[0].splits] == sizes
    fixed = "class_order" in NAMED[preset].benchmark
    assert (found[0].output_names == found[1].output_names) is fixed
    if fixed:
        assert found[0].output_names[:5] == ("fine68", "fine56", "fine78", "fine8", "fine23")


def plan_of(preset: str, folder: Path) -> Plan:
    return make_plan(
        ["er"], benchmark="split-cifar100", scenario=None, backbone="mlp", preset=preset, seeds=[0], settings={},
        limit=None, device="cpu", store=folder / "runs", retry=False,
        host=Host.discover(PluginSources(third_party=False)),
    )  # fmt: skip
