"""Small NORB, Tiny ImageNet and CORe50 from small files in the published layout."""

import hashlib
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from clarena_vision import core50, norb, tiny_imagenet
from clarena_vision.core50 import Core50Nc, Core50Ni
from clarena_vision.norb import SmallNorb, SplitSmallNorb
from clarena_vision.tiny_imagenet import SplitTinyImageNet
from PIL import Image
from published import noise, norb_matrix, stream, write_tiny_imagenet

import clarena
from clarena import DataError, UsageError


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty data root, and what this process has loaded forgotten."""
    monkeypatch.setenv("CLARENA_DATA", str(tmp_path))
    for module in (norb, tiny_imagenet, core50):
        module.load.cache_clear()
    return tmp_path


def put(path: Path, content: bytes, kind: Callable = hashlib.sha256) -> str:
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    return kind(content).hexdigest()


# ---- Small NORB ----


@pytest.fixture
def toys(root: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, np.ndarray]:
    """A pair of images of each category under each lighting from each azimuth: the arrays by the name of their file."""
    arrays, digests = {}, {}
    for seed, part in enumerate(norb.PARTS):
        factors = [(c, a, light) for a in range(18) for light in range(6) for c in range(5)]
        arrays[f"{part}-dat"] = noise(seed, len(factors), 2, 96, 96)
        arrays[f"{part}-cat"] = np.array([c for c, _, _ in factors], np.int32)
        arrays[f"{part}-info"] = np.array([[4, 8, 2 * a, light] for _, a, light in factors], np.int32)
        for kind in ("dat", "cat", "info"):
            name = f"{norb.PARTS[part]}-{kind}.mat.gz"
            digests[part, kind] = put(root / "small-norb" / name, norb_matrix(arrays[f"{part}-{kind}"]))
    monkeypatch.setattr(norb, "SHA256", digests)
    return arrays


@pytest.mark.parametrize(("by", "column", "domains"), [("lighting", 3, 6), ("azimuth", 2, 18)])
def test_small_norb_by_lighting_and_by_azimuth(toys: dict[str, np.ndarray], by: str, column: int, domains: int) -> None:
    made = SmallNorb(by=by, order="natural", size=96, cameras="both")
    data = made.data()
    assert np.array_equal(data.x_train, toys["train-dat"])
    assert np.array_equal(data.y_test, toys["test-cat"])
    found = stream(made, data, "domain")
    assert found.output_names == ("animal", "human", "airplane", "truck", "car")
    assert len(found.splits) == domains
    values = sorted(set(toys["train-info"][:, column].tolist()))
    for value, split in zip(values, found.splits):
        assert set(toys["train-info"][split.train, column]) == {value}
        assert set(toys["test-info"][split.test, column]) == {value}
        assert split.classes == (0, 1, 2, 3, 4)
    assert data.domain_names[1] == {"lighting": "lighting 1", "azimuth": "20°"}[by]
    made = SmallNorb(by=by, size=96)
    orders = {tuple(int(s.train[0]) for s in stream(made, made.data(), "domain", seed).splits) for seed in range(4)}
    assert len(orders) > 1


def test_small_norb_of_one_camera_at_another_size(toys: dict[str, np.ndarray]) -> None:
    data = SplitSmallNorb().data()
    assert data.x_test.shape == (540, 32, 32)
    expected = Image.fromarray(toys["test-dat"][7, 0]).resize((32, 32), Image.Resampling.BILINEAR)
    assert np.array_equal(data.x_test[7], np.asarray(expected))
    assert SplitSmallNorb().inputs(data.x_test[:2]).shape == (2, 1, 32, 32)
    both = SplitSmallNorb(cameras="both")
    assert both.inputs(both.data().x_test[:2]).shape == (2, 2, 32, 32)
    assert [split.classes for split in stream(both, data, "class").splits] == [(c,) for c in range(5)]


def test_small_norb_damaged_or_absent(toys: dict[str, np.ndarray], root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = root / "small-norb" / f"{norb.PARTS['test']}-dat.mat.gz"
    archive.write_bytes(archive.read_bytes()[:-1])
    with pytest.raises(DataError, match=r"testing-dat.mat.gz is damaged.*Move it away"):
        SmallNorb().data()
    archive.unlink()
    monkeypatch.setattr(norb, "URL", "http://127.0.0.1:9")
    with pytest.raises(DataError, match=r"testing-dat.mat.gz is missing, and could not be downloaded from http://127"):
        SmallNorb().data()
    assert [path.name for path in (root / "decoded").iterdir()] == [".small-norb-32.lock"]


# ---- Tiny ImageNet ----


def test_tiny_imagenet(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train = {wnid: [noise(row, 64, 64, 3), noise(row, 64, 64)] for row, wnid in enumerate(("n01", "n02", "n05"))}
    test = [(wnid, noise(10 + row, 64, 64, 3)) for row, wnid in enumerate(("n05", "n01", "n02", "n01"))]
    archive = root / "tiny-imagenet-200.zip"
    write_tiny_imagenet(archive, train, test)
    monkeypatch.setattr(tiny_imagenet, "MD5", hashlib.md5(archive.read_bytes()).hexdigest())
    made = SplitTinyImageNet(experiences=3, class_order="natural")
    data = made.data()
    assert data.class_names == tuple(f"name of {wnid}, other name" for wnid in train)
    assert np.array_equal(data.x_train[2], train["n02"][0])
    assert np.array_equal(data.x_train[3], np.stack([train["n02"][1]] * 3, axis=-1))  # some are grey
    assert data.y_train.tolist() == [0, 0, 1, 1, 2, 2]
    assert data.y_test.tolist() == [2, 0, 1, 0]
    assert np.array_equal(data.x_test, np.stack([pixels for _, pixels in test]))
    assert [split.classes for split in stream(made, data, "class").splits] == [(0,), (1,), (2,)]
    assert made.inputs(data.x_test).shape == (4, 3, 64, 64)
    assert SplitTinyImageNet(size=32).data().x_train.shape == (6, 32, 32, 3)
    assert SplitTinyImageNet().experiences == 10
    tiny_imagenet.load.cache_clear()
    (root / "decoded" / "tiny-imagenet-32").rename(root / "away")
    archive.write_bytes(archive.read_bytes()[:-1])
    assert SplitTinyImageNet().data().fingerprint() == data.fingerprint()  # decoded once
    with pytest.raises(DataError, match=r"tiny-imagenet-200.zip is damaged"):
        SplitTinyImageNet(size=32).data()


# ---- CORe50 ----


@pytest.fixture
def objects(root: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[np.ndarray, list[str]]:
    """Two images of every object in every session, 16×16, in the order of the published file: session 11 first."""
    paths = [f"s{s}/o{o}/C_{s:02}_{o:02}_{i:03}.png" for s in (11, 4, 10, 9, 8, 7, 6, 5, 3, 2, 1)
             for o in range(1, 51) for i in range(2)]  # fmt: skip
    images = noise(0, len(paths), 16, 16, 3)
    rows = {s: [row for row, path in enumerate(paths) if path.startswith(f"s{s}/")] for s in range(1, 12)}
    test = rows[3] + rows[7] + rows[10]
    learned = [row for s in core50.TRAIN_SESSIONS for row in rows[s]]
    ni = [[rows[s] for s in (5, 1, 11, 2, 4, 6, 8, 9)] + [test]]
    first = [[row for row in learned if row // 2 % 50 in group] for group in (range(40, 50), range(5), range(5, 40))]
    (root / "core50").mkdir()
    np.savez_compressed(root / "core50" / "core50_imgs.npz", x=images)
    (root / "core50" / "paths.pkl").write_bytes(pickle.dumps(paths, protocol=2))
    (root / "core50" / "LUP.pkl").write_bytes(pickle.dumps({"ni": ni, "nc": [[*first, test]]}, protocol=2))
    digests = {name: hashlib.md5((root / "core50" / name).read_bytes()).hexdigest() for name in core50.FILES}
    monkeypatch.setattr(core50, "FILES", {name: ("http://127.0.0.1:9", digest) for name, digest in digests.items()})
    return images, paths


def test_core50_new_classes(objects: tuple[np.ndarray, list[str]]) -> None:
    images, paths = objects
    made = Core50Nc(size=16, order="natural")
    data = made.data()
    learned = [row for row, path in enumerate(paths) if path.split("/")[0] not in ("s3", "s7", "s10")]
    tested = [row for row in range(len(paths)) if row not in set(learned)]
    assert np.array_equal(data.x_train, images[learned])
    assert np.array_equal(data.x_test, images[tested])
    assert [int(paths[row].split("/")[1][1:]) - 1 for row in tested] == data.y_test.tolist()
    assert data.class_names[:6] == (*(f"plug adapter {n}" for n in range(1, 6)), "mobile phone 1")
    found = stream(made, data, "class")
    assert [len(split.classes) for split in found.splits] == [10, 5, 5, 5, 5, 5, 5, 5, 5]
    assert found.splits[1].classes == (10, 11, 12, 13, 14)
    assert {len(split.train) for split in found.splits[1:]} == {5 * 8 * 2}
    shuffled = {stream(Core50Nc(size=16), data, "class", seed).output_names for seed in range(3)}
    assert len(shuffled) == 3


def test_core50_as_other_papers_split_it(objects: tuple[np.ndarray, list[str]]) -> None:
    made = Core50Nc(size=16, experiences=6, first_experience=25, order=tuple(reversed(range(50))))
    data = made.data()
    found = stream(made, data, "class")
    assert [len(split.classes) for split in found.splits] == [25, 5, 5, 5, 5, 5]
    assert found.output_names == data.class_names[::-1]
    with pytest.raises(UsageError, match="A published run has its experiences"):
        stream(Core50Nc(size=16, run=0, experiences=5), data, "class")


def test_core50_new_instances(objects: tuple[np.ndarray, list[str]]) -> None:
    made = Core50Ni(size=16, order="natural")
    data = made.data()
    assert data.domain_train is not None
    found = stream(made, data, "domain")
    assert [data.domain_names[int(data.domain_train[split.train[0]])] for split in found.splits] == [
        f"session {s}" for s in (1, 2, 4, 5, 6, 8, 9, 11)
    ]
    assert all(len(split.train) == 100 and len(split.classes) == 50 for split in found.splits)
    dealt = torch.cat([split.test for split in found.splits])
    assert dealt.sort().values.tolist() == list(range(300))  # every test image once
    counts = torch.stack([split.y_test.bincount(minlength=50) for split in found.splits])
    assert counts.max() <= 1  # six test images of an object, for eight experiences
    assert (counts.sum(1) >= 300 // 8).all()
    by_category = Core50Ni(size=16, level="category")
    data = by_category.data()
    assert data.class_names[1] == "mobile phone"
    assert data.y_train.bincount().tolist() == [80] * 10
    assert stream(by_category, data, "domain").outputs == 10


def test_core50_in_a_published_order(objects: tuple[np.ndarray, list[str]]) -> None:
    instances, classes = Core50Ni(size=16, run=0), Core50Nc(size=16, run=0)
    data = instances.data()
    natural = stream(Core50Ni(size=16, order="natural"), data, "domain")
    found = stream(instances, data, "domain", 7)
    for split, session in zip(found.splits, (5, 1, 11, 2, 4, 6, 8, 9)):
        same = natural.splits[core50.TRAIN_SESSIONS.index(session)]
        assert torch.equal(split.train, same.train)
        assert torch.equal(split.test, same.test)
    names = stream(classes, data, "class", 7).output_names
    assert names[0] == "cup 1"
    assert names[10:15] == tuple(f"plug adapter {n}" for n in range(1, 6))


def test_core50_at_another_size_is_read_a_few_at_a_time(
    objects: tuple[np.ndarray, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(core50, "CHUNK", 7)
    data = Core50Nc(size=8).data()
    expected = Image.fromarray(objects[0][0]).resize((8, 8), Image.Resampling.BILINEAR)
    assert np.array_equal(data.x_train[0], np.asarray(expected))  # session 11 comes first
    assert data.x_train.shape == (800, 8, 8, 3)


def test_core50_damaged_or_absent(objects: object, root: Path) -> None:
    file = root / "core50" / "core50_imgs.npz"
    file.write_bytes(file.read_bytes()[:5000])
    with pytest.raises(DataError, match=r"core50_imgs.npz is damaged.*its MD5 is"):
        Core50Nc().data()
    (root / "core50" / "LUP.pkl").unlink()
    with pytest.raises(DataError, match=r"LUP.pkl is missing, and could not be downloaded"):
        Core50Nc(run=3).published("nc")


def test_a_run(toys: dict[str, np.ndarray], tmp_path: Path) -> None:
    settings = {"benchmark": {"size": 8}, "protocol": {"epochs": 1}}
    (record,) = clarena.evaluate(
        "finetune", benchmark="small-norb", seeds=1, settings=settings, store=tmp_path / "runs", jobs=1, track=False
    )
    assert record.status == "finished", record.reason
    assert record.cell.track.benchmark.name == "small-norb"
