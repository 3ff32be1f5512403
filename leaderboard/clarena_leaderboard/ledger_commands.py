"""`clarena leaderboard add` and `audit`: submissions enter the ledger, and nothing in it was altered since."""

from pathlib import Path
from typing import Annotated

import typer

Submissions = Annotated[Path, typer.Option("--submissions", metavar="DIR", help="The folder of the ledger.")]


def add(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="A zip file from clarena submit.")],
    verdict: Annotated[
        Path | None, typer.Option(metavar="FILE", help="From clarena verify --out; may be added later.")
    ] = None,
    submissions: Submissions = Path("leaderboard/submissions"),
) -> None:
    """Enter a submission, or a verdict on one, into the ledger.

    The bundle is kept beside its parts as text, to be reviewed like code.
    """
    from clarena_leaderboard import ledger

    for entry in ledger.add(submissions, bundle, verdict):
        typer.echo(f"{entry.number}  {entry.kind:<8} {entry.slug}")
    typer.echo(f"Head of the ledger: {ledger.audit(submissions).head}")


def audit(
    head: Annotated[
        str | None, typer.Option(metavar="HASH", help="A hash noted earlier: what led to it must still be there.")
    ] = None,
    submissions: Submissions = Path("leaderboard/submissions"),
) -> None:
    """Check that no submission and no verdict was altered since it was entered.

    Ends with exit code 1 and a list of what was.
    """
    from clarena_leaderboard import ledger

    found = ledger.audit(submissions, head)
    for problem in found.problems:
        typer.secho(problem, fg="red", err=True)
    typer.echo(f"{found.entries} entries, {len(found.problems)} problems. Head of the ledger: {found.head}")
    if found.problems:
        raise typer.Exit(1)
