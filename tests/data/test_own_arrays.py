"""Arrays and images of one's own: nothing is taken for something else, and what cannot be used says what to do."""

import os
import socket
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from clarena_data.arrays import channels_last
from clarena_data.own import DomainsOwn, SplitOwn
from PIL import Image

from clarena import Benchmark, DataError, UsageError
from clarena.run.data import load

Y = np.arange(40) % 4
VECTORS = np.random.default_rng(0).normal(size=(40, 7))


def arrays(path: Path, x: np.ndarray = VECTORS, y: np.ndarray = Y, **changes: object) -> Path:
    content = {"x_train": x[8:], "y_train": y[8:], "x_test": x[:8], "y_test": y[:8]} | changes
    np.savez(path, **content)
    return path


def made(path: object, family: type[Benchmark] = SplitOwn, **options: object) -> Benchmark:
    return family.of(str(path))(**options)


# ---- Labels ----

LABELS = {
    "whole floats": (Y.astype(float), r"float64 \(32,\). They are whole: save them as y.astype\(int\)"),
    "regression": (np.linspace(0, 1, 40), "Numbers to be predicted"),
    "whole regression": (np.arange(40.0), "Numbers to be predicted"),
    "NaN": (np.where(Y == 1, np.nan, Y), "There are NaN or infinity among them"),
    "one-hot": (np.eye(4)[Y], r"single 1: save the number of the class in its place, y.argmax\(1\)"),
    "a column": (Y[:, None], r"y.ravel\(\)"),
    "several": (np.ones((40, 3), int), "Several labels for one sample are not supported"),
    "truth values": (Y > 1, r"not bool \(32,\). Save them as y.astype\(int\)"),
    "complex": (Y * 1j, "not complex128"),
    "objects": (np.array(list("abcd"), dtype=object)[Y], r"y_train is one of Python objects.*dtype=str"),
    "all different": (np.arange(40), "tests classes that it never trains on.*regression"),
}


@pytest.mark.parametrize("what", LABELS)
def test_labels_that_are_no_classes_say_what_to_do(tmp_path: Path, what: str) -> None:
    y, message = LABELS[what]
    with pytest.raises(DataError, match=message):
        made(arrays(tmp_path / "a.npz", y=y)).data()


def test_bytes_are_names(tmp_path: Path) -> None:
    names = np.array([b"ant", b"b\xe9e", b"cat", b"dog"])
    assert made(arrays(tmp_path / "a.npz", y=names[Y])).data().class_names == ("ant", "b\\xe9e", "cat", "dog")


def test_names_are_not_taken_from_the_end_for_negative_labels(tmp_path: Path) -> None:
    data = made(arrays(tmp_path / "a.npz", y=Y - 1, class_names=np.array(list("abcd")))).data()
    assert data.class_names == ("-1", "0", "1", "2")
    assert any("class_names in a.npz are left out" in note for note in data.notes)


def test_classes_with_too_few_samples_are_named(tmp_path: Path) -> None:
    few = np.flatnonzero(Y[8:] == 2)[1:]
    x, y = np.delete(VECTORS[8:], few, 0), np.delete(Y[8:], few)
    test = Y[:8] != 3
    path = arrays(tmp_path / "a.npz", x_train=x, y_train=y, x_test=VECTORS[:8][test], y_test=Y[:8][test])
    notes = made(path).data().notes
    assert "1 class has a single training sample: 2." in notes
    assert "1 class has no test sample: 3." in notes


# ---- Inputs ----

FORMS = {
    (3, 8, 8): False,
    (8, 8, 3): True,
    (8, 8, 1): True,
    (1, 8, 9): False,
    (8, 9, 4): True,
    (3, 4, 4): False,
    (4, 4, 3): True,
    (2, 8, 8): False,
    (8, 8, 2): True,
    (2, 8, 9): False,
    (64, 6, 6): False,
    (512, 1, 1): False,
    (3, 8, 3): None,
    (3, 3, 3): None,
    (8, 8, 8): None,
    (3, 9, 1): None,
    (64, 6, 7): None,
}


@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.float64, np.float16, np.uint16, np.int64, np.bool_])
@pytest.mark.parametrize("form", FORMS)
def test_channels_are_told_alike_whatever_the_type(tmp_path: Path, dtype: type, form: tuple[int, int, int]) -> None:
    x = np.random.default_rng(1).integers(0, 2, (40, *form)).astype(dtype)
    path, last = arrays(tmp_path / "a.npz", x), FORMS[form]
    if last is None:
        with pytest.raises(UsageError, match=r"--set benchmark.channels=first or --set benchmark.channels=last"):
            load(type(made(path)), {})
    for channels in ("auto", "first", "last", "none"):
        if channels == "auto" and last is None:
            continue
        benchmark = made(path, channels=channels)
        inputs = benchmark.inputs(benchmark.data().x_train[:1])
        moved = channels == "last" or (channels == "auto" and last)
        assert tuple(inputs.shape[1:]) == ((form[2], form[0], form[1]) if moved else form)


