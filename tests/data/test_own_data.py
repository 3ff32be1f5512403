"""Your own data as benchmarks: what is read is what was written, and what cannot be used says why."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from clarena_data.images import held_out_rows
from clarena_data.own import DomainsOwn, SplitOwn
from clarena_data.texts import tokenise
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import clarena
from clarena import Benchmark, DataError, UsageError
from clarena.toolbox.seeding import Seeds


def benchmark(argument: object, family: type[Benchmark] = SplitOwn, **options: object) -> Benchmark:
    return family.of(str(argument))(**options)


def stream(made: Benchmark, scenario: str = "class"):
    data = made.data()
    data.validate()
    found = made.stream(data, scenario, Seeds(0).numpy("class_order"))
    found.validate(data, made.name)
    return data, found


# ---- Arrays ----


def arrays(path: Path, seed: int = 0, **changes: object) -> Path:
    rng = np.random.default_rng(seed)
    content = {
        "x_train": rng.integers(0, 256, (40, 6, 5, 3), dtype=np.uint8),
        "y_train": np.arange(40) % 4,
        "x_test": rng.integers(0, 256, (8, 6, 5, 3), dtype=np.uint8),
        "y_test": np.arange(8) % 4,
    } | changes
    np.savez(path, **{key: value for key, value in content.items() if value is not None})
    return path


def test_arrays_are_taken_as_they_are(tmp_path: Path) -> None:
    made = benchmark(arrays(tmp_path / "mine.npz"), experiences=2, class_order="natural")
    assert made.name == "split:mine"
    data, found = stream(made)
    written = np.load(tmp_path / "mine.npz")
    assert data.x_train.dtype == torch.uint8
    assert np.array_equal(data.x_train, written["x_train"])
    assert [split.classes for split in found.splits] == [(0, 1), (2, 3)]
    inputs = made.inputs(data.x_train[:2])
    assert inputs.shape == (2, 3, 6, 5)
    assert inputs[1, 2, 4, 3].item() == pytest.approx(written["x_train"][1, 4, 3, 2] / 255 * 2 - 1, abs=1e-6)


def test_where_the_data_lies_is_no_part_of_a_track(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    here, there = (arrays(folder / "mine.npz") for folder in (tmp_path, tmp_path / "elsewhere"))
    a, b = benchmark(here), benchmark(there)
    assert (a.name, a.data().fingerprint()) == (b.name, b.data().fingerprint())
    assert SplitOwn.of(str(here)) is SplitOwn.of(str(here))


def test_labels_may_be_names_and_numbers_may_have_names(tmp_path: Path) -> None:
    names = np.array(["cat", "ant", "bee", "dog"])
    as_names = arrays(tmp_path / "a.npz", y_train=names[np.arange(40) % 4], y_test=names[np.arange(8) % 4])
    data = benchmark(as_names).data()
    assert data.class_names == ("ant", "bee", "cat", "dog")
    assert data.y_train[:4].tolist() == [2, 0, 1, 3]
    with_names = arrays(tmp_path / "b.npz", class_names=names)
    assert benchmark(with_names).data().class_names == tuple(names)


def test_numbers_that_are_no_pixels_are_left_alone(tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(size=(40, 7))
    made = benchmark(arrays(tmp_path / "a.npz", x_train=values, x_test=values[:8] + 1))
    assert np.array_equal(made.inputs(made.data().x_train), values.astype(np.float32))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"y_test": None}, "has no y_test; it has: x_train, y_train, x_test"),
        ({"y_train": np.ones((40, 2))}, "y_train in .* must be a list of whole numbers or names, not float64"),
        ({"x_train": np.array(["a"] * 40)}, "x_train in .* must be numbers with one row per sample"),
        ({"y_test": np.arange(8)}, "tests classes that it never trains on: 4, 5, 6, 7"),
        ({"x_train": np.array([{}] * 40)}, "cannot be read as an .npz of arrays"),
    ],
)
def test_arrays_that_cannot_be_used(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    with pytest.raises(DataError, match=message):
        benchmark(arrays(tmp_path / "a.npz", **changes)).data()


def test_a_truncated_archive(tmp_path: Path) -> None:
    whole = arrays(tmp_path / "a.npz").read_bytes()
    for size in (0, 1000, len(whole) - 5):
        (tmp_path / "a.npz").write_bytes(whole[:size])
        with pytest.raises(DataError, match="cannot be read as an"):
            benchmark(tmp_path / "a.npz").data()


def test_samples_in_both_training_and_test_are_counted(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(40, 7))
    path = arrays(tmp_path / "a.npz", x_train=x, x_test=np.concatenate([x[:3], x[:5] + 1]))
    assert "3 of the 8 test samples are in the training set as well." in benchmark(path).data().notes


# ---- Images ----


def draw(path: Path, value: int, size: tuple[int, int] = (4, 3), mode: str = "L") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", size, value).convert(mode).save(path)


def test_a_folder_of_images_with_a_share_held_out(tmp_path: Path) -> None:
    for label in ("b", "a"):
        for number in range(10):
            draw(tmp_path / "pets" / label / f"{number}.png", number * 10 + (label == "b"))
    (tmp_path / "pets" / "a" / "notes.txt").write_text("no image")
    made = benchmark(tmp_path / "pets", experiences=2)
    data, _ = stream(made)
    assert data.class_names == ("a", "b")
    assert data.x_train.shape == (16, 3, 4, 1)
    assert data.x_test.flatten(1)[:, 0].tolist() == [20, 70, 21, 71]  # every fifth, the same every time
    assert made.inputs(data.x_test).shape == (4, 1, 3, 4)


def test_train_and_test_folders_of_mixed_modes_and_sizes(tmp_path: Path) -> None:
    for part in ("train", "test"):
        draw(tmp_path / part / "a" / "1.png", 7)
        draw(tmp_path / part / "b" / "1.jpg", 9, (8, 8), "RGB")
        draw(tmp_path / part / "b" / "2.png", 9, (8, 8), "P")
    with pytest.raises(DataError, match=r"differ in size: .*1.png is 4×3, .* is 8×8.*benchmark.size=32"):
        benchmark(tmp_path).data()
    data = benchmark(tmp_path, size=5).data()
    assert data.x_train.shape == data.x_test.shape == (3, 5, 5, 3)
    assert data.x_train[0].unique().tolist() == [7]


def test_images_of_sixteen_bits_are_scaled_not_clipped(tmp_path: Path) -> None:
    for part in ("train", "test"):
        for label in "ab":
            (tmp_path / part / label).mkdir(parents=True)
            ramp = np.array([[0, 16384, 32768, 65535]], dtype=np.uint16)
            Image.fromarray(ramp).save(tmp_path / part / label / "1.png")
    assert benchmark(tmp_path).data().x_train[0].flatten().tolist() == [0, 63, 127, 255]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (["a/1.png"], "a folder of images for each class, two or more; it holds one, 'a'"),
        ([], "it holds none"),
        (["a/1.png", "b/1.txt"], "b holds no image"),
        (["a/1.png", "b/1.png"], "has 1 images: too few to hold out"),
        (["train/a/1.png", "train/b/1.png", "test/a/1.png", "test/c/1.png"], "test has classes .* has not: c"),
    ],
)
def test_folders_that_cannot_be_used(tmp_path: Path, files: list[str], message: str) -> None:
    for file in files:
        if file.endswith("png"):
            draw(tmp_path / file, 1)
        else:
            (tmp_path / file).parent.mkdir()
            (tmp_path / file).write_text("")
    with pytest.raises(DataError, match=message):
        benchmark(tmp_path).data()


def test_a_damaged_image_is_named(tmp_path: Path) -> None:
    for label in "ab":
        for number in range(4):
            draw(tmp_path / label / f"{number}.png", number, (40, 40))
    whole = (tmp_path / "b" / "2.png").read_bytes()
    for content in (b"", b"GIF89a", whole[:-30]):
        (tmp_path / "b" / "2.png").write_bytes(content)
        with pytest.raises(DataError, match=r"b/2.png cannot be (read|decoded).*Mend or remove it"):
            benchmark(tmp_path).data()


@given(st.integers(1, 200), st.floats(0.01, 0.99))
def test_the_share_held_out_is_the_one_asked_for(count: int, share: float) -> None:
    rows = held_out_rows(count, share)
    assert abs(rows.sum() - count * share) <= 0.5 + 1e-9


# ---- Text ----

LINES = [("Where is my card?", "card"), ("my card is lost", "card"), ("Send money", "pay"), ("pay now, please", "pay")]


@pytest.mark.parametrize("form", ["csv", "tsv", "jsonl"])
def test_tables_of_text(tmp_path: Path, form: str) -> None:
    path = tmp_path / f"intents.{form}"
    parts = ["train", "test", "train", "test"]
    if form == "jsonl":
        rows = [{"text": text, "label": label, "split": part} for (text, label), part in zip(LINES, parts)]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows) + "\n")
    else:
        comma = "," if form == "csv" else "\t"
        rows = [f'"{text}"{comma}{label}{comma}{part}' for (text, label), part in zip(LINES, parts)]
        path.write_text("\n".join([comma.join(("Text", "Label", "split")), *rows]))
    made = benchmark(path, experiences=2, words=1000, length=5)
    data, _ = stream(made)
    assert data.class_names == ("card", "pay")
    assert data.x_train.shape == data.x_test.shape == (2, 5)
    where, is_, my, card, mark = data.x_train[0].tolist()
    assert data.x_test[0].tolist() == [my, card, is_, data.x_test[0, 3].item(), 0]
    assert len({where, is_, my, card, mark, 0}) == 6
    bag = made.inputs(data.x_train[:1])
    assert bag.shape == (1, 1000)
    assert bag[0, [where - 1, my - 1]].tolist() == pytest.approx([5**-0.5] * 2)
    assert bag.count_nonzero() == 5
    words = benchmark(path, words=1000, length=5, encode="tokens")
    assert torch.equal(words.inputs(data.x_train), data.x_train.long())


@given(st.lists(st.text(), min_size=1, max_size=5), st.integers(2, 50), st.integers(1, 8))
def test_tokens_are_within_the_vocabulary_and_depend_on_their_text_alone(
    texts: list[str], vocabulary: int, length: int
) -> None:
    tokens = tokenise(texts, vocabulary, length)
    assert tokens.min() >= 0
    assert tokens.max() <= vocabulary
    for text, row in zip(texts, tokens):
        assert torch.equal(tokenise([text], vocabulary, length)[0], row)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"text,label\na,1\n,2\n", "line 3: the text is empty"),
        (b"text,label\na,\n", "line 2: the label is empty"),
        (b"text,label\na,1,5\n", "line 2 has not as many fields"),
        (b"text,label\n\"a,1\n", "cannot be parsed: unexpected end"),
        (b"title,label\na,1\n", r"no column text or sentence.*; it has: title, label"),
        (b"text,label\na\xe9,1\n", "cannot be read as UTF-8"),
        (b"text,label\na,1\nb,1\n", "two classes or more; it has 1"),
        (b"text,label\na,1\nb,2\n", "2 samples and as many different labels.*regression"),
        (b"text,label\na,1\nb,2\nc,2\n", "too small to hold out a share of 0.2 for testing"),
        (b"text,label,split\na,1,train\nb,2,test\n", "no training sample of the class '2'"),
        (b"", "two classes or more; it has none"),
    ],
)  # fmt: skip
def test_tables_that_cannot_be_used(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "a.csv").write_bytes(content)
    with pytest.raises(DataError, match=message):
        benchmark(tmp_path / "a.csv").data()


def test_a_line_that_is_no_json(tmp_path: Path) -> None:
    for line, message in (("{", "line 2 is not JSON"), ("[1]", "line 2 must be an object")):
        (tmp_path / "a.jsonl").write_text('{"text": "a", "label": 1}\n' + line)
        with pytest.raises(DataError, match=message):
            benchmark(tmp_path / "a.jsonl").data()


# ---- Domains, and names ----


def test_several_sources_are_domains(tmp_path: Path) -> None:
    paths = [arrays(tmp_path / f"{name}.npz", seed) for seed, name in enumerate(("day", "night", "fog"))]
    made = benchmark(",".join(map(str, paths)), DomainsOwn, order="natural")
    assert made.name == "domain:day,night,fog"
    data, found = stream(made, "domain")
    assert [(split.domain, len(split.train)) for split in found.splits] == [("day", 40), ("night", 40), ("fog", 40)]
    assert torch.equal(data.x_train[found.splits[1].train], torch.from_numpy(np.load(paths[1])["x_train"]))
    assert found.outputs == 4
    assert all(split.classes == (0, 1, 2, 3) for split in found.splits)
    _, own = stream(made, "task")
    assert own.splits[2].classes == (8, 9, 10, 11)
    assert own.output_names[8] == "0 (fog)"
    made = benchmark(",".join(map(str, paths)), DomainsOwn)
    shuffled = [made.stream(data, "domain", Seeds(seed).numpy("class_order")) for seed in range(5)]
    assert len({tuple(split.train[0].item() for split in one.splits) for one in shuffled}) > 1


def test_the_domains_take_part_in_the_fingerprint(tmp_path: Path) -> None:
    a, b = arrays(tmp_path / "a.npz"), arrays(tmp_path / "b.npz", 1)
    ab, ba = (benchmark(f"{x},{y}", DomainsOwn).data() for x, y in ((a, b), (b, a)))
    assert ab.fingerprint() != ba.fingerprint()


def test_sources_that_do_not_fit_each_other(tmp_path: Path) -> None:
    a = arrays(tmp_path / "a.npz")
    fewer = arrays(tmp_path / "b.npz", y_train=np.arange(40) % 2, y_test=np.arange(8) % 2)
    small = arrays(tmp_path / "c.npz", x_train=np.zeros((40, 2)), x_test=np.zeros((8, 2)))
    for other, message in ((fewer, "differ in their classes: 2, 3"), (small, r"has inputs .*float32 \(2,\)")):
        with pytest.raises(DataError, match=message):
            benchmark(f"{a},{other}", DomainsOwn).data()
    draw(tmp_path / "pets" / "a" / "1.png", 1)
    with pytest.raises(UsageError, match="different kinds"):
        DomainsOwn.of(f"{a},{tmp_path / 'pets'}")
    with pytest.raises(UsageError, match="names one source"):
        DomainsOwn.of(str(a))


def test_paths_that_lead_nowhere(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nothing at .*nix"):
        SplitOwn.of(str(tmp_path / "nix"))
    (tmp_path / "a.pdf").write_text("")
    with pytest.raises(DataError, match="neither a folder nor"):
        SplitOwn.of(str(tmp_path / "a.pdf"))


def test_a_run_on_ones_own_data(tmp_path: Path) -> None:
    path = arrays(tmp_path / "mine.npz")
    settings = {"benchmark": {"experiences": 2}, "protocol": {"epochs": 1}}
    results = clarena.evaluate(
        ["finetune", "er"], benchmark=f"split:{path}", seeds=1, settings=settings, store=tmp_path / "runs", jobs=1,
        track=False,
    )  # fmt: skip
    assert [record.status for record in results] == ["finished", "finished"]
    assert results.records[0].cell.track.benchmark.name == "split:mine"
