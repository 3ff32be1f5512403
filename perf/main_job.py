"""How long does the README's main job take, installation aside? (target: 90 s on two cores)

The command as the README has it, in a fresh folder: four strategies, five seeds, the table, MLflow.
Run: `python perf/main_job.py [rounds]`.
"""

import re
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from time import perf_counter

README = Path(__file__).parent.parent / "README.md"


def main(rounds: int = 3) -> None:
    found = re.search(r"&& \.venv/bin/clarena (evaluate .*)$", README.read_text(), re.MULTILINE)
    assert found, "the README has no main job"
    command = [str(Path(sys.executable).with_name("clarena")), *shlex.split(found[1])]
    taken = []
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as folder:
            start = perf_counter()
            subprocess.run(command, check=True, cwd=folder, capture_output=True)
            taken.append(perf_counter() - start)
            print(f"{taken[-1]:.1f} s")
    print(f"median {median(taken):.1f} s")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
