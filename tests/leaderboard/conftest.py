"""A headless Chromium, where there is one."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from site_stores import EVIL, HOSTILE, make_site, make_store

ARGUMENTS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    """The browser; tests that ask for it are skipped where none is installed."""
    playwright = pytest.importorskip("playwright.sync_api")
    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if path is None:
        pytest.skip("no Chromium on this machine")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def made_site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A site of two tracks with nine rows each."""
    folder = tmp_path_factory.mktemp("made")
    make_site(make_store(folder / "runs", scenarios=("class", "task")), folder / "site")
    return folder / "site"


@pytest.fixture(scope="session")
def hostile_site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A site in which every text that a submission chooses is an attack."""
    folder = tmp_path_factory.mktemp("hostile")
    store = make_store(folder / "runs", HOSTILE, seeds=3, benchmark=EVIL, classes=[EVIL + str(i) for i in range(6)])
    make_site(store, folder / "site")
    return folder / "site"
