"""Pictures of runs, as bytes of PNG or SVG: the accuracy matrix, and accuracy over time.

Drawn without pyplot, so that there is no global figure and any thread may draw. The colours can be told apart
by the colour-blind.
"""

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from clarena.record.record import Record

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Floats = NDArray[np.float64]
Form = Literal["png", "svg"]

DPI = 120
VALUES_UP_TO = 12
"""Up to so many experiences, every cell of the matrix shows its value and every line its name."""
GRID_UP_TO = 40
"""Beyond so many experiences, lines between cells would cover the cells."""

INK, MUTED, FAINT, BLANK = "#222222", "#5c5c5c", "#dddddd", "#ececec"
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#B39B00", "#7A5195")
"""After Okabe & Ito (2008); lines that share a colour differ in their marker and dash."""
MARKERS, DASHES = "osD^vPX", ("-", "--", ":")
SEQUENTIAL = "viridis"
PERCENT = {0: "0 %", 0.25: "25 %", 0.5: "50 %", 0.75: "75 %", 1: "100 %"}
CENTRED: dict[str, Any] = {"ha": "center", "va": "center", "size": 9, "zorder": 3}


def accuracy_matrix(record: Record, form: Form = "png") -> bytes:
    """Heatmap of the matrix of scores: tested experiences from left to right, time from top to bottom.

    Undefined cells are hatched; the row from before any learning stands apart where it is defined.
    """
    matrix = record.matrix
    first = 0 if np.isfinite(matrix[0]).any() else 1
    cells, count = matrix[first:], matrix.shape[1]
    side = min(0.52, 6.2 / count)
    left, right, bottom, top = 0.85, 0.85, 0.55, 0.72
    body = np.array([max(side * count, 2.6), max(side * len(cells), 1.9)])
    figure, (axes, bar) = _figure(
        _titles(record), (left + body[0] + right, bottom + body[1] + top),
        [(left, bottom, *body), (left + body[0] + 0.16, bottom, 0.14, body[1])],
    )  # fmt: skip
    extent = (0.5, count + 0.5, len(cells) + first - 0.5, first - 0.5)
    axes.add_patch(_blank(extent))
    image = axes.imshow(
        np.ma.masked_invalid(cells), cmap=SEQUENTIAL, vmin=0, vmax=1, extent=extent, aspect="auto", zorder=1
    )
    if count <= GRID_UP_TO:
        axes.vlines(np.arange(1.5, count), extent[3], extent[2], color="white", linewidth=1.2, zorder=2)
        axes.hlines(np.arange(first + 0.5, count), *extent[:2], color="white", linewidth=1.2, zorder=2)
    if first == 0:
        axes.axhline(0.5, color="white", linewidth=max(1.5, 10 * side), zorder=2)
    if count <= VALUES_UP_TO:
        for (i, j), value in np.ndenumerate(cells):
            if np.isfinite(value):
                colour = "white" if value < 0.6 else INK
                axes.text(j + 1, i + first, f"{100 * value:.0f}", color=colour, **CENTRED)
    axes.set_xlim(*extent[:2])
    axes.set_ylim(*extent[2:])
    axes.set_xticks(_ticks(count))
    rows = {0: "before"} if first == 0 else {}
    rows |= {i: str(i) for i in _ticks(count)}
    axes.set_yticks(list(rows), list(rows.values()))
    axes.set_xlabel(f"{record.score} on experience", color=MUTED, size=9)
    axes.set_ylabel("after learning experience", color=MUTED, size=9)
    axes.spines[:].set_visible(False)
    scale = figure.colorbar(image, cax=bar, ticks=list(PERCENT))
    scale.ax.set_yticklabels(PERCENT.values())
    scale.ax.tick_params(labelsize=8, labelcolor=MUTED, length=0)
    scale.outline.set_visible(False)
    return _drawn(figure, form)


