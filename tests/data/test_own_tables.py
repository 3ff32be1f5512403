"""Tables of one's own: numbers are features, texts are texts, and whatever is not read is said."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from clarena_data.own import DomainsOwn, SplitOwn
from clarena_data.texts import tokenise
from pyarrow import feather, parquet

from clarena import Benchmark, Data, DataError, UsageError
from clarena.run.data import load
from clarena.toolbox.seeding import Seeds


def data(path: object, family: type[Benchmark] = SplitOwn, **options: object) -> Data:
    found = family.of(str(path))(**options).data()
    found.validate()
    return found


def saved(path: Path, content: str) -> Path:
    path.write_text(content, encoding="utf-8")
    return path


ROWS = [(i / 4, 100.0 - i, i % 3, "ab"[i % 2]) for i in range(20)]


def lines(mark: str, names: str = "x,y,z,label") -> str:
    return "\n".join([names.replace(",", mark), *(mark.join(map(str, row)) for row in ROWS)]) + "\n"


# ---- Numbers ----


def test_columns_of_numbers_are_features(tmp_path: Path) -> None:
    found = data(saved(tmp_path / "t.csv", lines(",")))
    assert found.class_names == ("a", "b")
    assert (found.x_train.dtype, found.x_train.shape, found.x_test.shape) == (torch.float32, (16, 3), (4, 3))
    rows = [row for row, (*_, label) in enumerate(ROWS) if label == "a"]
    assert found.x_test[found.y_test == 0].tolist() == [list(ROWS[row][:3]) for row in (rows[2], rows[7])]
    assert found.notes == ()


@pytest.mark.parametrize(("name", "mark"), [("t.csv", ";"), ("t.csv", "\t"), ("T.TSV", "\t"), ("t.tsv", ";")])
def test_other_delimiters_are_told_by_the_names_in_the_first_line(tmp_path: Path, name: str, mark: str) -> None:
    expected = data(saved(tmp_path / "commas.csv", lines(",")))
    found = data(saved(tmp_path / name, lines(mark)))
    assert torch.equal(found.x_train, expected.x_train)
    assert any("columns are divided by" in note for note in found.notes) == ((name, mark) != ("T.TSV", "\t"))


def test_a_comma_in_the_first_line_stays_a_comma(tmp_path: Path) -> None:
    found = data(saved(tmp_path / "t.csv", 'text,label\n"a; b",p\n"b; c",q\n' * 1 + '"d",p\n"e",q\n"f",p\n"g",q\n'))
    assert found.class_names == ("p", "q")


def test_what_is_no_feature_is_said(tmp_path: Path) -> None:
    rows = [f"{i},{i / 2},red,{i},{'ab'[i % 2]},9" for i in range(20)]
    found = data(saved(tmp_path / "t.csv", "\n".join([",size,colour,id,label,more", *rows])))
    assert found.x_train.shape == (16, 2)
    text = " ".join(found.notes)
    assert "the column '' numbers the rows" in text
    assert "the column 'id' numbers the rows" in text
    assert "the column 'colour' is ignored: 'red' in line 2 is no number" in text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("x,label\n1,a\n,b\n2,a\n3,b\n", r"line 3: x is '', and 1 rows have no finite number there"),
        ("x,label\n1,a\nnan,b\n2,a\n3,b\n", r"line 3: x is 'nan'"),
        ("x,label\n1,a\n1e300,b\n2,a\n3,b\n", r"line 3: x is '1e300'"),
        ("x,x,label\n1,2,a\n", "two columns named 'x'"),
        ('x;label\n"1,5";a\n"2,5";b\n"2,5";b\n', r"none of numbers; it has: x, label. .*'1,5' in line 2 is no number"),
        ("x,label\n" + "".join(f"{i},{i / 7}\n" for i in range(9)), "as many different labels.*regression"),
        ("x,size\n1,2\n", r"no column label or class.*it has: x, size. The first line of a table names its columns"),
    ],
)
def test_tables_of_numbers_that_cannot_be_used(tmp_path: Path, content: str, message: str) -> None:
    path = saved(tmp_path / "t.csv", content)
    with pytest.raises(DataError, match=message):
        data(path)


def test_classes_that_are_whole_numbers_are_in_their_order(tmp_path: Path) -> None:
    rows = "".join(f"{i},{i % 12}\n" for i in range(60))
    assert data(saved(tmp_path / "t.csv", "x,label\n" + rows)).class_names == tuple(map(str, range(12)))


def test_numbers_are_standardised_by_the_first_experience_alone(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows = [",".join([*map(str, rng.normal(size=3) * [1, 50, 0] + i % 6), str(i % 6)]) for i in range(120)]
    made = SplitOwn.of(str(saved(tmp_path / "t.csv", "\n".join(["a,b,c,label", *rows]))))(experiences=3)
    source = made.data()
    firsts = set()
    for seed in range(4):
        stream = made.stream(source, "class", Seeds(seed).numpy("class_order"))
        first = stream.splits[0]
        firsts.add(tuple(source.y_train[first.train].unique().tolist()))
        assert first.transform is not None
        scaled = first.transform(source.x_train[first.train]).double()
        assert scaled.mean(0).abs().max() < 1e-5
        assert (scaled.std(0, correction=0) - 1).abs().max() < 1e-4
        assert all(split.transform is first.transform for split in stream.splits)
    assert len(firsts) > 1  # another first experience under each seed, of the same data
    plain = type(made)(experiences=3, standardise=False).stream(source, "class", Seeds(0).numpy("class_order"))
    assert all(split.transform is None for split in plain.splits)


def test_a_constant_column_is_not_divided_by_nothing(tmp_path: Path) -> None:
    rows = "".join(f"{i % 2 * 7},{'abcd'[i // 10]}\n" if i >= 20 else f"3,{'abcd'[i // 10]}\n" for i in range(40))
    made = SplitOwn.of(str(saved(tmp_path / "t.csv", "x,label\n" + rows)))(experiences=2, class_order="natural")
    source = made.data()
    stream = made.stream(source, "class", Seeds(0).numpy("class_order"))
    assert stream.splits[1].transform is not None
    assert stream.splits[1].transform(source.x_train).unique().tolist() == [-3.0, 0.0, 4.0]


def test_domains_must_have_the_same_columns(tmp_path: Path) -> None:
    a, b = saved(tmp_path / "a.csv", lines(",")), saved(tmp_path / "b.csv", lines(",", "y,x,z,label"))
    c = saved(tmp_path / "c.csv", lines(",", "x,y,w,label"))
    for other, message in ((b, "their columns in another order"), (c, "differ in their columns: w, z")):
        with pytest.raises(DataError, match=message):
            data(f"{a},{other}", DomainsOwn)
    copy = saved(tmp_path / "copy.csv", lines(","))
    assert data(f"{a},{copy}", DomainsOwn).domain_names == ("a", "copy")
    assert any("a.csv and copy.csv hold the same samples" in note for note in data(f"{a},{copy}", DomainsOwn).notes)
    (tmp_path / "link.csv").symlink_to(a)
    for twice in (a, tmp_path / "link.csv"):
        with pytest.raises(UsageError, match="two are the same"):
            DomainsOwn.of(f"{a},{twice}")


# ---- What rows are for ----


def test_rows_for_validation_are_left_out_and_said(tmp_path: Path) -> None:
    words = ["train", "Training", "test", "dev", "validation", ""]
    rows = "".join(f"{i},{i // 6 % 2},{words[i % 6]}\n" for i in range(48))
    found = data(saved(tmp_path / "t.csv", "x,label,split\n" + rows))
    assert sorted({int(i) % 6 for i in found.x_train.flatten().tolist()}) == [0, 1, 5]
    assert {int(i) % 6 for i in found.x_test.flatten().tolist()} == {2}
    assert any("16 rows for validation are left out" in note for note in found.notes)
    assert any("8 rows do not say what they are for" in note for note in found.notes)


def test_an_unknown_word_for_what_a_row_is_for_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path / "t.csv", "text,label,split\na,p,train\nb,q,holdout\n")
    with pytest.raises(DataError, match="line 3: the split 'holdout' is none of train, test and validation"):
        data(path)


# ---- Texts ----

TEXTS = ["one\u2028two", "three\u2029four", "five\x85six", "seven\x0beight", "nine\x0cten", "plain", "more", "words"]


def test_separators_of_lines_within_a_text_are_text(tmp_path: Path) -> None:
    rows = [{"text": text, "label": "pq"[i % 2]} for i, text in enumerate(TEXTS)]
    as_json = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    as_csv = "text,label\n" + "".join(f"{row['text']},{row['label']}\n" for row in rows)
    expected = {tuple(row) for row in tokenise(TEXTS, 4096, 64).tolist()}
    for path in (saved(tmp_path / "t.jsonl", as_json), saved(tmp_path / "t.csv", as_csv)):
        found = data(path)
        assert {tuple(row) for row in torch.cat([found.x_train, found.x_test]).tolist()} == expected


def test_a_long_text_is_no_fault(tmp_path: Path) -> None:
    long = "word " * 40_000
    found = data(saved(tmp_path / "t.csv", "text,label\n" + f'"{long}",p\nb,q\n' * 6))
    assert len(found.x_train) + len(found.x_test) == 12


def test_more_words_than_memory_are_refused(tmp_path: Path) -> None:
    path = saved(tmp_path / "t.csv", "text,label\n" + "a,p\nb,q\n" * 8)
    with pytest.raises(DataError, match=r"16 texts of 1000000000000 words take .*--set benchmark.length=64"):
        data(path, length=10**12)
    with pytest.raises(UsageError, match="words = 10000000000000 is not valid: Input should be less than 2147483648"):
        load(SplitOwn.of(str(path)), {"words": 10**13})


def test_a_quotation_mark_may_begin_a_field_between_tabs(tmp_path: Path) -> None:
    rows = ['"Yes" she said\tp', "no\tq", '"never\tp', "why\tq", "a\tp", "b\tq"]
    found = data(saved(tmp_path / "t.tsv", "\n".join(["text\tlabel", *rows]) + "\n"))
    assert found.class_names == ("p", "q")
    assert any("quotation marks are read as part of the text" in note for note in found.notes)
    assert (
        data(
            saved(tmp_path / "q.tsv", 'text\tlabel\n"a\tb"\tp\nc\tq\nd\tp\ne\tq\nf\tp\ng\tq\nh\tq\nh\tp\ni\tp\n')
        ).notes
        == ()
    )


def test_what_is_no_utf8_is_shown_as_it_can_be_written(tmp_path: Path) -> None:
    rows = [{"text": f"{i} \ud800", "label": "p\udce9" if i % 2 else "q"} for i in range(10)]
    found = data(saved(tmp_path / "t.jsonl", "".join(json.dumps(row) + "\n" for row in rows)))
    assert found.class_names == ("p\\udce9", "q")
    assert len(found.fingerprint()) == 64


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"text": "a", "label": {"name": 1}}, r"line 2: the label is an object"),
        ({"text": "a", "label": ["p"]}, "line 2: the label is a list"),
        ({"text": "a", "label": float("nan")}, "line 2: the label is nan, which is no number"),
        ({"text": "a", "label": None}, "line 2: the label is missing"),
        ({"text": ["a"], "label": "p"}, "line 2: the text is a list"),
        ({"text": None, "label": "p"}, "line 2: the text is missing"),
    ],
)
def test_values_that_are_no_names_are_refused(tmp_path: Path, row: dict[str, object], message: str) -> None:
    whole = [{"text": "a", "label": "p"}, row, {"text": "b", "label": "q"}]
    path = saved(tmp_path / "t.jsonl", "".join(json.dumps(one) + "\n" for one in whole))
    with pytest.raises(DataError, match=message):
        data(path)


def test_columns_beside_the_text_are_said_to_be_ignored(tmp_path: Path) -> None:
    rows = "".join(f"word {i},{i},{'pq'[i % 2]}\n" for i in range(10))
    found = data(saved(tmp_path / "t.csv", "text,stars,label\n" + rows))
    assert found.notes == ("t.csv: ignored columns: stars.",)
    numeric = data(saved(tmp_path / "n.csv", "x,label\n" + "".join(f"{i},{'pq'[i % 2]}\n" for i in range(10))))
    assert numeric.x_train.is_floating_point()  # `x` may be a text, but numbers are none


# ---- Parquet, Arrow, and folders of Hugging Face datasets ----


def columns() -> pa.Table:
    x, y, z, label = zip(*ROWS)
    return pa.table({"x": x, "y": y, "z": pa.array(z, pa.int8()), "label": pa.array(label).dictionary_encode()})


def test_parquet_and_arrow_are_read_like_the_same_csv(tmp_path: Path) -> None:
    expected = data(saved(tmp_path / "t.csv", lines(",")))
    parquet.write_table(columns(), tmp_path / "t.parquet")
    feather.write_feather(columns(), tmp_path / "t.feather")
    with pa.OSFile(str(tmp_path / "t.arrow"), "wb") as sink, pa.ipc.new_stream(sink, columns().schema) as writer:
        writer.write_table(columns())
    for name in ("t.parquet", "t.feather", "t.arrow"):
        assert data(tmp_path / name).fingerprint() == expected.fingerprint()


def test_texts_in_parquet(tmp_path: Path) -> None:
    texts = pa.table({"text": [f"word {i}" for i in range(10)], "label": [i % 2 for i in range(10)]})
    parquet.write_table(texts, tmp_path / "t.parquet")
    found = data(tmp_path / "t.parquet", words=100)
    assert found.class_names == ("0", "1")
    assert found.x_train.dtype == torch.int32


@pytest.mark.parametrize("name", ["t.parquet", "t.feather", "t.arrow"])
def test_damaged_files_are_named(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"PAR1 and no more")
    with pytest.raises(DataError, match=f"{name} cannot be read as a table"):
        data(tmp_path / name)


def dataset(folder: Path, table: pa.Table, features: dict[str, object], **state: object) -> None:
    """What `Dataset.save_to_disk` writes."""
    folder.mkdir(parents=True)
    file = folder / "data-00000-of-00001.arrow"
    with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": file.name}], **state}))
    (folder / "dataset_info.json").write_text(json.dumps({"features": features}))


NAMED = {"text": {"dtype": "string", "_type": "Value"}, "label": {"names": ["neg", "pos"], "_type": "ClassLabel"}}


def test_a_folder_of_datasets(tmp_path: Path) -> None:
    folder = tmp_path / "reviews"
    sizes = {"train": 8, "test": 4, "unsupervised": 3}
    for part, size in sizes.items():
        texts = pa.table({"text": [f"{part} word {i}" for i in range(size)], "label": [i % 2 for i in range(size)]})
        dataset(folder / part, texts, NAMED)
    (folder / "dataset_dict.json").write_text(json.dumps({"splits": list(sizes)}))
    found = data(folder, words=500)
    assert (len(found.x_train), len(found.x_test), found.class_names) == (8, 4, ("neg", "pos"))
    assert found.notes == ("reviews: the parts unsupervised are left out.",)
    assert found.y_test.tolist() == [0, 1, 0, 1]
    alone = data(folder / "train", words=500)
    assert len(alone.x_train) + len(alone.x_test) == 8


def test_folders_of_datasets_that_cannot_be_used(tmp_path: Path) -> None:
    texts = pa.table({"text": ["a", "b"], "label": [0, 1]})
    dataset(tmp_path / "chosen", texts, NAMED, _indices_data_files=[{"filename": "indices.arrow"}])
    dataset(tmp_path / "lost", texts, NAMED)
    (tmp_path / "lost" / "data-00000-of-00001.arrow").unlink()
    dataset(tmp_path / "odd", texts, NAMED)
    (tmp_path / "odd" / "state.json").write_text("[]")
    for name, message in (("chosen", "flatten_indices"), ("lost", "cannot be read as a table"), ("odd", "is damaged")):
        with pytest.raises(DataError, match=message):
            data(tmp_path / name)
