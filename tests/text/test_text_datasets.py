"""Streams of whole data sets of text: read from small files in the published layouts, and from O-LoRA's real ones."""

import gzip
import io
import json
import sys
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from clarena_text import corpora
from clarena_text.corpora import STARS
from clarena_text.datasets import FIVE_ORDERS, FiveTexts, SentimentDomains, shares
from hypothesis import given
from hypothesis import strategies as st
from needs import needs

import clarena
from clarena import ClarenaWarning, DataError, PluginError, UsageError
from clarena.plugins.parameters import parse
from clarena.run.data import load
from clarena.toolbox.seeding import Seeds

FIVE = FiveTexts.sources


def order(seed: int = 0):
    return Seeds(seed).numpy("class_order")


def line(number: int, *fields: str) -> str:
    return ",".join(f'"{field}"' for field in (str(number), *fields)) + "\n"


def csvs(folder: Path, classes: int, train: int = 7, test: int = 4, fields: int = 2) -> Path:
    """`train.csv` and `test.csv` as Zhang et al. publish them: some texts of each class, mixed."""
    folder.mkdir(parents=True)
    for part, size in (("train", train), ("test", test)):
        rows = [
            line(number, *(f"{part} {folder.name} {number} {place} f{field}" for field in range(fields)))
            for place in range(size)
            for number in range(1, classes + 1)
        ]
        (folder / f"{part}.csv").write_text("".join(rows), encoding="utf-8")
    return folder


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """`text/` of an empty data folder; what would be downloaded is taken from there, whatever its digest."""
    monkeypatch.setenv("CLARENA_DATA", str(tmp_path))

    def fetch(path: str, url: str, sha256: str) -> Path:
        assert url.startswith("https://")
        assert len(sha256) == 64
        if not (tmp_path / path).exists():
            raise DataError(f"{path} is missing.")
        return tmp_path / path

    monkeypatch.setattr(corpora, "fetch", fetch)
    return tmp_path / "text"


@pytest.fixture
def published(root: Path) -> Path:
    """The five data sets, unpacked, with one to three fields of text."""
    for number, (corpus, _) in enumerate(FIVE.values()):
        csvs(root / corpus.archive.split(".")[0], len(corpus.classes), fields=1 + number % 3)
    return root


def five(**options: object) -> FiveTexts:
    return FiveTexts(**{"train": 28, "test": 14, "length": 6, "words": 5000, **options})


def test_five_data_sets_have_33_classes_and_balanced_samples(published: Path) -> None:
    data = five().data()
    data.validate()
    assert data.classes == 33
    assert data.domain_names == ("AG News", "Yelp", "Amazon", "DBpedia", "Yahoo")
    assert data.domain_train.bincount().tolist() == [28] * 5
    assert data.domain_test.bincount().tolist() == [14] * 5
    for domain, classes in enumerate((4, 5, 5, 14, 10)):
        counts = data.y_train[data.domain_train == domain].bincount()
        assert counts[counts > 0].tolist() == shares(28, classes)


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (1, ["rating", "AG News", "DBpedia", "rating", "Yahoo"]),
        (2, ["DBpedia", "Yahoo", "AG News", "rating", "rating"]),
        (3, ["rating", "Yahoo", "rating", "DBpedia", "AG News"]),
        (4, ["AG News", "rating", "rating", "Yahoo", "DBpedia"]),
    ],
)
def test_the_published_orders(published: Path, number: int, expected: list[str]) -> None:
    made = five(order=number)
    data = made.data()
    stream = made.stream(data, "class", order())
    stream.validate(data, made.name)
    names = [stream.output_names[split.classes[0]].partition(":")[0] for split in stream.splits]
    assert names == expected
    titles = [FIVE[name][0].title for name in FIVE_ORDERS[number]]
    assert [data.domain_names[int(data.domain_train[split.train[0]])] for split in stream.splits] == titles
    assert [split.domain for split in stream.splits] == titles
    first, second = (split.classes for split, name in zip(stream.splits, names) if name == "rating")
    assert first == second  # the second brings no new class
    seen: list[int] = []
    for split in stream.splits:
        seen += [label for label in split.classes if label not in seen]
    assert seen == list(range(33))  # labels in order of first appearance
    for split in stream.splits:
        sources = [data.class_names[source] for source in data.y_train[split.train].tolist()]
        assert [stream.output_names[label] for label in split.y_train.tolist()] == sources


