"""Published tables that start from weights which whoever runs them has to bring."""

import hashlib
from pathlib import Path

import pretrained
import pytest
import torch
from typer.testing import CliRunner

from clarena import Store
from clarena.cli import app, commands  # noqa: F401 - the commands add themselves to `app`
from clarena.reproduction.tables import available, load

PLUGIN = str(Path(pretrained.__file__))

TABLE = """
name = "brought"
title = "A table of a pre-trained layer"
paper = "Nobody 2026"
url = "https://example.org"
metric = "final_average_accuracy"
published_runs = 3
seeds = 1
benchmark = "split-digits"
backbone = "pretrained"
[weights]
file = "layer.pt, as pretrained.py lays it out"
architecture = "one layer of 64 inputs"
trained_on = "nothing at all"
url = "https://example.org/layer.pt"
mistaken_for = "layer-2.pt, which has seen digits"
[settings.protocol]
epochs = 1
limit = 16
[[cells]]
method = "mean"
scenario = "class"
strategy = "ncm"
mean = 50.0
"""


def reproduce(*arguments: str, code: int = 0) -> str:
    result = CliRunner().invoke(app, ["reproduce", *arguments])
    assert result.exit_code == code, result.output
    return result.output if code == 0 else str(result.exception)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("brought.toml").write_text(TABLE)
    torch.save({"layer": pretrained.matrix(seed=7)}, "layer.pt")
    return tmp_path


def test_it_says_what_to_bring_before_anything_is_read(here: Path) -> None:
    """No plugin is given, so that looking for the backbone would be another error."""
    for given in ((), ("--weights", "nowhere.pt")):
        told = reproduce("brought.toml", *given, code=1)
        for words in ("layer.pt, as pretrained.py", "one layer", "nothing at all", "not           layer-2.pt"):
            assert words in told
        assert "clarena reproduce brought --weights PATH" in told
        assert ("There is no file at" in told and "nowhere.pt" in told) == bool(given)
    assert not Path("runs").exists()


def test_what_was_brought_is_what_runs_and_the_page_names_it(here: Path) -> None:
    reproduce("brought.toml", "--weights", "layer.pt", "--plugin", PLUGIN, "--no-tracking", "--write")
    (record,), _ = Store("runs").records()
    sha256 = hashlib.sha256(Path("layer.pt").read_bytes()).hexdigest()
    assert record.cell.track.backbone.fingerprint == sha256
    page = Path("docs/reproductions/brought.md").read_text()
    assert f"SHA-256 of what was brought: `{sha256}`" in page
    assert "clarena reproduce brought --seeds 1 --weights PATH" in page
    assert str(here) not in page


def test_a_table_that_needs_none_takes_none(here: Path) -> None:
    told = reproduce("hsu2018-split-mnist", "--weights", "layer.pt", code=1)
    assert "starts from no file of weights" in told


def test_the_list_says_which_tables_need_weights() -> None:
    lines = {line.split()[0]: line for line in reproduce().splitlines()}
    assert lines.keys() == available().keys()
    for name, line in lines.items():
        assert ("needs weights" in line) == (load(name).weights is not None)