def test_images_that_used_to_be_read_otherwise_have_another_fingerprint(tmp_path: Path) -> None:
    def stored(form: tuple[int, ...], dtype: type) -> tuple[torch.Tensor, torch.Tensor]:
        x = np.random.default_rng(1).integers(0, 200, (40, *form)).astype(dtype)
        return torch.from_numpy(x[8:]), made(arrays(tmp_path / "a.npz", x)).data().x_train

    for form, dtype in (((8, 8, 3), np.uint8), ((3, 8, 8), np.uint8), ((3, 8, 8), np.float32), ((64, 6, 6), np.uint8)):
        before, kept = stored(form, dtype)
        assert torch.equal(kept, before)
    for form, dtype in (((8, 8, 3), np.float32), ((4, 4, 3), np.uint8), ((8, 8, 2), np.uint8)):
        before, kept = stored(form, dtype)
        assert torch.equal(kept, before.movedim(-1, 1))


@pytest.mark.parametrize(
    ("dtype", "channels", "shape"),
    [
        (np.uint8, "auto", (1, 6, 5)),
        (np.uint8, "none", (6, 5)),
        (np.float32, "auto", (6, 5)),
        (np.float32, "grey", (1, 6, 5)),
    ],
)
def test_arrays_of_two_axes_are_images_or_series_and_which_is_said(
    tmp_path: Path, dtype: type, channels: str, shape: tuple[int, ...]
) -> None:
    benchmark = made(arrays(tmp_path / "a.npz", np.ones((40, 6, 5), dtype)), channels=channels)
    data = benchmark.data()
    assert tuple(benchmark.inputs(data.x_train).shape[1:]) == shape
    assert any("Inputs [6, 5] are read as" in note for note in data.notes) == (channels == "auto")


def test_mean_and_std_are_applied_to_numbers_of_every_type(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(40, 6, 5, 3))
    benchmark = made(arrays(tmp_path / "a.npz", x), mean=(1, 2, 3), std=(2,))
    data = benchmark.data()
    expected = (x[8:].astype(np.float32) - np.array([1, 2, 3], np.float32)) / 2
    np.testing.assert_allclose(benchmark.inputs(data.x_train), expected.transpose(0, 3, 1, 2), rtol=1e-6)
    plain = made(tmp_path / "a.npz").data()
    assert plain.fingerprint() != data.fingerprint()  # what used to be ignored is not taken for the same track
    vectors = made(arrays(tmp_path / "v.npz"), mean=(1,), std=(4,))
    np.testing.assert_allclose(vectors.inputs(vectors.data().x_train), (VECTORS[8:] - 1) / 4, rtol=1e-5, atol=1e-6)
    wrong = made(tmp_path / "a.npz", std=(1, 2))
    with pytest.raises(UsageError, match=r"benchmark.std has 2 numbers, and inputs \[3, 6, 5\] have 3 channels"):
        wrong.data()


def test_arrays_may_be_standardised(tmp_path: Path) -> None:
    benchmark = made(arrays(tmp_path / "a.npz", VECTORS * 1000), standardise=True, experiences=2)
    assert not benchmark.data().notes
    assert any("Inputs as large as" in note for note in made(tmp_path / "a.npz").data().notes)
    stream = benchmark.stream(benchmark.data(), "class", np.random.default_rng(0))
    assert stream.splits[0].transform is stream.splits[1].transform is not None


