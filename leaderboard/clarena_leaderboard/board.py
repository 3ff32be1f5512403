"""The board: runs grouped into rows and tables, with what may be said of each."""

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from clarena.protocol.protocol import Track
from clarena.record.catalogue import ACCURACY_METRICS
from clarena_leaderboard.across import across
from clarena_leaderboard.changes import Manifest, changes, manifest
from clarena_leaderboard.collect import Found
from clarena_leaderboard.config import BoardConfig
from clarena_leaderboard.contents import Board, Entry, Submitted, Table
from clarena_leaderboard.ranking import below_line, bound, rank
from clarena_leaderboard.rows import Candidate, candidates, entries, score_of, scored, unique_slugs
from clarena_leaderboard.season_runs import caution, measured, of_season, with_bounds
from clarena_leaderboard.sources import Collection, RunSource


def load_board(
    source: RunSource,
    *,
    config: BoardConfig | None = None,
    cache: Path | None = None,
    previous: Manifest | None = None,
    submissions: Mapping[str, Submitted] | None = None,
) -> Board:
    """Read a source and compute everything that is shown of it.

    Args:
        source: `StoreSource(path)` or `MlflowSource(uri)`; its `load(run)` gives a run's whole record.
        config: the maintainer's decisions (`read_config`).
        cache: a file that remembers what was read, so that the next build reads only what is new.
        previous: the manifest of the last build (`read_manifest`), for the change log. Write `manifest(board)` anew.
        submissions: what is known of rows that were submitted, by the row's id.

    Raises:
        ClarenaError: where the source cannot be read, or the settings fit nothing.
    """
    config = config or BoardConfig()
    collection = source.collect(cache)
    tables, problems = make_tables(collection, config, submissions or {})
    if not collection.found:
        problems.append(f"There is no readable run in {source.name}.")
    chosen = [table for table in tables if not config.primary or config.is_primary(table.digest, table.track.label)]
    board = Board(tables, across(chosen), (), tuple(problems), config.title, source.name)
    return replace(board, changes=changes(previous, manifest(board)))


def make_tables(
    collection: Collection, config: BoardConfig, submissions: Mapping[str, Submitted]
) -> tuple[tuple[Table, ...], list[str]]:
    """The tables of what was read, and what is wrong with it; the same runs give the same, in whatever order.

    Tuning runs make no table: they saw no test data, and there are many. Nor does a run that goes on from another: its
    track has no second row, and is never ranked.
    """
    tracks: dict[str, Track] = {}
    groups: dict[str, list[Found]] = {}
    for found in collection.found:
        if found.track.protocol.tested_on == "validation" or found.track.continues is not None:
            continue
        if found.run.track not in tracks or found.track.pretraining:  # which earlier records do not know
            tracks[found.run.track] = found.track
        groups.setdefault(found.run.track, []).append(found)
    rows: dict[str, list[Candidate]] = {}
    problems = list(collection.problems)
    for digest, group in groups.items():
        rows[digest], said = candidates(group)
        problems += said
    row_slugs = unique_slugs([(row.info.name, row.id) for group in rows.values() for row in group])
    table_slugs = unique_slugs([(track.label, digest) for digest, track in tracks.items()])
    labels = _track_labels(tracks)
    tables = []
    for digest, track in tracks.items():
        own = [row for row in rows[digest] if row.id not in submissions or not submissions[row.id].badge]
        seeds, rule = required_seeds(own or rows[digest], digest, track, config)
        sort_key = config.sort_key or track.headline
        made = entries(rows[digest], track, seeds, sort_key, row_slugs, submissions)
        made = [_with_hidden(e, submissions[e.id], track.headline) if e.id in submissions else e for e in made]
        table = _table(made, track, digest, table_slugs[digest], labels[digest], seeds, rule, sort_key)
        target, score, unit = score_of(rows[digest])
        table = replace(table, target=target, score=score, unit=unit)
        tables.append(replace(table, hidden=tuple(_hidden_tables(table, submissions))))
    tables.sort(key=lambda table: (config.place(table.digest, table.track.label), table.label, table.digest))
    return tuple(tables), sorted(problems)


