"""A gallery of the board's charts: each from the project's own rows, each with a link to its page."""

import json
from collections.abc import Iterator
from pathlib import Path

from made import board

CHARTS = {
    "forgetting": "Accuracy against forgetting.",
    "seconds": "Accuracy against seconds of training.",
    "state": "Accuracy against the bytes that are carried on.",
}
ACROSS = {
    "iqm": "Interquartile mean of all scores, over all tracks.",
    "profile": "Performance profile: the share of scores above each threshold.",
    "critical-difference": "Average ranks over the tracks.",
}


def gallery() -> str:
    """For each track its charts and the curves of its best row, then what is said across tracks."""
    files = board.files()
    tracks = json.loads(files["tracks.json"].read_text())
    parts = [part for track in tracks for part in _track(track, files)]
    across = [_figure(f"board/{name}.svg", told) for name, told in ACROSS.items() if f"{name}.svg" in files]
    if across:
        parts += ["## Across tracks\n", _grid(across)]
    return "\n".join(parts)


def _track(track: dict[str, str], files: dict[str, Path]) -> Iterator[str]:
    digest = track["track_digest"][:8]
    (page,) = (name for name in files if name.startswith("track/") and name.endswith(f"-{digest}.html"))
    base = page.removesuffix(".html")
    charts = {f"{base}-{name}.svg": told for name, told in CHARTS.items()}
    rows = json.loads(files[f"{base}.json"].read_text())["rows"]
    best = next((row for row in rows if row["standing"] == "ranked"), None)  # ranked rows come best first
    if best:
        (row,) = (name for name in files if name.startswith("row/") and name.endswith(f"-{best['row'][:8]}.html"))
        charts[row.removesuffix(".html") + ".svg"] = f"The best row over time: {best['label']}."
    yield f"## {track['track']}\n"
    yield f"[The table on the board](board/{page}).\n"
    yield _grid([_figure(f"board/{name}", told) for name, told in charts.items() if name in files])


def _figure(source: str, told: str) -> str:
    """A chart that leads to itself; its caption is its text for those who cannot see it."""
    return f"<figure markdown>\n[![{told}]({source})]({source})\n<figcaption>{told}</figcaption>\n</figure>\n"


def _grid(figures: list[str]) -> str:
    return '<div class="charts" markdown>\n\n' + "\n".join(figures) + "\n</div>\n"
