"""The site as files: the same bytes from the same runs, nothing half-written, and hostile text stays text."""

import base64
import hashlib
import json
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from clarena_leaderboard.board import load_board
from clarena_leaderboard.site.publish import MANIFEST, Part, known_site, publish
from clarena_leaderboard.site.render import build_site, embedded, security_policy
from clarena_leaderboard.sources import StoreSource
from site_stores import EVIL, ROWS, Made, make_site, make_store

from clarena.errors import ClarenaError, StoreError, UsageError


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture(scope="module")
def site(made_site):
    return made_site


@pytest.fixture(scope="module")
def store(made_site):
    return made_site.parent / "runs"


@pytest.fixture(scope="module")
def hostile(hostile_site):
    return hostile_site


class Page(HTMLParser):
    """The elements of a page with their attributes, and its text."""

    def __init__(self, path: Path):
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = {}
        self.open: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        self.open.append(tag)

    def handle_endtag(self, tag):
        while self.open and self.open.pop() != tag:
            pass

    def handle_data(self, data):
        if self.open:
            self.texts.setdefault(self.open[-1], []).append(data)

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


# ---- What is there ----


def test_every_track_and_row_has_its_page_and_files(site):
    names = set(contents(site))
    board = load_board(StoreSource(site.parent / "runs"))
    assert len(board.tables) == 2
    for table in board.tables:
        assert {f"track/{table.slug}.{kind}" for kind in ("html", "csv", "json", "tex", "bib")} <= names
        assert {f"track/{table.slug}-{plot}.svg" for plot in ("forgetting", "seconds", "state")} <= names
        assert f"compare/{table.slug}.html" in names
        for entry in table.entries:
            assert {f"row/{entry.slug}.{kind}" for kind in ("html", "csv", "json", "tex", "bib")} <= names
    assert {"index.html", "changes.html", "metrics.html", "tracks.csv", "tracks.json", MANIFEST} <= names


def test_every_link_within_the_site_leads_somewhere(site):
    for path in site.rglob("*.html"):
        page = Page(path)
        for link in page.all("a"):
            target, _, anchor = link["href"].partition("#")
            if target.startswith("https://"):
                continue
            goal = (path.parent / target).resolve() if target else path
            assert goal.is_file(), (path.name, link["href"])
            if anchor and goal.suffix == ".html":
                assert anchor in {a.get("id") for _, a in Page(goal).elements}, (path.name, link["href"])


def test_a_row_stands_where_its_standing_says(site):
    (path,) = site.glob("track/made-up-class-*.html")
    bodies = re.findall(r'<tbody class="(\w+)">(.*?)</tbody>', path.read_text(), re.DOTALL)
    rows = {kind: re.findall(r'data-row="([a-z]+)-', body) for kind, body in bodies}
    assert rows == {
        "reference": ["joint", "finetune"],
        "ranked": ["gdumb", "er", "slow", "ewc", "lwf"],
        "apart": ["young", "broken"],
    }
    assert "no run for seeds 2–9" in path.read_text()


def test_the_page_shows_the_numbers_of_the_board(site):
    board = load_board(StoreSource(site.parent / "runs"))
    entry = board.tables[0].ranked[0]
    text = (site / "row" / f"{entry.slug}.html").read_text()
    assert f"<dd>{entry.intervals['final_average_accuracy'].percent()}</dd>" in text
    data = json.loads((site / "row" / f"{entry.slug}.json").read_text())
    values = [run.metrics["final_average_accuracy"] for run in entry.runs]
    assert [run["metrics"]["final_average_accuracy"] for run in data["seeds"]] == values
    last_rows = [matrix[-1] for matrix in data["accuracy_matrix"]["seeds"].values()]
    assert [sum(row) / 3 for row in last_rows] == pytest.approx(values, abs=1e-6)
    assert sum(data["accuracy_matrix"]["mean"][-1]) / 3 == pytest.approx(sum(values) / len(values), abs=1e-6)
    over_time = [point["mean"] for point in data["accuracy_over_time"]]
    assert over_time[-1] == pytest.approx(sum(values) / len(values))
    assert sum(over_time) / 3 == pytest.approx(entry.intervals["average_incremental_accuracy"].mean)
    forgotten = [point["mean"] for point in data["forgetting_per_experience"]]
    assert sum(forgotten) / 2 == pytest.approx(entry.intervals["forgetting"].mean)
    assert sum(map(sum, data["confusion"]["counts"])) == 60 * 10


# ---- The same bytes, and nothing half-written ----


