"""Prints how many of the statements of each package the tests ran, from the data of one run of CI."""

import json
import os
from collections import Counter
from pathlib import Path

from coverage import Coverage

ROOT = Path(__file__).parents[1]


def package(file: str) -> str:
    """The package that a file is counted with: a folder of `clarena/`, or a plugin, or the leaderboard."""
    parts = Path(file).parts
    if parts[0] == "clarena":
        return f"clarena.{parts[1]}" if len(parts) > 2 else "clarena"
    return parts[1]


def main() -> None:
    """Print a line for each package, and the total."""
    data = Path(os.environ["COVERAGE_FILE"])
    coverage = Coverage(data_file=str(data))
    coverage.load()
    # Not the modules that a test wrote, which are gone.
    ours = [str(ROOT / folder / "*") for folder in ("clarena", "plugins", "leaderboard")]
    coverage.json_report(outfile=str(data.with_suffix(".json")), include=ours)
    ran, all_ = Counter[str](), Counter[str]()
    for file, told in json.loads(data.with_suffix(".json").read_text())["files"].items():
        ran[package(file)] += told["summary"]["covered_lines"]
        all_[package(file)] += told["summary"]["num_statements"]
    print("   ran  statements")
    for name in sorted(all_):
        print(f"{100 * ran[name] / all_[name]:5.1f} %  {all_[name]:8}  {name}")
    print(f"{100 * ran.total() / all_.total():5.1f} %  {all_.total():8}  in all")


if __name__ == "__main__":
    main()
