"""The labelled images that torchvision knows, from small archives in the published layout."""

import hashlib
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from clarena_native.torchvision_cpu import import_torchvision
from clarena_vision import store
from clarena_vision.torchvision_sets import (
    NAMES,
    SplitCifar10,
    SplitCifar100,
    SplitCifar100In20,
    SplitTorchvision,
    load,
)  # fmt: skip
from PIL import Image
from published import noise, png, write_cifar10, write_cifar100

from clarena import Benchmark, ClarenaWarning, Data, DataError, Stream, UsageError
from clarena.seeding import Seeds

datasets = import_torchvision().datasets


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty data root, and a data set that this process has loaded forgotten."""
    monkeypatch.setenv("CLARENA_DATA", str(tmp_path))
    load.cache_clear()
    return tmp_path


def stream(made: Benchmark, data: Data, scenario: str = "class") -> Stream:
    data.validate()
    found = made.stream(data, scenario, Seeds(0).numpy("class_order"))
    found.validate(data, made.name)
    return found


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()


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
    import tarfile

    with tarfile.open(root / "cifar-100-python.tar.gz") as tar:
        tar.extractall(root, filter="data")
    folder = root / "cifar-100-python"
    monkeypatch.setattr(datasets.CIFAR100, "train_list", [["train", md5(folder / "train")]])
    monkeypatch.setattr(datasets.CIFAR100, "test_list", [["test", md5(folder / "test")]])
    monkeypatch.setattr(datasets.CIFAR100, "meta", datasets.CIFAR100.meta | {"md5": md5(folder / "meta")})
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


def test_names_that_lead_nowhere() -> None:
    with pytest.raises(UsageError, match=r"no data set 'cifar1000'. Did you mean CIFAR100 or CIFAR10\? .*STL10"):
        SplitTorchvision.of("cifar1000")
    for name in ("CocoDetection", "CelebA", "Kinetics", "ImageFolder", "VisionDataset"):
        with pytest.raises(UsageError, match=f"torchvision's {name} is not a set of images with a class each"):
            SplitTorchvision.of(name)
    assert SplitTorchvision.of("SVHN") is SplitTorchvision.of("SVHN")
    assert SplitTorchvision.of("SVHN").name == "torchvision:SVHN"


@pytest.mark.parametrize("name", NAMES)
def test_what_is_not_there_says_so(name: str, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every entry of the table is understood by torchvision: what it misses is the data, not an option."""

    def offline(*_: object, **__: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr("urllib.request.urlopen", offline)
    monkeypatch.setattr("torchvision.datasets.pcam.download_file_from_google_drive", offline)
    with pytest.raises(DataError, match=rf"(?s){root}.*(no network|not (found|present)|URL is broken)") as caught:
        SplitTorchvision.of(name)().data()
    assert "unexpected" not in str(caught.value)
    assert all(path.name.endswith(".lock") for path in root.rglob("*") if path.is_file())


# ---- What torchvision opens ----


def fill(folder: Path, images: dict[str, np.ndarray], form: str = "PNG") -> None:
    for name, pixels in images.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(png(pixels, form))


def imagenette(root: Path, sizes: tuple[int, int] = (20, 20)) -> dict[str, np.ndarray]:
    """Three classes, five training images and two test images of each."""
    images = {
        f"{part}/{wnid}/{wnid}_{row}.JPEG": noise(row, sizes[row % 2], 20, 3)
        for part, count in (("train", 5), ("val", 2))
        for wnid in ("n01440764", "n02102040", "n02979186")
        for row in range(count * 10, count * 11)
    }
    fill(root / "imagenette2", images)  # PNG inside, so that pixels come back as they were; Pillow looks at the content
    return images


def test_a_folder_that_torchvision_opens(root: Path) -> None:
    images = imagenette(root)
    made = SplitTorchvision.of("Imagenette")(experiences=3, class_order="natural")
    data = made.data()
    assert data.class_names[0].startswith("tench")
    assert np.array_equal(data.x_train, np.stack([x for name, x in images.items() if name.startswith("train")]))
    assert data.y_test.tolist() == [0, 0, 1, 1, 2, 2]
    assert made.inputs(data.x_train).shape == (15, 3, 20, 20)
    stream(made, data)


def test_it_is_decoded_once(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    imagenette(root)
    first = SplitTorchvision.of("Imagenette")().data()
    load.cache_clear()
    monkeypatch.setattr(store, "write_images", None)
    again = SplitTorchvision.of("Imagenette")().data()
    assert again.fingerprint() == first.fingerprint()
    again.x_train[0] = 0  # in this process alone
    load.cache_clear()
    assert SplitTorchvision.of("Imagenette")().data().fingerprint() == first.fingerprint()


def test_images_of_several_sizes(root: Path) -> None:
    imagenette(root, (20, 30))
    with pytest.raises(DataError, match=r"differ in size: the first is 20×20, image \d+ is 20×30.*benchmark.size=32"):
        SplitTorchvision.of("Imagenette")().data()
    assert not (root / "decoded" / "Imagenette-full").exists()
    assert SplitTorchvision.of("Imagenette")(size=8).data().x_train.shape == (15, 8, 8, 3)


def test_an_image_that_is_damaged(root: Path) -> None:
    imagenette(root)
    file = root / "imagenette2" / "train" / "n02102040" / "n02102040_52.JPEG"
    for content in (file.read_bytes()[:200], b"", b"no image"):
        file.write_bytes(content)
        with pytest.raises(DataError, match="Image 7 of 15 cannot be decoded"):
            SplitTorchvision.of("Imagenette")().data()
    assert sorted(path.name for path in (root / "decoded").iterdir()) == [".Imagenette-full.lock"]


def test_decoded_arrays_that_are_damaged(root: Path) -> None:
    imagenette(root)
    SplitTorchvision.of("Imagenette")().data()
    file = root / "decoded" / "Imagenette-full" / "x_train.npy"
    file.write_bytes(file.read_bytes()[:-1])
    load.cache_clear()
    with pytest.raises(DataError, match=r"Imagenette-full is damaged: .*Remove it, and it is made again"):
        SplitTorchvision.of("Imagenette")().data()
    file.unlink()
    with pytest.raises(DataError, match="Imagenette-full is damaged"):
        SplitTorchvision.of("Imagenette")().data()


def test_a_download_that_stops_half_way_is_begun_again(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Torchvision takes a folder that is there for a complete one; here it never sees a half-filled one again."""

    def half(self: datasets.Imagenette) -> None:
        imagenette(Path(self.root))
        (Path(self.root) / "imagenette2" / "train" / "n02979186" / "n02979186_50.JPEG").unlink()
        raise OSError("connection lost")

    monkeypatch.setattr(datasets.Imagenette, "_download", half)
    with pytest.raises(
        DataError, match=r"(?s)Imagenette is not in .*Nor to be downloaded: connection lost\nRun once online"
    ):
        SplitTorchvision.of("Imagenette")().data()
    left = root / "torchvision" / ".Imagenette.part" / "imagenette2"  # what a process that was killed leaves
    left.mkdir(parents=True)
    monkeypatch.setattr(datasets.Imagenette, "_download", lambda self: imagenette(Path(self.root)))
    assert len(SplitTorchvision.of("Imagenette")().data().y_train) == 15
    assert not left.exists()


def test_a_root_that_cannot_be_written(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    imagenette(root)
    (root / "decoded").write_text("")
    with pytest.raises(DataError, match=r"(?s)Imagenette-full cannot be written: .*Set CLARENA_DATA"):
        SplitTorchvision.of("Imagenette")().data()


def test_without_a_test_set_every_fifth_is_held_out_whatever_the_file_system(root: Path) -> None:
    images = {f"{name}/{name}_{row}.jpg": noise(row + 50 * label, 8, 8, 3) for row in range(10) for label, name in
              enumerate(("Forest", "River"))}  # fmt: skip
    fill(root / "eurosat" / "2750", images)
    data = SplitTorchvision.of("EuroSAT")().data()
    assert data.class_names == ("Forest", "River")
    assert data.y_train.bincount().tolist() == [8, 8]
    assert data.y_test.bincount().tolist() == [2, 2]
    for label, name in enumerate(data.class_names):
        found = [*data.x_train[data.y_train == label], *data.x_test[data.y_test == label]]
        theirs = {pixels.tobytes() for file, pixels in images.items() if file.startswith(name)}
        assert {x.numpy().tobytes() for x in found} == theirs
    (root / "eurosat" / "2750").rename(root / "old")
    fill(root / "eurosat" / "2750", {f"{file[:-5]}{9 - int(file[-5])}.jpg": x for file, x in images.items()})
    load.cache_clear()
    os.rename(root / "decoded" / "EuroSAT-full", root / "before")
    assert SplitTorchvision.of("EuroSAT")().data().fingerprint() == data.fingerprint()


def test_omniglot_by_characters_and_drawers(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    digests, drawn = {}, {}
    for stem, alphabets in (("images_background", ("Latin", "Greek")), ("images_evaluation", ("Tagalog",))):
        (root / "omniglot-py").mkdir(exist_ok=True)
        path = root / "omniglot-py" / f"{stem}.zip"
        with zipfile.ZipFile(path, "w") as archive:
            for alphabet in alphabets:
                for character in (2, 1):
                    for drawer in range(20, 0, -1):
                        name = f"{alphabet}/character{character:02}/0{character}_{drawer:02}.png"
                        drawn[name] = noise(len(drawn), 12, 12) // 128 * 255
                        archive.writestr(f"{stem}/{name}", png(drawn[name]))
        digests[stem] = md5(path)
    monkeypatch.setattr(datasets.Omniglot, "zips_md5", digests)
    made = SplitTorchvision.of("Omniglot")(experiences=3, class_order="natural")
    data = made.data()
    assert data.class_names == tuple(f"{a}/character0{c}" for a in ("Greek", "Latin", "Tagalog") for c in (1, 2))
    assert data.x_train.shape == (6 * 16, 12, 12)
    assert data.y_test.bincount().tolist() == [4] * 6
    tested = [drawn[f"Latin/character02/02_{drawer:02}.png"] for drawer in (3, 8, 13, 18)]
    assert np.array_equal(data.x_test[data.y_test == 3], np.stack(tested))
    assert [split.classes for split in stream(made, data).splits] == [(0, 1), (2, 3), (4, 5)]


def test_classes_without_an_image_are_dropped(root: Path) -> None:
    """EMNIST's letters are numbered from 1."""
    x, y = torch.from_numpy(noise(0, 6, 9, 9)), torch.tensor([1, 2, 3, 1, 2, 3])
    train, test = store.Rows(x.unsqueeze(1), y), store.Rows(x[:3].unsqueeze(1) // 2, y[:3])
    (root / "some").mkdir()
    store.write_data(root / "some", train, test, ["N/A", "a", "b", "c"], "L", None)
    data = store.cached("some", lambda folder: store.write_data(folder, train, test, ["N/A", "a", "b", "c"], "L", None))
    assert data.class_names == ("a", "b", "c")
    assert data.y_test.tolist() == [0, 1, 2]
    assert torch.equal(data.x_train, x)


def test_parts_follow_one_another(root: Path) -> None:
    x = torch.from_numpy(noise(0, 5, 3, 9, 9))
    parts = [
        store.Rows(x[:2], torch.arange(2)),
        store.Rows(x[2:2], torch.arange(0)),
        store.Rows(x[2:], torch.arange(3)),
    ]
    chained = store.Chained(parts)
    assert [chained[row][1] for row in range(len(chained))] == [0, 1, 0, 1, 2]
    assert np.array_equal(np.asarray(chained[3][0]), x[3].movedim(0, -1))


@pytest.mark.data
@pytest.mark.skipif("CLARENA_DATA" not in os.environ, reason="CLARENA_DATA does not say where the data is")
@pytest.mark.parametrize("name", ["MNIST", "FashionMNIST"])
def test_real_data(name: str) -> None:
    load.cache_clear()
    made = SplitTorchvision.of(name)()
    data = made.data()
    assert data.x_train.shape == (60_000, 1, 28, 28)
    assert data.y_test.bincount().max() <= 1135
    assert [len(split.classes) for split in stream(made, data).splits] == [2] * 5
