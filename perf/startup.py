"""How long until the command line answers? (targets: `clarena --help` 0.5 s, `clarena list` 1.5 s)

Whole processes, in turn, so that a busy machine slows both; the bare interpreter is timed beside them.
Run: `python perf/startup.py [rounds]`.
"""

import subprocess
import sys
from pathlib import Path
from statistics import median
from time import perf_counter

CLARENA = str(Path(sys.executable).with_name("clarena"))
COMMANDS = {
    "python -c pass": [sys.executable, "-c", "pass"],
    "clarena --help": [CLARENA, "--help"],
    "clarena list": [CLARENA, "list"],
}


def main(rounds: int = 11) -> None:
    seconds: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(rounds + 1):
        for name, command in COMMANDS.items():
            start = perf_counter()
            subprocess.run(command, check=True, capture_output=True)
            seconds[name].append(perf_counter() - start)
    for name, taken in seconds.items():
        warm = taken[1:]  # the first may have compiled and read from a cold disk
        print(f"{name:<15} median {median(warm):.2f} s, {min(warm):.2f} to {max(warm):.2f}, first {taken[0]:.2f}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