def test_the_same_runs_give_the_same_bytes(site, store, tmp_path):
    make_site(store, tmp_path / "again")
    assert contents(tmp_path / "again") == contents(site)


def test_what_did_not_change_is_not_made_again(store, tmp_path):
    runs, out = tmp_path / "runs", tmp_path / "site"
    shutil.copytree(store, runs)
    _, first = make_site(runs, out)
    assert (first.kept, first.removed) == (0, 0)
    untouched = contents(out)
    _, second = make_site(runs, out)
    assert (second.made, second.removed) == (0, 0)
    assert contents(out) == untouched
    make_store(runs, [Made("newcomer", 0.55)], seeds=10)
    loaded = []
    source = StoreSource(runs)
    report = build_site(load_board(source), lambda run: loaded.append(run.row) or source.load(run), out)
    assert len(set(loaded)) == 1  # whole records are read for the new row alone
    assert any("newcomer" in name for name in contents(out))
    changed = {name for name, text in contents(out).items() if untouched.get(name) != text}
    assert not {name for name in changed if "task" in name}
    assert report.kept > report.made
    for folder in runs.glob("*/newcomer-*"):
        shutil.rmtree(folder)
    make_site(runs, out)
    assert contents(out) == untouched


def test_a_site_made_bit_by_bit_is_one_made_at_once(store, tmp_path):
    runs, out = tmp_path / "runs", tmp_path / "site"
    shutil.copytree(store, runs)
    make_site(runs, out)
    make_store(runs, [Made("newcomer", 0.99, family="new")])  # the best of its table, of a family of its own
    make_site(runs, out)
    make_store(runs, scenarios=("task",), hidden=16)  # a track with the label of another: both labels change
    make_site(runs, out)
    make_site(runs, tmp_path / "fresh")
    assert contents(out) == contents(tmp_path / "fresh")


def test_a_file_that_was_altered_is_made_again(store, tmp_path):
    make_site(store, tmp_path / "site")
    before = contents(tmp_path / "site")
    (tmp_path / "site" / "index.html").write_text("altered")
    _, report = make_site(store, tmp_path / "site")
    assert contents(tmp_path / "site") == before
    assert report.made > 0


def test_the_old_site_stays_when_a_page_fails(store, tmp_path):
    runs, out = tmp_path / "runs", tmp_path / "site"
    shutil.copytree(store, runs)
    make_site(runs, out)
    before = contents(out)
    make_store(runs, [Made("newcomer", 0.55)])

    def gone(run):
        raise StoreError("It is gone.")

    with pytest.raises(StoreError, match="gone"):
        build_site(load_board(StoreSource(runs)), gone, out)
    assert contents(out) == before
    assert not [path for path in tmp_path.iterdir() if path.name.endswith((".new", ".old"))]


def test_the_old_site_stays_when_it_cannot_be_swapped(tmp_path, monkeypatch):
    def part(text):
        return Part("page", text, lambda read: {"page.html": text})

    publish(tmp_path / "site", [part("old")])
    rename = Path.rename

    def fails(path, target):
        if path.name == ".site.new":
            raise OSError(28, "No space left on device")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", fails)
    with pytest.raises(ClarenaError, match="No space left"):
        publish(tmp_path / "site", [part("new")])
    assert (tmp_path / "site" / "page.html").read_text() == "old"


def test_a_build_that_was_killed_in_its_swap_loses_nothing(tmp_path):
    publish(tmp_path / "site", [Part("page", "1", lambda read: {"page.html": "old"})])
    (tmp_path / "site").rename(tmp_path / ".site.old")
    assert known_site(tmp_path / "site")["parts"]["page"]["key"] == "1"
    assert (tmp_path / "site" / "page.html").read_text() == "old"


def test_a_folder_that_is_not_ours_is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(UsageError, match="no leaderboard"):
        publish(tmp_path, [])
    (tmp_path / MANIFEST).write_text('{"generator": "another"}')
    with pytest.raises(UsageError, match="no leaderboard"):
        publish(tmp_path, [])
    with pytest.raises(UsageError, match="is a file"):
        publish(tmp_path / "thesis.tex", [])
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def test_files_of_others_within_a_site_are_not_lost(tmp_path):
    publish(tmp_path / "site", [Part("page", "1", lambda read: {"page.html": "old"})])
    (tmp_path / "site" / "CNAME").write_text("example.org")
    with pytest.raises(UsageError, match="CNAME"):
        publish(tmp_path / "site", [])
    assert (tmp_path / "site" / "CNAME").read_text() == "example.org"


