"""What a target measures beside its score: further matrices, such as bits per byte, and their metrics."""

from collections.abc import Iterator, Mapping
from typing import Any

from clarena.record.metrics import Metric
from clarena.record.scoring import further_of
from clarena.record.summary import plain
from clarena_leaderboard.contents import Entry, Table
from clarena_leaderboard.site.formatting import percent


def matrices(table: Table, data: Mapping[str, Any]) -> Iterator[tuple[str, str, Any]]:
    """The further matrices of a row, each with a title and what is better."""
    known = further_of(table.target)
    for name, matrix in data["further"].items():
        better = "more" if name in known and known[name][0].higher_is_better else "fewer"
        yield name.replace("_", " ").capitalize(), f"{better} are better", matrix["mean"]


def numbers(entry: Entry, table: Table) -> Iterator[tuple[Metric, str]]:
    """The metrics of further matrices that a row has, as they are shown."""
    for metric in (metric for group in further_of(table.target).values() for metric in group):
        if interval := entry.intervals.get(metric.name):
            yield metric, percent(interval) + " %" if metric.fraction else plain(interval)
