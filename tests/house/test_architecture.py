"""Who may know whom: floors, heavy imports, and the size of files; from the syntax tree, so nothing is imported."""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "clarena"

FLOORS: tuple[tuple[str, ...], ...] = (
    ("errors", "hookspecs"),
    ("protocol",),
    ("record",),
    ("toolbox",),
    ("contract",),
    ("tracking",),
    ("plugins",),
    ("run",),
    ("checks",),
    ("testing", "tuning", "reproduction", "submission"),
    ("cli",),
)
"""From the ground up. A folder imports from lower floors, or from itself."""

TORCH_FREE = ("errors", "hookspecs", "protocol", "record", "tracking", "plugins.host", "plugins.sources",
              "plugins.parameters", "plugins.registry", "submission", "cli")  # fmt: skip
"""Never import torch, themselves or through others, unless within a function: `clarena list` and the leaderboard do
not wait for it."""

LIMIT = 400
"""Lines of a file."""

FLOOR = {name: floor for floor, names in enumerate(FLOORS) for name in names}


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*.py") if "__pycache__" not in path.parts)


def unit(path: Path) -> str:
    """The module or folder of `clarena/` a file belongs to."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


UNITS: dict[str, list[Path]] = {}
for _path in files(PACKAGE):
    if _path != PACKAGE / "__init__.py":
        UNITS.setdefault(unit(_path), []).append(_path)


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def imports(path: Path, *, at_import: bool = False) -> Iterator[str]:
    """The dotted names that a file imports, without those for type checkers; `at_import` leaves functions out."""
    package = path.relative_to(ROOT).parent.parts
    waiting: list[ast.AST] = [ast.parse(path.read_text())]
    while waiting:
        node = waiting.pop()
        if at_import and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            origin = node.module or ""
            if node.level:
                origin = ".".join([*package[: len(package) - node.level + 1], *filter(None, [node.module])])
            yield from (f"{origin}.{alias.name}" for alias in node.names)
        waiting += node.orelse if is_type_checking(node) else ast.iter_child_nodes(node)  # type: ignore[attr-defined]


def units_of(names: Iterator[str]) -> set[str]:
    """The units of `clarena/` behind dotted names; what `clarena/__init__.py` hands out lazily counts by its unit."""
    lazy = lazy_names()
    found = set()
    for name in names:
        parts = name.split(".")
        if parts[0] == "clarena" and len(parts) > 1:
            found.add(parts[1] if parts[1] in UNITS else lazy.get(parts[1], "clarena.__init__").split(".")[1])
    return found - {"__init__"}


@cache
def lazy_names() -> dict[str, str]:
    """Name -> module, from the table in `clarena/__init__.py`."""
    for node in ast.parse((PACKAGE / "__init__.py").read_text()).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "_LAZY":
            table: dict[str, str] = ast.literal_eval(node.value)
            return table
    raise AssertionError("clarena/__init__.py has no table _LAZY")


def test_every_module_has_its_floor() -> None:
    missing = sorted(set(UNITS) - set(FLOOR))
    assert not missing, f"Say in FLOORS where {missing} belong."
    assert sorted(FLOOR) == sorted(set(FLOOR))


@pytest.mark.parametrize("name", sorted(set(UNITS) & set(FLOOR)))
def test_imports_go_down(name: str) -> None:
    for path in UNITS[name]:
        others = units_of(imports(path)) - {name}
        above = {other for other in others if FLOOR.get(other, -1) >= FLOOR[name]}
        assert not above, f"{path.relative_to(ROOT)} (floor {FLOOR[name]}) imports from its own floor or above: {above}"


def test_what_is_handed_out_is_where_it_says() -> None:
    for name, module in lazy_names().items():
        tree = ast.parse(file_of(module).read_text())
        defined = {
            getattr(node, "name", None) or ast.unparse(getattr(node, "targets", [node])[0]) for node in tree.body
        }
        assert name in defined, f"{name} is not in {module}"


def file_of(module: str) -> Path:
    """The file of a module of `clarena`."""
    path = ROOT.joinpath(*module.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def module_of(name: str) -> str:
    """The module of `clarena` behind a dotted name, which may go on within it; empty for what is not of `clarena`."""
    if name.split(".")[0] != "clarena":
        return ""
    name = lazy_names().get(name.removeprefix("clarena."), name)
    while name and not file_of(name).is_file():
        name = name.rpartition(".")[0]
    return name


TORCH_FREE_FILES = [
    path
    for path in files(PACKAGE)
    if any(
        ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__").startswith(name)
        for name in TORCH_FREE
    )
]


@pytest.mark.parametrize("path", TORCH_FREE_FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_torch_is_not_imported(path: Path) -> None:
    seen, waiting = set(), [path]
    while waiting:
        here = waiting.pop()
        if here in seen:
            continue
        seen.add(here)
        names = list(imports(here, at_import=True))
        heavy = {n.partition(".")[0] for n in names} & {"torch", "torchvision", "mlflow", "sklearn", "pandas"}
        assert not heavy, f"{path} imports {here.relative_to(ROOT)}, which imports {heavy} outside a function"
        waiting += [file_of(module) for name in names if (module := module_of(name)) and module != "clarena"]


def test_each_heavy_stack_has_one_door() -> None:
    doors = {
        "mlflow": "clarena/tracking/",
        "avalanche": "plugins/clarena_avalanche/",
        "continuum": "plugins/clarena_continuum",
    }
    for path in (path for folder in ("clarena", "plugins", "leaderboard") for path in files(ROOT / folder)):
        for name in imports(path):
            door = doors.get(name.partition(".")[0])
            where = path.relative_to(ROOT).as_posix()
            assert door is None or where.startswith(door), f"{where} imports {name}; only {door} may"


def test_the_leaderboard_never_imports_torch() -> None:
    for path in files(ROOT / "leaderboard"):
        names = set(imports(path))
        assert not {name for name in names if name.partition(".")[0] == "torch"}, path
        modules = {file_of(module) for name in names if (module := module_of(name)) and module != "clarena"}
        assert modules <= set(TORCH_FREE_FILES), path


def test_plugins_use_what_is_public() -> None:
    """Natives and examples know `from clarena import …` alone, and hookspecs for a type: as any stranger would."""
    for path in files(ROOT / "plugins"):
        for name in imports(path):
            parts = name.split(".")
            if parts[0] == "clarena" and len(parts) > 1:
                assert len(parts) == 2 or parts[1] in {"hookspecs", "testing"}, (
                    f"{path.relative_to(ROOT)} imports {name}"
                )


@pytest.mark.parametrize("folder", ["clarena", "plugins", "leaderboard"])
def test_files_are_small_enough_to_be_read(folder: str) -> None:
    long = {str(path.relative_to(ROOT)): n for path in files(ROOT / folder) if (n := lines(path)) > LIMIT}
    assert not long, f"Make a folder of what has grown beyond {LIMIT} lines: {long}"


def lines(path: Path) -> int:
    return len(path.read_text().splitlines())
