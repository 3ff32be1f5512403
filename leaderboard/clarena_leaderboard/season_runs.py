"""Verified rows on hidden seeds: which rows a season has, and which of them did well on their own seeds only."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from clarena.protocol.protocol import Track
from clarena.record.record import StrategyInfo
from clarena.record.statistics import Interval, student_t_interval
from clarena_leaderboard.contents import Entry, SeasonRuns, Submitted
from clarena_leaderboard.rows import Candidate

BOUNDS = ("finetune", "joint")
"""References that a verifier runs on the hidden seeds; without them a row's numbers there have no scale."""

SIGNIFICANT = 0.01
"""Of `falls_by_chance`: of a hundred rows that do equally well everywhere, one is under suspicion."""


def of_season(
    digest: str, track: Track, public: Mapping[str, Entry], submissions: Mapping[str, Submitted]
) -> dict[str, list[Candidate]]:
    """The rows that have runs on hidden seeds of this track, by season; seasons with references alone are left out.

    Args:
        digest: of the track.
        public: its rows on public seeds, by id, which say what a row is.
    """
    seasons: dict[str, list[Candidate]] = {}
    ranked = set()
    for row, told in submissions.items():
        for each in told.seasons:
            if each.track == digest:
                info = public[row].info if row in public else _unknown(each, track)
                seasons.setdefault(each.season, []).append(Candidate(row, info, {run.seed: run for run in each.runs}))
                ranked |= {each.season} if not each.reference else set()
    return {season: seasons[season] for season in sorted(ranked)}


def _unknown(told: SeasonRuns, track: Track) -> StrategyInfo:
    """What is known of a reference that this board has not run itself."""
    return StrategyInfo(
        name=told.strategy,
        source_hash="",
        hyperparameters={},
        learning_rate=track.protocol.learning_rate,
        reference=told.reference,
    )


def with_bounds(entries: Sequence[Entry], season: str) -> list[Entry]:
    """The same, ranked only where both references are there, else apart with what is missing."""
    complete = {entry.info.name for entry in entries if entry.standing == "reference"}
    missing = [name for name in BOUNDS if name not in complete]
    if not missing:
        return list(entries)
    reason = f"the ledger has no complete {' and no complete '.join(missing)} on the hidden seeds of {season}"
    return [replace(e, standing="apart", reason=reason) if e.standing == "ranked" else e for e in entries]


def measured(runs: Iterable[float]) -> Interval | None:
    """The interval of what finished and is defined; None where nothing is."""
    values = [value for value in runs if np.isfinite(value)]
    return student_t_interval(values) if values else None


def caution(entry: Entry, told: SeasonRuns, metric: str) -> str:
    """That a row does significantly worse on hidden seeds than on its own, in words; else nothing."""
    own, hidden = (
        [value for run in runs if run.status == "finished" and np.isfinite(value := run.metrics.get(metric, np.nan))]
        for runs in (entry.runs, told.runs)
    )
    p = falls_by_chance(own, hidden)
    if p > SIGNIFICANT:
        return ""
    return (
        f"Worse on hidden seeds: {student_t_interval(hidden).percent()} % on those of {told.season}, "
        f"{student_t_interval(own).percent()} % on its own "
        f"(Welch's t-test, one-sided, {'p < 0.001' if p < 0.001 else f'p = {p:.3f}'})"
    )


def falls_by_chance(own: Sequence[float], hidden: Sequence[float]) -> float:
    """The one-sided p of Welch's t-test that the mean on hidden seeds is not below that on a row's own.

    t = (mean_own - mean_hidden) / sqrt(s²_own / n_own + s²_hidden / n_hidden)

    The two sets of seeds are not paired and may differ in number and in scatter. 1 where either has fewer than two
    values; where no value scatters, 0 if the mean is lower and else 1.

    Source: Welch 1947, The generalization of 'Student's' problem when several different population variances are
    involved.
    """
    from scipy.stats import ttest_ind_from_stats

    if min(len(own), len(hidden)) < 2:
        return 1.0
    if np.ptp(own) == np.ptp(hidden) == 0:
        return float(hidden[0] >= own[0])
    samples = [fact for values in (own, hidden) for fact in (np.mean(values), np.std(values, ddof=1), len(values))]
    return float(ttest_ind_from_stats(*samples, equal_var=False, alternative="greater").pvalue)
