"""`clarena new`: one file with a strategy that runs."""

import importlib.util
import keyword
import re
import shlex
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Annotated

import typer

from clarena.cli import app
from clarena.cli.options import discover
from clarena.errors import StoreError, UsageError

if TYPE_CHECKING:
    from clarena.plugins.host import Host

_NAME = re.compile(r"[a-z][a-z0-9]*([_-][a-z0-9]+)*")


@app.command(epilog="Example: clarena new mymethod")
def new(
    name: Annotated[str, typer.Argument(metavar="NAME", help="What the command line will call it: mymethod.")],
    folder: Annotated[Path, typer.Option("--dir", metavar="DIR", help="Where to write the file.")] = Path("."),
) -> None:
    """Write NAME.py, a strategy of your own.

    It runs and passes every check as it stands. Files that exist are never overwritten.
    """
    module = name.replace("-", "_")
    _check_name(name, module, discover(None, None, False))
    path = folder / f"{module}.py"
    title = "".join(part.capitalize() for part in module.split("_"))
    template = Template((files("clarena.cli") / "templates" / "strategy.py.txt").read_text(encoding="utf-8"))
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(template.substitute(name=name, title=title))
    except FileExistsError as error:
        raise UsageError(f"{path} exists, and is left as it is. Choose another name or another --dir.") from error
    except OSError as error:
        raise StoreError(f"Cannot write {path}: {error.strerror}. Choose another folder with --dir.") from error
    where = shlex.quote(str(path))
    typer.echo(
        f"Wrote {path}. Read it, make it yours, and:\n\n"
        f"  clarena check {where}\n"
        f"  clarena evaluate {name} finetune joint --plugin {where} --protocol smoke\n"
        f"  clarena evaluate {name} finetune joint ewc er --plugin {where}\n"
        f"  clarena describe {name} --plugin {where}"
    )


def _check_name(name: str, module: str, host: "Host") -> None:
    """Refuse what would not work later, when there is a file already."""
    if not _NAME.fullmatch(name) or keyword.iskeyword(module) or keyword.issoftkeyword(module):
        raise UsageError(
            f"{name!r} cannot name a strategy and its file. Use lower-case letters and digits, a letter first, "
            "words joined by - or _, and no word of Python: mymethod, my-method2."
        )
    if name in host.strategies.names():
        entry = host.strategies.entry(name)
        raise UsageError(f"There is a strategy {name!r} already, from {entry.origin}. Choose another name.")
    if module in host.plugins:
        raise UsageError(f"{name!r} is the name of a plugin, from {host.plugins[module]}. Choose another name.")
    if importlib.util.find_spec(module):
        raise UsageError(f"{module}.py would hide the Python module {module!r}. Choose another name.")
