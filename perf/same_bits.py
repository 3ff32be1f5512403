"""Do two versions of the code predict the same, to the bit? All natives, in every scenario they declare.

`python perf/same_bits.py BASE [HEAD]`: each is a folder with a checkout or a revision of git, for which a worktree is
made and removed; HEAD is this checkout if left out. Both run in the environment of this Python, each in a process of
its own, on small streams of the digits with a network of two layers and a convolutional one, or with a transformer
where a strategy works on tokens. Compared are the status, the SHA-256 of all predictions, and that of the mean losses,
whose last bits move before a prediction does.

Exit status 1: where a status or a prediction differs, or a strategy of BASE is missing. Losses alone are reported and
do not count: they are metered by the host.
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent.parent
RUN = {"epochs": 3, "batch_size": 16, "learning_rate": 0.005, "buffer_size": 50}
NETWORKS: dict[str, dict[str, Any]] = {
    "mlp": {"hidden": (50, 50)},
    "cnn": {"widths": (8,), "features": 32},
    "vit-tiny": {"width": 24, "depth": 2},
}
LIMIT, SEEDS = 64, (0, 1)
TRACKS = [("split-digits", "mlp", {}), ("split-digits", "cnn", {}), ("rotated-digits", "mlp", {"experiences": 3})]
OF_TOKENS = [("split-digits", "vit-tiny", {})]
ON_TOKENS = {"tokens", "prefixes", "adapters", "trained_backbone"}

Answers = dict[str, list[str]]
"""By run: its status, the hash of its predictions, and that of its losses."""


def answers(strategies: list[str]) -> Iterator[tuple[str, list[str]]]:
    """Every run of the code that is imported here; only names that are public for good are used."""
    import clarena
    from clarena.plugins.host import Host, PluginSources

    host = Host.discover(PluginSources(third_party=False))
    names = strategies or [entry.name for entry in host.strategies if entry.plugin == "native"]
    for name in names:
        needs = host.strategy(name).needs
        known = {"stream_length": "known"} if "known_stream_length" in needs else {}
        for benchmark, backbone, options in OF_TOKENS if needs & ON_TOKENS else TRACKS:
            for scenario in host.benchmarks.load(benchmark).scenarios:
                if scenario not in host.strategy(name).scenarios:
                    continue
                with tempfile.TemporaryDirectory() as store:
                    records = clarena.evaluate(
                        name,
                        benchmark=benchmark,
                        scenario=scenario,
                        backbone=backbone,
                        seeds=SEEDS,
                        settings={"benchmark": options, "backbone": NETWORKS[backbone], "protocol": RUN | known},
                        limit=LIMIT,
                        jobs=1,
                        store=store,
                        track=False,
                    )
                    for record in records:
                        run = f"{name} {benchmark}/{scenario}/{backbone} seed {record.cell.seed}"
                        yield run, [record.status, *hashes(clarena.Store(store), record)]


def hashes(store: Any, record: Any) -> tuple[str, str]:
    """Of the predictions (or of the reason why there are none) and of the losses."""
    losses = repr([cost.mean_loss for cost in record.costs]).encode()
    if record.predictions is None:
        return digest((record.reason or "").encode()), digest(losses)
    return digest(store.predictions(record).predicted.astype("int64").tobytes()), digest(losses)


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@contextmanager
def checkout(version: str) -> Iterator[Path]:
    """The folder, or a worktree of the revision for the time being."""
    if Path(version).is_dir():
        yield Path(version).resolve()
        return
    with tempfile.TemporaryDirectory() as parent:
        folder = Path(parent) / "checkout"
        git = ["git", "-C", str(HERE), "worktree"]
        subprocess.run([*git, "add", "--quiet", "--detach", folder, version], check=True)
        try:
            yield folder
        finally:
            subprocess.run([*git, "remove", "--force", folder], check=True)


def start(folder: Path, strategies: list[str], output: Path) -> "subprocess.Popen[bytes]":
    """A process that imports the code of this folder and writes its answers to `output`, a line each."""
    path = os.pathsep.join(map(str, (folder, folder / "plugins", folder / "leaderboard")))
    environment = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1", "CLARENA_PLUGINS": ""}
    command = [sys.executable, str(Path(__file__).resolve()), str(folder), "--answer", *strategies]
    with output.open("w") as file:
        return subprocess.Popen(command, env=environment, cwd=output.parent, stdout=file)


def collect(process: "subprocess.Popen[bytes]", output: Path) -> Answers:
    if process.wait():
        sys.exit(f"{process.args[2]} could not be run: exit status {process.returncode}.")  # type: ignore[index]
    return dict(json.loads(line) for line in output.read_text().splitlines() if line.startswith("["))


def verdict(base: list[str] | None, head: list[str] | None) -> str:
    """What became of one run."""
    if base is None:
        return "new"
    if head is None:
        return "MISSING"
    if base[:2] != head[:2]:
        return f"DIFFERENT ({base[0]}, now {head[0]})"
    return "same" if base == head else "same predictions, other losses"


def compare(base: Answers, head: Answers) -> bool:
    """Print the table, a line for each strategy and track; returns whether all is the same."""
    runs = list(dict.fromkeys([*base, *head]))
    lines: dict[str, list[tuple[str, str]]] = {}
    for run in runs:
        group, _, _ = run.partition(" seed ")
        first = (base.get(run) or head[run])[:2]
        lines.setdefault(group, []).append((f"{first[0]} {first[1][:8]}", verdict(base.get(run), head.get(run))))
    width = max(map(len, lines))
    for group, found in lines.items():
        words = ", ".join(dict.fromkeys(word for _, word in found))
        print(f"{group:{width}}  {'  '.join(short for short, _ in found)}  {words}")
    wrong = [run for run in runs if verdict(base.get(run), head.get(run)).startswith(("DIFF", "MISS"))]
    moved = [run for run in runs if verdict(base.get(run), head.get(run)).startswith("same ")]
    print(f"{len(runs)} runs, {len(wrong)} with other predictions, {len(moved)} with other losses alone")
    return not wrong


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base", help="a folder or a revision")
    parser.add_argument("head", nargs="?", default=str(HERE), help="the same; this checkout if left out")
    parser.add_argument("--strategies", nargs="+", default=[], help="these, composites too, and not all natives")
    parser.add_argument("--answer", nargs="*", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.answer is not None:
        import clarena

        assert Path(clarena.__file__).is_relative_to(given.base), f"{clarena.__file__} is not of {given.base}"
        for item in answers(given.answer):
            print(json.dumps(item), flush=True)
        return
    with ExitStack() as stack:
        folders = [stack.enter_context(checkout(version)) for version in (given.base, given.head)]
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        outputs = [scratch / "base", scratch / "head"]
        processes = [start(folder, given.strategies, output) for folder, output in zip(folders, outputs)]
        base, head = (collect(process, output) for process, output in zip(processes, outputs))
    sys.exit(not compare(base, head))


if __name__ == "__main__":
    main()
