"""Every link of a finished site leads somewhere, and no page loads anything from elsewhere."""

from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

LOADED = {"script": "src", "img": "src", "source": "srcset", "iframe": "src", "link": "href"}


class _Page(HTMLParser):
    """The anchors of a page, what it links to, and what it loads."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.anchors |= {given[name] for name in ("id", "name") if name in given}
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        loaded = given.get(LOADED.get(tag, ""))
        if loaded and given.get("rel") not in ("canonical", "next", "prev"):
            self.loads.append(loaded)


def problems(site: Path) -> list[str]:
    """What is amiss in the pages of a folder, one line each."""

    @cache
    def read(path: Path) -> _Page:
        return _Page(path.read_text(encoding="utf-8"))

    found = []
    for page in sorted(site.rglob("*.html")):
        here = page.relative_to(site).as_posix()
        base = site if here == "404.html" else page.parent  # the one page that a server shows at any address
        for target in read(page).loads + read(page).links:
            parts = urlsplit(target)
            if parts.scheme or parts.netloc:
                if target in read(page).loads and parts.scheme != "data":
                    found.append(f"{here} loads {target}")
                continue
            to = (base / unquote(parts.path).lstrip("/")).resolve() if parts.path else page.resolve()
            to = to / "index.html" if to.is_dir() else to
            if not to.is_file():
                found.append(f"{here} links to {target}, which is not there")
            elif parts.fragment and to.suffix == ".html" and unquote(parts.fragment) not in read(to).anchors:
                found.append(f"{here} links to {target}, and there is no such anchor")
    return found