@pytest.mark.parametrize("name", ["../out.html", "/etc/passwd", "row/../../x", "row/<b>.html", ".hidden", "a//b", ""])
def test_no_file_leaves_the_site(tmp_path, name):
    with pytest.raises(ValueError, match="no name for a file"):
        publish(tmp_path / "site", [Part("page", "1", lambda read: {name: ""})])
    assert not (tmp_path / "site").exists()


# ---- Hostile text ----


def test_hostile_text_makes_no_element_and_no_attribute(hostile):
    for path in hostile.rglob("*.html"):
        page = Page(path)
        assert {name for name, _ in page.elements}.isdisjoint(
            {"img", "iframe", "object", "embed", "base", "form"} - {"form"}
        )
        assert not [a for _, attributes in page.elements for a in attributes if a.startswith("on") or a == "style"]
        scripts = [a for a in page.all("script") if a.get("type") != "application/json"]
        assert scripts
        assert all(not attributes for attributes in scripts)
        assert "49" not in "".join(page.texts.get("h1", []))  # {{7*7}} was not computed


def test_hostile_text_is_shown_as_it_is(hostile):
    (path,) = hostile.glob("track/*.html")
    assert EVIL in "".join(Page(path).texts["h1"])


def test_only_https_becomes_a_link(hostile):
    links = [link["href"] for path in hostile.rglob("*.html") for link in Page(path).all("a")]
    outside = {href for href in links if ":" in href}
    assert outside == {"https://good.example/a?b=", "https://arxiv.org/abs/2001.01234"}
    for path in hostile.rglob("*.html"):
        for link in Page(path).all("a"):
            if link["href"].startswith("https:"):
                assert link["rel"] == "noopener noreferrer"


def test_every_page_states_the_hashes_of_its_own_scripts_and_style(hostile):
    for path in hostile.rglob("*.html"):
        page = Page(path)
        (policy,) = [a["content"] for a in page.all("meta") if a.get("http-equiv") == "Content-Security-Policy"]
        assert policy.startswith("default-src 'none'; ")
        assert "unsafe" not in policy
        text = path.read_text(encoding="utf-8")
        inline = re.findall(r"<(?:script|style)>(.*?)</(?:script|style)>", text, re.DOTALL)
        hashes = {f"'sha256-{base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()}'" for code in inline}
        assert set(re.findall(r"'sha256-[^']+'", policy)) == hashes
        assert hashes <= set(security_policy().replace(";", " ").split())


def test_svg_files_hold_no_script_and_parse(hostile):
    from xml.etree import ElementTree

    charts = list(hostile.rglob("*.svg"))
    assert charts
    for path in charts:
        names = {element.tag.rpartition("}")[2] for element in ElementTree.parse(path).iter()}
        assert names <= {"svg", "rect", "g", "line", "text", "title", "polyline", "polygon", "circle"}


def test_data_within_a_page_cannot_end_its_element():
    text = str(embedded({"name": "</script><script>alert(1)</script>\u2028<!--"}))
    inside = text.removeprefix('<script type="application/json" id="data">').removesuffix("</script>")
    assert not set("<>&\u2028") & set(inside)
    assert json.loads(inside) == {"name": "</script><script>alert(1)</script>\u2028<!--"}


def test_no_page_asks_the_network_for_anything(site, hostile):
    for path in [*site.rglob("*.html"), *hostile.rglob("*.html")]:
        for name, attributes in Page(path).elements:
            assert "src" not in attributes
            if name == "link":
                assert attributes["href"].startswith("data:")


# ---- Reach ----


def test_the_largest_page_of_five_hundred_rows_is_below_three_megabytes(store, tmp_path):
    source = StoreSource(store)
    board = load_board(source)
    table = board.tables[0]
    many = tuple(
        replace(row := table.ranked[i % 5], slug=f"row-{i}", label=f"method strength={i}", runs=row.runs[:1])
        for i in range(500)
    )
    build_site(replace(board, tables=(replace(table, ranked=many),)), source.load, tmp_path / "site")
    sizes = {path.name: path.stat().st_size for path in (tmp_path / "site").rglob("*.html")}
    assert max(sizes.values()) < 3_000_000, max(sizes, key=sizes.get)
    assert max(sizes.values()) > 300_000  # the table is whole


def test_a_table_with_nothing_finished_still_has_a_page(tmp_path):
    store = make_store(tmp_path / "runs", [replace(ROWS[0], status="failed"), replace(ROWS[3], status="diverged")])
    _, report = make_site(store, tmp_path / "site")
    (path,) = (tmp_path / "site" / "track").glob("*.html")
    assert "Apart, not ranked" in path.read_text()
    assert report.made
