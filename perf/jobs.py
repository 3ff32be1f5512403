"""What do two jobs on two cores gain over one? (target: 1.7 × the throughput)

Whole processes, in turn: eight seeds of finetune on Split MNIST with two passes, a workload of minutes, so that the
start of the workers counts for what it is worth and no more. Without tracking. Run: `python perf/jobs.py [pairs]`.
"""

import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from time import perf_counter

CLARENA = str(Path(sys.executable).with_name("clarena"))
COMMAND = ["evaluate", "finetune", "--benchmark", "split-mnist", "--set", "protocol.epochs=2", "--no-tracking"]


def seconds(jobs: int) -> float:
    """Wall-clock time of the evaluation, from a fresh store."""
    with tempfile.TemporaryDirectory() as folder:
        command = [CLARENA, *COMMAND, "--seeds", "8", "--jobs", str(jobs)]
        start = perf_counter()
        subprocess.run(command, check=True, cwd=folder, capture_output=True)
        return perf_counter() - start


def main(pairs: int = 3) -> None:
    ratios = []
    for _ in range(pairs):
        one, two = seconds(1), seconds(2)
        ratios.append(one / two)
        print(f"--jobs 1 {one:.1f} s, --jobs 2 {two:.1f} s, throughput {ratios[-1]:.2f} ×")
    print(f"median throughput {median(ratios):.2f} ×")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
