"""The table of a track, as text for a terminal of any width, and as data."""

from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from clarena.cli.text import page, put
from clarena.protocol.protocol import Track
from clarena.record.aliases import Aliases
from clarena.record.record import Record
from clarena.record.references import expected
from clarena.record.summary import Row, below_line, by_track, curve_texts, legend, rows, table_texts


def print_table(track: Track, table: list[Row], console: Console | None = None) -> None:
    """Print the rows of one track: references first and apart, then the rest, best first."""
    console = console or page()
    console.print(Text.assemble("\n", (track.label, "bold"), f"  ({track.digest[:12]})"))
    if track.unranked:
        console.print(f"Not ranked: {track.unranked}.", style="yellow")
    for line in track.seen:
        console.print(line, style="yellow" if line.startswith("Overlap") else "dim", highlight=False)
    grid = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    titles, lines = table_texts(table)
    for title in titles:
        wide = title in ("strategy", "not finished")
        least = 12 if title == "strategy" else None
        grid.add_column(title, justify="left" if wide else "right", overflow="fold", no_wrap=not wide, min_width=least)
    for position, (cells, row) in enumerate(zip(lines, table)):
        last_reference = row.info.reference and position + 1 < len(table) and not table[position + 1].info.reference
        style = "dim" if row.info.reference else None
        grid.add_row(*map(Text, cells), style=style, end_section=last_reference)
    put(console, grid)
    _print_curves(track, table, console)
    console.print(legend(table), style="dim")


def _print_curves(track: Track, table: list[Row], console: Console) -> None:
    """What was measured within experiences, where anything was: a table of its own, which 80 columns have room for."""
    titles, lines = curve_texts(table)
    if not lines:
        return
    every = track.protocol.eval_every
    console.print(f"\nWithin experiences, tested every {f'{every} steps' if every > 1 else 'step'}", style="bold")
    grid = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    grid.add_column(titles[0], overflow="fold", min_width=12)
    for title in titles[1:]:
        grid.add_column(title, justify="right", no_wrap=True)
    for cells, row in zip(lines, table):
        grid.add_row(*map(Text, cells), style="dim" if row.info.reference else None)
    put(console, grid)


def as_data(records: list[Record], aliases: Aliases | None = None) -> list[dict[str, Any]]:
    """Rows by track, as plain data."""
    tables = []
    for group in by_track(records):
        track, table = group[0].cell.track, rows(group, aliases)
        finished = {row.info.name for row in table if row.finished}
        tables.append(
            {
                "track": track.label,
                "track_digest": group[0].track_digest,
                "weights_have_seen": track.seen,
                "missing_references": [name for name in expected(track) if name not in finished],
                "rows": [
                    row.as_dict() | {"below_nearest_class_mean": beneath}
                    for row, beneath in zip(table, below_line(table))
                ],
            }
        )
    return tables
