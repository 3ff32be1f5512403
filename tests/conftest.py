"""Settings of the whole suite."""

import os
import shutil
import signal
from collections.abc import Iterator
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")

import matrix
import pytest
from hypothesis import settings
from needs import BROWSERS, needs

settings.register_profile("clarena", deadline=None, print_blob=True)  # a deadline is a timed assertion
settings.load_profile("clarena")

CHROMIUM = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]

# A shell that starts a job in the background has it ignore Ctrl-C, and so would every process that a test interrupts.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_configure() -> None:
    """What is asked of this pytest by PYTEST_ADDOPTS is not for those that tests start in folders of their own."""
    os.environ.pop("PYTEST_ADDOPTS", None)


def pytest_report_header() -> str:
    return f"matrices: CLARENA_MATRIX_SEED={matrix.SEED}"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    gone = matrix.left_out(items)
    config.hook.pytest_deselected(items=[item for item in items if item in gone])
    items[:] = [item for item in items if item not in gone]


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Marks say what a test needs: `data`, `browser`, and `needs("package")`."""
    asked = [name for mark in item.iter_markers("needs") for name in mark.args]
    asked += [name for mark, name in (("data", "data"), ("browser", "chromium")) if item.get_closest_marker(mark)]
    needs(*asked, test=item.nodeid)


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    """The browser, for tests marked `browser`."""
    needs("chromium")
    from playwright import sync_api as playwright

    path = next(filter(None, map(shutil.which, BROWSERS)))
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=CHROMIUM)
        yield browser
        browser.close()


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """A parallel test run sets a width for its workers; what is printed must be that of a pipe."""
    monkeypatch.delenv("COLUMNS", raising=False)
