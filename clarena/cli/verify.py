"""`clarena verify`: what a bundle claims, checked, run again, and judged."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clarena.cli import app
from clarena.cli.options import FLAG, AsJson
from clarena.errors import ClarenaError, UsageError

if TYPE_CHECKING:
    from clarena.record.record import Record
    from clarena.run.executors import Event
    from clarena.run.planning import Plan
    from clarena.submission.verdict import Verdict

COLOURS = {"verified": "green", "differs": "yellow", "invalid": "red", "incomplete": None}
MARKS = {"passed": ("ok", "green"), "failed": ("FAILED", "red"), "not done": ("not done", None)}
SECRETS = Path("~/.config/clarena")
"""Where a season's secret is kept unless its maintainer says otherwise."""

SecretFile = Annotated[
    Path | None,
    typer.Option("--secret", metavar="FILE", help=f"The season's secret. Default: {SECRETS}/SEASON.secret."),
]


@app.command(
    epilog="Exit codes: 0 verified, 3 differs, 4 invalid, 5 nothing wrong found but not everything done; "
    "1 and 2 when it could not be verified at all.\n\n"
    "Example: clarena verify mymethod.zip --trust --season leaderboard/season.toml --out verdict.json"
)
def verify(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="A zip file from clarena submit.")],
    trust: Annotated[
        bool,
        typer.Option("--trust", metavar=FLAG, help="Run its code. A process is no sandbox: use a throw-away machine."),
    ] = False,
    season: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Also run the hidden seeds of this season.")
    ] = None,
    secret: SecretFile = None,
    seeds: Annotated[
        int | None, typer.Option(metavar="K", min=1, help="Hidden seeds to run. Default: all of the season.")
    ] = None,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the verdict as JSON.")] = None,
    timeout: Annotated[
        float | None,
        typer.Option(
            metavar="SECONDS",
            min=1,
            help="For each run. Default: ten minutes, or ten times what was claimed if longer.",
        ),
    ] = None,
    memory: Annotated[
        float, typer.Option(metavar="GB", min=0.1, help="For each run, beyond torch itself; on the CPU only.")
    ] = 8.0,
    store: Annotated[
        Path, typer.Option("--store", metavar="DIR", help="Where runs made here are kept; hidden seeds show in it.")
    ] = Path("runs/verified"),
    device: Annotated[str, typer.Option(metavar="DEVICE", help="cpu, cuda or cuda:N.")] = "cpu",
    jobs: Annotated[int | None, typer.Option(metavar="N", min=1, help="Runs at a time. Default: one per core.")] = None,
    as_json: AsJson = False,
) -> None:
    """Check a bundle, run it again, and say whether what it claims is so.

    Without --trust, only what runs none of its code: hashes, schema, and every metric recomputed from the
    predictions against the benchmark's own labels.

    With it, the plugin is loaded in a process of its own and run again: on the claimed seeds, on the season's hidden
    seeds, and on shuffled training labels, where it must score at chance.
    """
    from clarena.record.writing import write_atomic
    from clarena.submission.season import read_season, secret_of
    from clarena.submission.verdict import EXIT_CODES
    from clarena.submission.verify import Terms
    from clarena.submission.verify import verify as judge

    opened = read_season(season) if season else None
    if (secret or seeds) and not opened:
        raise UsageError("--secret and --seeds are about hidden seeds: name their season with --season.")
    terms = Terms(
        trust=trust,
        season=opened,
        secret=secret_of(opened, secret or secret_file(opened.name)) if opened and trust else "",
        hidden=seeds,
        store=store,
        device=device,
        seconds=timeout,
        memory=int(memory * 2**30),
    )
    verdict = judge(bundle, terms, _Executor(jobs, as_json))
    text = verdict.model_dump_json(indent=1)
    if out:
        write_atomic(out, f"{text}\n".encode())
    if as_json:
        typer.echo(text)
    else:
        _tell(verdict)
    raise typer.Exit(EXIT_CODES[verdict.outcome])


def secret_file(season: str) -> Path:
    """Where the secret of a season is kept by default."""
    from clarena.toolbox.downloads import user_path

    return user_path(SECRETS) / f"{season}.secret"


class _Executor:
    """Carries out plans, and tells of each run by a name in which no hidden seed occurs."""

    def __init__(self, jobs: int | None, quiet: bool) -> None:
        self.jobs, self.quiet = jobs, quiet

    def __call__(self, plan: "Plan", names: Mapping[str, str]) -> Sequence["Record"]:
        from clarena.cli.progress import outcome
        from clarena.run.evaluation import carry_out

        def listen(event: "Event") -> None:
            name = names[event.work.cell.id]
            if event.kind == "done" and event.record and not self.quiet:
                typer.echo(plain(f"{name}: {outcome(event.record)}"), err=True)

        results = carry_out(plan, plan.works[0].store, jobs=self.jobs, track=False, listener=listen)
        if results.errors:
            told = {work.cell.label: names[work.cell.id] for work in plan.works}
            raise ClarenaError("\n".join(f"{told[label]}: not recorded" for label in results.errors))
        return results.records


def _tell(verdict: "Verdict") -> None:
    """The verdict in words."""
    from clarena.record.statistics import student_t_interval

    for step in verdict.steps:
        mark, colour = MARKS[step.state]
        typer.echo(f"  {step.name:<15}" + typer.style(mark, fg=colour))
        for note in step.notes:
            typer.echo(plain(f"      {note}"))
    for track in dict.fromkeys(rerun.track for rerun in verdict.reruns):
        mine = [rerun for rerun in verdict.reruns if rerun.track == track]
        same = sum(rerun.identical for rerun in mine)
        claimed = student_t_interval([rerun.claimed for rerun in mine])
        typer.echo(f"  track {track[:12]}: {same} of {len(mine)} claimed runs identical bit for bit")
        typer.echo(f"      final average %, claimed seeds: {claimed.percent()}")
        for row in (row for row in verdict.hidden if row.track == track):
            scored = [run.metric("final_average_accuracy") for run in row.runs if run.status == "finished"]
            shown = student_t_interval(scored).percent() if scored else "no run finished"
            typer.echo(f"      final average %, hidden seeds, {row.strategy}: {shown}")
        for canary in (canary for canary in verdict.canaries if canary.track == track):
            scored = [100 * accuracy for accuracy in canary.accuracies]
            typer.echo(
                f"      canary: {sum(scored) / len(scored):.1f} %, where chance is {100 * canary.chance:.1f} % "
                f"and the bound {100 * canary.bound:.1f} %"
            )
    typer.secho(f"{verdict.name or 'The bundle'}: {verdict.outcome}", fg=COLOURS[verdict.outcome], bold=True)


def plain(text: str) -> str:
    """Text from a stranger without what a terminal would obey."""
    return "".join(char if char.isprintable() else "·" for char in text)