def test_truth_values_are_black_and_white(tmp_path: Path) -> None:
    x = np.random.default_rng(0).integers(0, 2, (40, 6, 6)).astype(bool)
    benchmark = made(arrays(tmp_path / "a.npz", x))
    data = benchmark.data()
    assert benchmark.inputs(data.x_train).unique().tolist() == [-1.0, 1.0]
    assert any("truth values are read as 0 and 255" in note for note in data.notes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x_test": (VECTORS[:8] * 0).astype(np.uint8)}, "x_train in .* is float64 and x_test uint8"),
        ({"x_train": VECTORS[8:] * 1e300}, "numbers above 3e38, which float32 cannot hold"),
        ({"x_train": VECTORS[8:] * 1j}, "x_train in .* must be numbers with one row per sample, not complex128"),
        ({"x_train": np.array([object()] * 32)}, "x_train is one of Python objects"),
    ],
)
def test_inputs_that_cannot_be_used(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    with pytest.raises(DataError, match=message):
        made(arrays(tmp_path / "a.npz", **changes)).data()


def test_whole_numbers_that_float32_rounds_are_counted(tmp_path: Path) -> None:
    x = np.arange(40 * 2).reshape(40, 2) + 2**24
    notes = made(arrays(tmp_path / "a.npz", x)).data().notes
    assert any("x_train in" in note and "32 whole numbers are rounded to float32" in note for note in notes)


def test_corrupt_deflate_is_a_fault_of_the_file(tmp_path: Path) -> None:
    x = np.random.default_rng(0).integers(0, 9, (40, 60))
    np.savez_compressed(tmp_path / "a.npz", x_train=x[8:], y_train=Y[8:], x_test=x[:8], y_test=Y[:8])
    content = bytearray((tmp_path / "a.npz").read_bytes())
    content[60:400] = zlib.compress(bytes(340))[:20] * 17
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(DataError, match=r"a.npz cannot be read as an .npz of arrays.*save it again"):
        made(tmp_path / "a.npz").data()
    np.save(tmp_path / "b", x)
    (tmp_path / "b.npy").rename(tmp_path / "b.npz")
    with pytest.raises(DataError, match=r"b.npz cannot be read as an .npz of arrays"):
        made(tmp_path / "b.npz").data()


# ---- Images ----


def drawn(folder: Path, values: dict[str, list[np.ndarray]], suffix: str = ".png") -> Path:
    for part in ("train", "test"):
        for label, images in values.items():
            (folder / part / label).mkdir(parents=True)
            for number, image in enumerate(images):
                Image.fromarray(image).save(folder / part / label / f"{number}{suffix}")
    return folder


def filled(value: float, dtype: type) -> np.ndarray:
    return np.full((4, 4), value, dtype=dtype)


def test_images_of_sixteen_bits_are_on_one_scale(tmp_path: Path) -> None:
    folder = drawn(tmp_path / "deep", {"dark": [filled(300, np.uint16)], "light": [filled(60000, np.uint16)]})
    data = made(folder).data()
    assert data.x_train.flatten(1)[:, 0].tolist() == [300 * 255 // 65535, 60000 * 255 // 65535]
    assert any("4 images of more than 8 bits are read with 8, where white is 65535" in note for note in data.notes)
    brighter = made(folder, white=60000).data()
    assert brighter.x_train.flatten(1)[:, 0].tolist() == [1, 255]
    with pytest.raises(DataError, match=r"light/0.png has values from 60000 to 60000, outside 0 … 5000"):
        made(folder, white=5000).data()


def test_floating_point_is_not_wrapped(tmp_path: Path) -> None:
    folder = drawn(tmp_path / "f", {"a": [filled(0.5, np.float32)], "b": [filled(-1.0, np.float32)]}, ".tif")
    with pytest.raises(DataError, match=r"b/0.tif has values from -1 to -1, outside 0 … 1"):
        made(folder).data()
    fine = drawn(tmp_path / "g", {"a": [filled(0.5, np.float32)], "b": [filled(1.0, np.float32)]}, ".tif")
    assert made(fine).data().x_train.flatten(1)[:, 0].tolist() == [127, 255]


def test_what_is_lost_of_an_image_is_said(tmp_path: Path) -> None:
    folder = drawn(tmp_path / "p", {"a": [filled(1, np.uint8)], "b": [np.full((6, 6, 4), 9, np.uint8)]})
    pictures = [Image.new("L", (4, 4), value) for value in (1, 200)]
    pictures[0].save(folder / "train" / "a" / "moving.gif", save_all=True, append_images=pictures[1:])
    text = " ".join(made(folder, size=4).data().notes)
    assert "the transparency of 2 images is left out" in text
    assert "1 images hold several pictures, of which the first is read" in text
    assert "images of 2 sizes are brought to 4×4" in text


def test_more_pixels_than_memory_are_refused_before_they_are_made(tmp_path: Path) -> None:
    folder = drawn(tmp_path / "p", {"a": [filled(1, np.uint8)], "b": [filled(2, np.uint8)]})
    with pytest.raises(DataError, match=r"4 images of 1000000×1000000 take 3725 GiB.*benchmark.size=32"):
        made(folder, size=1_000_000).data()


def test_a_decompression_bomb_is_a_fault_of_the_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = drawn(tmp_path / "p", {"a": [filled(1, np.uint8)], "b": [np.zeros((40, 40), np.uint8)]})
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(DataError, match=r"b/0.png cannot be read: .*decompression bomb.*Mend or remove it"):
        made(folder, size=4).data()


# ---- What is no file ----


@pytest.mark.parametrize("name", ["a.npz", "a.csv", "a.jsonl", "a.parquet"])
def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / name)
    with pytest.raises(DataError, match="neither a file nor a folder"):
        made(tmp_path / name)


def test_sockets_and_pipes_among_images_are_refused(tmp_path: Path) -> None:
    folder = drawn(tmp_path / "p", {"a": [filled(1, np.uint8)], "b": [filled(2, np.uint8)]})
    os.mkfifo(folder / "train" / "a" / "9.png")
    with pytest.raises(DataError, match=r"9.png is neither a file nor a folder"):
        made(folder).data()
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "s.npz"))
        with pytest.raises(DataError, match="neither a file nor a folder"):
            made(f"{arrays(tmp_path / 'a.npz')},{tmp_path / 's.npz'}", DomainsOwn)


def test_names_of_folders_that_are_no_utf8(tmp_path: Path) -> None:
    folder = drawn(tmp_path / "p\udce9", {"a": [filled(1, np.uint8)], "b\udce9": [filled(2, np.uint8)]})
    benchmark = made(folder)
    assert benchmark.name == "split:p\\udce9"
    assert benchmark.data().class_names == ("a", "b\\udce9")


def test_what_is_no_image_has_no_channels() -> None:
    assert not channels_last(torch.zeros(2, 8, 3))
