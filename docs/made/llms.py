"""The site for machines that read: every page as Markdown, `llms.txt` as the way in, `llms-full.txt` as all of it."""

import inspect
import re
from importlib import import_module
from pathlib import Path
from typing import Any

from made import reference


def write(site: Path, nav: list[Any], texts: dict[str, str], description: str) -> None:
    """Write each page's Markdown beside it, then the list and the whole."""
    lines, whole = [f"# CLArena\n\n> {description}\n"], []
    for title, pages in sections(nav):
        lines.append(f"## {title}\n")
        for label, name in pages:
            if name not in texts:  # the board, which is no page of ours
                lines.append(f"- [{label}]({name})")
                continue
            text = outlined(texts[name])
            (site / name).write_text(text, encoding="utf-8")
            lines.append(f"- [{label}]({name}): {first_paragraph(text)}")
            whole.append(text)
        lines.append("")
    (site / "llms.txt").write_text("\n".join(lines), encoding="utf-8")
    (site / "llms-full.txt").write_text("\n\n".join(whole), encoding="utf-8")


def sections(nav: list[Any]) -> list[tuple[str, list[tuple[str, str]]]]:
    """The sections of a navigation with their pages, each as label and file."""
    return [
        (title, [page for one in below for page in one.items()] if isinstance(below, list) else [(title, below)])
        for entry in nav
        for title, below in entry.items()
    ]


def outlined(text: str) -> str:
    """The text with each directive `::: clarena.Name` replaced by the outline of what it names."""
    return re.sub(r"^::: (\S+)\n(?:    .*\n?)*", lambda found: f"{outline(found[1])}\n", text, flags=re.MULTILINE)


def outline(path: str) -> str:
    """The source of a public name without bodies."""
    module, _, name = path.rpartition(".")
    target = getattr(import_module(module), name)
    shown = inspect.isclass(target) or inspect.isfunction(target)
    return reference.code(reference.stub(target)) if shown else f"`{path}`"


def first_paragraph(text: str) -> str:
    """The first paragraph of a page, as one line."""
    for paragraph in re.split(r"\n\s*\n", text):
        if re.match(r"[A-Za-z]", paragraph):
            return " ".join(paragraph.split())
    return ""
