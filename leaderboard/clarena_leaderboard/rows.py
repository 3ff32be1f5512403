"""Rows of a table: runs that differ in nothing but the seed, and whether they may be ranked."""

import math
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from clarena.protocol.protocol import Track
from clarena.record.catalogue import ACCURACY, ACCURACY_METRICS, titled
from clarena.record.curves import CURVE_METRICS
from clarena.record.metrics import METRICS
from clarena.record.recomputation import same
from clarena.record.record import StrategyInfo
from clarena.record.scoring import further_of
from clarena.record.statistics import Interval, student_t_interval
from clarena.record.summary import Row, row_labels
from clarena_leaderboard.collect import Found
from clarena_leaderboard.contents import Entry, Run, Standing, Submitted, Table


@dataclass(frozen=True)
class Candidate:
    """A row before anything is known of its table: `runs` has one for each seed, by seed."""

    id: str
    info: StrategyInfo
    runs: Mapping[int, Run]

    @property
    def finished(self) -> tuple[int, ...]:
        """The seeds that finished, in order."""
        return tuple(sorted(seed for seed, run in self.runs.items() if run.status == "finished"))

    @property
    def started(self) -> str:
        """When its first run began."""
        return min(run.started for run in self.runs.values())


def candidates(group: Iterable[Found]) -> tuple[list[Candidate], list[str]]:
    """The rows of one track in the order of their ids, and a sentence for each that has a seed twice.

    Of several records of a seed the first that finished counts, else the last; it gets a flaw where another one that
    finished has other numbers.

    Args:
        group: the track's runs, oldest first.
    """
    rows: dict[str, list[Found]] = {}
    for found in group:
        rows.setdefault(found.run.row, []).append(found)
    made, problems = [], []
    for row, members in sorted(rows.items()):
        seeds: dict[int, list[Run]] = {}
        for found in members:
            seeds.setdefault(found.run.seed, []).append(found.run)
        info = members[-1].info
        twice = {seed: runs for seed, runs in seeds.items() if len(runs) > 1}
        if twice:
            example = " and ".join(run.origin for run in twice[min(twice)][:2])
            problems.append(
                f"{info.name} on {members[0].track.label} has more than one record of {say_seeds(twice)}, such as "
                f"{example}: of each seed the first that finished counts, else the last."
            )
        made.append(Candidate(row, info, {seed: _kept(runs) for seed, runs in seeds.items()}))
    return made, problems


def _kept(runs: Sequence[Run]) -> Run:
    finished = [run for run in runs if run.status == "finished"]
    if not finished:
        return runs[-1]
    first = finished[0]
    flaws = tuple(
        f"another record of seed {run.seed} has other numbers ({run.origin})"
        for run in finished[1:]
        if not all(same(run.metrics[name], first.metrics[name]) for name in METRICS)
    )
    return replace(first, flaws=first.flaws + flaws)


def entries(
    rows: Sequence[Candidate],
    track: Track,
    seeds: tuple[int, ...],
    sort_key: str,
    slugs: Mapping[str, str],
    submissions: Mapping[str, Submitted],
) -> list[Entry]:
    """The rows of a table as entries, unordered and not yet compared; `slugs` and `submissions` go by the row's id."""
    labels = unique_labels([(row.id, row.info) for row in rows])
    target, score, _ = score_of(rows)
    shown = [name for name in ACCURACY_METRICS if track.protocol.eval_every or name not in CURVE_METRICS]
    shown += [metric.name for group in further_of(target).values() for metric in group]
    made = []
    newest = max((run.metering for row in rows for run in row.runs.values() if run.status == "finished"), default=1)
    for row in rows:
        reason = why_apart(row, track, seeds, sort_key, score)
        standing: Standing = "apart" if reason else "reference" if row.info.reference else "ranked"
        counted = [row.runs[seed] for seed in seeds if seed in row.finished]
        submitted = submissions.get(row.id, Submitted(""))
        made.append(
            Entry(
                id=row.id,
                slug=slugs[row.id],
                label=labels[row.id],
                info=row.info,
                runs=tuple(sorted(row.runs.values(), key=lambda run: (run.seed not in seeds, run.seed))),
                intervals={name: _interval([run.metrics.get(name, math.nan) for run in counted]) for name in shown},
                standing=standing,
                reason=reason,
                badge=submitted.badge,
                chosen=row.info.chosen or "default",
                family=row.info.family,
                log=submitted.log,
                metering=newest,
            )
        )
    return made


