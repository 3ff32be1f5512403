"""What can be said over several tracks: scores between two bounds that no newcomer moves."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from clarena.protocol.protocol import digest
from clarena.record.catalogue import ACCURACY
from clarena.record.record import StrategyInfo
from clarena.record.statistics import SIGNIFICANT
from clarena_leaderboard.bootstrap import bootstrap_interval, coverage, interquartile_mean
from clarena_leaderboard.contents import Across, Aggregate, Entry, Table
from clarena_leaderboard.ranking import bound, values_of
from clarena_leaderboard.rows import unique_labels

Floats = NDArray[np.float64]

METRIC = "final_average_accuracy"
"""What is scored, whatever orders the tables."""

THRESHOLDS = tuple(round(0.02 * i, 2) for i in range(51))
"""Of the performance profile: from finetune to joint."""

FEWEST_TRACKS, FEWEST_ROWS = 3, 3
"""For the Friedman and Nemenyi tests: on two tracks they cannot reject anything, however large the difference; from
three on both together reject a true null hypothesis in at most 5 % of cases, which a test of ours simulates."""


@dataclass(frozen=True)
class Scale:
    """The references of a track, frozen: where 0 and 1 are."""

    finetune: float
    joint: float

    def score(self, accuracy: Floats) -> Floats:
        """(accuracy - finetune) / (joint - finetune), the means of the references over the track's seeds."""
        return (accuracy - self.finetune) / (self.joint - self.finetune)


def across(tables: Sequence[Table]) -> Across | None:
    """Strategies over all tracks that have both bounds; None where fewer than two have.

    A strategy is the same on two tracks where name, hyper-parameters, learning rate and source are. Only those that
    are ranked on every track take part, so that all are judged on the same tracks. Scores of different targets are
    never averaged: tracks of any but the commonest are skipped.
    """
    scales: dict[str, Scale] = {}
    skipped: dict[str, str] = {}
    target, score = _compared(tables)
    for table in tables:
        made: Scale | str = scale(table)
        if (table.target, table.score) != (target, score):
            made = f"it asks for {table.target}, in {table.score}: scores of several kinds have no mean"
        if isinstance(made, Scale):
            scales[table.digest] = made
        else:
            skipped[table.label] = made
    counting = [table for table in tables if table.digest in scales]
    if len(counting) < 2:
        return None
    found: dict[str, dict[str, Entry]] = {}  # strategy -> track -> its row there
    for table in counting:
        for entry in (entry for entry in table.ranked if entry.intervals[METRIC]):
            found.setdefault(identity(entry.info), {})[table.digest] = entry
    labels = unique_labels([(key, next(iter(rows.values())).info) for key, rows in sorted(found.items())])
    aggregates, left_out, means = [], {}, {}
    for key, rows in found.items():
        lacking = [table.label for table in counting if table.digest not in rows]
        if lacking:
            left_out[labels[key]] = f"not ranked on {', '.join(lacking)}"
            continue
        accuracies = {table.digest: values_of(rows[table.digest], table.seeds, METRIC) for table in counting}
        means[labels[key]] = np.array([values.mean() for values in accuracies.values()])
        aggregates.append(_aggregate(labels[key], {d: scales[d].score(v) for d, v in accuracies.items()}))
    aggregates.sort(key=lambda a: (-round(a.iqm, 12), a.label))
    ranked = ranks({a.label: means[a.label] for a in aggregates})
    return Across(
        tracks=tuple(scales),
        aggregates=tuple(aggregates),
        left_out=dict(sorted(left_out.items())),
        coverage=coverage(tuple(len(table.seeds) for table in counting)) if aggregates else None,
        thresholds=THRESHOLDS,
        profiles={a.label: profile(np.concatenate([np.array(s) for s in a.scores.values()])) for a in aggregates},
        skipped=skipped,
        average_ranks=ranked.average,
        critical=ranked.groups,
        friedman_p=ranked.p,
        critical_distance=ranked.distance,
        ranks_note=ranked.note,
    )


def _compared(tables: Sequence[Table]) -> tuple[str, str]:
    """The target and score that most tracks have; of as many, those of the first."""
    counts = Counter((table.target, table.score) for table in tables)
    return max(counts, key=lambda each: counts[each], default=("classes", ACCURACY))