def _table(
    made: Sequence[Entry],
    track: Track,
    digest: str,
    slug: str,
    label: str,
    seeds: tuple[int, ...],
    rule: str,
    sort_key: str,
) -> Table:
    better = 1 if ACCURACY_METRICS[sort_key].higher_is_better else -1

    def order(entry: Entry) -> tuple[bool, float, str, str]:
        interval = entry.intervals[sort_key]
        return interval is None, -better * round(interval.mean, 12) if interval else 0.0, entry.label, entry.id

    made = below_line(made, track)
    references = sorted((entry for entry in made if entry.standing == "reference"), key=order)
    ranked = [entry for entry in made if entry.standing == "ranked"]
    return Table(
        track=track,
        digest=digest,
        slug=slug,
        label=label,
        seeds=seeds,
        seeds_rule=rule,
        sort_key=sort_key,
        references=tuple(references),
        ranked=rank(ranked, bound("finetune", references, track), seeds, sort_key),
        apart=tuple(sorted((entry for entry in made if entry.standing == "apart"), key=order)),
    )


def _with_hidden(entry: Entry, told: Submitted, metric: str) -> Entry:
    """A row with what it does on the hidden seeds of the latest season, beside its own."""
    if not told.seasons:
        return entry
    latest = told.seasons[-1]
    interval = measured(run.metrics[metric] for run in latest.runs if run.status == "finished")
    return replace(entry, hidden=interval, caution="" if entry.info.reference else caution(entry, latest, metric))


def _hidden_tables(table: Table, submissions: Mapping[str, Submitted]) -> Iterator[Table]:
    """The verified rows and the references of a track on each season's hidden seeds, ranked like any table."""
    public = {entry.id: entry for entry in table.entries}
    seasons = of_season(table.digest, table.track, public, submissions)
    slugs = unique_slugs([(season, hashlib.sha256(season.encode()).hexdigest()) for season in seasons])
    for (season, rows), slug in zip(seasons.items(), slugs.values()):
        rows = [scored(row, table) for row in rows]  # a verdict names no score
        numbers = tuple(sorted({number for row in rows if not row.info.reference for number in row.runs}))
        pages = {row.id: public[row.id].slug if row.id in public else "" for row in rows}
        made = entries(rows, table.track, numbers, table.sort_key, pages, submissions)
        made = [replace(e, label=p.label, caution=p.caution) if (p := public.get(e.id)) else e for e in made]
        table_of_season = _table(
            with_bounds(made, season),
            table.track,
            table.digest,
            f"{table.slug}-{slug}",
            f"{table.label}, hidden seeds of {season}",
            numbers,
            "all of the season, by their number",
            table.sort_key,
        )
        same = replace(table_of_season, target=table.target, score=table.score, unit=table.unit)
        yield replace(same, season=season)


def required_seeds(
    rows: Sequence[Candidate], digest: str, track: Track, config: BoardConfig
) -> tuple[tuple[int, ...], str]:
    """The seeds that a ranked row must have finished, and in words where they come from.

    They are what the board's settings say, else those that finetune finished, else the set of seeds that most rows
    finished (of sets as common, the larger one, then the one with the smaller seeds). Rows that were submitted have no
    say in it, unless there are no others.
    """
    decided = config.required(digest, track.label)
    if decided is not None:
        return decided, "set for this board"
    own = track.protocol.learning_rate
    bounds = [row for row in rows if row.info.reference and row.info.name == "finetune" and row.finished]
    if bounds:
        first = min(bounds, key=lambda r: (r.info.learning_rate != own, -len(r.finished), r.started, r.id))
        return first.finished, "those that finetune finished"
    counts = Counter(row.finished for row in rows if row.finished)
    if not counts:
        return (), "no run finished"
    return min(counts, key=lambda seeds: (-counts[seeds], -len(seeds), seeds)), "those that most rows finished"


def _track_labels(tracks: Mapping[str, Track]) -> dict[str, str]:
    """The label of each track, with the beginning of its digest where two share one."""
    counts = Counter(track.label for track in tracks.values())
    return {
        digest: track.label if counts[track.label] == 1 else f"{track.label} [{digest[:8]}]"
        for digest, track in tracks.items()
    }
