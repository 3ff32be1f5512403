"""The pages in a real browser, opened from the file system."""

import re
import threading

import numpy as np
import pytest
from clarena_leaderboard.cli import site_server

from clarena.record.statistics import paired_sign_flip

pytestmark = pytest.mark.browser


def track_of(site, scenario="class"):
    return next(site.glob(f"track/*-{scenario}-*.html"))


@pytest.fixture
def opened(chromium):
    """Opens a page; collects what the browser complains of, and what it asks for."""
    contexts, said = [], []

    def open_page(path, anchor="", **options):
        context = chromium.new_context(viewport={"width": 1280, "height": 900}, **options)
        contexts.append(context)
        page = context.new_page()
        page.asked = []
        page.on("request", lambda request: page.asked.append(request.url))
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("dialog", lambda dialog: (said.append(dialog.message), dialog.dismiss()))
        page.goto((path if isinstance(path, str) else path.as_uri()) + anchor)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert said == []


def ranked(page, shown=True):
    """The strategies of the ranked rows, in the order shown."""
    rows = page.locator("tbody.ranked tr[data-row]").all()
    names = [row.get_attribute("data-row").rpartition("-")[0] for row in rows if not shown or row.is_visible()]
    return names


# ---- Sorting ----


def test_sorting_by_a_column(opened, made_site):
    page = opened(track_of(made_site))
    assert ranked(page) == ["gdumb", "er", "slow", "ewc", "lwf"]
    head = page.locator("th[data-sort=seconds]")
    head.locator("button").click()
    assert head.get_attribute("aria-sort") == "descending"
    assert ranked(page) == ["slow", "gdumb", "lwf", "er", "ewc"]
    head.locator("button").click()
    assert head.get_attribute("aria-sort") == "ascending"
    assert ranked(page) == ["ewc", "er", "lwf", "gdumb", "slow"]
    references = [row.get_attribute("data-row") for row in page.locator("tbody.reference tr[data-row]").all()]
    assert [name.split("-")[0] for name in references] == ["joint", "finetune"]
    head.locator("button").click()
    assert head.get_attribute("aria-sort") is None
    assert ranked(page) == ["gdumb", "er", "slow", "ewc", "lwf"]


def test_sorting_by_keyboard_and_by_name(opened, made_site):
    page = opened(track_of(made_site))
    page.locator("th[data-sort=label] button").focus()
    page.keyboard.press("Enter")
    assert ranked(page) == ["er", "ewc", "gdumb", "lwf", "slow"]


def test_undefined_values_come_last_either_way(opened, made_site):
    page = opened(track_of(made_site))
    for _ in range(2):
        page.locator("th[data-sort=buffer] button").click()
        assert set(ranked(page)[:2]) == {"er", "gdumb"}


# ---- Search and filters ----


def test_filters_and_search(opened, made_site):
    page = opened(track_of(made_site))
    page.locator("select[data-filter=family]").select_option("replay")
    assert ranked(page) == ["gdumb", "er", "slow"]
    page.locator("select[data-most=state]").select_option("500000")
    assert ranked(page) == ["gdumb", "er"]
    page.locator("#q").fill("er")
    assert "er" in ranked(page)
    page.locator("#q").fill("gdumb")
    assert ranked(page) == ["gdumb"]
    assert "of 9 rows" in page.locator(".shown").inner_text()
    assert page.locator("tbody.reference tr[data-row]").first.is_visible()
    faded = {
        g.get_attribute("data-row").split("-")[0]
        for g in page.locator("#plot-seconds .axis:not([hidden]) .point.faded").all()
    }
    assert faded == {"er", "slow", "ewc", "lwf"}
    page.locator("[data-reset]").click()
    assert len(ranked(page)) == 5
    page.locator("[data-is=badge]").check()
    assert ranked(page) == []


