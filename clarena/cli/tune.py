"""`clarena tune`: choose a strategy's hyper-parameters on validation data of the first experiences."""

import os
import shlex
import sys
import time
from collections.abc import Sequence
from contextlib import nullcontext, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from clarena.cli import app
from clarena.cli.options import (
    FLAG,
    AsJson,
    BackboneName,
    BenchmarkName,
    Device,
    ExperienceTimeout,
    Jobs,
    Limit,
    NoPlugins,
    PluginDirs,
    PluginFiles,
    PresetName,
    ScenarioName,
    StorePath,
    Timeout,
    discover,
    parse_settings,
)
from clarena.cli.text import as_json as to_json
from clarena.cli.text import page, put, value

if TYPE_CHECKING:
    from clarena.run.executors import Event
    from clarena.tuning import Study, Trial, Tuning

SHOWN = 8
"""Trials in the table, the one with default values besides."""


@app.command(
    epilog="Examples: clarena tune ewc --scenario task --trials 20\n\n"
    "clarena tune er --space learning_rate=0.0001..0.1:log --space policy=reservoir,ring"
)
def tune(
    strategy: Annotated[str, typer.Argument(metavar="STRATEGY", help="What to tune: ewc, er, mymethod …")],
    benchmark: BenchmarkName = "split-digits",
    scenario: ScenarioName = None,
    backbone: BackboneName = "mlp",
    protocol: PresetName = "standard",
    limit: Limit = None,
    trials: Annotated[
        int, typer.Option(metavar="N", min=1, help="Settings to try in all; the first has the default values.")
    ] = 20,
    space: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=RANGE",
            help="strength=0.1..1000:log, decay=0..1, mode=separate,online, or strength alone for its default range; "
            "may be repeated. Default: all for which a range follows from the signature.",
        ),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="OWNER.NAME=VALUE",
            help="As for `clarena evaluate`; a hyper-parameter that is set is not tuned. May be repeated.",
        ),
    ] = None,
    seeds: Annotated[
        int, typer.Option(metavar="N", min=1, help="How many seeds each trial runs under; none is ever ranked.")
    ] = 5,
    device: Device = "cpu",
    jobs: Jobs = None,
    timeout: Timeout = None,
    experience_timeout: ExperienceTimeout = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", metavar=FLAG, help="Show the space, and stop.")] = False,
    store: StorePath = Path("runs"),
    plugin: PluginFiles = None,
    plugins_dir: PluginDirs = None,
    no_plugins: NoPlugins = False,
    as_json: AsJson = False,
) -> None:
    """Choose hyper-parameters on validation data of the first experiences.

    Test data take no part, and the seeds are never those of a ranked row. See docs/protocol.md, "Tuning".

    Trials that are there already count; what was killed goes on where it was.
    """
    from clarena.run.deadline import Limits
    from clarena.run.planning import OWNERS
    from clarena.tuning import Tuning

    with redirect_stdout(sys.stderr) if as_json else nullcontext():
        tuning = Tuning(
            strategy,
            host=discover(plugin, plugins_dir, no_plugins),
            space=space or (),
            seeds=seeds,
            settings=parse_settings(settings),
            store=store,
            benchmark=benchmark,
            scenario=scenario,
            backbone=backbone,
            preset=protocol,
            limit=limit,
            device=device,
            limits=Limits(timeout, experience_timeout),
        )
        trials = tuning.possible(trials)
        if not as_json:
            _announce(tuning, trials)
        if not dry_run:
            _run(tuning, trials, jobs, quiet=as_json)
    study = tuning.study
    if as_json:
        typer.echo(to_json({"path": str(tuning.path), "how": study.how} | study.model_dump(mode="json")))
    elif not dry_run:
        sources = [*_repeated("--plugin", plugin), *_repeated("--plugins-dir", plugins_dir)]
        sources += ["--no-plugins"] if no_plugins else []
        track = ["--benchmark", benchmark, "--scenario", study.track.scenario, "--backbone", backbone]
        track += ["--protocol", protocol, *(["--limit", str(limit)] if limit else [])]
        owners = [item for item in settings or () if item.split(".")[0] in OWNERS]
        track += [word for item in owners for word in ("--set", item)]
        place = ["--tuned", os.path.relpath(tuning.path), "--store", os.path.relpath(store)]
        command = shlex.join(["clarena", "evaluate", strategy, *track, *place, *sources, "--seeds", "10"])
        _report(study, tuning.path, command)
    if not dry_run and study.chosen is None:
        raise typer.Exit(1)


