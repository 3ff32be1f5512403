"""The drawing of the house, from the one table of floors, which a test enforces."""

import ast
from pathlib import Path

ROOT = Path(__file__).parents[2]
TABLE = ROOT / "tests" / "house" / "test_architecture.py"


def table() -> tuple[tuple[str, ...], ...]:
    """The folders and modules of `clarena/` on each floor, from the ground up."""
    for node in ast.parse(TABLE.read_text()).body:
        if isinstance(node, ast.AnnAssign) and ast.unparse(node.target) == "FLOORS":
            floors: tuple[tuple[str, ...], ...] = ast.literal_eval(node.value)  # type: ignore[arg-type]
            return floors
    raise LookupError(f"{TABLE.name} has no table FLOORS")


def drawing() -> str:
    """The floors, the highest first."""
    lines = [f"{level:>2}  {'  '.join(names)}" for level, names in reversed([*enumerate(table())])]
    return "```text\n" + "\n".join(lines) + "\n```\n"


def folders() -> str:
    """Every floor with what each of its folders says of itself."""
    rows = ["| floor | folder | what it is |", "| --: | --- | --- |"]
    for level, names in reversed([*enumerate(table())]):
        rows += [f"| {level} | `{name}` | {told(name)} |" for name in names]
    return "\n".join(rows) + "\n"


def told(name: str) -> str:
    """The first paragraph of the docstring of a folder or module."""
    path = ROOT / "clarena" / name
    text = (path / "__init__.py" if path.is_dir() else path.with_suffix(".py")).read_text()
    paragraph = (ast.get_docstring(ast.parse(text)) or "").partition("\n\n")[0]
    return " ".join(paragraph.split()).replace("|", "\\|")
