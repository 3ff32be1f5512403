"""The labelled images that torchvision opens or that lie in zips: decoded once, whole or not at all."""

import json
import os
import struct
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from clarena_native.torchvision_cpu import import_torchvision
from clarena_vision import decoded
from clarena_vision.torchvision_sets import SplitTorchvision, load
from PIL import Image
from published import md5, noise, offline, png, stream

from clarena import DataError

datasets = import_torchvision().datasets


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty data root, and a data set that this process has loaded forgotten."""
    monkeypatch.setenv("CLARENA_DATA", str(tmp_path))
    load.cache_clear()
    return tmp_path


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


def test_svhn_has_its_zero_at_the_end(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from scipy.io import savemat

    parts = {"train": noise(0, 32, 32, 3, 6), "test": noise(1, 32, 32, 3, 2)}  # the sample is the last axis
    entries = dict(datasets.SVHN.split_list)
    for part, x in parts.items():
        file = root / f"{part}_32x32.mat"
        savemat(file, {"X": x, "y": np.array([[1], [2], [10], [1], [2], [10]][: x.shape[-1]], np.uint8)})
        entries[part] = [*datasets.SVHN.split_list[part][:2], md5(file)]
    monkeypatch.setattr(datasets.SVHN, "split_list", entries)
    data = SplitTorchvision.of("SVHN")().data()
    assert data.y_train.tolist() == [1, 2, 0, 1, 2, 0]
    assert data.class_names == ("0", "1", "2")
    assert np.array_equal(data.x_train, parts["train"].transpose(3, 0, 1, 2))
    file = root / "test_32x32.mat"
    file.write_bytes(file.read_bytes()[:-1])
    monkeypatch.setattr("urllib.request.urlopen", offline)
    with pytest.raises(
        DataError, match=r"(?s)SVHN is not in .*not found or corrupted.*Nor to be downloaded: no network"
    ):
        SplitTorchvision.of("SVHN")(size=8).data()


def test_stl10_without_its_unlabelled_images(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = root / "stl10_binary"
    folder.mkdir()
    parts = {"train": noise(0, 10, 3, 96, 96), "test": noise(1, 20, 3, 96, 96)}
    for part, x in parts.items():
        (folder / f"{part}_X.bin").write_bytes(x.transpose(0, 1, 3, 2).tobytes())  # columns first, as MATLAB has them
        (folder / f"{part}_y.bin").write_bytes(bytes(row % 10 + 1 for row in range(len(x))))
    (folder / "unlabeled_X.bin").write_bytes(b"")
    (folder / "class_names.txt").write_text("".join(f"class{c}\n" for c in range(10)))
    for part in ("train_list", "test_list"):
        files = [[name, md5(folder / name)] for name, _ in getattr(datasets.STL10, part)]
        monkeypatch.setattr(datasets.STL10, part, files)
    data = SplitTorchvision.of("STL10")().data()
    assert np.array_equal(data.x_test, parts["test"].transpose(0, 2, 3, 1))
    assert data.y_train.tolist() == list(range(10))
    assert data.class_names[3] == "class3"


def test_emnist_letters_start_at_one(root: Path) -> None:
    folder = root / "EMNIST" / "raw"
    folder.mkdir(parents=True)
    for part, count in (("train", 52), ("test", 26)):
        stem = f"emnist-letters-{part}"
        x, y = noise(count, count, 28, 28), np.arange(count) % 26 + 1
        (folder / f"{stem}-images-idx3-ubyte").write_bytes(struct.pack(">4i", 0x803, count, 28, 28) + x.tobytes())
        (folder / f"{stem}-labels-idx1-ubyte").write_bytes(struct.pack(">2i", 0x801, count) + bytes(y.tolist()))
    data = SplitTorchvision.of("EMNIST-letters")().data()
    assert "".join(data.class_names) == "abcdefghijklmnopqrstuvwxyz"
    assert data.y_test.tolist() == list(range(26))
    assert np.array_equal(data.x_train, noise(52, 52, 28, 28))


def test_food101_of_many_sizes(root: Path) -> None:
    folder = root / "food-101"
    (folder / "meta").mkdir(parents=True)
    for part, rows in (("train", range(4)), ("test", range(4, 6))):
        names = {dish: [f"{dish}/{row}" for row in rows] for dish in ("apple_pie", "waffles")}
        (folder / "meta" / f"{part}.json").write_text(json.dumps(names))
        files = [name for some in names.values() for name in some]
        pixels = {f"{name}.jpg": noise(rows[n % 2], 10 + n, 20, 3) for n, name in enumerate(files)}
        fill(folder / "images", pixels, "JPEG")
    made = SplitTorchvision.of("Food101")(size=16, experiences=2)
    data = made.data()
    assert data.x_train.shape == (8, 16, 16, 3)
    assert data.y_test.tolist() == [0, 0, 1, 1]
    stream(made, data)


def test_it_is_decoded_once(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    imagenette(root)
    first = SplitTorchvision.of("Imagenette")().data()
    load.cache_clear()
    monkeypatch.setattr(decoded, "write_images", None)
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


def test_more_pixels_than_there_is_room_for(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    imagenette(root)
    with pytest.raises(DataError, match=r"images of 1000000×1000000 for each processor take .*benchmark.size=32"):
        SplitTorchvision.of("Imagenette")(size=1_000_000).data()
    monkeypatch.setattr("clarena_vision.decoded.require_memory", lambda size, what: None)
    with pytest.raises(DataError, match=r"15 images of 1000000×1000000 take 41\d+.\d GiB, and the disk of .* left"):
        SplitTorchvision.of("Imagenette")(size=1_000_000).data()


def test_a_decompression_bomb(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    imagenette(root)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(DataError, match=r"Image 0 of 15 cannot be decoded: .*decompression bomb"):
        SplitTorchvision.of("Imagenette")().data()


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
    fill(left, {"train/n02979186/n02979186_99.JPEG": noise(9, 20, 20, 3)})
    monkeypatch.setattr(datasets.Imagenette, "_download", lambda self: imagenette(Path(self.root)))
    assert len(SplitTorchvision.of("Imagenette")().data().y_train) == 15
    assert not left.exists()


def test_those_who_start_together_make_it_once(root: Path) -> None:
    made = []

    def make(folder: Path) -> None:
        made.append(folder)
        (folder / "x").write_text("whole")

    with ThreadPoolExecutor(4) as pool:
        folders = list(pool.map(lambda _: decoded.made_once("decoded/some", make), range(4)))
    assert [(folder / "x").read_text() for folder in folders] == ["whole"] * 4
    assert len(made) == 1


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
    train, test = decoded.Rows(x.unsqueeze(1), y), decoded.Rows(x[:3].unsqueeze(1) // 2, y[:3])
    data = decoded.cached(
        "some", lambda folder: decoded.write_data(folder, train, test, ["N/A", "a", "b", "c"], "L", None)
    )
    assert data.class_names == ("a", "b", "c")
    assert data.y_test.tolist() == [0, 1, 2]
    assert torch.equal(data.x_train, x)


def test_parts_follow_one_another(root: Path) -> None:
    x = torch.from_numpy(noise(0, 5, 3, 9, 9))
    parts = [
        decoded.Rows(x[:2], torch.arange(2)),
        decoded.Rows(x[2:2], torch.arange(0)),
        decoded.Rows(x[2:], torch.arange(3)),
    ]
    chained = decoded.Chained(parts)
    assert [chained[row][1] for row in range(len(chained))] == [0, 1, 0, 1, 2]
    assert np.array_equal(np.asarray(chained[3][0]), x[3].movedim(0, -1))