def test_the_seed_shuffles_data_sets_and_an_order_keeps_to_those_chosen(published: Path) -> None:
    made = five()
    data = made.data()
    assert len({made.stream(data, "class", order(seed)).output_names for seed in range(6)}) > 2
    two = five(order=2, datasets=("agnews", "dbpedia"))
    names = two.stream(two.data(), "task", order()).output_names
    assert (names[0], names[14]) == ("DBpedia: Company", "AG News: World")
    assert parse(FiveTexts, {"order": "3", "datasets": "yelp,agnews"}, "five-texts")["order"] == 3
    with pytest.raises(UsageError, match=r"has no data set imdb. Choose from: agnews, yelp"):
        five(datasets=("imdb", "yelp"))


@given(st.integers(1, 10**6), st.integers(1, 40))
def test_shares_differ_by_one_at_most(total: int, parts: int) -> None:
    found = shares(total, parts)
    assert (len(found), sum(found)) == (parts, total)
    assert max(found) - min(found) <= 1
    assert found == sorted(found, reverse=True)


def test_an_archive_is_read_as_its_folder_is(published: Path) -> None:
    unpacked = five().data().fingerprint()
    for corpus, _ in FIVE.values():
        folder = published / corpus.archive.split(".")[0]
        with tarfile.open(published / corpus.archive, "w:gz") as archive:
            archive.add(folder, folder.name)
        folder.rename(published / f"was_{folder.name}")
    assert five().data().fingerprint() == unpacked


def test_escapes_of_the_archives_are_undone(published: Path) -> None:
    folder = published / "ag_news_csv"
    for part in ("train", "test"):
        rows = [line(number, 'so ""called""', r'first\nthen \""now\""') for number in range(1, 5)]
        (folder / f"{part}.csv").write_text("".join(rows), encoding="utf-8")
    texts = list(FIVE["agnews"][0].texts("train", "published"))
    assert texts[3] == (3, 'so "called" first then "now"')


# ---- Sentiment ----


def reviews(root: Path, size: int = 4) -> None:
    with tarfile.open(root / "aclImdb.tar.gz", "w:gz") as archive:
        for part in ("test", "train"):
            for kind in ("pos", "neg", "unsup"):
                for number in range(size):
                    content = f"{part} {kind} film {number}".encode()
                    entry = tarfile.TarInfo(f"aclImdb/{part}/{kind}/{number}_7.txt")
                    entry.size = len(content)
                    archive.addfile(entry, io.BytesIO(content))
    with zipfile.ZipFile(root / "SST-2.zip", "w") as archive:
        for name in ("train", "dev"):
            rows = [f"{name} {number}\t{number % 2}" for number in range(2 * size)]
            archive.writestr(f"SST-2/{name}.tsv", "\n".join(["sentence\tlabel", *rows]) + "\n")


