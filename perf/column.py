"""Is the column of training times honest, whatever the order of strategies and `--jobs`? (target: within 10 %)

Evaluations of the same strategies, forwards and backwards, in this many jobs, each from a fresh process. The clock is
that of the processor, so that what else the machine does takes no part. Printed is each strategy's time over the median
of all its times; the worst is the answer. Run: `python perf/column.py [protocol] [seeds]`.
"""

import json
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from statistics import median

STRATEGIES = ["finetune", "er", "ewc", "lwf"]
PLUGIN = '''"""Has runs measured by the processor's clock, in whatever process this is imported."""

import time
from types import SimpleNamespace

from clarena import hookimpl
from clarena.run import clock

clock.time = SimpleNamespace(perf_counter=time.process_time)


@hookimpl
def clarena_register_strategies(register):
    pass
'''


def seconds(strategies: list[str], jobs: int, protocol: str, seeds: int) -> dict[str, list[float]]:
    """Training times by strategy, in the order of seeds."""
    with tempfile.TemporaryDirectory() as folder:
        plugin = Path(folder) / "processor_clock.py"
        plugin.write_text(PLUGIN)
        main = [sys.executable, "-c", "from clarena.cli import main; main()"]
        options = ["--protocol", protocol, "--seeds", str(seeds), "--jobs", str(jobs), "--plugin", str(plugin)]
        command = [*main, "evaluate", *strategies, *options, "--no-tracking"]
        subprocess.run(command, check=True, cwd=folder, capture_output=True)
        told = subprocess.run(
            [*main, "results", "--records", "--json"], check=True, cwd=folder, capture_output=True, text=True
        )
        times = defaultdict(list)
        for record in json.loads(told.stdout)["records"]:
            times[record["strategy"]].append(record["train_seconds"])
    return times


def main(protocol: str = "standard", seeds: int = 3) -> None:
    ways = [(order, jobs) for order in (STRATEGIES, STRATEGIES[::-1]) for jobs in (1, 2)]
    found = {(order[0], jobs): seconds(order, jobs, protocol, seeds) for order, jobs in ways}
    worst = 1.0
    for name in STRATEGIES:
        middle = median(value for times in found.values() for value in times[name])
        means = {way: sum(times[name]) / len(times[name]) / middle for way, times in found.items()}
        worst = max([worst, *means.values(), *(1 / value for value in means.values())])
        shown = ", ".join(f"{first} first, {jobs} jobs {value:.2f} ×" for (first, jobs), value in means.items())
        print(f"{name} {middle:.2f} s: {shown}", flush=True)
    print(f"worst {worst:.2f} ×")


if __name__ == "__main__":
    main(*sys.argv[1:2], *map(int, sys.argv[2:]))
