"""Records as a notebook shows them: the numbers of the command line's table, and plots.

Tables take their colours from the page. Plots are drawn on white, which can be read on a light page and on a dark one.
"""

from collections.abc import Mapping, Sequence
from html import escape

import numpy as np

from clarena.record import plots
from clarena.record.record import Record
from clarena.record.scoring import metrics_of
from clarena.record.summary import NOTHING, Row, by_track, curve_texts, legend, row_labels, rows, size, table_texts

_NOTE = 'style="opacity: 0.75; margin: 0.3em 0"'
MOST_ROWS_DRAWN = 12


def record_html(record: Record) -> str:
    """A run: what became of it, its numbers, its matrix and curves."""
    known = metrics_of(record.target, record.score)
    values = {}
    for name, value in record.metrics.items():
        fraction = name in known and known[name].fraction
        if np.isfinite(value):
            values[name.replace("_", " ")] = f"{100 * value:.1f} %" if fraction else f"{value:.2f}"
    if record.costs:
        values |= {"train s": f"{record.train_seconds:.1f}", "state": size(record.state_bytes)}
    parts = [_heading(record.cell.label, f"{record.cell.track.label} ({record.track_digest[:12]})")]
    parts.append(f"<p {_NOTE}>{escape(record.outcome)}.</p>")
    if values:
        parts.append(_table(["metric", "value"], [[name, value] for name, value in values.items()]))
    if np.isfinite(record.matrix).any():
        parts += [_picture(draw(record, "svg")) for draw in (plots.accuracy_matrix, plots.accuracy_curves)]
    return "".join(parts)


def results_html(records: Sequence[Record], errors: Mapping[str, str]) -> str:
    """A table and a plot for each track, then what went wrong."""
    parts = []
    for group in by_track(list(records)):
        track, table = group[0].cell.track, rows(group)
        parts.append(_heading(track.label, f"({group[0].track_digest[:12]})"))
        if track.unranked:
            parts.append(f"<p {_NOTE}>Not ranked: {escape(track.unranked)}.</p>")
        parts += [f"<p {_NOTE}>{escape(line)}</p>" for line in track.seen]
        parts.append(_table(*table_texts(table)))
        titles, lines = curve_texts(table)
        if lines:
            parts += [f"<p {_NOTE}>Within experiences:</p>", _table(titles, lines)]
        parts.append(f"<p {_NOTE}>{escape(legend(table))}</p>")
        if drawn := _drawable(table):
            parts.append(_picture(plots.accuracy_of_rows(drawn, "svg")))
    told = [f"{record.cell.label}: {record.outcome}" for record in records if record.status != "finished"]
    told += [f"{label}: not recorded: {message}" for label, message in errors.items()]
    return "".join([*parts, *(f"<p {_NOTE}>{escape(line)}</p>" for line in told)]) or "<p>No runs.</p>"


def _drawable(table: list[Row]) -> list[tuple[str, list[Record]]]:
    """The first rows with a curve over time: not those that know an end only, such as joint."""
    known = [(label, [r for r in row.finished if np.isfinite(r.matrix[1][0])])
             for label, row in zip(row_labels(table), table)]  # fmt: skip
    return [(label, records) for label, records in known if records][:MOST_ROWS_DRAWN]


def _heading(title: str, rest: str) -> str:
    return f"<p><b>{escape(title)}</b> {escape(rest)}</p>"


def _table(titles: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    def line(cells: Sequence[str], tag: str) -> str:
        sides = ["left", *["right"] * (len(cells) - 1)]
        return "".join(
            f'<{tag} style="text-align: {side}; white-space: nowrap">{escape(cell or NOTHING)}</{tag}>'
            for side, cell in zip(sides, cells)
        )

    body = "".join(f"<tr>{line(cells, 'td')}</tr>" for cells in lines)
    return f'<table style="color: inherit"><thead><tr>{line(titles, "th")}</tr></thead><tbody>{body}</tbody></table>'


def _picture(svg: bytes) -> str:
    return f'<div style="display: inline-block; margin: 0.4em 0.8em 0.4em 0">{svg.decode()}</div>'