def _interval(values: list[float]) -> Interval | None:
    return student_t_interval(values) if values and all(map(math.isfinite, values)) else None


def score_of(rows: Iterable[Candidate]) -> tuple[str, str, str]:
    """Target, score and unit that most finished runs of a table have; of as many, those that come first by name."""
    runs = [run for row in rows for run in row.runs.values() if run.status == "finished"]
    counts = Counter((run.score, run.unit) for run in runs)
    if not counts:
        return "classes", ACCURACY, "samples"
    score, unit = min(counts, key=lambda each: (-counts[each], each))
    targets = Counter(run.target for run in runs if (run.score, run.unit) == (score, unit))
    return min(targets, key=lambda each: (-targets[each], each)), score, unit


def scored(row: Candidate, table: Table) -> Candidate:
    """The row with its runs under the score of a table."""
    told = partial(replace, target=table.target, score=table.score, unit=table.unit)
    return replace(row, runs={seed: told(run) for seed, run in row.runs.items()})


def why_apart(row: Candidate, track: Track, seeds: Sequence[int], sort_key: str, score: str) -> str:
    """Why a row cannot be ranked, in words; empty where nothing is in the way."""
    reasons = [track.unranked] if track.unranked else []
    others = sorted({run.score for run in row.runs.values() if run.status == "finished"} - {score})
    reasons += [f"its score is {', '.join(others)}, where that of the table is {score}"] * bool(others)
    missing = [seed for seed in seeds if seed not in row.runs]
    if missing:
        reasons.append(f"no run for {say_seeds(missing)}")
    unfinished: dict[str, list[int]] = {}
    for seed in seeds or sorted(row.runs):
        if seed in row.runs and row.runs[seed].status != "finished":
            unfinished.setdefault(row.runs[seed].status.replace("_", " "), []).append(seed)
    reasons += [f"{say_seeds(those)} {status}" for status, those in unfinished.items()]
    flaws = [f"seed {seed}: {flaw}" for seed in sorted(row.runs) for flaw in row.runs[seed].flaws]
    if flaws:
        reasons.append(flaws[0] + (f" (and {len(flaws) - 1} more)" if len(flaws) > 1 else ""))
    values = {seed: row.runs[seed].metrics.get(sort_key, math.nan) for seed in row.finished}
    undefined = [seed for seed in seeds if seed in values and not math.isfinite(values[seed])]
    if undefined and not flaws and not row.info.reference:  # a bound is not ranked: joint has no forgetting
        title = titled(ACCURACY_METRICS[sort_key].title.lower(), score)
        reasons.append(f"{title} is undefined for {say_seeds(undefined)}")
    return "; ".join(reasons)


def say_seeds(seeds: Collection[int]) -> str:
    """`seed 3`, or `seeds 0–4, 7`."""
    ordered = sorted(seeds)
    spans: list[list[int]] = []
    for seed in ordered:
        if spans and seed == spans[-1][-1] + 1:
            spans[-1].append(seed)
        else:
            spans.append([seed])
    words = [
        f"{span[0]}–{span[-1]}" if len(span) > 2 else ", ".join(map(str, span)) for span in spans
    ]  # fmt: skip
    return f"seed{'s' if len(ordered) != 1 else ''} {', '.join(words)}"


def unique_labels(rows: Sequence[tuple[str, StrategyInfo]]) -> dict[str, str]:
    """A label for each (digest, strategy), by digest: its name and what tells it apart, as in `clarena results`."""
    labels = row_labels([Row(info, ()) for _, info in rows])
    counts = Counter(labels)  # two may share one: strength=1 and strength=1.0
    return {
        digest: label if counts[label] == 1 else f"{label} row={digest[:8]}" for (digest, _), label in zip(rows, labels)
    }


def unique_slugs(named: Sequence[tuple[str, str]]) -> dict[str, str]:
    """A file name for each (name, digest), by digest: `ewc-1a2b3c4d`, with more of the digests where that clashes."""
    length = 8
    while len({digest[:length] for _, digest in named}) < len({digest for _, digest in named}):
        length += 4
    return {digest: f"{_plain(name)}-{digest[:length]}" for name, digest in named}


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:60] or "row"