def test_the_index_filters_by_scenario(opened, made_site):
    page = opened(made_site / "index.html")
    rows = page.locator("table.tracks tbody tr")
    assert rows.count() == 2
    page.locator("select[data-filter=scenario]").select_option("task")
    assert [row.get_attribute("data-scenario") for row in rows.all() if row.is_visible()] == ["task"]
    assert page.evaluate("location.hash") == "#scenario=task"


def test_slash_goes_to_the_search(opened, made_site):
    page = opened(track_of(made_site))
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.id") == "q"
    page.keyboard.type("a/b")
    assert page.locator("#q").input_value() == "a/b"


# ---- State in the URL ----


def test_a_deep_link_restores_what_was_shown(opened, made_site):
    page = opened(track_of(made_site))
    page.locator("#q").fill("s")
    page.locator("select[data-filter=family]").select_option("replay")
    page.locator("th[data-sort=seconds] button").click()
    page.locator("tbody.ranked .pick input").first.check()
    shown, anchor = ranked(page), page.evaluate("location.hash")
    other = opened(track_of(made_site), anchor)
    assert ranked(other) == shown
    assert other.locator("#q").input_value() == "s"
    assert other.locator("select[data-filter=family]").input_value() == "replay"
    assert other.locator("th[data-sort=seconds]").get_attribute("aria-sort") == "descending"
    assert other.locator(".pick input:checked").count() == 1
    assert other.locator(".tray").is_visible()


def test_a_hostile_link_changes_nothing(opened, made_site):
    page = opened(track_of(made_site), "#q=%3Cimg%20src=x%3E&family=nope&sort=__proto__.up&pick=a,b,%22%3E&state=NaN")
    assert page.locator("img").count() == 0
    assert page.locator("#q").input_value() == "<img src=x>"
    assert page.locator("[aria-sort]").count() == 0
    page = opened(next(made_site.glob("compare/*.html")), "#rows=%3Cscript%3E,constructor,__proto__")
    assert "Choose two to four rows" in page.locator("#result").inner_text()


# ---- Comparing ----


def test_rows_are_picked_and_compared(opened, made_site):
    from playwright.sync_api import expect

    page = opened(track_of(made_site))
    boxes = page.locator("tbody.ranked .pick input")
    boxes.nth(0).check()
    assert page.locator(".tray a").get_attribute("aria-disabled") == "true"
    boxes.nth(1).check()
    page.locator(".tray a").click()
    page.wait_for_url("**/compare/**")
    heads = page.locator("#result table").first.locator("thead th")
    expect(heads).to_have_text(["gdumb", "er"])
    numbers = page.locator("#result tbody tr", has_text="Final average accuracy").first
    track = track_of(made_site).read_text()
    for cell, name in zip(numbers.locator("td").all_inner_texts(), ("gdumb", "er")):
        row = re.search(rf'<tr[^>]*data-row="{name}-.*?</tr>', track, re.DOTALL)[0]
        assert f">{cell}</td>" in row
    assert re.search(r"gdumb against er: \+\d\.\d points over 10 shared seeds", page.locator("#result").inner_text())
    page.get_by_role("button", name="Remove er").click()
    expect(heads).to_have_text(["gdumb"])  # the page draws anew when the browser gets round to `hashchange`
    page.go_back()
    expect(heads).to_have_text(["gdumb", "er"])


def test_no_more_than_four_rows_can_be_picked(opened, made_site):
    page = opened(track_of(made_site))
    boxes = page.locator("tbody.ranked .pick input")
    for i in range(4):
        boxes.nth(i).check()
    assert boxes.nth(4).is_disabled()


def test_the_sign_flip_test_of_the_page_is_that_of_python(opened, made_site):
    page = opened(next(made_site.glob("compare/*.html")))
    generator = np.random.default_rng(1)
    for n in (1, 3, 6, 10):
        differences = np.round(generator.normal(0.02, 0.03, n), 4)
        p = page.evaluate("d => clarenaSignFlip(d)", differences.tolist())
        assert p == paired_sign_flip(differences, np.zeros(n)).p_value
    assert page.evaluate("d => clarenaSignFlip(d)", [0.1] * 17) is None


