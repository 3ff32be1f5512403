"""MNIST and its like: their archives as published, by whom they are downloaded, and torchvision, which knows them."""

import gzip
import hashlib
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from threading import Barrier, Thread

import numpy as np
import pytest
import torch
from clarena_native import torchvision_cpu
from clarena_native.benchmarks import mnist
from clarena_native.benchmarks.mnist import (
    PermutedFashionMnist,
    PermutedMnist,
    RotatedFashionMnist,
    RotatedMnist,
    SplitFashionMnist,
    SplitMnist,
)
from published import stream

from clarena import DataError

MNIST = [SplitMnist, PermutedMnist, RotatedMnist]
FASHION = [SplitFashionMnist, PermutedFashionMnist, RotatedFashionMnist]


def idx(array):
    """An array in the IDX format, gzipped, as MNIST is published."""
    header = bytes([0, 0, 8, array.ndim]) + b"".join(size.to_bytes(4, "big") for size in array.shape)
    return gzip.compress(header + array.tobytes(), mtime=0)


@pytest.fixture
def published(monkeypatch, tmp_path):
    """A tiny MNIST with right checksums in CLARENA_DATA, no mirror within reach: its arrays and folder."""
    source = torchvision_cpu.import_torchvision().datasets.MNIST
    draw = np.random.default_rng(0)
    arrays, resources = [], []
    folder = tmp_path / "data" / "MNIST" / "raw"
    folder.mkdir(parents=True)
    for name, _ in source.resources:
        samples = 40 if name.startswith("train") else 20
        array = np.arange(samples, dtype=np.uint8) % 10
        if "images" in name:
            array = draw.integers(0, 256, (samples, 28, 28), dtype=np.uint8)
        content = idx(array)
        (folder / name).write_bytes(content)
        arrays.append(array)
        resources.append((name, hashlib.md5(content).hexdigest()))
    monkeypatch.setattr(source, "resources", resources)
    monkeypatch.setattr(source, "mirrors", ["http://127.0.0.1:9/"])
    monkeypatch.setenv("CLARENA_DATA", str(tmp_path / "data"))
    mnist.load.cache_clear()
    yield arrays, folder
    mnist.load.cache_clear()


def test_archives_are_read_as_published(published):
    (x_train, y_train, x_test, y_test), folder = published
    before = sorted(folder.iterdir())
    data = SplitMnist().data()
    data.validate()
    for ours, theirs in ((data.x_train.squeeze(1), x_train), (data.x_test.squeeze(1), x_test)):
        assert ours.dtype == torch.uint8
        np.testing.assert_array_equal(ours.numpy(), theirs)
    for ours, theirs in ((data.y_train, y_train), (data.y_test, y_test)):
        assert ours.dtype == torch.int64
        np.testing.assert_array_equal(ours.numpy(), theirs)
    assert sorted(folder.iterdir()) == before, "reading leaves the folder alone"
    assert RotatedMnist().data() is data, "loaded once for each process"
    for benchmark in MNIST:
        assert len(stream(benchmark(), data, benchmark.scenarios[0]).splits) == benchmark().experiences


def test_a_missing_archive_is_named_with_ways_out(published):
    _, folder = published
    (folder / "t10k-images-idx3-ubyte.gz").unlink()
    with pytest.raises(DataError) as caught:
        SplitMnist().data()
    message = str(caught.value)
    assert f"{folder / 't10k-images-idx3-ubyte.gz'} is missing" in message
    for hint in (
        "http://127.0.0.1:9/",
        "CLARENA_DATA",
        "MNIST/raw",
        "train-labels-idx1-ubyte.gz",
        "split-digits",
    ):
        assert hint in message


def test_a_damaged_archive_is_never_read(published):
    _, folder = published
    archive = folder / "train-labels-idx1-ubyte.gz"
    archive.write_bytes(idx(np.ones(40, dtype=np.uint8)))  # well-formed, but not what was published
    with pytest.raises(DataError, match=r"train-labels-idx1-ubyte\.gz is damaged"):
        SplitMnist().data()


def test_a_folder_that_cannot_be_made_is_named(published, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("CLARENA_DATA", str(tmp_path / "file"))
    with pytest.raises(DataError, match="CLARENA_DATA to a folder you can write to"):
        SplitMnist().data()


def test_loaders_that_start_together_download_each_archive_once(published, monkeypatch, tmp_path):
    (x_train, *_), folder = published
    requests = []

    class Handler(SimpleHTTPRequestHandler):
        def do_GET(self):
            if "Method" not in self.headers:  # with it, torchvision only asks where the archive is
                requests.append(self.path)
            super().do_GET()

        def log_message(self, *args):
            pass

    source = torchvision_cpu.import_torchvision().datasets.MNIST
    root = tmp_path / "elsewhere"
    together = Barrier(3)

    def loading():
        together.wait()
        return mnist.load.__wrapped__("MNIST", root, tuple("0123456789"))

    with (
        ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=folder)) as server,
        ThreadPoolExecutor(3) as pool,
    ):
        Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setattr(source, "mirrors", [f"http://127.0.0.1:{server.server_port}/"])
        found = [future.result() for future in [pool.submit(loading) for _ in range(3)]]
        server.shutdown()
    assert sorted(requests) == sorted(f"/{name}" for name, _ in source.resources)
    for data in found:
        np.testing.assert_array_equal(data.x_train.squeeze(1).numpy(), x_train)


def test_the_folder_is_set_by_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    for value, expected in (("", ".cache/clarena"), ("~/elsewhere", "elsewhere"), (str(tmp_path / "a"), "a")):
        monkeypatch.setenv("CLARENA_DATA", value)
        assert mnist.data_root() == tmp_path / expected


@pytest.mark.data
@pytest.mark.parametrize(("split", "permuted", "rotated"), [MNIST, FASHION])
def test_the_real_data(split, permuted, rotated):
    data = split().data()
    data.validate()
    assert (data.x_train.shape, data.x_test.shape) == ((60000, 1, 28, 28), (10000, 1, 28, 28))
    assert data.y_test.bincount().float().mean() == 1000
    inputs = split().inputs(data.x_train)
    assert inputs.mean().abs() < 1e-3
    assert (inputs.std() - 1).abs() < 1e-3
    source = getattr(torchvision_cpu.import_torchvision().datasets, split.dataset)
    names = [name.split(" - ")[0] for name in source.classes]
    assert list(data.class_names) == names
    for benchmark in (split(), permuted(), rotated()):
        found = stream(benchmark, data, benchmark.scenarios[0])
        assert sum(len(part.train) for part in found.splits) == 60000 * (
            1 if benchmark.name.startswith("split") else 10
        )
        for part in filter(lambda part: part.transform, found.splits):
            assert part.transform(inputs[:8]).isfinite().all()


def test_torchvision_imports_beside_this_torch():
    torchvision = torchvision_cpu.import_torchvision()
    assert torchvision_cpu.import_torchvision() is torchvision
    image = torch.arange(4.0).view(1, 2, 2)
    assert torch.equal(torchvision.transforms.functional.hflip(image), image.flip(-1))


def test_a_missing_torchvision_says_how_to_get_it(published, monkeypatch):
    monkeypatch.setitem(sys.modules, "torchvision", None)
    with pytest.raises(DataError, match=r"pip install 'clarena-bench\[vision\]'"):
        SplitMnist().data()


def test_other_import_errors_are_not_hidden(monkeypatch):
    def failing(name):
        raise RuntimeError("something else")

    monkeypatch.setattr(torchvision_cpu, "import_module", failing)
    with pytest.raises(RuntimeError, match="something else"):
        torchvision_cpu.import_torchvision()
