"""What do two jobs on two cores gain over one? (target: 1.7 × the throughput)

Whole commands, in turn: seeds of finetune on Split MNIST under the standard protocol, without tracking. The start of
the command and of the workers is counted. Run: `python perf/jobs.py [pairs] [seeds] [passes]`.
"""

import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from time import perf_counter

CLARENA = str(Path(sys.executable).with_name("clarena"))
COMMAND = [CLARENA, "evaluate", "finetune", "--benchmark", "split-mnist", "--no-tracking"]


def seconds(jobs: int, seeds: int, passes: int) -> float:
    """Wall-clock time of the evaluation, from a fresh store."""
    with tempfile.TemporaryDirectory() as folder:
        options = ["--seeds", str(seeds), "--set", f"protocol.epochs={passes}", "--jobs", str(jobs)]
        start = perf_counter()
        subprocess.run([*COMMAND, *options], check=True, cwd=folder, capture_output=True)
        return perf_counter() - start


def main(pairs: int = 3, seeds: int = 4, passes: int = 10) -> None:
    ratios = []
    for _ in range(pairs):
        one, two = seconds(1, seeds, passes), seconds(2, seeds, passes)
        ratios.append(one / two)
        print(f"--jobs 1 {one:.1f} s, --jobs 2 {two:.1f} s, throughput {ratios[-1]:.2f} ×", flush=True)
    print(f"median throughput {median(ratios):.2f} ×")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
