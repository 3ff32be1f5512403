"""Sites made for the tests."""

from pathlib import Path

import pytest
from site_stores import EVIL, HOSTILE, make_site, make_store


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