def _run(tuning: "Tuning", trials: int, jobs: int | None, quiet: bool) -> None:
    """Run the trials under the eyes of the user; Ctrl-C ends the command with code 130 and says how to go on."""
    from clarena.cli.progress import duration

    console = Console(stderr=True, quiet=quiet, highlight=False, markup=False, soft_wrap=True)
    there, began = len(tuning.study.trials), time.monotonic()

    def listen(event: "Event") -> None:
        if event.kind == "warning":
            console.print(f"{event.work.cell.label}: {event.message}")
        elif event.kind == "waiting":
            console.print("Another process runs one of these trials; waiting for its record.")

    def told(added: "Sequence[Trial]") -> None:
        for trial in added:
            console.print(f"[{trial.number + 1}/{trials}] {_percent(trial)}: {_settings(trial)}")
        made = len(tuning.study.trials)
        if made < trials:
            left = (time.monotonic() - began) / (made - there) * (trials - made)
            console.print(f"about {duration(left)} left")

    try:
        tuning.run(trials, jobs=jobs, listener=listen, told=told)
    except KeyboardInterrupt:
        console.print("\nStopped. What was finished is safe. Go on with:")
        console.print(f"  clarena {shlex.join(sys.argv[1:])}")
        raise typer.Exit(130) from None


def _announce(tuning: "Tuning", trials: int) -> None:
    study, console = tuning.study, page()
    protocol, there = study.track.protocol, len(study.trials)
    console.print(
        f"{study.track.label} ({study.track.digest[:12]}): {study.strategy.name}, {trials} trials × "
        f"{len(study.seeds)} seeds, on {100 * protocol.validation_fraction:g} % of the training data of the first "
        f"{protocol.tuning_experiences} experiences{f'; {there} trials are there already' if there else ''}"
    )
    for name, dimension in study.space.items():
        console.print(f"  {name} = {dimension}")
    if tuning.points:
        console.print(f"A grid of {len(tuning.points)} settings, the default among them; none is tried twice.")


def _report(study: "Study", path: Path, command: str) -> None:
    """The best trials and the default, what was chosen, and how to evaluate it."""
    from clarena.record.statistics import student_t_interval

    console = page()
    grid = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for title in ("trial", "final average on validation %", *study.space):
        grid.add_column(title, justify="right")
    best = study.ranking
    for trial in [trial for place, trial in enumerate(best) if place < SHOWN or trial.number == 0]:
        mark = " *" if trial.number == study.chosen else "  "
        name = f"{trial.number}{' (default)' if trial.number == 0 else ''}{mark}"
        grid.add_row(name, _percent(trial), *(_short(trial.values[name]) for name in study.space))
    console.print()
    put(console, grid)
    shown = min(SHOWN, len(best))
    console.print(
        f"The best {shown} of {len(best)} trials; mean ± half-width of the 95 % Student-t interval over "
        f"{len(study.seeds)} seeds. Study: {path}"
    )
    if study.chosen is None:
        console.print("No trial finished, so nothing is chosen. See the records beside the study.")
        return
    chosen, default = study.trials[study.chosen], study.trials[0]
    console.print(f"\nChosen (*): {_settings(chosen)}")
    if chosen is not default and default.problem is None:
        gain = student_t_interval([a - b for a, b in zip(chosen.scores, default.scores)])
        console.print(
            f"On validation data, the best of many and so flattered, {gain.percent()} points over the default."
        )
    console.print(f"Evaluate it:\n  {command}")


def _percent(trial: "Trial") -> str:
    """`93.1 ± 0.8`, or what became of a trial that has no score."""
    from clarena.record.statistics import student_t_interval

    return " ".join(trial.problem.split()) if trial.problem else student_t_interval(trial.scores).percent()


def _settings(trial: "Trial") -> str:
    return ", ".join(f"{name}={_short(data)}" for name, data in trial.values.items())


def _short(data: object) -> str:
    return f"{data:.4g}" if isinstance(data, float) else value(data)


def _repeated(option: str, paths: list[Path] | None) -> list[str]:
    return [word for path in paths or () for word in (option, str(path))]
