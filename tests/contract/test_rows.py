"""Rows: kept as stored where the conversion allows, read batch by batch where they are many; the same bits."""

import threading
from typing import NamedTuple

import numpy as np
import pytest
import torch
from clarena_native.strategies.architecture.expand import Expand
from clarena_native.strategies.meta.mer import MER
from clarena_native.strategies.projection.gem import GEM
from clarena_native.strategies.references.cumulative import Cumulative
from clarena_native.strategies.references.finetune import Finetune
from clarena_native.strategies.references.joint import Joint
from clarena_native.strategies.regularisation.ewc import EWC
from clarena_native.strategies.replay.der import DERPlusPlus
from clarena_native.strategies.replay.er import ER
from clarena_native.strategies.replay.gdumb import GDumb
from clarena_native.strategies.replay.icarl import ICaRL
from hypothesis import given
from hypothesis import strategies as st
from tiny import CPU, same, walk

from clarena import Data, DataError, PluginError, mapped
from clarena.checks.tiny import TinyStream
from clarena.contract import rows as rows_module
from clarena.contract.benchmark import same_classes, split_by_class
from clarena.contract.rows import Conversion, Part, Rows, ahead, conversion
from clarena.toolbox import together
from clarena.toolbox.modules import state_bytes

BYTES = {"stored": "bytes"}


def pixels(x):
    """As a benchmark converts bytes: floats with a fraction."""
    return (x.float() / 255 - 0.3) / 0.7