def accuracy_curves(record: Record, form: Form = "png") -> bytes:
    """Accuracy on each experience over time, with the average over those seen.

    Where the protocol tested within experiences, a second panel below shows that by training step.
    """
    matrix = record.matrix
    within = bool(record.curve)
    count, width, height, below = matrix.shape[1], 6.4, 2.9, 3.5
    left, bottom = 0.75, 0.55
    boxes = [(left, bottom + below * within, width, height)] + [(left, bottom, width, height - 0.2)] * within
    figure, panels = _figure(_titles(record), (left + width + 1.55, bottom + height + 0.72 + below * within), boxes)
    start = 0 if np.isfinite(matrix[0]).any() else 1
    time = np.arange(start, count + 1)
    average = np.array([row[:i].mean() if i else np.nan for i, row in enumerate(matrix)])
    _lines(panels[0], time, matrix[start:], average[start:], marked=count <= 25, score=record.score)
    panels[0].set_xticks([0] * (start == 0) + _ticks(count))
    panels[0].set_xlim(start - 0.02 * count, 1.02 * count)
    panels[0].set_xlabel("experiences learned", color=MUTED, size=9)
    _legend(panels[0], count)
    if within:
        _within(panels[1], record)
    return _drawn(figure, form)


def accuracy_of_rows(rows: Sequence[tuple[str, Sequence[Record]]], form: Form = "png") -> bytes:
    """Average accuracy over the experiences seen so far, over time: a line for each row, its mean over its records.

    Args:
        rows: label and records, all of one track and of as many experiences, at least one record each.
    """
    count, width, height, left, bottom = rows[0][1][0].matrix.shape[1], 6.4, 3.2, 0.75, 0.55
    first = rows[0][1][0]
    figure, (axes,) = _figure(
        (f"Average {first.score} on the experiences seen so far", first.cell.track.label),
        (left + width + 2.1, bottom + height + 0.72),
        [(left, bottom, width, height)],
    )
    time = np.arange(1, count + 1)
    for number, (label, records) in enumerate(rows):
        seen = np.array([[row[:i].mean() for i, row in enumerate(record.matrix[1:], 1)] for record in records])
        look = {**_style(number, VALUES_UP_TO, True), "label": label[:30]}
        axes.plot(time, seen.mean(axis=0), linewidth=1.8, markersize=4.5, **look)
    _axes(axes, first.score)
    axes.set_xticks(_ticks(count))
    axes.set_xlabel("experiences learned", color=MUTED, size=9)
    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1.02), frameon=False, fontsize=8, labelcolor=INK)
    return _drawn(figure, form)


def cumulative_steps(record: Record) -> list[int]:
    """The step of each point of `record.curve`, counted over the whole stream."""
    before, total = {}, 0
    for cost in record.costs:
        before[cost.position] = total
        total += cost.steps
    # An experience in which the run stopped has points but no cost yet.
    return [before.get(point.position, total) + point.step for point in record.curve]


def _within(axes: "Axes", record: Record) -> None:
    accuracy = np.array([point.accuracy for point in record.curve], dtype=float)
    average = np.array([row[: point.position].mean() for row, point in zip(accuracy, record.curve)])
    _lines(axes, np.array(cumulative_steps(record)), accuracy, average, marked=False, score=record.score)
    for end in np.cumsum([cost.steps for cost in record.costs])[:-1]:
        axes.axvline(end, color="#aaaaaa", linewidth=0.8, linestyle=(0, (4, 3)), zorder=0)
    axes.set_xlabel("steps (a dashed line is where the next experience begins)", color=MUTED, size=9)


def _lines(axes: "Axes", time: Floats, accuracy: Floats, average: Floats, *, marked: bool, score: str) -> None:
    """One line for each column of the score [S, T] over time [S], and the average [S] above them."""
    count = accuracy.shape[1]
    for j, values in enumerate(accuracy.T):
        axes.plot(time, values, linewidth=1.3, alpha=0.9, markersize=4, **_style(j, count, marked))
    marker = "o" if marked else ""
    thick: dict[str, Any] = {"color": INK, "linewidth": 2.6, "markersize": 5, "zorder": 5}
    axes.plot(time, average, marker=marker, label="average of seen", **thick)
    _axes(axes, score)


