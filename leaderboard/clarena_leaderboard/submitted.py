"""A board's runs together with what was submitted to it: what the ledger knows of rows, as a board takes it."""

from collections.abc import Iterator, Mapping
from pathlib import Path

from clarena.cli.options import find_targets
from clarena.record.aliases import Aliases, read_aliases
from clarena.record.catalogue import ACCURACY_METRICS
from clarena.submission.verdict import SeasonRow, SeasonRun, Verdict
from clarena_leaderboard import ledger
from clarena_leaderboard.contents import Run, SeasonRuns, Submitted
from clarena_leaderboard.ledger import Standing
from clarena_leaderboard.several_stores import SeveralStores
from clarena_leaderboard.sources import RunSource, StoreSource, open_source


def open_with_submissions(
    store: Path, tracking_uri: str | None, submissions: Path
) -> tuple[RunSource, Mapping[str, Submitted]]:
    """The runs of a store or of MLflow, those of the ledger among them where there is one, and what it knows of rows.

    Raises:
        ClarenaError: there is no such store, or the ledger was altered.
    """
    find_targets()
    source = open_source(store, tracking_uri)
    if not (submissions / ledger.LEDGER).exists():
        return source, {}
    aliases = read_aliases(store) if tracking_uri is None else Aliases()
    sources = [source, *(StoreSource(path, aliases) for path in ledger.stores(submissions))]
    return SeveralStores(sources), submitted(submissions, aliases)


def submitted(root: Path, aliases: Aliases | None = None) -> dict[str, Submitted]:
    """What the ledger knows of rows, by the id of the row that each is proven to be today.

    Raises:
        ClarenaError: the ledger was altered.
    """
    return {
        row: Submitted(standing.badge, tuple(_seasons(standing)), standing.log)
        for row, standing in ledger.standing(root, aliases).items()
    }


def _seasons(standing: Standing) -> Iterator[SeasonRuns]:
    """A row's hidden runs by season, the latest last; none of a submission that is not verified.

    Of a submission the last verdict of a season counts. A reference is run with every submission; of its verdicts the
    one with the most finished runs counts, and the first of these, so that nobody's submission moves a bound.
    """
    if standing.badge == "claimed":
        return
    chosen: dict[str, tuple[Verdict, SeasonRow]] = {}
    for verdict, row in standing.hidden:
        before = chosen.pop(verdict.season, None)
        keep = before is not None and row.reference and _finished(before[1]) >= _finished(row)
        if keep or row.reference or verdict.outcome == "verified":
            chosen[verdict.season] = before if keep and before else (verdict, row)
    for season, (verdict, row) in chosen.items():
        runs = tuple(_run(verdict, row, run) for run in sorted(row.runs, key=lambda run: run.number))
        yield SeasonRuns(season, row.track, row.strategy, row.reference, runs)


def _finished(row: SeasonRow) -> int:
    return sum(run.status == "finished" for run in row.runs)


def _run(verdict: Verdict, row: SeasonRow, told: SeasonRun) -> Run:
    """A run as far as a verdict tells of it: no seed, no matrix, no costs."""
    unknown = float("nan")
    return Run(
        origin="",
        row=row.row,
        cell="",
        track=row.track,
        seed=told.number,
        status=told.status,
        reason="",
        metrics={name: told.metric(name) for name in ACCURACY_METRICS} if told.status == "finished" else {},
        flaws=(),
        train_seconds=unknown,
        predict_seconds=unknown,
        peak_memory_bytes=unknown,
        state_bytes=unknown,
        parameters=unknown,
        hardware=verdict.environment.get("hardware", ""),
        started=verdict.started.isoformat(),
        content=told.predictions or "",
    )