def some_bytes(*shape, seed=0):
    return torch.randint(256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


class Permuted:
    """The pixels in another order; keeps type and shape."""

    def __init__(self, seed, pixels=12):
        self.order = torch.randperm(pixels, generator=torch.Generator().manual_seed(seed))

    def __call__(self, x):
        return x.flatten(1)[:, self.order].view_as(x)


def doubled(x):
    return x * 2


# --- what a row is


@pytest.mark.parametrize(
    ("convert", "stored", "transforms", "as_stored"),
    [
        pytest.param(pixels, some_bytes(40, 12), [None, None], True, id="bytes"),
        pytest.param(pixels, some_bytes(40, 3, 4), [Permuted(1), None, Permuted(2)], True, id="moved"),
        pytest.param(pixels, some_bytes(40, 12), [None, doubled], False, id="one-transform-computes"),
        pytest.param(lambda x: x.float() / 16, some_bytes(40, 12) % 2, [torch.sqrt], False, id="0-and-1"),
        pytest.param(
            lambda x: pixels(x) - pixels(x).mean(), some_bytes(40, 12), [None], False, id="looks-at-the-batch"
        ),
        pytest.param(lambda x: x.float(), torch.randn(40, 12), [None], False, id="floats"),
        pytest.param(lambda x: x.float(), torch.randn(40, 12).double(), [None], False, id="doubles"),
        pytest.param(lambda x: x.long(), some_bytes(40, 12), [None], True, id="tokens"),
        pytest.param(
            pixels, torch.zeros(1, 12, dtype=torch.uint8), [lambda x: x.clamp(max=1)], False, id="blank-sample"
        ),
    ],
)
def test_a_row_is_as_stored_where_conversion_allows(convert, stored, transforms, as_stored):
    assert conversion(convert, stored, transforms).as_stored == as_stored


def test_a_transform_that_writes_into_what_it_is_given_changes_nothing():
    stored = some_bytes(20, 12)
    before = stored.clone()
    conversion(pixels, stored, [lambda x: x.mul_(2), Permuted(0)])
    assert torch.equal(stored, before)


# --- the same bits, kept or read batch by batch


@given(
    st.lists(
        st.tuples(st.integers(0, 9), st.sampled_from([None, Permuted(1), Permuted(2), doubled])), min_size=1, max_size=4
    ),
    st.integers(1, 7),
    st.randoms(use_true_random=False),
)
def test_rows_and_inputs_are_those_of_the_whole(parts, size, random):
    stored = some_bytes(30, 12)
    parts = [Part(stored, torch.tensor(random.sample(range(30), n), dtype=torch.int64), t) for n, t in parts]
    expected = torch.cat(
        [pixels(stored[p.index]) if p.transform is None else p.transform(pixels(stored[p.index])) for p in parts]
    )
    how = conversion(pixels, stored, [p.transform for p in parts])
    order = torch.tensor(random.sample(range(len(expected)), len(expected)), dtype=torch.int64)
    for kept in (2**28, 0):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(rows_module, "KEPT", kept)
            rows = Rows(parts, how, CPU)
            assert len(rows) == len(expected)
            assert torch.equal(rows.inputs(), expected) or not len(expected)
            places = order.split(size) if len(order) else ()
            batches = list(rows.batches(places, places))
            for place, (x, give_rows) in zip(places, batches, strict=True):
                assert torch.equal(x, expected[place])
                assert torch.equal(how(give_rows()), x)
                assert give_rows().dtype == (torch.uint8 if how.as_stored else torch.float32)


def test_inputs_that_cannot_be_had_one_by_one_are_converted_at_once(monkeypatch):
    stored = some_bytes(20, 12)
    monkeypatch.setattr(rows_module, "KEPT", 0)
    convert = lambda x: pixels(x) - pixels(x).mean()  # noqa: E731 - looks at its batch
    rows = Rows([Part(stored, torch.arange(20))], conversion(convert, stored, [None]), CPU)
    place = torch.tensor([3, 4])
    assert torch.equal(rows.at(place, place)[0], convert(stored)[3:5])


class Moved(TinyStream):
    """Three experiences of all classes, each seen through pixels in another order; stored as bytes."""

    name = "moved"

    def stream(self, data, scenario, generator):
        return same_classes(data, scenario, [None, Permuted(1, 16), Permuted(2, 16)])


@pytest.mark.parametrize("benchmark", [TinyStream, Moved])
@pytest.mark.parametrize(
    "strategy", [Finetune, Joint, Cumulative, EWC, ER, DERPlusPlus, GEM, GDumb, ICaRL, Expand, MER]
)
def test_nothing_depends_on_whether_inputs_are_kept(strategy, benchmark, monkeypatch):
    def run():
        ours = walk(strategy, "task", benchmark=benchmark, benchmark_options=BYTES).finish()
        return ours.parameters(), ours.predict()

    kept, answers = run()
    monkeypatch.setattr(rows_module, "KEPT", 0)
    read, again = run()
    assert same(kept, read)
    assert answers == again


@pytest.mark.parametrize("accumulation", [1, 3])
def test_a_batch_gives_the_rows_of_the_stream(accumulation):
    seen = []

    class Looks(ER):
        def after_step(self, batch):
            rows = batch.stream().rows
            assert rows.dtype == torch.uint8
            assert torch.equal(self.context.inputs(rows), batch.stream().x)
            seen.append(len(batch) - batch.fresh)
            if batch.fresh < len(batch):
                with pytest.raises(PluginError, match=r"batch\.stream\(\)\.rows"):
                    _ = batch.rows
                with pytest.raises(PluginError, match=r"batch\.stream\(\)\.rows"):
                    _ = batch.exemplars().rows
            super().after_step(batch)

    walk(Looks, benchmark_options=BYTES, accumulation=accumulation).finish()
    assert any(seen)


def test_rows_with_hidden_boundaries():
    class Looks(ER):
        def after_step(self, batch):
            assert torch.equal(self.context.inputs(batch.stream().rows), batch.stream().x)
            super().after_step(batch)

    ours = walk(Looks, benchmark_options=BYTES, boundaries="hidden", optimizer_state="kept")
    ours.realised.begin_hidden()
    parts = (ours.realised.experience(positions) for positions in ours.realised.steps)
    ours.strategy.learn(ours.realised.hidden_stream(parts))
    assert len(ours.strategy.buffer)


# --- what exemplars weigh


class Cifar(TinyStream):
    """Noise in the shape of CIFAR-10."""

    name = "noise"

    def inputs(self, x):
        return pixels(x)

    def data(self):
        y = torch.arange(400) % 4
        return Data(some_bytes(400, 3, 32, 32), y, some_bytes(8, 3, 32, 32, seed=1), y[:8], ("a", "b", "c", "d"))

    def stream(self, data, scenario, generator):
        return split_by_class(data, scenario, 2, "natural", generator)


def test_two_hundred_images_weigh_what_their_bytes_do():
    ours = walk(ER, benchmark=Cifar, buffer_size=200, epochs=1, batch_size=40).finish()
    assert len(ours.strategy.buffer) == 200
    assert 200 * 3072 < state_bytes(ours.strategy.buffer) <= 650_000
    assert ours.strategy.buffer.everything()["x"].dtype == torch.float32


# --- mapped from a file


def test_an_array_is_mapped_and_nothing_reaches_its_file(tmp_path):
    array = np.arange(60, dtype=np.int16).reshape(5, 12)
    np.save(tmp_path / "x.npy", array)
    before = (tmp_path / "x.npy").read_bytes()
    x = mapped(tmp_path / "x.npy")
    assert (x.dtype, torch.equal(x, torch.from_numpy(array))) == (torch.int16, True)
    x.zero_()
    assert (tmp_path / "x.npy").read_bytes() == before


@pytest.mark.parametrize("content", [b"", b"no array", b"\x93NUMPY\x01\x00"])
def test_a_damaged_array_is_refused(tmp_path, content):
    (tmp_path / "x.npy").write_bytes(content)
    with pytest.raises(DataError, match=r"x\.npy cannot be mapped"):
        mapped(tmp_path / "x.npy")


@pytest.mark.parametrize("kept", [2**28, 0])
def test_a_file_that_shrinks_is_a_message_and_not_the_end(tmp_path, kept, monkeypatch):
    monkeypatch.setattr(rows_module, "KEPT", kept)
    file = tmp_path / "x.npy"
    np.save(file, some_bytes(200, 12).numpy())
    stored = mapped(file)
    rows = Rows([Part(stored, torch.arange(200))], conversion(pixels, stored, [None]), CPU)
    place = torch.arange(4)
    rows.at(place, place)
    with file.open("r+b") as opened:
        opened.truncate(100)
    if kept:
        rows.at(place, place)  # was read before
    else:
        with pytest.raises(DataError, match=r"x\.npy was changed .* it has 100 bytes, and 2528 are needed"):
            rows.at(place, place)
    with pytest.raises(DataError, match="put the file back"):
        Part(stored, torch.arange(200)).read(place)


def test_a_file_that_is_written_to_is_noticed_and_one_that_is_replaced_is_still_there(tmp_path):
    file, other = tmp_path / "x.npy", tmp_path / "y.npy"
    for name in (file, other):
        np.save(name, some_bytes(200, 12).numpy())
    stored = mapped(file)
    file.write_bytes(file.read_bytes())
    with pytest.raises(DataError, match=r"x\.npy was changed .* it was written to"):
        Part(stored, torch.arange(200)).read(torch.arange(3))
    stored = mapped(file)
    np.save(other, some_bytes(10, 12, seed=1).numpy())
    other.rename(file)
    assert torch.equal(Part(stored, torch.arange(200)).read(torch.arange(3)), some_bytes(200, 12)[:3])
    file.unlink()
    assert torch.equal(Part(stored, torch.arange(200)).read(torch.arange(3)), some_bytes(200, 12)[:3])


def test_an_array_of_an_npz_is_mapped_where_it_lies(tmp_path):
    file, x = tmp_path / "data.npz", some_bytes(50, 3, 7)
    np.savez(file, y=np.arange(3), x_train=x.numpy())
    found = mapped(file, "x_train")
    assert torch.equal(found, x)
    Part(found, torch.arange(50)).read(torch.arange(3))
    where = file.read_bytes().index(x.numpy().tobytes())
    with file.open("r+b") as opened:
        opened.seek(where)
        opened.write(b"\0\1\2")
    with pytest.raises(DataError, match=r"was changed|was written to"):
        Part(found, torch.arange(50)).read(torch.arange(3))
    with pytest.raises(DataError, match=r"data\.npz cannot be mapped.*CRC"):
        mapped(file, "x_train")
    np.savez_compressed(file, x_train=x.numpy())
    with pytest.raises(DataError, match="compressed"):
        mapped(file, "x_train")
    with pytest.raises(DataError, match="cannot be mapped"):
        mapped(file, "absent")
    np.savez(file, x_train=np.array([None]))
    with pytest.raises(DataError, match="Python objects"):
        mapped(file, "x_train")


# --- read ahead


def test_what_is_read_ahead_comes_in_order_and_errors_come_through():
    assert list(ahead(lambda n: n * n, range(20))) == [n * n for n in range(20)]

    def fails(n):
        if n == 3:
            raise DataError("gone")
        return n

    reading = ahead(fails, range(9))
    assert [next(reading) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(DataError, match="gone"):
        next(reading)


def test_no_thread_outlives_what_it_reads_for():
    before = threading.active_count()
    reading = ahead(lambda n: n, range(100))
    next(reading)
    assert threading.active_count() == before + 1
    reading.close()
    assert threading.active_count() == before


# --- several tensors as one


class Pair(NamedTuple):
    """An image and a few ids."""

    image: torch.Tensor
    ids: torch.Tensor


def test_named_tuples_are_treated_as_one():
    x = Pair(some_bytes(6, 2, 2), torch.arange(18).view(6, 3))
    assert together.count(x) == 6
    assert together.shape_of(x) == Pair((2, 2), (3,))
    assert together.form_of(x) == "image [2, 2] of uint8, ids [3] of int64"
    index = torch.tensor([4, 0])
    assert together.same(together.chosen(x, index), Pair(x.image[index], x.ids[index]))
    assert together.same(together.joined([together.part(x, slice(2)), together.part(x, slice(2, 6))]), x)
    assert not together.same(x, Pair(x.image, x.ids.int()))
    assert together.size(x) == 24 + 18 * 8


def test_the_conversion_of_rows_is_one_function():
    how = Conversion(pixels, as_stored=True)
    rows = some_bytes(5, 12)
    assert torch.equal(how(rows), pixels(rows))
    assert Conversion(pixels, as_stored=False)(rows) is rows
