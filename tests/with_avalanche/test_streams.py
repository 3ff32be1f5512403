"""Avalanche's benchmarks and models through the host: the same classes, permutations, angles and features as there."""

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from needs import needs
from published import noise, unpack_cifar100, write_cifar100

from clarena import Backbone, Benchmark, Data, UsageError

needs("avalanche")

from clarena_avalanche import BACKBONES, benchmarks
from clarena_avalanche.library import import_avalanche

import_avalanche()

from avalanche.benchmarks import classic
from clarena_avalanche import backbones

SEED = 1234
IMAGES = 40


@pytest.fixture(scope="module")
def data() -> Data:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (2, IMAGES, 1, 28, 28), generator=generator).to(torch.uint8)
    labels = torch.arange(IMAGES) % 10
    return Data(images[0], labels, images[1], labels.flip(0), tuple("0123456789"))


@pytest.fixture(scope="module")
def folder(data: Data, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data as MNIST's own files, unpacked."""
    root = tmp_path_factory.mktemp("data")
    raw = root / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for part, x, y in (("train", data.x_train, data.y_train), ("t10k", data.x_test, data.y_test)):
        (raw / f"{part}-images-idx3-ubyte").write_bytes(
            struct.pack(">4i", 2051, IMAGES, 28, 28) + bytes(x.flatten().tolist())
        )
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(struct.pack(">2i", 2049, IMAGES) + bytes(y.tolist()))
    return root


def theirs(name: str, folder: Path, experiences: int) -> Any:
    with torch.random.fork_rng():  # it seeds the global generator
        return getattr(classic, name)(experiences, seed=SEED, dataset_root=folder)


def inputs(benchmark: Benchmark, split: Any, x: torch.Tensor) -> torch.Tensor:
    made = benchmark.inputs(x[split.train])
    return made if split.transform is None else split.transform(made)


def everything(experience: Any) -> tuple[torch.Tensor, torch.Tensor]:
    rows = [experience.dataset[i] for i in range(len(experience.dataset))]
    return torch.stack([row[0] for row in rows]), torch.tensor([row[1] for row in rows])


def by_class(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Avalanche sorts the samples of an experience by class."""
    return x[y.argsort(stable=True)]


def test_the_same_classes_in_the_same_experiences(data: Data, folder: Path) -> None:
    benchmark = benchmarks.SplitMnist(experiences=5, avalanche_seed=SEED)
    stream = benchmark.stream(data, "class", np.random.default_rng(0))
    for split, experience in zip(stream.splits, theirs("SplitMNIST", folder, 5).train_stream, strict=True):
        assert {stream.output_names[label] for label in split.classes} == {
            str(label) for label in experience.classes_in_this_experience
        }
        ours = by_class(inputs(benchmark, split, data.x_train), data.y_train[split.train])
        assert torch.allclose(ours, by_class(*everything(experience)))


@pytest.mark.parametrize(("ours", "name"), [("PermutedMnist", "PermutedMNIST"), ("RotatedMnist", "RotatedMNIST")])
def test_the_same_transforms(ours: str, name: str, data: Data, folder: Path) -> None:
    benchmark = getattr(benchmarks, ours)(experiences=3, avalanche_seed=SEED)
    stream = benchmark.stream(data, "domain", np.random.default_rng(0))
    for split, experience in zip(stream.splits, theirs(name, folder, 3).train_stream, strict=True):
        ours = by_class(inputs(benchmark, split, data.x_train), split.y_train)
        assert torch.allclose(ours, by_class(*everything(experience)), atol=1e-6)


def test_cifar_by_the_same_classes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.datasets import CIFAR100

    archive, train, test = tmp_path / CIFAR100.filename, noise(0, 200, 3, 32, 32), noise(1, 100, 3, 32, 32)
    write_cifar100(archive, train, test, 100)
    unpack_cifar100(archive, monkeypatch)
    monkeypatch.setenv("CLARENA_DATA", str(tmp_path))
    benchmark = benchmarks.SplitCifar100(experiences=5, avalanche_seed=SEED)
    data = benchmark.data()
    assert np.array_equal(data.x_train, train)
    assert np.array_equal(data.x_test, test)
    stream = benchmark.stream(data, "class", np.random.default_rng(0))
    for split, experience in zip(stream.splits, theirs("SplitCIFAR100", tmp_path, 5).train_stream, strict=True):
        assert {stream.output_names[label] for label in split.classes} == {
            f"fine{label}" for label in experience.classes_in_this_experience
        }
    x = benchmark.inputs(data.x_train[:1])
    assert x[0, 1, 3, 4].item() == pytest.approx((train[0, 1, 3, 4] / 255 - 0.4865) / 0.2564, abs=1e-5)


def test_seeds_of_the_host_give_streams_of_their_own(data: Data) -> None:
    benchmark = benchmarks.SplitMnist(experiences=5)
    orders = {benchmark.stream(data, "class", np.random.default_rng(seed)).output_names for seed in range(5)}
    assert len(orders) == 5
    fixed = benchmarks.SplitMnist(experiences=5, avalanche_seed=SEED)
    assert len({fixed.stream(data, "task", np.random.default_rng(seed)).output_names for seed in range(5)}) == 1


def test_domains_have_the_labels_of_their_experience(data: Data) -> None:
    stream = benchmarks.SplitMnist(experiences=5).stream(data, "domain", np.random.default_rng(0))
    assert [split.classes for split in stream.splits] == [(0, 1)] * 5
    assert stream.outputs == 2


def test_classes_are_shared_equally_or_not_at_all(data: Data) -> None:
    with pytest.raises(UsageError, match="10 cannot be shared by 3"):
        benchmarks.SplitMnist(experiences=3).stream(data, "class", np.random.default_rng(0))


def test_a_class_order_that_is_given_is_avalanches_fixed_one(data: Data, folder: Path) -> None:
    order = (3, 1, 4, 0, 5, 9, 2, 6, 8, 7)
    made = benchmarks.SplitMnist(class_order=order)
    found = made.stream(data, "class", np.random.default_rng(0))
    fixed = classic.SplitMNIST(5, fixed_class_order=list(order), dataset_root=folder)
    assert [sorted(found.output_names[label] for label in split.classes) for split in found.splits] == [
        sorted(map(str, experience.classes_in_this_experience)) for experience in fixed.train_stream
    ]
    halves = benchmarks.SplitMnist(experiences=6, first_experience=5, class_order=order)
    found = halves.stream(data, "class", np.random.default_rng(0))
    assert [len(split.classes) for split in found.splits] == [5, 1, 1, 1, 1, 1]
    with pytest.raises(UsageError, match="Set one of them"):
        benchmarks.SplitMnist(class_order=order, avalanche_seed=1).stream(data, "class", np.random.default_rng(0))


@pytest.mark.parametrize(
    ("name", "shape", "features"),
    [
        ("SimpleMlp", (1, 8, 8), 512),
        ("SimpleCnn", (3, 16, 16), 64),
        ("LeNet5", (1, 32, 32), 84),
        ("SlimResNet18", (3, 32, 32), 160),
        ("IcarlNet", (3, 32, 32), 64),
    ],
)
def test_models_without_their_classifier(name: str, shape: tuple[int, ...], features: int) -> None:
    backbone: Backbone = getattr(backbones, name)(shape)
    assert backbone.training
    assert backbone.features == features
    assert backbone(torch.zeros(3, *shape)).shape == (3, features)
    assert backbone(torch.zeros(1, *shape)).isfinite().all()  # a batch of one sample, in training


@pytest.mark.parametrize(
    "name", [target for target, _ in BACKBONES.values() if target not in ("SimpleMlp", "IcarlNet")]
)
def test_models_say_what_they_want(name: str) -> None:
    with pytest.raises(UsageError, match=r"images of .*shape \(1, 8, 8\)"):
        getattr(backbones, name)((1, 8, 8))


def test_inputs_of_another_size_are_refused_rather_than_reshaped() -> None:
    with pytest.raises(UsageError, match="colour images of 32×32"):
        backbones.SlimResNet18((3, 64, 64))  # four images where one was, once it is viewed as 32×32
