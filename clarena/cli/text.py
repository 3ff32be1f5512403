"""How text meets the terminal: a console for pages, and docstrings set to its width."""

import json
import os
import re
import sys
import textwrap
from typing import Any

from rich.console import Console, RenderableType

from clarena.run.output import holds

PIPE_WIDTH = 1000
"""Columns where nobody looks: in a pipe or a file each entry stays on one line, for grep and cut."""

_ITEM = re.compile(r"\d+[.)] |[-*] ")
_SECTION = re.compile(r"^(Args|Arguments|Attributes|Raises|Returns|Yields):$", re.MULTILINE)


def page() -> Console:
    """Standard output, as wide as the terminal."""
    seen = sys.stdout.isatty() or "COLUMNS" in os.environ
    return Console(width=None if seen else PIPE_WIDTH, markup=False, highlight=False, emoji=False)


def put(console: Console, content: RenderableType) -> None:
    """Print a table without the blanks that fill its last column."""
    with console.capture() as capture:
        console.print(content)
    console.file.write("\n".join(line.rstrip() for line in capture.get().split("\n")))


def reflow(text: str, width: int) -> str:
    """A docstring at this width: paragraphs and list items are filled anew, indented lines (equations) stay lines."""
    lines: list[str] = []
    paragraph: list[str] = []

    def flush() -> None:
        filled = " ".join(paragraph)
        item = _ITEM.match(filled)
        lines.extend(textwrap.wrap(filled, width, subsequent_indent=" " * (item.end() if item else 0)))
        paragraph.clear()

    for line in text.splitlines():
        if not line.strip() or _ITEM.match(line):
            flush()
        if not line.strip():
            lines.append("")
        elif line.startswith(" ") and not paragraph:
            margin = line[: len(line) - len(line.lstrip())]
            lines.extend(textwrap.wrap(line, width, subsequent_indent=margin + "    "))
        else:
            paragraph.append(line.strip())
    flush()
    return "\n".join(lines)


def prose(docstring: str) -> str:
    """A docstring without its sections on arguments and attributes."""
    return _SECTION.split(docstring, maxsplit=1)[0].rstrip()


def numbered(text: str) -> list[str]:
    """The items of the numbered list that ends a docstring, each on one line, without its number."""
    block = re.split(r"^(?=1[.)] )", text, maxsplit=1, flags=re.MULTILINE)[1:]
    items = re.split(r"^\d+[.)] ", block[0].partition("\n\n")[0], flags=re.MULTILINE)[1:] if block else []
    return [" ".join(item.split()) for item in items]


def as_json(data: Any) -> str:
    """JSON with a line for every item; what JSON cannot say is written as text, what the output cannot hold escaped."""
    text = json.dumps(data, indent=2, ensure_ascii=False, default=str)
    return text if holds(text) else json.dumps(data, indent=2, default=str)


def value(data: Any) -> str:
    """A hyper-parameter's value as `--set` takes it."""
    if data is None:
        return "none"
    return data if isinstance(data, str) else json.dumps(data, default=str)
