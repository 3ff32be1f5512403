"""The documentation's site as it is built: whole, offline, with a place for every public name.

`CLARENA_SITE` names one that was built already.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import clarena

ROOT = Path(__file__).parents[2]

pytestmark = [pytest.mark.slow, pytest.mark.needs("site")]


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if built := os.environ.get("CLARENA_SITE"):
        return Path(built)
    out = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(out)]
    process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert process.returncode == 0, process.stdout + process.stderr
    return out


def test_every_public_name_has_its_anchor(site: Path) -> None:
    page = (site / "api.html").read_text()
    names = [f"clarena.{name}" for name in clarena.__all__]
    assert [name for name in names if f' id="{name}"' not in page] == []
    assert ' id="clarena.testing.parametrize_with_checks"' in page
    assert ' id="clarena.Strategy.learn"' in page
    assert 'id="clarena.hookspecs.clarena_register_strategies"' in (site / "hooks.html").read_text()


def test_reference_pages_are_filled(site: Path) -> None:
    expected = {"commands": "clarena evaluate", "strategies": "Differences from the paper", "metrics": "Rebuffi et al."}
    for name, words in expected.items():
        assert words in (site / f"{name}.html").read_text()
    for path in site.glob("*.md"):
        assert "\n::: " not in path.read_text(), path.name


def test_the_notebook_was_executed(site: Path) -> None:
    page = (site / "tutorial-notebook.html").read_text()
    assert "final_average_accuracy</th>" in page
    assert (site / "tutorial-notebook-2.png").read_bytes().startswith(b"\x89PNG")
    assert '"outputs": []' in (site / "tutorial-notebook.ipynb").read_text()


def test_board_and_gallery_are_the_projects_own(site: Path) -> None:
    assert "split-digits" in (site / "board" / "index.html").read_text()
    gallery = (site / "gallery.html").read_text()
    assert gallery.count("<figcaption>") >= 3 * 6


def test_programs_find_every_page(site: Path) -> None:
    listed = (site / "llms.txt").read_text()
    assert listed.startswith("# CLArena\n\n> ")
    pages = {path.relative_to(site).as_posix() for path in site.rglob("*.md")}
    assert [page for page in sorted(pages) if f"]({page})" not in listed] == []
    assert "def learn(self, experience: Experience) -> None:" in (site / "llms-full.txt").read_text()


@pytest.mark.browser
def test_search_works_from_the_file_system(site: Path, chromium) -> None:
    page = chromium.new_page(offline=True)
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto((site / "index.html").as_uri())
    page.click("input.md-search__input")
    page.keyboard.type("reservoir")
    page.wait_for_selector(".md-search-result__item")
    assert "ReplayBuffer" in page.inner_text(".md-search-result__list") or "api" in page.content()
    assert [url for url in asked if not url.startswith(("file:", "data:", "blob:"))] == []
    page.close()
