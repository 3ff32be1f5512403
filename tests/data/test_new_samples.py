"""New samples of your own kind of data: encoded with what the model brings along, and with nothing of theirs."""

import csv
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.utils import murmurhash3_32
from trained_models import evaluated

from clarena import DataError, RowForm, TrainedModel, read_pictures

RNG = np.random.default_rng(0)
NAMES = ("ant", "bee", "cat", "dog")


def write_table(path: Path, columns: dict[str, list[Any]], delimiter: str = ",") -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, delimiter=delimiter)
        writer.writerow(columns)
        writer.writerows(zip(*columns.values()))
    return path


def trained_on(path: Path, folder: Path, **options: Any) -> TrainedModel:
    """A model of these data, which are gone when it is used."""
    settings = {"backbone": {"hidden": [8]}, "benchmark": {"experiences": 2, **options}}
    results = evaluated(folder, "er", benchmark=f"split:{path}", settings=settings)
    assert not results.errors
    shutil.move(path, path.with_name(f"gone-{path.name}"))
    return results.model("er")


@pytest.fixture(scope="module")
def numbers(tmp_path_factory):
    """A model of two numbers and a class; the first is about 100, and the second about 1."""
    folder = tmp_path_factory.mktemp("numbers")
    x = RNG.normal([100.0, 1.0], [10.0, 0.1], (40, 2)) + np.arange(40)[:, None] % 4 * [30.0, 0.3]
    columns = {"big": x[:, 0].tolist(), "small": x[:, 1].tolist(), "label": [NAMES[i % 4] for i in range(40)]}
    model = trained_on(write_table(folder / "mine.csv", columns), folder)
    return model, x


