"""Regions of pages that code fills: what stands between `<!-- made: NAME -->` and `<!-- end -->`."""

import re
from collections.abc import Callable
from pathlib import Path

from made import board, floors, gallery, reference

ROOT = Path(__file__).parents[2]
REGION = re.compile(r"(<!-- made: (?P<name>[a-z-]+) -->\n)(?P<held>.*?)(<!-- end -->)", re.DOTALL)

REGIONS: dict[str, Callable[[], str]] = {
    "backbones": reference.backbones,
    "benchmarks": reference.benchmarks,
    "board": board.shown,
    "commands": reference.commands,
    "fields": reference.protocol_fields,
    "floors": floors.drawing,
    "folders": floors.folders,
    "gallery": gallery.gallery,
    "metrics": reference.metric_page,
    "needs": reference.needs,
    "strategies": reference.strategies,
}
"""What each holds on the site."""

KEPT = {"CONTRIBUTING.md": "floors", "docs/architecture.md": "folders", "docs/protocol.md": "fields"}
"""Pages whose region is committed as well, because a reader of the repository needs it; a test tells when it drifts."""


def filled(page: str) -> str:
    """The page with each region as the code has it; an unknown name is a KeyError."""
    return REGION.sub(lambda found: found[1] + REGIONS[found["name"]]() + found[4], page)


def held(page: str) -> dict[str, str]:
    """The regions of a page, by name, as they stand."""
    return {found["name"]: found["held"] for found in REGION.finditer(page)}


def drifted() -> list[str]:
    """The pages whose kept region is not what the code says."""
    return [path for path, name in KEPT.items() if held((ROOT / path).read_text()).get(name) != REGIONS[name]()]


def write() -> None:
    """Write every kept region."""
    for path in KEPT:
        (ROOT / path).write_text(filled((ROOT / path).read_text()))
