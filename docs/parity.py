"""Build `avalanche.md`, the parity page: native and Avalanche versions of each method, on one track, side by side.

    python docs/parity.py STORE [--jobs N]

runs what STORE does not hold yet (about an hour on one core) and writes the page. It needs the extra `avalanche`.
"""

import argparse
import statistics
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from clarena_avalanche.method import Method
from clarena_avalanche.table import REFUSED, RUNNING

from clarena import Record, evaluate
from clarena.record.statistics import student_t_interval

HERE = Path(__file__).parent
SCENARIOS = ("class", "task")
SEEDS = 5


@dataclass(frozen=True)
class Pair:
    """A method twice: ours and Avalanche's, set to mean the same as far as they can.

    Attributes:
        ours, theirs: names; `theirs` without the plugin's.
        our_settings, their_settings: hyper-parameters that differ from the defaults.
        remark: why the settings differ, or what is left of the difference.
    """

    ours: str
    theirs: str
    our_settings: dict[str, Any] = field(default_factory=dict)
    their_settings: dict[str, Any] = field(default_factory=dict)
    remark: str = ""


PAIRS = (
    Pair("finetune", "naive", remark="The same bit for bit, seed by seed."),
    Pair("joint", "joint", remark="The same bit for bit: the host hands out the data of all experiences."),
    Pair(
        *("ewc", "ewc", {"strength": 10000.0, "fisher": "batched"}, {"ewc_lambda": 5000.0}),
        remark="One estimator in both: λ/2 there is λ here.",
    ),
    Pair(
        *("ewc", "ewc", {"strength": 1000.0}, {"ewc_lambda": 500.0}),
        remark="The native default is the exact Fisher: at the same λ, that of batches holds much less.",
    ),
    Pair(
        *("si", "si", {"strength": 10.0, "damping": 0.001}, {"si_lambda": 20.0, "eps": 0.001}),
        remark="Importances are cut off at 0.001 there; λ/2 there is c here.",
    ),
    Pair(
        *("mas", "mas", {"strength": 10.0, "estimator": "batched", "estimator_batch": 32}, {"lambda_reg": 10.0}),
        remark="Importances are a running mean there, a sum here.",
    ),
    Pair(
        *("lwf", "lwf", {"strength": 1.0, "temperature": 2.0, "warmup": 0}, {"alpha": 4.0, "temperature": 2.0}),
        remark="T² = 4 is in the weight there and in the loss here.",
    ),
    Pair(
        *("er", "replay", {"policy": "balanced_random", "draw": "pass"}),
        remark="One policy in both; the order of the stream differs from the second experience on.",
    ),
    Pair(
        *("gem", "gem", {"margin": 0.5, "margin_as": "bound", "eps": 0.001}, {"memory_strength": 0.5}),
        remark="γ = 0.5 as a bound and ε = 0.001 in both; other samples are remembered.",
    ),
    Pair(
        *("agem", "agem", {"reference_size": 64}, {"sample_size": 64}),
        remark="200 exemplars make three draws of 64 and one of 8 there; with 50 in both, the class scenario differs "
        "by -2.3 ± 1.1.",
    ),
    Pair("icarl", "icarl", {"flip": True}, remark="Mirror images in both; the teacher is in training mode there."),
    Pair("gdumb", "gdumb", {"epochs": 10}, remark="10 passes over the buffer in both."),
    Pair(
        *("der++", "der", {"alpha": 0.1, "beta": 0.5, "distance": "mean"}, {"alpha": 0.1, "beta": 0.5}),
        remark="Scores of the end of an experience there, of the step here; no task masks in training there.",
    ),
)


def run(pair: Pair, scenario: str, store: Path, jobs: int) -> tuple[list[Record], list[Record]]:
    """The records of both versions, in the order of the seeds."""
    settings = {pair.ours: pair.our_settings, f"avalanche/{pair.theirs}": pair.their_settings}
    results = evaluate(
        [*settings], scenario=scenario, seeds=SEEDS, settings=settings, store=store, track=False, jobs=jobs
    )
    ours = [r for r in results if r.cell.strategy.name == pair.ours]
    return ours, [r for r in results if r.cell.strategy.name != pair.ours]


def accuracy(records: list[Record]) -> str:
    """Mean final average accuracy with its 95 % interval, in percent; or what became of the runs."""
    if problems := sorted({r.status for r in records} - {"finished"}):
        return ", ".join(problems)
    return student_t_interval([r.metrics["final_average_accuracy"] for r in records]).percent()


