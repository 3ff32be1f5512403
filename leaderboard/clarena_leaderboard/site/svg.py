"""What every chart is drawn with: escaped SVG elements, axes with round numbers, labels that do not overlap.

A chart is one `<svg>` that looks right alone, in a paper: every colour is written on its element. The classes beside
them let a page's style sheet follow the reader's light or dark mode.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup, escape

FONT = "system-ui, Helvetica, Arial, sans-serif"
COLOURS = {
    "ink": "#1b1f24",
    "muted": "#59616b",
    "grid": "#dfe2e6",
    "paper": "#ffffff",
    # Okabe & Ito 2008, whose hues the colour-blind can tell apart; the yellow is darker, to be seen on white.
    "c0": "#0072b2",
    "c1": "#d55e00",
    "c2": "#009e73",
    "c3": "#cc79a7",
    "c4": "#e69f00",
    "c5": "#56b4e9",
    "c6": "#8f7f00",
}
"""Fallbacks; `style.css` gives the classes of the same names their colours in either mode."""

PALETTE = 7
"""How many colours there are: c0 to c6. What comes after is drawn as `muted`."""

HALO: dict[str, Any] = {"paint_order": "stroke", "stroke": "#ffffff", "stroke_width": 4, "stroke_linejoin": "round"}
"""What keeps a label legible where a line passes behind it."""

CHARACTER = 6.1
"""Width of an average character of an 11-pixel label, rather too wide than too narrow."""


def tag(name: str, *inside: str, **attributes: object) -> Markup:
    """An element; text and values are escaped, `fill` and `stroke` name a colour, `_` in a name stands for `-`."""
    classes = [str(attributes.pop("class_"))] if "class_" in attributes else []
    written = []
    for key, value in attributes.items():
        if value is None:
            continue
        if key in ("fill", "stroke") and value in COLOURS:
            classes.append(f"{key}-{value}")
            value = COLOURS[str(value)]
        text = number(value) if isinstance(value, float) else value
        written.append(f' {key.replace("_", "-")}="{escape(text)}"')
    if classes:
        written.insert(0, f' class="{escape(" ".join(classes))}"')
    body = "".join(map(escape, inside))
    return Markup(f"<{name}{''.join(written)}>{body}</{name}>" if body else f"<{name}{''.join(written)}/>")


def number(value: float) -> str:
    """A coordinate: at most one decimal."""
    return f"{value:z.1f}".removesuffix(".0")


def text(words: str, x: float, y: float, *, fill: str = "muted", size: int = 11, **attributes: object) -> Markup:
    """A line of text."""
    return tag("text", words, x=x, y=y, fill=fill, font_size=size, **attributes)


def line(x1: float, y1: float, x2: float, y2: float, stroke: str = "grid", **attributes: object) -> Markup:
    """A straight line."""
    return tag("line", x1=x1, y1=y1, x2=x2, y2=y2, stroke=stroke, **attributes)


def polyline(points: Iterable[tuple[float, float]], stroke: str, **attributes: object) -> Markup:
    """A line through points."""
    path = " ".join(f"{number(x)},{number(y)}" for x, y in points)
    return tag("polyline", points=path, fill="none", stroke=stroke, **attributes)


def drawing(width: float, height: float, title: str, parts: Iterable[str], css_class: str = "chart") -> Markup:
    """The whole picture; its title is what a screen reader says."""
    return tag(
        "svg", tag("title", title), *parts, class_=css_class, xmlns="http://www.w3.org/2000/svg", role="img",
        viewBox=f"0 0 {number(width)} {number(height)}", width=number(width), height=number(height), font_family=FONT,
    )  # fmt: skip


def standalone(chart: str) -> str:
    """A chart as a file of its own: on white, whatever shows it."""
    opened, rest = chart.split(">", 1)
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{opened}><rect width="100%" height="100%" fill="#fff"/>{rest}\n'


@dataclass(frozen=True)
class Scale:
    """Values between `low` and `high` to pixels between `start` and `end`."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        if self.log:
            share = math.log(value / self.low) / math.log(self.high / self.low)
        else:
            share = (value - self.low) / (self.high - self.low)
        return self.start + share * (self.end - self.start)

    @property
    def ticks(self) -> list[float]:
        """Round values on the axis: about five, or the 1, 2 and 5 of each decade as they fit, more within one."""
        if not self.log:
            step = nice_step(self.high - self.low)
            first = math.ceil(self.low / step - 1e-9)
            return [round(k * step, 12) for k in range(first, math.floor(self.high / step + 1e-9) + 1)]
        decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        within_one = self.high < 10 * self.low
        for digits in ((1, 1.5, 2, 3, 5, 7),) if within_one else ((1, 2, 5), (1, 3), (1,)):
            found = [d * 10.0**e for e in decades for d in digits if self.low <= d * 10.0**e <= self.high * 1.0000001]
            if len(found) <= 7:
                return found
        return found[:: math.ceil(len(found) / 7)]