def _axes(axes: "Axes", score: str) -> None:
    """Percent from bottom to top, and no more lines than it takes."""
    axes.set_ylim(-0.03, 1.03)
    axes.set_yticks(list(PERCENT), list(PERCENT.values()))
    axes.set_ylabel(score, color=MUTED, size=9)
    axes.grid(axis="y", color=FAINT, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color("#999999")


def _style(j: int, count: int, marked: bool) -> dict[str, Any]:
    """How experience j of `count` is drawn: by name while there are few, else shaded from early to late."""
    if count > VALUES_UP_TO:
        from matplotlib import colormaps

        return {"color": colormaps[SEQUENTIAL](0.95 * j / (count - 1))}
    return {
        "color": COLOURS[j % len(COLOURS)],
        "linestyle": DASHES[j // len(COLOURS)],
        "marker": MARKERS[j % len(MARKERS)] if marked else "",
        "label": f"experience {j + 1}",
    }


def _legend(axes: "Axes", count: int) -> None:
    handles, labels = axes.get_legend_handles_labels()
    order = [len(handles) - 1, *range(len(handles) - 1)]
    title = None if count <= VALUES_UP_TO else f"experiences 1 (dark)\nto {count} (light)"
    legend = axes.legend(
        [handles[i] for i in order], [labels[i] for i in order], title=title, loc="upper left",
        bbox_to_anchor=(1.01, 1.02), frameon=False, fontsize=8, title_fontsize=8, labelcolor=INK,
    )  # fmt: skip
    legend.get_title().set_color(MUTED)


def _figure(
    titles: tuple[str, str], inches: tuple[float, float], boxes: Sequence[tuple[float, ...]]
) -> tuple["Figure", list["Axes"]]:
    """A figure of this size with axes in these boxes (left, bottom, width, height), in inches; titled."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=inches, dpi=DPI, facecolor="white")
    FigureCanvasAgg(figure)
    width, height = inches
    panels = [figure.add_axes((x / width, y / height, w / width, h / height)) for x, y, w, h in boxes]
    for axes in panels:
        axes.tick_params(labelsize=8.5, labelcolor=INK, color="#999999", length=0)
    left = boxes[0][0]
    for line, below, size, weight, colour in (
        (titles[0], 0.30, 11.5, "bold", INK),
        (titles[1], 0.53, 8.5, "normal", MUTED),
    ):
        style: dict[str, Any] = {"size": size, "weight": weight, "color": colour}
        text = figure.text(left / width, 1 - below / height, line, parse_math=False, **style)
        room = DPI * (width - left - 0.15)
        text.set_fontsize(size * min(1, room / text.get_window_extent().width))
    return figure, panels


def _titles(record: Record) -> tuple[str, str]:
    status = "" if record.status == "finished" else f" ({record.status.replace('_', ' ')})"
    return record.cell.label + status, record.cell.track.label


def _blank(extent: tuple[float, float, float, float]) -> Any:
    from matplotlib.patches import Rectangle

    left, right, bottom, top = extent
    look: dict[str, Any] = {"facecolor": BLANK, "edgecolor": "#d0d0d0", "hatch": "////", "linewidth": 0}
    return Rectangle((left, top), right - left, bottom - top, zorder=0, **look)


def _ticks(count: int) -> list[int]:
    """1 to count, thinned to about a dozen."""
    step = next(step for step in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, count) if count / step <= 12)
    return [1, *range(step, count + 1, step)] if step > 1 else list(range(1, count + 1))


def _drawn(figure: "Figure", form: Form) -> bytes:
    """The picture; as SVG the element alone, as it can stand within a page, with names of its own."""
    buffer = io.BytesIO()
    if form == "svg":
        figure.savefig(buffer, format="svg", metadata={"Date": None})
        return buffer.getvalue()[buffer.getvalue().index(b"<svg") :]
    figure.savefig(buffer, format="png", dpi=DPI, pil_kwargs={"compress_level": 4})
    return buffer.getvalue()
