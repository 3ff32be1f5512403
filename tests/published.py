"""Small data sets in the layout of the published archives, and what the tests that read them share."""

import gzip
import hashlib
import io
import struct
import tarfile
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from clarena import Benchmark, Data, Stream
from clarena.toolbox.seeding import Seeds


def png(pixels: np.ndarray, form: str = "PNG") -> bytes:
    """An image file."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, form)
    return file.getvalue()


def stream(made: Benchmark, data: Data, scenario: str = "class", seed: int = 0) -> Stream:
    """The experiences under a seed, data and stream found valid."""
    data.validate()
    found = made.stream(data, scenario, Seeds(seed).numpy("class_order"))
    found.validate(data, made.name)
    return found


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()


def offline(*_: object, **__: object) -> None:
    raise OSError("no network")


def noise(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


# ---- CIFAR: pickles as Python 2 wrote them, where text and pixels are strings of bytes ----


def short(text: str) -> bytes:
    return b"U" + bytes([len(text)]) + text.encode()


def number(value: int) -> bytes:
    return b"J" + struct.pack("<i", value)


def array(x: np.ndarray) -> bytes:
    kind = b"cnumpy\ndtype\n" + short("u1") + number(0) + number(1) + b"\x87R"
    kind += b"(" + number(3) + short("|") + b"NNN" + number(-1) + number(-1) + number(0) + b"tb"
    made = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\n" + number(0) + b"\x85" + short("b") + b"\x87R"
    shape = b"".join(map(number, x.shape)) + b"\x86"
    return made + b"(" + number(1) + shape + kind + b"\x89T" + struct.pack("<i", x.nbytes) + x.tobytes() + b"tb"


def python2_pickle(content: dict[str, Any]) -> bytes:
    out = [b"\x80\x02}("]
    for key, value in content.items():
        out.append(short(key))
        if isinstance(value, np.ndarray):
            out.append(array(value))
        else:
            out += [b"](", *(short(item) if isinstance(item, str) else number(item) for item in value), b"e"]
    return b"".join([*out, b"u."])


def write_tar(path: Path, folder: str, files: dict[str, bytes]) -> None:
    with tarfile.open(path, "w:gz", compresslevel=1) as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(f"{folder}/{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


def write_cifar100(path: Path, train: np.ndarray, test: np.ndarray, classes: int) -> None:
    """`cifar-100-python.tar.gz` of images [n, 3, 32, 32] whose classes take turns."""

    def batch(x: np.ndarray) -> bytes:
        labels = [row % classes for row in range(len(x))]
        names = [f"image_{row:06}.png" for row in range(len(x))]
        coarse = [label % 20 for label in labels]
        return python2_pickle(
            {"filenames": names, "fine_labels": labels, "coarse_labels": coarse, "data": x.reshape(len(x), -1)}
        )

    meta = python2_pickle(
        {"fine_label_names": [f"fine{c}" for c in range(classes)], "coarse_label_names": [f"c{c}" for c in range(20)]}
    )
    files = {"meta": meta, "file.txt~": b"", "train": batch(train), "test": batch(test)}
    write_tar(path, "cifar-100-python", files)


def unpack_cifar100(archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lay its files where torchvision reads them, and have torchvision take them for the published ones."""
    from torchvision.datasets import CIFAR100

    with tarfile.open(archive) as tar:
        tar.extraction_filter = getattr(tarfile, "data_filter", None)  # of Python 3.11.4 and later
        tar.extractall(archive.parent)
    digests = {name: md5(archive.parent / CIFAR100.base_folder / name) for name in ("train", "test", "meta")}
    monkeypatch.setattr(CIFAR100, "tgz_md5", md5(archive))
    monkeypatch.setattr(CIFAR100, "train_list", [["train", digests["train"]]])
    monkeypatch.setattr(CIFAR100, "test_list", [["test", digests["test"]]])
    monkeypatch.setattr(CIFAR100, "meta", CIFAR100.meta | {"md5": digests["meta"]})


def write_cifar10(path: Path, batches: Sequence[np.ndarray], test: np.ndarray) -> None:
    """`cifar-10-python.tar.gz`, its members in no order."""

    def batch(x: np.ndarray) -> bytes:
        return python2_pickle({"labels": [row % 10 for row in range(len(x))], "data": x.reshape(len(x), -1)})

    files = {f"data_batch_{number}": batch(x) for number, x in enumerate(batches, 1)}
    meta = python2_pickle({"label_names": [f"name{c}" for c in range(10)]})
    files = {"readme.html": b"<html>", "test_batch": batch(test), "batches.meta": meta} | dict(reversed(files.items()))
    write_tar(path, "cifar-10-batches-py", files)


# ---- Small NORB ----


def norb_matrix(x: np.ndarray) -> bytes:
    magic = {"uint8": 0x1E3D4C55, "int32": 0x1E3D4C54}[x.dtype.name]
    sizes = [*x.shape, 1, 1][: max(3, x.ndim)]
    return gzip.compress(struct.pack(f"<{2 + len(sizes)}i", magic, x.ndim, *sizes) + x.tobytes())


# ---- Tiny ImageNet ----


def write_tiny_imagenet(path: Path, train: dict[str, list[np.ndarray]], test: list[tuple[str, np.ndarray]]) -> None:
    """Images by WordNet id; PNG inside, so that pixels come back as they were: Pillow looks at the content."""
    top = "tiny-imagenet-200"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{top}/wnids.txt", "".join(f"{wnid}\n" for wnid in reversed(train)))
        words = "".join(f"{wnid}\tname of {wnid}, other name\n" for wnid in ("n00000000", *train))
        archive.writestr(f"{top}/words.txt", words)
        for wnid, images in train.items():
            archive.writestr(f"{top}/train/{wnid}/{wnid}_boxes.txt", "")
            for row, pixels in enumerate(images):
                archive.writestr(f"{top}/train/{wnid}/images/{wnid}_{row}.JPEG", png(pixels))
        lines = [f"val_{row}.JPEG\t{wnid}\t0\t0\t63\t63\n" for row, (wnid, _) in enumerate(test)]
        archive.writestr(f"{top}/val/val_annotations.txt", "".join(lines))
        for row, (_, pixels) in enumerate(test):
            archive.writestr(f"{top}/val/images/val_{row}.JPEG", png(pixels))
        archive.writestr(f"{top}/test/images/test_0.JPEG", png(noise(9, 64, 64, 3)))