def nice_step(span: float) -> float:
    """1, 2 or 5 times a power of ten, so that three to eight steps make up `span`."""
    power = 10.0 ** math.floor(math.log10(span / 5))
    return float(next(power * factor for factor in (1, 2, 5, 10) if span / (power * factor) <= 8.000001))


def fitted(values: Sequence[float], start: float, end: float, *, log: bool = False) -> Scale:
    """A scale that holds all values, with a little room around them."""
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    if log:
        ratio = high / low
        room = max(ratio**0.07, 2 / ratio**0.5)  # the axis spans at least 1 to 4: what is a hair apart looks like that
        return Scale(low / room, high * room, start, end, log=True)
    room = 0.07 * (high - low) or 0.05 * abs(high) or 0.05
    return Scale(low - room, high + room, start, end)


@dataclass(frozen=True)
class Box:
    """A rectangle that is taken."""

    left: float
    top: float
    right: float
    bottom: float

    def meets(self, other: "Box") -> bool:
        return (
            self.left < other.right and other.left < self.right and self.top < other.bottom and other.top < self.bottom
        )

    def within(self, other: "Box") -> bool:
        return (
            self.left >= other.left
            and self.right <= other.right
            and self.top >= other.top
            and self.bottom <= other.bottom
        )


class Labels:
    """Places labels beside points where nothing else is; one that fits nowhere is left out.

    Args:
        frame: where labels may be.
        points: what they may not cover.
    """

    def __init__(self, frame: Box, points: Iterable[tuple[float, float]], radius: float = 4.5):
        self.frame = frame
        self.taken = [Box(x - radius, y - radius, x + radius, y + radius) for x, y in points]

    def place(self, words: str, x: float, y: float, fill: str = "ink", gap: float = 7, longest: int = 26) -> Markup:
        """The label of the point at (x, y), or nothing."""
        words = shortened(words, longest)
        width, height = CHARACTER * len(words), 12.0
        for dx, dy in ((1, 0), (-1, 0), (0, -1), (0, 1), (1, -1), (1, 1), (-1, -1), (-1, 1)):
            side = gap if dy == 0 else 0.6 * gap
            left = x + side * dx - width * (0.5 - 0.5 * dx)
            middle = y + dy * (gap + 0.35 * height)
            box = Box(left, middle - height / 2, left + width, middle + height / 2)
            if box.within(self.frame) and not any(box.meets(other) for other in self.taken):
                self.taken.append(box)
                anchor = {1: "start", 0: "middle", -1: "end"}[dx]
                return text(words, x + side * dx, middle + 4, fill=fill, text_anchor=anchor, class_="halo", **HALO)
        return Markup("")


def shortened(words: str, longest: int) -> str:
    """A name cut to so many characters."""
    return words if len(words) <= longest else words[: longest - 1] + "…"


def spread(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Positions close to the wanted ones, in their order, at least `gap` apart where there is room for that."""
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    gap = min(gap, (high - low) / max(len(wanted) - 1, 1))
    placed: list[float] = []
    for i in order:
        placed.append(max(wanted[i], low if not placed else placed[-1] + gap))
    limit = high
    for k in reversed(range(len(placed))):
        placed[k] = min(placed[k], limit)
        limit = placed[k] - gap
    result = [0.0] * len(wanted)
    for i, y in zip(order, placed):
        result[i] = y
    return result
