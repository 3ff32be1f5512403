"""The pages for everyone: axe-core finds nothing serious, the keyboard reaches all of it, a phone is wide enough."""

from importlib.resources import files

import pytest

pytestmark = pytest.mark.browser


def kinds(site):
    """A page of each kind."""
    yield site / "index.html"
    yield site / "changes.html"
    yield site / "metrics.html"
    yield next(site.glob("track/*.html"))
    yield from (next(site.glob(f"row/{name}-*.html")) for name in ("er", "joint", "broken"))


def compared(site):
    path = next(site.glob("compare/*.html"))
    rows = [next(site.glob(f"row/{name}-*.html")).stem for name in ("er", "ewc", "lwf", "gdumb")]
    return f"{path.as_uri()}#rows={','.join(rows)}"


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(chromium, made_site, scheme, width):
    axe = (files("axe_playwright_python") / "axe.min.js").read_text(encoding="utf-8")
    context = chromium.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme, bypass_csp=True)
    page = context.new_page()
    for address in [*(path.as_uri() for path in kinds(made_site)), compared(made_site)]:
        page.goto(address)
        page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
        page.evaluate(axe)
        outcome = page.evaluate("axe.run(document, {resultTypes: ['violations']})")
        found = [
            (v["id"], v["impact"], [node["html"][:160] for node in v["nodes"][:3]], v["nodes"][0]["failureSummary"])
            for v in outcome["violations"]
            if v["impact"] in ("serious", "critical")
        ]
        assert found == [], address
    context.close()


@pytest.mark.parametrize("width", [390, 1280])
def test_no_page_scrolls_sideways(chromium, made_site, hostile_site, width):
    context = chromium.new_context(viewport={"width": width, "height": 800})
    page = context.new_page()
    for address in [
        *(path.as_uri() for path in kinds(made_site)),
        compared(made_site),
        *(path.as_uri() for path in hostile_site.rglob("*.html")),
    ]:
        page.goto(address)
        assert page.evaluate("document.documentElement.scrollWidth") <= width, address
    context.close()


def test_the_keyboard_reaches_everything_in_the_order_of_the_page(chromium, made_site):
    context = chromium.new_context(viewport={"width": 1280, "height": 900})
    page = context.new_page()
    page.goto(next(made_site.glob("track/*.html")).as_uri())
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    assert page.evaluate("document.activeElement.getBoundingClientRect().left") >= 0
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    page.keyboard.press("Tab")
    seen = []
    for _ in range(200):
        place = page.evaluate(
            "(() => { const e = document.activeElement, all = [...document.querySelectorAll('*')];"
            " const outline = getComputedStyle(e).outlineStyle;"
            " return [all.indexOf(e), e.tagName, outline]; })()"
        )
        if seen and (place[1] == "BODY" or place[0] <= seen[-1][0]):
            break
        seen.append(place)
        page.keyboard.press("Tab")
    assert len(seen) > 30
    tags = {tag for _, tag, _ in seen}
    assert {"A", "BUTTON", "INPUT", "SELECT"} <= tags
    assert {outline for *_, outline in seen} <= {"solid", "auto"}  # the focus is seen wherever it is
    context.close()


def test_pages_have_one_heading_a_language_and_a_title(chromium, made_site):
    context = chromium.new_context()
    page = context.new_page()
    titles = set()
    for path in kinds(made_site):
        page.goto(path.as_uri())
        assert page.locator("h1").count() == 1
        assert page.evaluate("document.documentElement.lang") == "en"
        titles.add(page.title())
    assert len(titles) == 7
    context.close()
