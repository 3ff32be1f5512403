"""The project's own board, built once for the site that is being made."""

import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
COMMAND = ("leaderboard", "build", "--store", "leaderboard/rows", "--submissions", "leaderboard/submissions")
PICTURE = "assets/board-{}.png"  # drawn by picture.py
_FOLDER = tempfile.TemporaryDirectory(prefix="clarena-site-")  # until this process ends


@cache
def folder() -> Path:
    """A folder with the board's pages, as `clarena leaderboard build` makes them."""
    out = Path(_FOLDER.name) / "board"
    program = "from clarena.cli import main; main()"
    subprocess.run([sys.executable, "-c", program, *COMMAND, "--out", str(out)], cwd=ROOT, check=True)
    return out


def files() -> dict[str, Path]:
    """Every file of the board, by its path below `board/`."""
    return {path.relative_to(folder()).as_posix(): path for path in sorted(folder().rglob("*")) if path.is_file()}


def shown() -> str:
    """The board's picture, by day and by night, as a link to the board."""
    pictures = "".join(f"![The board]({PICTURE.format(light)}#only-{light})" for light in ("light", "dark"))
    return (
        f'<div class="board" markdown>\n\n[{pictures}](board/index.html)\n\n[The board](board/index.html)\n\n</div>\n'
    )