def difference(ours: list[Record], theirs: list[Record]) -> str:
    """Of the means, paired by seed, with its interval."""
    if any(r.status != "finished" for r in [*ours, *theirs]):
        return ""
    name = "final_average_accuracy"
    paired = [100 * (b.metrics[name] - a.metrics[name]) for a, b in zip(ours, theirs)]
    if not any(paired):
        return "0"
    interval = student_t_interval(paired)
    return f"{interval.mean:+.1f} ± {interval.half_width:.1f}"


def seconds(records: list[Record]) -> str:
    """Median training time of a run."""
    return f"{statistics.median(r.train_seconds for r in records):.1f}"


def settings(values: dict[str, Any]) -> str:
    return "".join(f" {name}={value}" for name, value in values.items())


def parity(scenario: str, store: Path, jobs: int) -> str:
    """The table of one scenario."""
    rows = []
    for pair in PAIRS:
        ours, theirs = run(pair, scenario, store, jobs)
        rows.append(
            [
                f"`{pair.ours}{settings(pair.our_settings)}`",
                accuracy(ours),
                f"`avalanche/{pair.theirs}{settings(pair.their_settings)}`",
                accuracy(theirs),
                difference(ours, theirs),
                f"{seconds(ours)} / {seconds(theirs)}",
                pair.remark,
            ]
        )
    return table(["native", "accuracy", "Avalanche", "accuracy", "difference", "seconds", ""], rows)


def differences(methods: Iterable[Method]) -> str:
    """What each of Avalanche's does otherwise than its paper or its native namesake."""
    return "\n".join(
        f"### `avalanche/{m.name}`\n\n{m.summary}. {m.paper}.\n\n{m.differs}\n" for m in methods if m.differs
    )


def scenarios(method: Method) -> str:
    return ", ".join(s for s in ("class", "domain", "task") if s in method.scenarios)


def page(store: Path, jobs: int) -> str:
    """The whole page."""
    names = [[f"`avalanche/{m.name}`", scenarios(m), m.carries, ", ".join(f"`{h}`" for h in m.hyper)] for m in RUNNING]
    refused = [[f"`avalanche/{m.name}`", m.refuses or ""] for m in REFUSED]
    tables = "\n".join(f"### {s}-incremental\n\n{parity(s, store, jobs)}" for s in SCENARIOS)
    return TEXT.format(
        running=table(["name", "scenarios", "carries on", "`--set`"], names),
        refused=table(["name", "reason"], refused),
        parity=tables,
        differences=differences(RUNNING),
        seeds=SEEDS,
    )


def table(head: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |\n" for line in lines)


TEXT = """\
<!-- Built by docs/parity.py; edits here are lost. -->
# Avalanche

`pip install 'clarena-bench[avalanche]'` brings avalanche-lib 0.6.0 and the solver that GEM needs. Its strategies are
then strategies here, and its own parameters are reached by `--set`:

```
clarena evaluate finetune ewc avalanche/ewc --set avalanche/ewc.ewc_lambda=500
```

The host keeps the order of classes and of data, the budget of passes, the optimiser, the buffer, testing and metrics;
Avalanche only trains:

* Its loop takes the host's batches. Only a strategy that joins exemplars to the data draws batches by its own loader
  (`replay`, `icarl`, `scr`, `gdumb`); the host counts what that reads, and stops it beyond the protocol's passes.
* It trains the host's model: backbone and head, which grows as classes come. In the task scenario outputs of other
  tasks are masked, as in Avalanche's multi-head classifier. Its own dynamic heads are not used.
* Its loop steps by the host's optimiser, at rates that follow the protocol's schedule from pass to pass, with gradients
  clipped where the protocol says so. Batches in parts (`accumulation`) are refused.
* It never evaluates. Predictions between experiences or within them change nothing of what is learned.
* Between experiences nothing of Avalanche's is kept but what its objects remember, as tensors, numbers and lists: so
  checkpoints are exact, exemplars are copies within the protocol's buffer, and their bytes are metered.
* An error inside Avalanche is one message that names strategy, experience and cause; the record holds the traceback.

## What runs

{running}
## What does not

{refused}
Asking for one of these ends with this reason, before anything is run.

## Side by side

Track: `split-digits`, `mlp`, `standard`; {seeds} seeds. Final average accuracy in percent: the mean and half of its
95 % interval. The difference is Avalanche's less the native one's, paired by seed. Seconds are the median training time
of a run, on a machine shared with others. Both are set to mean the same as far as they can; no setting was tuned.

{parity}
## What Avalanche does otherwise

Than the paper or, where that is said, than the native strategy of the name.

{differences}"""


def main() -> None:
    """Run what is missing and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("store", type=Path)
    parser.add_argument("--jobs", type=int, default=1)
    given = parser.parse_args()
    (HERE / "avalanche.md").write_text(page(given.store, given.jobs))


if __name__ == "__main__":
    main()
