"""The charts of the board, as SVG text."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from clarena_leaderboard.site.svg import (
    CHARACTER,
    PALETTE,
    Box,
    Labels,
    Scale,
    drawing,
    fitted,
    line,
    polyline,
    shortened,
    spread,
    tag,
    text,
)


@dataclass(frozen=True)
class Point:
    """A row in a scatter plot: the score `y`, a fraction with its interval, against `x`, of which less is better."""

    label: str
    slug: str
    x: float
    y: float
    low: float
    high: float
    family: int
    named: bool
    hover: str


@dataclass(frozen=True)
class Line:
    """A line of a chart, with the band around it where it has one; `strong` is drawn over the others."""

    label: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] = ()
    high: Sequence[float] = ()
    colour: str = "c0"
    strong: bool = True


def pareto(points: Sequence[tuple[float, float]]) -> list[int]:
    """The points (x, y) that none other betters, from left to right: no other has x ≤ and y ≥, one of them strictly."""
    front: list[int] = []
    for i in sorted(range(len(points)), key=lambda i: (points[i][0], -points[i][1])):
        if not front or points[i][1] > points[front[-1]][1] or points[i] == points[front[-1]]:
            front.append(i)
    return front


def scatter(
    points: Sequence[Point],
    *,
    title: str,
    x_title: str,
    show: Callable[[float], str],
    bounds: Sequence[tuple[str, float]] = (),
    log: bool = False,
    y_title: str = "final average accuracy, %",
) -> Markup:
    """The score against `x`: the front as a line, references as horizontal lines, names on the front and on tier 1."""
    width, height, left, right, top, bottom = 400.0, 330.0, 42.0, 394.0, 16.0, 280.0
    levels = [value for p in points for value in (p.low, p.high)] + [value for _, value in bounds]
    across = fitted([p.x for p in points], left, right, log=log)
    up = fitted(levels, bottom, top)
    parts = [*_vertical(up, left, right), *_horizontal(across, top, bottom, show)]
    parts += [text(x_title, (left + right) / 2, height - 10, text_anchor="middle", size=12)]
    parts += [text(y_title, left - 38, top - 3, size=11)]
    places = [(across(p.x), up(p.y)) for p in points]
    labels = Labels(Box(left, top, right, bottom), places)
    for words, level in bounds:
        y = up(level)
        parts.append(line(left, y, right, y, stroke="muted", stroke_dasharray="5 4", stroke_width=1.0))
        parts.append(labels.place(f"{words} {100 * level:.1f}", right - 2, y - 9, fill="muted", gap=0, longest=32))
    front = pareto([(p.x, p.y) for p in points])
    steps: list[tuple[float, float]] = []
    for i in front:
        x, y = places[i]
        steps += [(x, steps[-1][1]), (x, y)] if steps else [(x, y)]
    if steps:
        parts.append(polyline([*steps, (right, steps[-1][1])], "ink", stroke_width=1.4, stroke_opacity=0.55))
    if len(points) <= 40:
        parts += [
            line(x, up(p.low), x, up(p.high), stroke="muted", stroke_opacity=0.5) for p, (x, _) in zip(points, places)
        ]
    marked = set(front)
    for i, (p, (x, y)) in enumerate(zip(points, places)):
        mark = _mark(p.family, x, y, hollow=i not in marked)
        parts.append(tag("g", tag("title", p.hover), mark, class_="point", data_row=p.slug))
    for i in [*front, *(i for i, p in enumerate(points) if p.named and i not in marked)]:
        parts.append(labels.place(points[i].label, *places[i]))
    return drawing(width, height, title, parts)


def mark(family: int) -> Markup:
    """The mark of a family, for a legend."""
    return tag("svg", _mark(family, 7, 7, hollow=False), class_="mark", viewBox="0 0 14 14", width=14, height=14,
               aria_hidden="true")  # fmt: skip


def lines(
    series: Sequence[Line],
    *,
    title: str,
    x_title: str,
    y_title: str = "accuracy, %",
    whole: bool = True,
) -> Markup:
    """Fractions over time or thresholds, each line named at its end (strong) or where it begins (the others)."""
    width, height, left, right, top, bottom = 560.0, 310.0, 44.0, 420.0, 22.0, 266.0
    xs = [x for each in series for x in each.x]
    across = Scale(min(xs), max(xs) if max(xs) > min(xs) else min(xs) + 1, left + 8, right)
    up = Scale(-0.02, 1.02, bottom, top)
    ticks = [t for t in across.ticks if not whole or t == int(t)]
    parts = [*_vertical(up, left, right)]
    parts += [text(f"{t:g}", across(t), bottom + 17, text_anchor="middle") for t in ticks]
    parts += [line(left, bottom, right, bottom, stroke="muted")]
    parts += [text(x_title, (left + right) / 2, height - 8, text_anchor="middle", size=12)]
    parts += [text(y_title, left - 38, top - 8)]
    named = [each for each in series if each.strong and each.label]
    for each in sorted(series, key=lambda each: each.strong):
        parts.append(_curve(each, across, up))
    ends = [up(each.y[-1]) for each in named]
    for each, wanted, y in zip(named, ends, spread(ends, 14, top + 4, bottom - 2)):
        parts.append(polyline([(right + 2, wanted), (right + 9, y), (right + 18, y)], each.colour, stroke_width=2))
        parts.append(text(shortened(each.label, 18), right + 22, y + 4, fill="ink", size=11))
    return drawing(width, height, title, parts)


def intervals(rows: Sequence[tuple[str, float, float, float]], *, title: str, x_title: str) -> Markup:
    """A name, a value and its interval per line, over one axis."""
    left = min(240.0, 24 + CHARACTER * max(len(shortened(label, 34)) for label, *_ in rows))
    width, right, top, step = 560.0, 544.0, 10.0, 24.0
    bottom = top + step * len(rows)
    ends = [value for _, *numbers in rows for value in numbers if math.isfinite(value)]
    across = fitted([*ends, 0.0, 1.0], left, right)
    parts = [*_horizontal(across, top, bottom, lambda value: f"{value:g}")]
    parts += [line(across(mark), top, across(mark), bottom, stroke="muted", stroke_dasharray="5 4") for mark in (0, 1)]
    for i, (label, value, low, high) in enumerate(rows):
        y = top + step * (i + 0.5)
        parts.append(text(shortened(label, 34), left - 10, y + 4, fill="ink", text_anchor="end"))
        hover = tag("title", f"{label}: {value:.3f}, 95 % interval {low:.3f} to {high:.3f}")
        whisker = line(across(low), y, across(high), y, stroke="c0", stroke_width=3, stroke_opacity=0.45)
        dot = tag("circle", cx=across(value), cy=y, r=4.5, fill="c0")
        parts.append(tag("g", hover, whisker, dot))
    parts.append(text(x_title, (left + right) / 2, bottom + 38, text_anchor="middle", size=12))
    return drawing(width, bottom + 48, title, parts)


def critical_difference(ranks: Mapping[str, float], groups: Sequence[Sequence[str]], *, title: str) -> Markup:
    """Average ranks on an axis, best to the left; a bar joins what the test cannot tell apart (Demšar 2006)."""
    order = sorted(ranks, key=lambda label: (ranks[label], label))
    half = math.ceil(len(order) / 2)
    width, top, left, right = 640.0, 34.0, 180.0, 460.0
    across = Scale(1, max(len(order), 2), left, right)
    first = top + 14 + 9 * len(groups) + 10
    parts = [line(left, top, right, top, stroke="muted")]
    for tick in range(1, len(order) + 1) if len(order) <= 12 else across.ticks:
        parts.append(line(across(tick), top - 5, across(tick), top, stroke="muted"))
        parts.append(text(f"{tick:g}", across(tick), top - 9, text_anchor="middle"))
    parts.append(text("average rank, best first", left - 14, top + 4, text_anchor="end"))
    for position, label in enumerate(order):
        x, on_left = across(ranks[label]), position < half
        y = first + 18 * (position if on_left else len(order) - 1 - position)
        end = left - 10 if on_left else right + 10
        parts.append(polyline([(x, top), (x, y), (end, y)], "muted", stroke_width=1.0))
        words = f"{shortened(label, 20)} {ranks[label]:.2f}"
        anchor = "end" if on_left else "start"
        parts.append(text(words, end + (-4 if on_left else 4), y + 4, fill="ink", text_anchor=anchor))
    for level, group in enumerate(groups):
        ends = sorted(across(ranks[label]) for label in group)
        y = top + 12 + 9 * level
        parts.append(line(ends[0] - 4, y, ends[-1] + 4, y, stroke="c1", stroke_width=4.0, stroke_linecap="round"))
    return drawing(width, first + 18 * half + 4, title, parts)


def spark(mean: float, low: float, high: float, bounds: Sequence[float] = (), width: float = 92) -> Markup:
    """An interval on a line from 0 to 100 %, small enough for a table; ticks where the references are."""
    across = Scale(0.0, 1.0, 4.0, width - 4)
    parts = [line(4, 8, width - 4, 8)]
    parts += [line(across(value), 3, across(value), 13, stroke="muted") for value in bounds]
    if math.isfinite(low):
        ends = across(max(low, 0)), across(min(high, 1))
        parts.append(line(ends[0], 8, ends[1], 8, stroke="c0", stroke_width=5, stroke_opacity=0.4))
    parts.append(tag("circle", cx=across(mean), cy=8, r=3.2, fill="c0"))
    return tag("svg", *parts, class_="spark", viewBox=f"0 0 {width:g} 16", width=int(width), height=16,
               aria_hidden="true")  # fmt: skip


def _curve(each: Line, across: Scale, up: Scale) -> Markup:
    points = [(across(x), up(y)) for x, y in zip(each.x, each.y) if math.isfinite(y)]
    parts: list[Markup] = [tag("title", each.label)]
    if each.low:
        edges = [*zip(each.x, each.low), *reversed([*zip(each.x, each.high)])]
        outline = [(across(x), up(min(max(y, up.low), up.high))) for x, y in edges if math.isfinite(y)]
        corners = " ".join(f"{x:.1f},{y:.1f}" for x, y in outline)
        parts.append(tag("polygon", points=corners, fill=each.colour, fill_opacity=0.16))
    if each.strong:
        parts.append(polyline(points, each.colour, stroke_width=2.4, stroke_linejoin="round"))
        if len(points) <= 25:
            parts += [tag("circle", cx=x, cy=y, r=3, fill=each.colour) for x, y in points]
    elif points:
        parts.append(polyline(points, each.colour, stroke_width=1.1, stroke_opacity=0.75))
        if len(points) == 1:
            parts.append(tag("circle", cx=points[0][0], cy=points[0][1], r=2, fill=each.colour))
    return tag("g", *parts, class_="line")


def _vertical(up: Scale, left: float, right: float) -> list[Markup]:
    """Grid lines and percent labels of a vertical axis of fractions."""
    percent = Scale(100 * up.low, 100 * up.high, up.start, up.end)
    shown = [tick for tick in percent.ticks if 0 <= tick <= 100]
    return [
        part
        for tick in shown
        for part in (
            line(left, percent(tick), right, percent(tick)),
            text(f"{tick:g}", left - 6, percent(tick) + 4, text_anchor="end"),
        )
    ]


def _horizontal(across: Scale, top: float, bottom: float, show: Callable[[float], str]) -> list[Markup]:
    """Grid lines and labels of a horizontal axis, with its line."""
    parts = [line(across.start, bottom, across.end, bottom, stroke="muted")]
    for tick in across.ticks:
        parts.append(line(across(tick), top, across(tick), bottom))
        parts.append(text(show(tick), across(tick), bottom + 17, text_anchor="middle"))
    return parts


def _mark(family: int, x: float, y: float, *, hollow: bool) -> Markup:
    """Circle, square, triangle, diamond, … in the colour of a family; hollow off the front."""
    colour = f"c{family}" if family < PALETTE else "muted"
    look = {"fill": "paper" if hollow else colour, "stroke": colour, "stroke_width": 1.8}
    if family % PALETTE == 0 or family >= PALETTE:
        return tag("circle", cx=x, cy=y, r=4.2, **look)
    if family == 1:
        return tag("rect", x=x - 3.8, y=y - 3.8, width=7.6, height=7.6, **look)
    shapes = {
        2: ((0, -5), (4.8, 3.8), (-4.8, 3.8)),
        3: ((0, -5.4), (5.4, 0), (0, 5.4), (-5.4, 0)),
        4: ((0, 5), (4.8, -3.8), (-4.8, -3.8)),
        5: ((-5, 0), (3.8, 4.8), (3.8, -4.8)),
        6: ((5, 0), (-3.8, 4.8), (-3.8, -4.8)),
    }
    corners = " ".join(f"{x + dx:.1f},{y + dy:.1f}" for dx, dy in shapes[family])
    return tag("polygon", points=corners, **look)