def scale(table: Table) -> Scale | str:
    """The references of a track, or why there is no score on it."""
    means = {}
    for name in ("finetune", "joint"):
        entry = bound(name, table.references, table.track)
        interval = entry.intervals[METRIC] if entry else None
        if interval is None:
            return f"no complete {name}"
        means[name] = interval.mean
    if not means["joint"] > means["finetune"]:
        return "joint is not better than finetune"
    return Scale(**means)


def identity(info: StrategyInfo) -> str:
    """What makes a strategy the same on two tracks."""
    return digest([info.name, info.hyperparameters, info.learning_rate, info.code])


def profile(scores: Floats) -> tuple[float, ...]:
    """The share of runs with a score above each of `THRESHOLDS`.

    Source: Dolan & Moré 2002; over runs as in Agarwal et al. 2021, section 4.2.
    """
    return tuple(float(np.mean(scores > threshold)) for threshold in THRESHOLDS)


def _aggregate(label: str, scores: Mapping[str, Floats]) -> Aggregate:
    low, high = bootstrap_interval(list(scores.values()))
    iqm = float(interquartile_mean(np.concatenate(list(scores.values()))))
    return Aggregate(label, {track: tuple(map(float, values)) for track, values in scores.items()}, iqm, low, high)


@dataclass(frozen=True)
class Ranks:
    """Average ranks over tracks, and which of them a test tells apart."""

    note: str
    average: Mapping[str, float] | None = None
    groups: tuple[tuple[str, ...], ...] = ()
    p: float | None = None
    distance: float | None = None


def ranks(means: Mapping[str, Floats]) -> Ranks:
    """Average ranks, Friedman's test, and groups by Nemenyi's; a block is a track, its value the mean over seeds.

    Args:
        means: by label, the mean accuracy on each track, [N].

    Source: Friedman 1937; Demšar 2006 (Statistical comparisons of classifiers over multiple data sets), 3.2.2.
    """
    from scipy.stats import friedmanchisquare, rankdata

    if len(means) < 2:
        return Ranks("Ranks need at least two rows that are ranked on all tracks.")
    values = np.round(np.stack(list(means.values())), 12)  # [k, N]; equal but for rounding is equal
    rows, tracks = values.shape
    average = dict(zip(means, (float(mean) for mean in rankdata(-values, axis=0).mean(axis=1))))
    average = dict(sorted(average.items(), key=lambda item: (round(item[1], 9), item[0])))
    blocks = f"{rows} rows on {tracks} tracks; a block is a track, by the mean over its seeds"
    if tracks < FEWEST_TRACKS or rows < FEWEST_ROWS:
        return Ranks(
            f"{blocks}. Too few for a test: that takes {FEWEST_ROWS} rows and {FEWEST_TRACKS} tracks.", average
        )
    with np.errstate(invalid="ignore"):  # rows that are equal on every track have no p: nothing speaks against chance
        p = float(np.nan_to_num(friedmanchisquare(*values).pvalue, nan=1.0))
    distance = critical_distance(rows, tracks)
    if p > SIGNIFICANT:
        return Ranks(f"{blocks}. The Friedman test tells none apart.", average, (tuple(average),), p, distance)
    return Ranks(f"{blocks}.", average, _groups(average, distance), p, distance)


@lru_cache(maxsize=64)
def critical_distance(rows: int, tracks: int) -> float:
    """How far apart two average ranks must be for Nemenyi's test to tell their rows apart at 0.05.

    CD = q_{0.05; k, inf} / sqrt(2) * sqrt(k (k + 1) / (6 N)),  for k rows on N tracks

    The same as `scikit_posthocs.posthoc_nemenyi_friedman`, which takes seconds to import; a test compares them.

    Source: Nemenyi 1963; Demšar 2006, section 3.2.2.
    """
    from scipy.stats import studentized_range

    q = studentized_range.ppf(1 - SIGNIFICANT, rows, np.inf)
    return float(q * (rows * (rows + 1) / (12 * tracks)) ** 0.5)


def _groups(average: Mapping[str, float], distance: float) -> tuple[tuple[str, ...], ...]:
    """The largest groups of neighbours that are no further apart than `distance`, those of one left out."""
    labels = list(average)
    ends = [max(j for j in range(i, len(labels)) if average[labels[j]] - average[labels[i]] <= distance)
            for i in range(len(labels))]  # fmt: skip
    return tuple(tuple(labels[i : end + 1]) for i, end in enumerate(ends) if end > i and (i == 0 or end > ends[i - 1]))
