"""The table of a track, as text for a terminal of any width, and as data."""

import math
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from clarena.cli.text import page, put
from clarena.protocol.protocol import Track
from clarena.record.aliases import Aliases
from clarena.record.curves import SHORT
from clarena.record.record import Record
from clarena.record.statistics import Interval
from clarena.record.summary import Row, by_track, row_labels, rows

NOTHING = "–"
EARLIER = " †"
"""Marks a row of before there were identities of code, which is not proven to be a row of today."""


def print_table(track: Track, table: list[Row], console: Console | None = None) -> None:
    """Print the rows of one track: references first and apart, then the rest, best first."""
    console = console or page()
    console.print(Text.assemble("\n", (track.label, "bold"), f"  ({track.digest[:12]})"))
    if track.unranked:
        console.print(f"Not ranked: {track.unranked}.", style="yellow")
    grid = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    grid.add_column("strategy", overflow="fold", min_width=12)
    for title in ("final accuracy %", "n", "forgetting %", "train s", "state"):
        grid.add_column(title, justify="right", no_wrap=True)
    language = any(row.interval("final_bits_per_byte") for row in table)
    if language:
        grid.add_column("bits per byte", justify="right", no_wrap=True)
    problems = any(row.problems for row in table)
    if problems:
        grid.add_column("not finished", overflow="fold")
    labels = [f"{label}{EARLIER if row.earlier else ''}" for label, row in zip(row_labels(table), table)]
    for position, (label, row) in enumerate(zip(labels, table)):
        last_reference = row.info.reference and position + 1 < len(table) and not table[position + 1].info.reference
        cells: list[str | Text] = [
            Text(label),
            percent(row.interval("final_average_accuracy")),
            str(len(row.finished)),
            percent(row.interval("forgetting")),
            NOTHING if math.isnan(row.total("train_seconds")) else f"{row.total('train_seconds'):.1f}",
            size(row.total("state_bytes")),
        ]
        grid.add_row(
            *cells,
            *([plain(row.interval("final_bits_per_byte"))] if language else []),
            *([row.problems] if problems else []),
            style="dim" if row.info.reference else None,
            end_section=last_reference,
        )
    put(console, grid)
    _print_curves(track, table, labels, console)
    legend = "Mean ± half-width of the 95 % Student-t interval over n seeds."
    if any(row.info.reference for row in table):
        legend += " References come first; they are never ranked."
    if any(row.earlier for row in table):
        legend += (
            f"\n{EARLIER.strip()}: of an earlier version, until it is proven to be today's: clarena store upgrade, "
        )
        legend += "clarena results attest."
    console.print(legend, style="dim")
    if earlier := sum(row.earlier_metering for row in table):
        console.print(
            f"Training times of {earlier} runs are left out: they were measured before revision {table[0].metering} "
            "of metering, and otherwise.",
            style="dim",
        )


def _print_curves(track: Track, table: list[Row], labels: list[str], console: Console) -> None:
    """What was measured within experiences, where anything was: a table of its own, which 80 columns have room for."""
    if not any(row.interval(name) for row in table for name in SHORT):
        return
    every = track.protocol.eval_every
    console.print(f"\nWithin experiences, tested every {f'{every} steps' if every > 1 else 'step'}", style="bold")
    grid = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    grid.add_column("strategy", overflow="fold", min_width=12)
    for title in SHORT.values():
        grid.add_column(f"{title} %", justify="right", no_wrap=True)
    for label, row in zip(labels, table):
        values = [percent(row.interval(name)) for name in SHORT]
        grid.add_row(Text(label), *values, style="dim" if row.info.reference else None)
    put(console, grid)


def percent(interval: Interval | None) -> str:
    """`91.3 ± 1.2`, or a dash where it is undefined."""
    return NOTHING if interval is None else interval.percent()


def plain(interval: Interval | None) -> str:
    """`2.31 ± 0.04`, or a dash where it is undefined; one number alone has no interval."""
    if interval is None:
        return NOTHING
    return f"{interval.mean:.2f}" + (f" ± {interval.half_width:.2f}" if interval.n > 1 else "")


def size(count: float) -> str:
    """Bytes as a person says them."""
    if math.isnan(count):
        return NOTHING
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return NOTHING


def as_data(records: list[Record], aliases: Aliases | None = None) -> list[dict[str, Any]]:
    """Rows by track, as plain data."""
    return [
        {
            "track": group[0].cell.track.label,
            "track_digest": digest,
            "rows": [row.as_dict() for row in rows(group, aliases)],
        }
        for digest, group in by_track(records).items()
    ]
