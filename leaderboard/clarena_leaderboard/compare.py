"""`clarena compare`: two rows of a table against each other, with the board's own numbers."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clarena.cli.options import AsJson, StorePath
from clarena.errors import UsageError, unknown_name
from clarena_leaderboard.ledger_commands import Submissions

if TYPE_CHECKING:
    from collections.abc import Sequence

    from clarena.record.statistics import Interval, SignFlip
    from clarena_leaderboard.contents import Claim, Comparison, Entry, Table

FromMlflow = Annotated[
    str | None,
    typer.Option(
        "--tracking-uri", metavar="URI", help="Read MLflow instead of a store: sqlite:///mlflow.db, a server."
    ),
]
Name = Annotated[
    str, typer.Argument(metavar="ROW", show_default=False, help="A strategy, or the beginning of a label.")
]


def compare(
    a: Name,
    b: Name,
    track: Annotated[
        str | None,
        typer.Option(metavar="TRACK", help="Only tracks whose digest begins so, or whose label contains it."),
    ] = None,
    store: StorePath = Path("runs"),
    tracking_uri: FromMlflow = None,
    submissions: Submissions = Path("leaderboard/submissions"),
    config: Annotated[
        Path | None, typer.Option("--config", metavar="FILE", help="The board's settings: seeds, sort key.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Compare two rows, paired by seed, on every track that has both.

    Says what the leaderboard says: mean and Student-t interval of each, their difference seed by seed, and the exact
    sign-flip test of it; where both have them, on hidden seeds as well. Reads a store, or MLflow where --tracking-uri
    is given, and what was submitted.
    """
    from clarena.cli.text import as_json as to_json
    from clarena_leaderboard.board import make_tables
    from clarena_leaderboard.config import BoardConfig, read_config
    from clarena_leaderboard.submitted import open_with_submissions

    source, known = open_with_submissions(store, tracking_uri, submissions)
    made, problems = make_tables(source.collect(), read_config(config) if config else BoardConfig(), known)
    tables = [table for each in made for table in (each, *each.hidden)]
    for problem in problems:
        typer.secho(problem, fg="yellow", err=True)
    duels = [duel(table, *pair) for table, *pair in pairs(tables, a, b, track, source.name)]
    if as_json:
        typer.echo(to_json([each.as_dict() for each in duels]))
        return
    for each in duels:
        _print(each)


@dataclass(frozen=True)
class Duel:
    """Two rows of a table on the seeds that both finished.

    Attributes:
        seeds: those of the table that both have.
        metric: the sort key of the table.
        difference: of a minus b, with its Student-t interval.
        test: its sign-flip test.
        claim: what the test allows one to say of a; it stands alone, so nothing is corrected.
        board: the leaderboard's own test of the two, where one of them is the best row or finetune.
    """

    table: "Table"
    a: "Entry"
    b: "Entry"
    seeds: tuple[int, ...]
    metric: str
    difference: "Interval"
    test: "SignFlip"
    claim: "Claim"
    board: "Comparison | None"

    def as_dict(self) -> dict[str, Any]:
        """As plain data."""
        from clarena.record.catalogue import named

        return {
            "track": self.table.label,
            "track_digest": self.table.digest,
            "metric": named(self.metric, self.table.score),
            **{
                side: {"label": e.label, "row": e.id, "standing": e.standing, "reason": e.reason, "tier": e.tier}
                | {"interval": asdict(interval) if (interval := e.intervals[self.metric]) else None}
                for side, e in (("a", self.a), ("b", self.b))
            },
            "seeds": self.seeds,
            "difference": asdict(self.difference),
            "p_value": self.test.p_value,
            "exact": self.test.exact,
            "claim": self.claim,
            "verdict": self.verdict,
            "leaderboard": asdict(self.board) if self.board else None,
        }

    @property
    def verdict(self) -> str:
        """In one sentence, what may be said."""
        from clarena.record.catalogue import ACCURACY_METRICS, titled
        from clarena.record.statistics import SIGNIFICANT, smallest_p

        if self.claim == "too few seeds":
            floor = f"over {self.test.n} p cannot be below {smallest_p(self.test.n):.3g}"
            return f"Too few seeds to tell {self.a.label} from {self.b.label}: {floor}."
        if self.claim == "not told apart":
            return f"{self.a.label} and {self.b.label} cannot be told apart: p is above {SIGNIFICANT}."
        first, second = (self.a, self.b) if self.claim == "better" else (self.b, self.a)
        title = titled(ACCURACY_METRICS[self.metric].title.lower(), self.table.score)
        return f"{first.label} is better than {second.label} in {title}."


def pairs(
    tables: "Sequence[Table]", a: str, b: str, track: str | None, source: str
) -> "list[tuple[Table, Entry, Entry]]":
    """The rows that are meant, on each track that has both.

    Raises:
        UsageError: where a track, a row or a pair does not exist, or a name is that of several rows.
    """
    chosen = [t for t in tables if track is None or t.digest.startswith(track) or track in t.label]
    if not chosen:
        known = {table.label for table in tables}
        raise (
            unknown_name(f"track in {source}", track or "", known, see="clarena results")
            if known
            else UsageError(f"There is no readable run in {source}. Make some with clarena evaluate.")
        )
    matches = [(table, named(table, a), named(table, b)) for table in chosen]
    for name, place in ((a, 1), (b, 2)):
        if not any(match[place] for match in matches):
            raise unknown_name("row", name, {e.label for table in chosen for e in table.entries}, see="clarena results")
    found = []
    for table, first, second in matches:
        if first and second:
            found.append((table, _one(table, a, first), _one(table, b, second)))
    if not found:
        raise UsageError(f"No track has both {a} and {b}. Run the one that is missing: clarena evaluate.")
    return found


