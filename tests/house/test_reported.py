"""The part of a strategy's page that sets ours beside what is reported and what others got."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "docs"))

from made.reference import strategy
from made.reported import MISSING, reported

from clarena.plugins.host import Host


def test_ours_is_what_a_reproduction_wrote():
    lines = {line[0].split(": ")[-1]: line for line in reported("ewc")}
    assert lines["ewc/task"][1:4] == ["97.70 ± 0.81", MISSING, "96.94 ± 2.27, agrees"]
    assert "(reproductions/hsu2018-split-mnist.md)" in lines["ewc/task"][0]


def test_what_nobody_has_run_is_missing_and_stands_there_once():
    (line,) = reported("ncm")
    assert (line[1], line[3]) == ("83.4 (RanPAC)", MISSING)
    assert not any(line[0].endswith("ranpac/class") for line in reported("ranpac"))


def test_it_is_on_the_page_of_its_strategy_and_on_no_other():
    host = Host.discover()
    assert "83.83" in strategy(host.strategy("l2p"))
    assert "Reported, and got" not in strategy(host.strategy("scr"))
