"""Build the documentation's site: `mkdocs build --strict`, which finds the hooks here through mkdocs.yml.

`python docs/build.py` writes the regions of pages that are made from the code and committed; `--check` fails on drift.
"""

import re
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from made import board, links, llms, notebook, regions

ROOT = Path(__file__).parents[1]
BESIDE = {"CHANGELOG.md": "changelog.md", "CONTRIBUTING.md": "contributing.md", "SECURITY.md": "security.md",
          "perf/README.md": "performance.md"}  # fmt: skip
"""Pages of the repository that are pages of the site, too."""

_texts: dict[str, str] = {}


def on_files(files: Any, config: Any) -> Any:
    """Add what is made: the board, the notebook's page with its pictures, and the pages beside `docs/`."""
    from mkdocs.structure.files import File

    def add(name: str, **content: Any) -> None:
        files.append(File.generated(config, name, **content))

    for name, path in board.files().items():
        add(f"board/{name}", abs_src_path=str(path))
    for source, name in BESIDE.items():
        add(name, content=(ROOT / source).read_text())
    for path in sorted(Path(config.docs_dir).glob("*.ipynb")):
        text, pictures = notebook.page(path)
        add(f"{path.stem}.md", content=text)
        for name, content in pictures.items():
            add(name, content=content)
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Fill the regions, point links at the site's pages, and set lists apart, as Python-Markdown wants them."""
    text = separated_lists(inside(regions.filled(markdown), page.file.src_uri))
    _texts[page.file.src_uri] = text
    return text


def on_post_build(config: Any) -> None:
    """Write what machines read, then hold every link to its promise."""
    from mkdocs.exceptions import PluginError

    site = Path(config.site_dir)
    llms.write(site, config.nav, _texts, config.site_description)
    if found := links.problems(site):
        raise PluginError("\n".join(found))


def inside(text: str, name: str) -> str:
    """The text of a page with its links to files of the repository as links within the site."""
    sources = {page: source for source, page in BESIDE.items()}
    folder = (ROOT / sources[name]).parent if name in sources else (ROOT / "docs" / name).parent

    def moved(found: re.Match[str]) -> str:
        target = (folder / found[1]).resolve()
        if not target.is_relative_to(ROOT):
            return found[0]
        path = target.relative_to(ROOT).as_posix()
        to = "README.md" if path in ("README.md", "docs") else BESIDE.get(path, path.removeprefix("docs/"))
        to = to.removesuffix(".ipynb") + ".md" if to.endswith(".ipynb") else to
        return f"]({'../' * name.count('/')}{to}{found[2]})"

    return re.sub(r"\]\((?!https?:|#)([^)#\s]+)(#[^)\s]*|)\)", moved, text)


def separated_lists(text: str) -> str:
    """The text with an empty line before each list that follows a paragraph, outside blocks of code."""
    lines, fenced, before = list[str](), False, ""
    for line in text.split("\n"):
        if line.lstrip().startswith("```"):
            fenced = not fenced
        item = re.match(r"(\*|-|1\.) ", line)
        if item and not fenced and before.strip() and not re.match(r"(\*|-|\d+\.| ) ?", before):
            lines.append("")
        lines.append(line)
        before = line
    return "\n".join(lines)


def main() -> None:
    """Write the kept regions, or with `--check` say which have drifted."""
    if "--check" in sys.argv[1:]:
        if names := regions.drifted():
            sys.exit(f"Out of date: {', '.join(names)}. Run: python docs/build.py")
        return
    regions.write()


if __name__ == "__main__":
    main()