def named(table: "Table", name: str) -> "list[Entry]":
    """The rows that a person may mean: the one of this label, else those of this strategy, else those that begin so."""
    exact = [entry for entry in table.entries if entry.label == name]
    strategy = [entry for entry in table.entries if entry.info.name == name]
    return exact or strategy or [entry for entry in table.entries if entry.label.startswith(name)]


def _one(table: "Table", name: str, entries: "Sequence[Entry]") -> "Entry":
    if len(entries) == 1:
        return entries[0]
    labels = "\n".join(f"  {entry.label!r}" for entry in entries)
    raise UsageError(
        f"{name!r} may be any of {len(entries)} rows on {table.label}. Give one of these labels:\n{labels}"
    )


def duel(table: "Table", a: "Entry", b: "Entry") -> Duel:
    """Compare two rows on the seeds of the table that both finished; raises `UsageError` where there is none."""
    import numpy as np

    from clarena.record.catalogue import ACCURACY_METRICS
    from clarena.record.statistics import paired_sign_flip, student_t_interval
    from clarena_leaderboard.ranking import claimed, values_of

    if a.id == b.id:
        raise UsageError(f"{a.label} is one row, not two. clarena results lists those of {table.label}.")
    metric = table.sort_key
    seeds = tuple(seed for seed in table.seeds if all(np.isfinite(_value(entry, seed, metric)) for entry in (a, b)))
    if not seeds:
        raise UsageError(f"{a.label} and {b.label} share no finished seed on {table.label}: nothing can be paired.")
    first, second = values_of(a, seeds, metric), values_of(b, seeds, metric)
    test = paired_sign_flip(first, second)
    better = 1 if ACCURACY_METRICS[metric].higher_is_better else -1
    claim = claimed(test, test.p_value, 1, better)
    return Duel(table, a, b, seeds, metric, student_t_interval(first - second), test, claim, _on_the_board(a, b))


def _on_the_board(a: "Entry", b: "Entry") -> "Comparison | None":
    tests = ((e.against_best, rival) for e, rival in ((a, b), (b, a)))
    lower = ((e.against_finetune, rival) for e, rival in ((a, b), (b, a)))
    return next((test for test, rival in (*tests, *lower) if test and test.rival == rival.label), None)


def _value(entry: "Entry", seed: int, metric: str) -> float:
    """The value of one seed; NaN where it did not finish."""
    finished = (run for run in entry.runs if run.seed == seed and run.status == "finished")
    return next((run.metrics.get(metric, float("nan")) for run in finished), float("nan"))


def _print(duel: Duel) -> None:
    """One track: a table of two rows, what stands against ranking them, and the verdict."""
    from rich import box
    from rich.table import Table as Grid
    from rich.text import Text

    from clarena.cli.text import page, put
    from clarena.protocol.presets import FINAL
    from clarena.record.catalogue import ACCURACY_METRICS, titled
    from clarena.record.recomputation import NOT_RECOMPUTED
    from clarena.record.summary import NOTHING, percent
    from clarena_leaderboard.rows import say_seeds

    console = page()
    console.print(Text.assemble("\n", (duel.table.label, "bold"), f"  ({duel.table.digest[:12]})"))
    grid = Grid(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    grid.add_column("row", overflow="fold", min_width=12)
    metrics = dict.fromkeys((duel.metric, duel.table.headline, FINAL, "forgetting"))
    titles = [titled(f"{ACCURACY_METRICS[name].title.lower()} %", duel.table.score) for name in metrics]
    for title in (*titles, "n", "tier"):
        grid.add_column(title, justify="right")
    for entry in (duel.a, duel.b):
        interval = entry.intervals[duel.metric]
        grid.add_row(
            Text(entry.label),
            *(percent(entry.intervals[name]) for name in metrics),
            str(interval.n) if interval else "0",
            str(entry.tier) if entry.tier else NOTHING,
        )
    put(console, grid)
    for entry in (duel.a, duel.b):
        if entry.standing == "apart":
            console.print(f"{entry.label} stands apart: {entry.reason}", style="yellow")
        if not entry.recomputed:
            console.print(f"{entry.label}: {NOT_RECOMPUTED}: its target is not installed.", style="yellow")
    how = "exact" if duel.test.exact else f"over {duel.test.patterns} random patterns"
    console.print(f"Difference: {duel.difference.percent(2)} points, paired over {say_seeds(duel.seeds)}.")
    console.print(f"Two-sided sign-flip test: p = {duel.test.p_value:.4g}, n = {duel.test.n} ({how}).")
    console.print(duel.verdict, style="bold")
    if duel.board:
        console.print(
            f"The leaderboard tests all rows against {duel.board.rival}; corrected for that "
            f"p = {duel.board.adjusted:.4g}: {duel.board.claim}."
        )
    console.print("Mean ± half-width of the 95 % Student-t interval.", style="dim")