# ---- Light and dark ----


def background(page):
    return page.evaluate("getComputedStyle(document.body).backgroundColor")


def test_dark_mode_follows_the_system_and_the_switch(opened, made_site):
    page = opened(made_site / "index.html", color_scheme="dark")
    dark = background(page)
    page.locator("#theme").click()
    light = background(page)
    assert (dark, light) == ("rgb(21, 24, 28)", "rgb(253, 253, 252)")
    page.goto(track_of(made_site).as_uri())
    assert background(page) == light  # the choice goes with the reader
    mark = page.locator("#plot-seconds .stroke-ink").first
    first = mark.evaluate("e => getComputedStyle(e).stroke")
    page.locator("#theme").click()
    assert mark.evaluate("e => getComputedStyle(e).stroke") != first


def test_a_plot_has_a_linear_axis_too(opened, made_site):
    page = opened(track_of(made_site))
    figure = page.locator("#plot-seconds")
    ticks = figure.locator("svg:visible text").all_inner_texts()
    figure.locator("[data-axis]").click()
    assert figure.locator("svg:visible").count() == 1
    assert figure.locator("svg:visible text").all_inner_texts() != ticks


# ---- Without JavaScript ----


def test_pages_read_without_javascript(opened, made_site):
    page = opened(track_of(made_site), java_script_enabled=False)
    assert page.locator("tbody tr[data-row]:visible").count() == 9
    assert page.locator(".tools:visible, .pick:visible, #theme:visible").count() == 0
    assert page.locator(".plots svg:visible").count() == 3
    assert (
        page.locator("#plot-forgetting figcaption")
        .inner_text()
        .startswith("Accuracy against forgetting. On the front:")
    )
    page.goto(next(made_site.glob("compare/*.html")).as_uri())
    assert "clarena compare gdumb er --track" in page.locator(".no-js").inner_text()
    page.goto(next(made_site.glob("row/er-*.html")).as_uri())
    assert page.locator("table.heat").first.is_visible()


# ---- Security ----


def test_no_page_asks_for_anything_but_itself(opened, made_site):
    page = opened(made_site / "index.html")
    for path in sorted(made_site.rglob("*.html")):
        page.asked.clear()
        page.goto(path.as_uri(), wait_until="load")
        assert page.asked == [path.as_uri()] or page.asked[1:] == [u for u in page.asked[1:] if u.startswith("data:")]


def test_hostile_texts_do_nothing(opened, hostile_site):
    page = opened(hostile_site / "index.html")
    for path in sorted(hostile_site.rglob("*.html")):
        page.goto(path.as_uri())
        if path.parent.name == "compare":
            slugs = page.evaluate("JSON.parse(document.getElementById('data').textContent).map(row => row.slug)")
            page.goto(path.as_uri() + "#rows=" + ",".join(slugs[:4]))
            page.locator("#result table").first.wait_for()
        assert page.evaluate("window.hacked") is None
        assert page.locator("img").count() == 0
    assert "<img src=x" in page.locator("h1").inner_text()  # and all of it was shown


def test_a_script_that_is_not_ours_does_not_run(opened, made_site, chromium):
    context = chromium.new_context()
    page = context.new_page()
    page.goto(track_of(made_site).as_uri())
    page.evaluate("""() => {
        const script = document.createElement("script");
        script.textContent = "window.hacked = 1";
        document.head.append(script);
        document.body.insertAdjacentHTML("beforeend", '<b id="x" onclick="window.hacked = 2">x</b>');
        document.getElementById("x").click();
    }""")
    assert page.evaluate("window.hacked") is None
    context.close()


def test_served_pages_work_under_their_policy(opened, made_site):
    with site_server(made_site, 0) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        page = opened(f"http://127.0.0.1:{server.server_address[1]}/track/{track_of(made_site).name}")
        page.locator("th[data-sort=seconds] button").click()
        assert ranked(page)[0] == "slow"
        assert background(page) == "rgb(253, 253, 252)"
        server.shutdown()