def test_sentiment_by_domain(published: Path) -> None:
    reviews(published)
    made = SentimentDomains(train=8, test=6, words=5000, length=7)
    data = made.data()
    data.validate()
    assert data.class_names == ("negative", "positive")
    assert data.domain_names == ("Amazon", "Yelp", "IMDB", "SST-2")
    stream = made.stream(data, "domain", order())
    stream.validate(data, made.name)
    assert [split.y_train.bincount().tolist() for split in stream.splits] == [[4, 4]] * 4
    assert [split.y_test.bincount().tolist() for split in stream.splits] == [[3, 3]] * 4
    amazon, labels = SentimentDomains.sources["amazon"]
    assert dict(zip(amazon.classes, labels)) == {
        "very negative": "negative", "negative": "negative", "neutral": None, "positive": "positive",
        "very positive": "positive",
    }  # fmt: skip
    imdb = SentimentDomains.sources["imdb"][0]
    packed = list(imdb.texts("train", "published"))
    assert sorted(packed)[0] == (0, "train neg film 0")
    assert len(packed) == 8
    with tarfile.open(published / imdb.archive) as archive:
        archive.extraction_filter = getattr(tarfile, "data_filter", None)  # of Python 3.11.4 and later
        archive.extractall(published)
    assert sorted(imdb.texts("train", "published")) == sorted(packed)
    assert list(SentimentDomains.sources["sst2"][0].texts("test", "published"))[:2] == [(0, "dev 0"), (1, "dev 1")]


# ---- O-LoRA's files ----


def olora(root: Path, name: str, part: str, rows: object, packed: bool = True) -> Path:
    folder = root / "olora_cl_benchmark" / FIVE[name][0].olora
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / (f"{part}.json.gz" if packed else f"{part}.json")
    content = json.dumps(rows).encode()
    file.write_bytes(gzip.compress(content) if packed else content)
    return file


def rated(size: int, start: int = 0) -> list[dict[str, str]]:
    return [
        {"label": star, "sentence": f"Title: a {star}\nText: number {place}"}
        for place in range(start, start + size)
        for star in STARS
    ]


def test_the_only_file_is_divided_with_a_warning(root: Path) -> None:
    olora(root, "yelp", "train", rated(5))
    olora(root, "amazon", "train", rated(3), packed=False)
    olora(root, "amazon", "test", rated(2, 3), packed=False)
    made = five(files="olora", datasets=("yelp", "amazon"), train=15, test=10)
    with pytest.warns(ClarenaWarning, match="Yelp has no test file: its train file is divided"):
        data = made.data()
    yelp, amazon = ((data.x_train[data.domain_train == d], data.x_test[data.domain_test == d]) for d in (0, 1))
    assert torch.equal(yelp[0], amazon[0])
    assert torch.equal(yelp[1], amazon[1])
    texts = list(FIVE["yelp"][0].texts("train", "olora"))
    assert texts[1] == (1, "a negative\nnumber 0")


def test_missing_data_sets_are_named_with_what_to_do(root: Path) -> None:
    olora(root, "yelp", "train", rated(5))
    with pytest.raises(DataError, match=r"finds no files of AG News, Amazon, DBpedia, Yahoo. Copy TC/agnews and .*"
                       r"O-LoRA.*leave them out: --set benchmark.datasets=yelp, or take.*published"):  # fmt: skip
        five(files="olora").data()
    with pytest.raises(DataError, match=r"text/ag_news_csv.tgz is missing"):
        five().data()


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"label": "great", "sentence": "a"}], r"entry 1 has the label 'great'; Yelp knows: very negative, negative"),
        ([{"label": 3, "sentence": "a"}], r"entry 1 has no label or no sentence that is text"),
        ([{"label": "neutral"}], r"entry 1 has no label or no sentence"),
        ({"label": "neutral"}, r"must be a list of objects"),
        (rated(4), r"Yelp has 4 texts of the class 'rating: very negative' in its train file, and 5 are asked for"),
    ],
)
def test_rows_that_cannot_be_used(root: Path, rows: object, message: str) -> None:
    olora(root, "yelp", "train", rows)
    with pytest.warns(ClarenaWarning), pytest.raises(DataError, match=message):
        five(files="olora", datasets=("yelp",), train=15, test=10).data()


