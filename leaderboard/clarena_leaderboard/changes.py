"""What became of the rows since the board was last built: a log in which none appears or goes without a word."""

from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from clarena.errors import StoreError
from clarena.protocol.frozen import FrozenModel
from clarena.record.catalogue import ACCURACY_METRICS, named
from clarena_leaderboard.contents import Board, Change, Entry, Table
from clarena_leaderboard.rows import say_seeds


class KnownRow(FrozenModel):
    """What the next build must know of a row to say how it changed.

    Attributes:
        track: digest of its track.
        strategy: its name with all its settings, without its source: what is the same method to a reader.
        standing, reason, badge, chosen: as shown.
        runs: by seed, the SHA-256 of the finished record.
        value: mean of the table's sort key, as shown; None where it is undefined.
        latest: when its newest run began.
    """

    track: str
    label: str
    strategy: str
    source: str
    standing: str
    reason: str
    badge: str
    chosen: str
    runs: dict[int, str]
    value: float | None
    latest: str


class KnownTrack(FrozenModel):
    """What the next build must know of a track."""

    label: str
    seeds: tuple[int, ...]
    sort_key: str


class Manifest(FrozenModel):
    """What a build leaves behind for the next one."""

    version: Literal[1] = 1
    tracks: dict[str, KnownTrack] = {}
    rows: dict[str, KnownRow] = {}
    changes: tuple[Change, ...] = ()


def read_manifest(path: Path) -> Manifest | None:
    """The manifest that the last build left, or None where there is none.

    Raises:
        StoreError: where it cannot be read: the log it holds would be lost.
    """
    try:
        return Manifest.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValidationError) as error:
        first_line = str(error).partition("\n")[0]
        raise StoreError(
            f"The manifest {path} of the last build cannot be read ({first_line}). "
            "Move it away to begin the change log anew."
        ) from error


def manifest(board: Board) -> Manifest:
    """What to write beside a board: `manifest(board).model_dump_json(indent=1)`."""
    return Manifest(
        tracks={
            table.digest: KnownTrack(label=table.label, seeds=table.seeds, sort_key=named(table.sort_key, table.score))
            for table in board.tables
        },
        rows={entry.id: _known(entry, table) for table in board.tables for entry in table.entries},
        changes=board.changes,
    )


def _known(entry: Entry, table: Table) -> KnownRow:
    info, interval = entry.info, entry.intervals[table.sort_key]
    settings = " ".join(f"{name}={value}" for name, value in sorted(info.hyperparameters.items()))
    return KnownRow(
        track=table.digest,
        label=entry.label,
        strategy=f"{info.name} {settings} learning_rate={info.learning_rate}",
        source=info.code,
        standing=entry.standing,
        reason=entry.reason,
        badge=entry.badge,
        chosen=entry.chosen,
        runs={run.seed: run.content for run in sorted(entry.runs, key=lambda r: r.seed) if run.status == "finished"},
        value=interval.mean if interval else None,
        latest=max(run.started for run in entry.runs),
    )


def changes(previous: Manifest | None, now: Manifest) -> tuple[Change, ...]:
    """The log: what happened since the previous build, and what that build already told, newest first.

    A row that is no longer ranked went, though it is shown apart. Dates are those of records, never of the clock: the
    day the newest run of a row began, or of the whole board where a row went.
    """
    before = previous or Manifest()
    today = max(
        (row.latest[:10] for row in now.rows.values()), default=max((c.date for c in before.changes), default="")
    )
    made = []
    for row in sorted(before.rows.keys() | now.rows.keys()):
        old, new = before.rows.get(row), now.rows.get(row)
        if new is None and old is not None:
            track = before.tracks[old.track].label
            made.append(Change(today, "went", track, old.label, "its runs are gone"))
        elif new is not None and old is None:
            track = now.tracks[new.track].label
            made.append(Change(new.latest[:10], "appeared", track, new.label, _arrival(new, before)))
        elif new is not None and old is not None and (said := _differences(old, new, before, now)):
            track = now.tracks[new.track].label
            left = old.standing != "apart" and new.standing == "apart"
            date = today if left else new.latest[:10]
            made.append(Change(date, "went" if left else "changed", track, new.label, said))
    made.sort(key=lambda change: (change.track, change.label, change.kind))
    made += before.changes
    return tuple(sorted(made, key=lambda change: change.date, reverse=True))  # stable: this build's come first


def _arrival(new: KnownRow, before: Manifest) -> str:
    said = f"apart: {new.reason}" if new.standing == "apart" else f"{new.standing}, {say_seeds(new.runs)}"
    sources = sorted(
        row.source[:8]
        for row in before.rows.values()
        if (row.track, row.strategy) == (new.track, new.strategy) and row.source != new.source
    )
    return said + (f"; its source is {new.source[:8]}, where {', '.join(sources)} was known" if sources else "")


def _differences(old: KnownRow, new: KnownRow, before: Manifest, now: Manifest) -> str:
    """How a row changed, in words; empty where it did not."""
    said = []
    track, known = now.tracks[new.track], before.tracks[old.track]
    if track.seeds != known.seeds:
        said.append(f"the track now asks for {say_seeds(track.seeds)}")
    if old.standing != new.standing:
        bound = "reference" in (old.standing, new.standing)
        said.append(("no longer" if new.standing == "apart" else "now") + (" a bound" if bound else " ranked"))
    if new.reason and new.reason != old.reason:
        said.append(new.reason)
    added, gone = new.runs.keys() - old.runs.keys(), old.runs.keys() - new.runs.keys()
    again = {seed for seed in new.runs.keys() & old.runs.keys() if new.runs[seed] != old.runs[seed]}
    said += [
        f"{say_seeds(seeds)} {what}"
        for seeds, what in ((added, "added"), (gone, "gone"), (again, "run again"))
        if seeds
    ]
    if track.sort_key == known.sort_key and _shown(old.value) != _shown(new.value):
        said.append(f"{_words(track.sort_key)} {_shown(old.value)} before, {_shown(new.value)} now")
    if old.badge != new.badge:
        said.append(f"{new.badge or 'not submitted'}, was {old.badge or 'not submitted'}")
    if old.chosen != new.chosen:
        said.append(f"hyper-parameters {new.chosen}, said to be {old.chosen} before")
    return "; ".join(said)


def _words(metric: str) -> str:
    return ACCURACY_METRICS[metric].title.lower() if metric in ACCURACY_METRICS else metric.replace("_", " ")


def _shown(value: float | None) -> str:
    """To a hundredth of a percent: what is less is not worth a word."""
    return "undefined" if value is None else f"{100 * value:z.2f} %"
