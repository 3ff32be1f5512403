"""Files beside the pages: a spreadsheet runs none of their text, LaTeX prints it, BibTeX parses."""

import csv
import io
import json
import re
from dataclasses import replace

import pytest
from clarena_leaderboard.board import load_board
from clarena_leaderboard.site.exports import bibtex, latex, matrix_latex, row_data, to_bibtex, to_csv, to_json, to_latex
from clarena_leaderboard.site.formatting import flattened, linked, percent, seconds, size
from clarena_leaderboard.sources import StoreSource
from hypothesis import given
from hypothesis import strategies as st
from site_stores import EVIL, HOSTILE, make_store


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    return load_board(StoreSource(make_store(tmp_path_factory.mktemp("s") / "runs"))).tables[0]


# ---- CSV and JSON ----


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", "  =1", "\t=1", "\r=1", "\n@"])
def test_no_text_of_a_csv_file_is_a_formula(text):
    (_, (cell,)) = list(csv.reader(io.StringIO(to_csv([{"name": text}]), newline="")))
    assert cell == "'" + re.sub(r"[\t\r\n]", " ", text)


def test_numbers_of_a_csv_file_stay_numbers():
    assert to_csv([{"a": -0.5, "b": None, "c": "er, fast"}]) == 'a,b,c\n-0.5,,"er, fast"\n'


@given(st.lists(st.dictionaries(st.text(min_size=1), st.text() | st.integers(), min_size=1), min_size=1, max_size=4))
def test_a_csv_file_has_a_field_for_each_column(rows):
    read = list(csv.reader(io.StringIO(to_csv(rows), newline="")))
    assert {len(line) for line in read} == {len({key for row in rows for key in row})}
    assert len(read) == len(rows) + 1


def test_json_knows_no_nan(table):
    rows = [row_data(entry) for entry in table.entries]
    read = json.loads(to_json(rows), parse_constant=lambda name: pytest.fail(name))
    assert [row["strategy"] for row in read] == [entry.info.name for entry in table.entries]
    assert next(row for row in read if row["strategy"] == "joint")["forgetting"] is None


# ---- LaTeX ----


@given(st.text())
def test_latex_text_commands_nothing(text):
    written = latex(text)
    plain = re.sub(r"\\(?:text[a-z]+\{\}|[{}$&#%_])|\$\\?[a-z-]+\$", "", written)
    assert not set(plain) & set("\\{}$&#%_~^\n\r")


def test_latex_table_by_hand(table):
    er = table.ranked[1]
    text = to_latex(replace(table, references=(), ranked=(er,), apart=()))
    accuracy, forgetting = er.intervals["final_average_accuracy"], er.intervals["forgetting"]
    assert text.splitlines()[1:7] == [
        r"\begin{tabular}{lrrrrr}",
        r"\toprule",
        r"Strategy & Accuracy (\%) & Forgetting (\%) & Backward transfer (\%) & Training (s) & State \\",
        r"\midrule",
        rf"er & ${100 * accuracy.mean:.1f} \pm {100 * accuracy.half_width:.1f}$ & "
        rf"${100 * forgetting.mean:.1f} \pm {100 * forgetting.half_width:.1f}$ & "
        rf"${er.intervals['backward_transfer'].percent().replace('±', chr(92) + 'pm')}$ & 2.5 & 400 kB \\",
        r"\bottomrule",
    ]


def test_every_line_of_a_latex_table_has_its_columns(table):
    for line in to_latex(table).splitlines():
        if line.endswith(r"\\"):
            assert len(re.findall(r"(?<!\\)&", line)) == 5


def test_hostile_names_leave_the_latex_table_whole(tmp_path):
    hostile = load_board(StoreSource(make_store(tmp_path / "runs", HOSTILE, seeds=2))).tables[0]
    text = to_latex(hostile)
    assert text.count(r"\end{tabular}") == text.count(r"\begin{tabular}") == 1
    assert r"\input" not in text


