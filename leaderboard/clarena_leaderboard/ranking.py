"""Who is better than whom: paired tests within a table, and tiers of rows that cannot be told apart."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from clarena.protocol.protocol import Track
from clarena.record.catalogue import ACCURACY_METRICS
from clarena.record.references import BELOW, LINE, below
from clarena.record.statistics import SIGNIFICANT, SignFlip, holm, paired_sign_flip, smallest_p
from clarena_leaderboard.contents import Claim, Comparison, Entry

Values = NDArray[np.float64]
"""[n]: the sort key of a row on the table's seeds, in their order."""


def rank(ranked: Sequence[Entry], finetune: Entry | None, seeds: Sequence[int], sort_key: str) -> tuple[Entry, ...]:
    """Complete rows, best first, with their tiers and comparisons.

    Best is the mean of the sort key, in the direction of that metric; equal means are ordered by label. There are two
    families of tests, each corrected by itself: every row against the best one, and every row against finetune.

    Args:
        ranked: entries that have finished all seeds.
        finetune: the lower bound, complete as well, if there is one.
    """
    better = 1 if ACCURACY_METRICS[sort_key].higher_is_better else -1
    values = {entry.id: values_of(entry, seeds, sort_key) for entry in ranked}
    # Means that are equal but for rounding are equal, and equal means are ordered by label.
    order = sorted(ranked, key=lambda e: (-better * round(float(values[e.id].mean()), 12), e.label, e.id))
    if not order:
        return ()
    sample = [values[entry.id] for entry in order]
    against_best = [None, *against(order[0].label, sample[1:], sample[0], better)]
    against_finetune: Sequence[Comparison | None] = [None] * len(order)
    if finetune is not None and finetune.intervals[sort_key] is not None:
        bound = values_of(finetune, seeds, sort_key)
        against_finetune = against(finetune.label, sample, bound, better)
    return tuple(
        replace(entry, tier=tier, against_best=best, against_finetune=lower)
        for entry, tier, best, lower in zip(order, tiers(sample), against_best, against_finetune)
    )


def bound(name: str, references: Sequence[Entry], track: Track) -> Entry | None:
    """The reference of this name that counts where there are several, as with another source or learning rate.

    It is one of this project's own rather than a submitted one, with the protocol's own learning rate, and of these
    the one that was there first: whoever adds another moves nothing.
    """
    named = [entry for entry in references if entry.info.name == name]
    own = track.protocol.learning_rate
    return min(
        named,
        key=lambda e: (e.badge != "", e.info.learning_rate != own, min(run.started for run in e.runs), e.id),
        default=None,
    )


def below_line(entries: Sequence[Entry], track: Track) -> list[Entry]:
    """The same, with a caution on those below the nearest class mean, where the track starts from weights."""
    line = bound(LINE, entries, track)
    if not track.pretrained or line is None:
        return list(entries)
    values = _headlines(line, track)
    return [
        replace(entry, caution="; ".join(filter(None, [MARK, entry.caution])))
        if entry.info.name != LINE and MARK not in entry.caution and below(_headlines(entry, track), values)
        else entry
        for entry in entries
    ]


MARK = BELOW.capitalize()


def _headlines(entry: Entry, track: Track) -> dict[int, float]:
    found = {run.seed: run.metrics.get(track.headline, np.nan) for run in entry.finished}
    return {seed: value for seed, value in found.items() if np.isfinite(value)}


def values_of(entry: Entry, seeds: Sequence[int], metric: str) -> Values:
    """A metric of a row on these seeds, all of which it must have: [n]."""
    by_seed: Mapping[int, float] = {run.seed: run.metrics[metric] for run in entry.runs if run.status == "finished"}
    return np.array([by_seed[seed] for seed in seeds])


def against(rival: str, rows: Sequence[Values], other: Values, better: int) -> list[Comparison]:
    """One family of tests: each of several rows against the same other one, Holm-corrected together.

    A claim needs an adjusted p of at most 0.05. With m rows and n seeds no adjusted p is below m * 2 / 2^n; where
    that is more than 0.05, nothing can be claimed, and the comparison says so.

    Args:
        rival: label of the other row.
        better: +1 where more is better, -1 where less is.
    """
    if not rows:
        return []
    tests = [paired_sign_flip(row, other) for row in rows]
    family = len(tests)
    made = []
    for test, adjusted in zip(tests, holm([test.p_value for test in tests])):
        claim = claimed(test, float(adjusted), family, better)
        made.append(Comparison(rival, test.difference, test.p_value, float(adjusted), test.n, claim, test.exact))
    return made


def claimed(test: SignFlip, adjusted: float, family: int, better: int) -> Claim:
    """What a test allows one to say that is one of a family of so many."""
    if family * smallest_p(test.n) > SIGNIFICANT:
        return "too few seeds"
    if adjusted > SIGNIFICANT:
        return "not told apart"
    return "better" if better * test.difference > 0 else "worse"


def tiers(rows: Sequence[Values]) -> list[int]:
    """The tier of each row, [m], from 1: rows that cannot be told apart from the best one that is left.

    1. The first row that has no tier yet heads a new one.
    2. It is tested against every other row that has none; these tests are one family, Holm-corrected.
    3. Those with an adjusted p above 0.05 are in its tier. Go on with 1.

    So tier 1 is the best row with all rows that `against_best` does not tell from it. A row whose values scatter much
    may be in a better tier than one with a higher mean: nothing was shown against it.

    The head is chosen by the numbers it is then tested with, and no correction here undoes that: of boards whose rows
    are all equal, on ten seeds, more than one tier is made of 5 % with two rows, 6 % with four, and 10 % with eight or
    sixteen (simulated). The tests against finetune, which nobody chooses, hold their 5 %.

    Args:
        rows: best first, each over the same seeds.
    """
    tier = [0] * len(rows)
    left, number = list(range(len(rows))), 0
    while left:
        head, others = left[0], left[1:]
        number += 1
        tier[head] = number
        adjusted = holm([paired_sign_flip(rows[head], rows[i]).p_value for i in others]) if others else ()
        for i, p in zip(others, adjusted):
            if p > SIGNIFICANT:
                tier[i] = number
        left = [i for i in others if not tier[i]]
    return tier