def test_numbers_are_standardised_as_in_training(numbers, tmp_path):
    model, x = numbers
    path = write_table(tmp_path / "new.csv", {"big": [130.0], "small": [1.3]})
    samples = model.read(path)
    assert samples.x.tolist() == [[130.0, pytest.approx(1.3)]]
    # By hand: mean and deviation of the training samples of the first experience; every fifth of a class is held out.
    of = [[i for i in range(40) if i % 4 == c and (i // 4) not in (2, 7)] for c in range(4)]
    first = [c for c in range(4) if NAMES[c] in model.class_names[:2]]
    rows = x[sorted(of[first[0]] + of[first[1]])].astype(np.float32).astype(np.float64)
    inputs = (np.float32([130.0, 1.3]) - rows.mean(0).astype(np.float32)) / rows.std(0).astype(np.float32)
    with torch.no_grad():
        expected = model.strategy.predict(torch.tensor(inputs[None], dtype=torch.float32))
    assert model.scores(samples.x) == pytest.approx(expected.numpy(), rel=1e-4, abs=1e-5)


def test_columns_are_found_by_name_and_others_are_said(numbers, tmp_path):
    model, _ = numbers
    plain = model.read(write_table(tmp_path / "a.csv", {"big": [130, 90], "small": [1.3, 0.9]}))
    odd = {"id": [1, 2], "Small": [1.3, 0.9], "colour": ["red", "blue"], "big": [130, 90], "class": ["ant", "bee"]}
    samples = model.read(write_table(tmp_path / "b.csv", odd, ";"))
    assert torch.equal(samples.x, plain.x)
    assert (plain.labels, samples.labels) == (None, ("ant", "bee"))
    assert samples.names == ("line 2", "line 3")
    assert "b.csv: ignored columns: id, colour." in samples.notes


def test_a_file_of_one_sample_is_encoded_as_within_many(numbers, tmp_path):
    model, _ = numbers
    many = model.scores(model.read(write_table(tmp_path / "a.csv", {"big": [130, 90], "small": [1.3, 0.9]})).x)
    one = model.scores(model.read(write_table(tmp_path / "b.csv", {"big": [130], "small": [1.3]})).x)
    assert one[0] == pytest.approx(many[0], rel=1e-5, abs=1e-6)


BAD_TABLES = [
    ({"big": [1.0], "label": ["ant"]}, "has no column small, which this model was trained on; it has: big, label"),
    ({"big": [1.0, ""], "small": [1, 2]}, "line 3: big is '', and must be a finite number"),
    ({"big": ["x"], "small": [1]}, "line 2: big is 'x', and must be a finite number"),
    ({"big": ["1e60"], "small": [1]}, "line 2: big is '1e60', and must be a finite number"),
]


@pytest.mark.parametrize(("columns", "message"), BAD_TABLES, ids=range(len(BAD_TABLES)))
def test_a_table_that_lacks_what_the_model_takes_is_refused(columns, message, numbers, tmp_path):
    with pytest.raises(DataError, match=re.escape(message)):
        numbers[0].read(write_table(tmp_path / "new.csv", columns))


def test_another_kind_of_data_is_refused(numbers, tmp_path):
    np.savez(tmp_path / "new.npz", x=np.zeros((2, 2)))
    with pytest.raises(DataError, match=r"new\.npz is no table"):
        numbers[0].read(tmp_path / "new.npz")
    with pytest.raises(DataError, match="There is nothing at"):
        numbers[0].read(tmp_path / "none.csv")


def test_texts_are_hashed_as_in_training(tmp_path):
    texts = [f"{NAMES[i % 4]} number {i}" for i in range(40)]
    columns = {"text": texts, "label": [NAMES[i % 4] for i in range(40)]}
    model = trained_on(write_table(tmp_path / "mine.csv", columns), tmp_path, words=50, length=4)
    samples = model.read(write_table(tmp_path / "new.csv", {"text": ["bee cat"], "when": ["now"]}))
    expected = [murmurhash3_32(word, positive=True) % 50 + 1 for word in ("bee", "cat")]
    assert samples.x.tolist() == [[*expected, 0, 0]]
    assert samples.notes == ("new.csv: ignored columns: when.",)
    assert model.predict(samples.x)[0] in NAMES
    (tmp_path / "new.txt").write_text("bee cat\n\n  \ndog\n")
    lines = model.read(tmp_path / "new.txt")
    assert (lines.names, lines.labels) == (("line 1", "line 4"), None)
    assert torch.equal(lines.x[:1], samples.x)
    (tmp_path / "none.txt").write_text("\n\n")
    (tmp_path / "odd.txt").write_bytes(b"\xff\xfe")
    for name, message in (("none.txt", "is empty. Give it a text in each line"), ("odd.txt", "as UTF-8 text")):
        with pytest.raises(DataError, match=message):
            model.read(tmp_path / name)
    with pytest.raises(DataError, match=r"new.csv, line 3: the text is (empty|missing)"):
        model.read(write_table(tmp_path / "new.csv", {"text": ["bee", ""], "label": ["", ""]}))


def test_arrays_are_laid_out_as_in_training(tmp_path):
    x = RNG.integers(0, 256, (40, 5, 7, 3)).astype(np.uint8)  # channels last
    y = np.arange(40) % 4
    np.savez(tmp_path / "mine.npz", x_train=x[:32], y_train=y[:32], x_test=x[32:], y_test=y[32:])
    model = trained_on(tmp_path / "mine.npz", tmp_path)
    np.savez(tmp_path / "new.npz", x=x[:3], y=[3, 1, 0], class_names=np.array(NAMES), extra=np.zeros(1))
    samples = model.read(tmp_path / "new.npz")
    assert np.array_equal(samples.x.numpy(), x[:3])
    assert samples.labels == ("dog", "bee", "ant")
    assert samples.notes == ("new.npz: ignored arrays: extra.",)
    inputs = torch.from_numpy((x[:3] / 255 - 0.5) / 0.5).float().movedim(-1, 1)
    with torch.no_grad():
        expected = model.strategy.predict(inputs)
    assert model.scores(samples.x) == pytest.approx(expected.numpy(), rel=1e-4, abs=1e-5)
    np.savez(tmp_path / "new.npz", x_train=x[:2], x_test=x[:3])
    assert model.read(tmp_path / "new.npz").parts == ("train", "train", "test", "test", "test")
    np.savez(tmp_path / "new.npz", x=x[:3].astype(float))
    with pytest.raises(DataError, match=r"of float32; this model takes \[5, 7, 3\] of uint8"):
        model.read(tmp_path / "new.npz")
    np.savez(tmp_path / "new.npz", z=x)
    with pytest.raises(DataError, match="has no x; it has: z"):
        model.read(tmp_path / "new.npz")


def picture(path: Path, colour: Any, size: int = 6) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (size, size), colour).save(path)


def test_images_come_in_folders_or_loose(tmp_path):
    for number in range(40):
        picture(tmp_path / "mine" / NAMES[number % 4] / f"{number}.png", (60 * (number % 4), number, 0))
    model = trained_on(tmp_path / "mine", tmp_path)
    picture(tmp_path / "loose" / "b.png", (1, 2, 3))
    picture(tmp_path / "loose" / "a.png", (4, 5, 6))
    samples = model.read(tmp_path / "loose")
    assert (samples.names, samples.labels) == (("a.png", "b.png"), None)
    assert samples.x[:, 0, 0].tolist() == [[4, 5, 6], [1, 2, 3]]
    picture(tmp_path / "new" / "bee" / "x.png", (1, 2, 3))
    assert model.read(tmp_path / "new").labels == ("bee",)
    assert np.array_equal(model.scores(model.read(tmp_path / "new").x), model.scores(samples.x[1:]))
    picture(tmp_path / "large" / "x.png", (1, 2, 3), size=9)
    with pytest.raises(DataError, match="are 9×9; this model takes 6×6"):
        model.read(tmp_path / "large")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no image"):
        model.read(tmp_path / "empty")
    alone = model.read(tmp_path / "loose" / "a.png")
    assert (alone.names, alone.labels) == (("a.png",), None)
    assert torch.equal(alone.x, samples.x[:1])
    np.savez(tmp_path / "new.npz", x=samples.x.numpy())
    assert torch.equal(model.read(tmp_path / "new.npz").x, samples.x)
    (tmp_path / "a.txt").write_text("no image")
    with pytest.raises(DataError, match=r"is neither an \.npz with x, nor an image"):
        model.read(tmp_path / "a.txt")


def test_domains_carry_their_columns_too(tmp_path):
    for name in ("day", "night"):
        columns = {"a": RNG.random(20).tolist(), "b": RNG.random(20).tolist(), "label": ["ant", "bee"] * 10}
        write_table(tmp_path / f"{name}.csv", columns)
    results = evaluated(tmp_path, "er", benchmark=f"domain:{tmp_path / 'day.csv'},{tmp_path / 'night.csv'}")
    (tmp_path / "day.csv").unlink()
    samples = results.model("er").read(write_table(tmp_path / "new.csv", {"b": [0.1], "a": [0.2]}))
    assert samples.x.tolist() == [[pytest.approx(0.2), pytest.approx(0.1)]]


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """A model of a benchmark that comes with its images."""
    return evaluated(tmp_path_factory.mktemp("digits"), "er").model("er")


def test_a_benchmark_that_brings_its_images_takes_pictures(digits, tmp_path):
    picture(tmp_path / "new" / "7" / "a.png", (255, 255, 255), size=8)
    picture(tmp_path / "new" / "3" / "b.png", (0, 0, 0), size=8)
    samples = digits.read(tmp_path / "new")
    assert (samples.names, samples.labels) == (("3/b.png", "7/a.png"), ("3", "7"))
    assert samples.x.dtype == torch.uint8
    assert torch.equal(samples.x, torch.tensor([0, 16], dtype=torch.uint8).view(2, 1, 1, 1).expand(2, 1, 8, 8))
    assert samples.notes == ("new: colours are left out: this model takes grey images.",)
    ramp = np.arange(64, dtype=np.uint8).reshape(8, 8) * 4
    Image.fromarray(ramp).save(tmp_path / "ramp.png")
    assert np.array_equal(digits.read(tmp_path / "ramp.png").x[0, 0].numpy(), np.round(ramp / 255 * 16))
    picture(tmp_path / "large.png", (255, 255, 255), size=20)
    large = digits.read(tmp_path / "large.png")
    assert (large.x == 16).all()
    assert "large.png: images of another size are brought to 8×8." in large.notes
    assert digits.predict(samples.x).shape == (2,)


LAYOUTS = [((6, 5), 1), ((6, 5, 1), 1), ((6, 5, 3), 3), ((1, 6, 5), 1), ((3, 6, 5), 3)]


@pytest.mark.parametrize(("shape", "channels"), LAYOUTS, ids=str)
def test_pictures_are_laid_out_as_rows_are(shape, channels, tmp_path):
    pixels = RNG.integers(0, 256, (6, 5, channels)).astype(np.uint8)
    Image.fromarray(pixels if channels == 3 else pixels[..., 0]).save(tmp_path / "a.png")
    rows = read_pictures(tmp_path / "a.png", RowForm(shape, torch.uint8, {})).x[0].numpy()
    expected = pixels.transpose(2, 0, 1) if shape[0] in (1, 3) else pixels
    assert np.array_equal(rows, expected.reshape(shape))


@pytest.mark.parametrize("form", [((6, 5, 7), torch.uint8), ((6, 5), torch.float32), ((4,), torch.uint8)], ids=str)
def test_rows_that_are_no_images_take_no_pictures(form, tmp_path):
    picture(tmp_path / "a.png", (1, 2, 3))
    with pytest.raises(DataError, match="holds images, and this model takes"):
        read_pictures(tmp_path / "a.png", RowForm(*form, {}))


def test_arrays_of_images_take_pictures_too(tmp_path):
    x, y = RNG.integers(0, 256, (40, 3, 6, 6)).astype(np.uint8), np.arange(40) % 4
    np.savez(tmp_path / "mine.npz", x_train=x[:32], y_train=y[:32], x_test=x[32:], y_test=y[32:])
    model = trained_on(tmp_path / "mine.npz", tmp_path)
    picture(tmp_path / "a.png", (1, 2, 3))
    assert model.read(tmp_path / "a.png").x[0, :, 0, 0].tolist() == [1, 2, 3]