def test_empty_texts_are_left_out_and_counted(root: Path) -> None:
    blank = [{"label": star, "sentence": "Text:  \n"} for star in STARS[:2]]
    olora(root, "yelp", "train", [*blank, *rated(5)])
    olora(root, "yelp", "test", rated(2))
    with pytest.warns(ClarenaWarning, match="2 empty texts of Yelp are left out"):
        data = five(files="olora", datasets=("yelp",), train=15, test=10).data()
    assert (len(data.y_train), len(data.y_test)) == (15, 10)


def test_a_truncated_file_of_olora(root: Path) -> None:
    file = olora(root, "yelp", "train", rated(50))
    whole = file.read_bytes()
    for content in (whole[: len(whole) // 2], whole[:-4], gzip.compress(b"[{"), gzip.compress(b'["\xff"]'), b""):
        file.write_bytes(content)
        problem = r"train.json.gz (cannot be read|is not UTF-8)"
        with pytest.warns(ClarenaWarning), pytest.raises(DataError, match=problem):
            five(files="olora", datasets=("yelp",), train=15, test=10).data()


# ---- Published files that cannot be used ----


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (line(1, "a").encode() + b"\n", r"train.csv, line 2 has 0 fields"),
        (b'"1"\n', r"line 1 has 1 fields"),
        (line(5, "a").encode(), r"the class must be a number from 1 to 4, not '5'"),
        (b'"World","a","b"\n', r"the class must be a number from 1 to 4, not 'World'"),
        (b'"1","caf\xe9"\n', r"is not UTF-8 text"),
        (b'"1","cut o', r"cannot be read: unexpected end of data. It is damaged or cut off"),
        (line(1, "a").encode() * 9, r"AG News has 0 texts of the class 'AG News: Sports' in its train file, and 7 are"),
        (b"", r"AG News has 0 texts"),
    ],
)
def test_tables_that_cannot_be_used(published: Path, content: bytes, message: str) -> None:
    (published / "ag_news_csv" / "train.csv").write_bytes(content)
    with pytest.raises(DataError, match=message):
        five(datasets=("agnews",)).data()


def test_a_long_text_is_no_fault(published: Path) -> None:
    file = published / "ag_news_csv" / "train.csv"
    file.write_text(line(1, "word " * 40_000) + file.read_text())
    assert len(five(datasets=("agnews",)).data().x_train) == 28


def test_an_unpacked_folder_that_has_changed_is_read_again(published: Path) -> None:
    chosen = {"datasets": ("agnews",), "train": 28, "test": 14, "length": 6}
    first = load(FiveTexts, chosen)
    assert load(FiveTexts, chosen) is first
    file = published / "ag_news_csv" / "train.csv"
    file.write_text(line(1, "something else") + file.read_text())
    assert load(FiveTexts, chosen).fingerprint != first.fingerprint