def test_matrix_latex_leaves_undefined_cells_empty():
    text = matrix_latex([[None, None], [0.5, None], [0.25, 1.0]])
    assert r"1 & 50.0 &  \\" in text
    assert r"2 & 25.0 & 100.0 \\" in text
    assert "\n0 &" not in text


# ---- BibTeX ----


def fields(entry):
    """A reader of one entry that counts braces, as BibTeX does, backslash or not."""
    head = re.match(r"@misc\{([^,]+),\n", entry)
    found, rest = {"key": head[1]}, entry[head.end() :]
    while match := re.match(r"\s*(\w+) = \{", rest):
        depth, end = 1, match.end()
        while depth:
            depth += {"{": 1, "}": -1}.get(rest[end], 0)
            end += 1
        found[match[1]] = rest[match.end() : end - 1]
        rest = rest[end:].removeprefix(",")
    assert rest.strip() == "}", rest
    return found


def test_bibtex_by_hand():
    paper = "Chaudhry et al. 2019, On Tiny Episodic Memories in Continual Learning. arXiv:1902.10486"
    assert fields(bibtex(paper)) == {
        "key": "chaudhry2019",
        "author": "Chaudhry and others",
        "title": "{On Tiny Episodic Memories in Continual Learning}",
        "year": "2019",
        "eprint": "1902.10486",
        "archiveprefix": "arXiv",
        "url": "https://arxiv.org/abs/1902.10486",
    }
    paper = "Li & Hoiem 2017, Learning without Forgetting. doi:10.1109/TPAMI.2017.2773081"
    parsed = fields(bibtex(paper))
    assert (parsed["author"], parsed["doi"]) == ("Li and Hoiem", "10.1109/TPAMI.2017.2773081")


@given(st.text())
def test_bibtex_of_any_text_parses(paper):
    if paper.strip():
        fields(bibtex(paper))


def test_bibtex_of_hostile_text_parses():
    for text in (EVIL, "}} @misc{x, a={", "Ant 2020, }{ . doi:10.1000/}{"):
        fields(bibtex(text))


def test_each_paper_occurs_once_under_its_own_key(table):
    entries = [
        replace(e, info=e.info.model_copy(update={"paper": f"Ant et al. 2020, Part {i % 2}."}))
        for i, e in enumerate(table.entries)
    ]
    keys = [fields(entry)["key"] for entry in to_bibtex(entries).split("\n\n") if entry]
    assert keys == ["ant2020", "ant2020-2"]


# ---- Words ----


def test_sizes_and_times_as_a_person_says_them():
    assert [size(v) for v in (0, 999, 1000, 1234, 816_000, 2_300_000, float("nan"))] == [
        "0 B", "999 B", "1.0 kB", "1.2 kB", "816 kB", "2.3 MB", "–",
    ]  # fmt: skip
    assert [seconds(v) for v in (0.42, 12, 100.4, 210, 7560, float("nan"))] == [
        "0.42 s", "12.0 s", "100 s", "3.5 min", "2.1 h", "–",
    ]  # fmt: skip
    assert percent(-0.00001) == "0.0"
    assert percent(-0.5) == "−50.0"


def test_nested_settings_are_dotted():
    assert flattened({"parts": {"ewc": {"strength": 1}, "er": {"buffer_size": 5}}}) == {
        "ewc.strength": 1,
        "er.buffer_size": 5,
    }


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("see https://a.example/x.", 'see <a href="https://a.example/x"{}>https://a.example/x</a>.'),
        ("arXiv:1902.10486", '<a href="https://arxiv.org/abs/1902.10486"{}>arXiv:1902.10486</a>'),
        ("javascript:alert(1) http://a.example <b>", "javascript:alert(1) http://a.example &lt;b&gt;"),
        ('https://a.example/"onclick="x', '<a href="https://a.example/"{}>https://a.example/</a>&#34;onclick=&#34;x'),
    ],
)
def test_links(text, expected):
    assert str(linked(text)) == expected.replace("{}", ' rel="noopener noreferrer"')
