"""Several sources as one: a board of this project's own runs and of what was submitted to it."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from clarena.record.predictions import Predictions
from clarena.record.record import Record
from clarena_leaderboard.collect import Found
from clarena_leaderboard.contents import Run
from clarena_leaderboard.sources import Collection, RunSource


class SeveralStores:
    """The runs of several sources, under the name of the first; the origin of a run begins with its source's number."""

    def __init__(self, sources: Sequence[RunSource]) -> None:
        self._sources = tuple(sources)

    @property
    def name(self) -> str:
        count = len(self._sources) - 1
        return self._sources[0].name + (f" and {count} submission{'s' if count > 1 else ''}" if count else "")

    def collect(self, cache: Path | None = None) -> Collection:
        found: list[Found] = []
        problems: list[str] = []
        for number, source in enumerate(self._sources):
            own = cache.with_name(f"{cache.name}{number or ''}") if cache else None
            collection = source.collect(own)
            found += [replace(f, run=replace(f.run, origin=f"{number}:{f.run.origin}")) for f in collection.found]
            problems += collection.problems
        found.sort(key=lambda each: (each.run.started, each.run.cell, each.run.origin))
        return Collection(tuple(found), tuple(problems))

    def load(self, run: Run) -> tuple[Record, Predictions | None]:
        number, _, origin = run.origin.partition(":")
        return self._sources[int(number)].load(replace(run, origin=origin))