def test_archives_that_cannot_be_used(published: Path) -> None:
    reviews(published, size=200)
    folder = csvs(published / "big" / "ag_news_csv", 4, train=500)
    with tarfile.open(published / "ag_news_csv.tgz", "w:gz") as archive:
        archive.add(folder / "train.csv", "ag_news_csv/train.csv")
    (published / "ag_news_csv").rename(published / "was")
    with pytest.raises(DataError, match=r"ag_news_csv.tgz holds no test.csv"):
        five(datasets=("agnews",)).data()
    for name, benchmark in (
        ("ag_news_csv.tgz", five(datasets=("agnews",), train=2000)),
        ("aclImdb.tar.gz", SentimentDomains(datasets=("imdb",), train=400, test=2)),
        ("SST-2.zip", SentimentDomains(datasets=("sst2",), train=400, test=2)),
    ):
        whole = (published / name).read_bytes()
        for content in (b"", b"no archive", whole[: len(whole) // 2]):
            (published / name).write_bytes(content)
            with pytest.raises(DataError, match=rf"{name} cannot be read: .*It is damaged or cut off"):
                benchmark.data()


def test_lines_of_glue_that_cannot_be_used(published: Path) -> None:
    (published / "SST-2").mkdir()
    (published / "SST-2" / "train.tsv").write_text("sentence\tlabel\ngood\tpositive\n")
    with pytest.raises(DataError, match=r"train.tsv, line 2 must be a text, a tab, and 0 or 1"):
        SentimentDomains(datasets=("sst2",), train=2, test=2).data()


# ---- Tokens ----


def a_tokenizer(folder: Path) -> Path:
    """A tokenizer of words, saved as transformers saves its own."""
    needs("transformers")
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = {"!": 0, "train": 1, "test": 2, "amazon_review_full_csv": 3, "f0": 4, "[UNK]": 5}
    plain = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    plain.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    transformers.PreTrainedTokenizerFast(tokenizer_object=plain, unk_token="[UNK]").save_pretrained(folder)
    return folder


def test_a_models_own_tokenizer(published: Path, tmp_path: Path) -> None:
    folder = str(a_tokenizer(tmp_path / "tokenizer"))
    made = five(datasets=("amazon",), encode="tokens", tokenizer=folder, length=17)
    assert made.vocabulary == 6
    data = made.data()
    assert data.x_train[0].tolist() == [1, 3, 5, 5, 4] + [1, 3, 5, 5, 5] * 2 + [0, 0]
    assert data.x_test[0].tolist() == [2, 3, 5, 5, 4] + [2, 3, 5, 5, 5] * 2 + [0, 0]
    assert made.inputs(data.x_test).dtype == torch.int64
    cut = five(datasets=("amazon",), encode="tokens", tokenizer=folder, length=3).data()
    assert torch.equal(cut.x_train, data.x_train[:, :3])
    with pytest.raises(UsageError, match=r"gives tokens: add --set benchmark\.encode=tokens"):
        five(tokenizer=folder)
    with pytest.raises(DataError, match=r"The tokenizer .*nowhere cannot be loaded: .*Give a folder that holds one"):
        five(encode="tokens", tokenizer=str(tmp_path / "nowhere"))


def test_a_tokenizer_without_transformers_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(PluginError, match=r"pip install 'clarena-bench\[transformers\]'"):
        five(encode="tokens", tokenizer="gpt2")


# ---- Runs ----


def test_a_run_over_classes_that_appear_again(published: Path, tmp_path: Path) -> None:
    settings = {
        "benchmark": {"train": 28, "test": 14, "order": 1, "datasets": ("agnews", "yelp", "amazon"), "words": 500},
        "protocol": {"epochs": 1},
    }
    results = clarena.evaluate(
        ["finetune", "er", "joint"], benchmark="five-texts", seeds=1, settings=settings, store=tmp_path / "runs",
        jobs=1, track=False,
    )  # fmt: skip
    assert [record.status for record in results] == ["finished"] * 3
    matrix = np.array(results.records[0].accuracy_matrix, dtype=float)
    assert matrix.shape == (4, 3)  # one column for each data set
    # Yelp, AG News, Amazon: the ratings of Amazon can be predicted once Yelp has been learned.
    assert np.isnan(matrix[1]).tolist() == [False, True, False]


@pytest.mark.data
@pytest.mark.filterwarnings("ignore::clarena.ClarenaWarning")
def test_the_files_of_olora_hold_what_is_asked_for() -> None:
    made = five(files="olora", datasets=("agnews", "yelp", "amazon", "dbpedia"), train=3500, test=1000, order=1)
    data = made.data()
    data.validate()
    assert (data.classes, len(data.y_train), len(data.y_test)) == (23, 14_000, 4_000)
    assert [len(split.classes) for split in made.stream(data, "class", order()).splits] == [5, 4, 14, 5]
    feelings = SentimentDomains(files="olora", train=1400, test=500)
    data = feelings.data()
    data.validate()
    assert (len(data.y_train), len(data.y_test)) == (5_600, 2_000)
    assert [len(split.y_train) for split in feelings.stream(data, "domain", order()).splits] == [1400] * 4
