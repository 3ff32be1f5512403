"""What a method is reported to reach, what others got, and what is got here: facts of `docs/reported.toml`, and the
tables of `clarena reproduce` with the pages that it wrote."""

import tomllib
from functools import cache
from pathlib import Path

from clarena.reproduction.tables import available, load

DOCS = Path(__file__).parents[1]
MISSING = "missing"
TITLES = ["", "reported %", "others %", "ours %", "why they differ"]


def reported(strategy: str) -> list[list[str]]:
    """Lines of a table for a strategy: what, reported, by others, ours, and why they differ; none where nothing is."""
    lines, taken = [], set()
    for row in tomllib.loads((DOCS / "reported.toml").read_text(encoding="utf-8"))["row"]:
        if row["strategy"] == strategy:
            ours = _cells()[row["cell"]][1][3] if "cell" in row else MISSING
            others = "<br>".join(row.get("others", [MISSING]))
            lines.append([row["what"], row.get("reported", MISSING), others, ours, row["why"]])
            taken.add(row.get("cell"))
    return lines + [line for key, (name, line) in _cells().items() if name == strategy and key not in taken]


@cache
def _cells() -> dict[str, tuple[str, list[str]]]:
    """The cells of all published tables by table and label, each with the name of its strategy and its line."""
    found = {}
    for name in available():
        table, page = load(name), DOCS / "reproductions" / f"{name}.md"
        ours = _ours(page) if page.exists() else {}
        title = f"[{table.title}](reproductions/{name}.md)" if ours else f"{table.title} (`clarena reproduce {name}`)"
        for cell in table.cells:
            theirs = f"{cell.mean:.2f}" + (f" ± {cell.std:.2f}" if cell.std is not None else "")
            why = cell.reason or cell.note or ""
            line = [f"{title}: {cell.label}", theirs, MISSING, ours.get(cell.label, MISSING), why]
            found[f"{name} {cell.label}"] = cell.strategy, line
    return found


def _ours(page: Path) -> dict[str, str]:
    """What a page of a reproduction says of ours, with its verdict, by cell."""
    lines = [line.split("|") for line in page.read_text(encoding="utf-8").splitlines() if line.startswith("| ")]
    return {cells[1].strip(): f"{cells[3].strip()}, {cells[7].strip()}" for cells in lines if len(cells) > 7}
