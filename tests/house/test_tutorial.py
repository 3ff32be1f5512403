"""The tutorial's strategy, put together from the page: it keeps every rule, and is the `ewc` that is shipped."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from clarena_native.strategies.references.finetune import Finetune
from clarena_native.strategies.regularisation.ewc import EWC
from cli_command import clarena
from tiny import walk

from clarena.plugins.host import Host, PluginSources

PAGE = Path(__file__).parents[2] / "docs" / "tutorial-ewc.md"


@pytest.fixture(scope="module")
def plugin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All blocks of Python, one below the other, in one file."""
    path = tmp_path_factory.mktemp("tutorial") / "my_ewc.py"
    path.write_text("\n".join(re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), re.DOTALL | re.MULTILINE)))
    return path


def test_it_keeps_every_rule(plugin: Path) -> None:
    outcome = clarena("check", plugin)
    assert outcome.code == 0, outcome.out + outcome.err
    assert re.search(r"my-ewc: \d+ passed, \d+ not applicable", outcome.out)


@pytest.mark.parametrize("scenario", ["class", "domain", "task"])
def test_it_learns_what_the_shipped_one_learns(plugin: Path, scenario: Any) -> None:
    cls = Host.discover(PluginSources(files=[plugin], third_party=False)).strategies.load("my-ewc")
    mine, shipped, plain = (walk(one, scenario).finish() for one in (cls, EWC, Finetune))
    for a, b in zip(mine.parameters(), shipped.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    assert mine.predict() == shipped.predict()
    assert any(not torch.allclose(a, b, atol=1e-3) for a, b in zip(mine.parameters(), plain.parameters()))
