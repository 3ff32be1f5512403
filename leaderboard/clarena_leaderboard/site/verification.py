"""The verdicts on a submitted row, as its page shows them."""

from dataclasses import dataclass

from clarena.record.statistics import Interval
from clarena.submission.verdict import Canary, Verdict
from clarena_leaderboard.contents import Entry, Table
from clarena_leaderboard.season_runs import measured


@dataclass(frozen=True)
class Judged:
    """A verdict, and what it found of one row.

    Attributes:
        day: on which it was added to the ledger.
        identical, reruns: claimed runs that came out again bit for bit, of so many.
        hidden: headline of the track on the hidden seeds on which it finished.
    """

    day: str
    verdict: Verdict
    identical: int
    reruns: int
    hidden: Interval | None
    canary: Canary | None


def judged(entry: Entry, table: Table) -> list[Judged]:
    """The verdicts on a row of this track, oldest first; none where it was not submitted."""
    made = []
    for day, verdict in entry.log.verdicts if entry.log else ():
        reruns = [rerun.identical for rerun in verdict.reruns if rerun.track == table.digest]
        runs = [run for row in verdict.hidden if row.row == entry.id for run in row.runs if run.status == "finished"]
        hidden = measured(run.metric(table.headline) for run in runs)
        canary = next((each for each in verdict.canaries if each.track == table.digest), None)
        made.append(Judged(day, verdict, sum(reruns), len(reruns), hidden, canary))
    return made
