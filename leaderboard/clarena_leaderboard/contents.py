"""What a board is made of: runs make entries, entries make a table for each track, tables make the board.

Everything here is plain data, ready to be shown; `board` computes it from runs, `site` and `compare` show it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from clarena.protocol.protocol import Track
from clarena.record.catalogue import ACCURACY
from clarena.record.record import Status, StrategyInfo, counted
from clarena.record.references import missing
from clarena.record.statistics import Interval
from clarena.submission.verdict import Verdict

Standing = Literal["ranked", "reference", "apart"]
"""`ranked` rows compete, a `reference` is a bound, and what stands `apart` is shown with the reason, never ranked."""

Badge = Literal["", "claimed", "verified"]
"""How a row got here: by runs of this project's own, by a submission, or by one that was run again on hidden seeds."""


@dataclass(frozen=True)
class Run:
    """One record, condensed: every metric is recomputed from its predictions, or its matrix, never taken as logged.

    Attributes:
        origin: where the record is: a folder of a store, or `mlflow:<run id>`.
        row, cell, track: digests.
        seed: the one seed of the run; hidden seeds are those of a season.
        metrics: by the names that metrics have for accuracies, whatever the score is, and further ones by their own;
            NaN where undefined.
        flaws: in words, what is wrong with the record, such as a logged number that is not what its predictions say.
        train_seconds, predict_seconds, peak_memory_bytes, state_bytes, parameters: costs of the whole run; NaN where
            they were not told.
        metering: revision of how these were measured.
        hardware: what it ran on.
        started: ISO 8601.
        content: SHA-256 of the record as it is stored.
        target, score, unit: what was asked, what the metrics are of, and what that counts.
        chance: the mean over experiences of what one scores who looks at no input; NaN where it is not known.
        recomputed: whether the target's scoring half is installed; without, metrics follow from the stored matrix.
    """

    origin: str
    row: str
    cell: str
    track: str
    seed: int
    status: Status
    reason: str
    metrics: Mapping[str, float]
    flaws: tuple[str, ...]
    train_seconds: float
    predict_seconds: float
    peak_memory_bytes: float
    state_bytes: float
    parameters: float
    hardware: str
    started: str
    content: str = ""
    metering: int = 1
    target: str = "classes"
    score: str = ACCURACY
    unit: str = "samples"
    chance: float = float("nan")
    recomputed: bool = True


Claim = Literal["better", "worse", "not told apart", "too few seeds"]
"""What a comparison allows one to say."""


@dataclass(frozen=True)
class Comparison:
    """One row against another, paired by seed.

    Attributes:
        rival: label of the row compared with.
        difference: mean of ours minus theirs over the shared seeds.
        p_value: of the two-sided sign-flip test, before correction.
        adjusted: the same, Holm-corrected within its family; None where the family was not tested.
        n: shared seeds.
        claim: `better`, `worse`, `not told apart`, or `too few seeds` where no result could reach 0.05 after
            correction.
        exact: whether all patterns of signs were tried, or (above 16 seeds) a random sample of them.
    """

    rival: str
    difference: float
    p_value: float
    adjusted: float | None
    n: int
    claim: Claim
    exact: bool = True


@dataclass(frozen=True)
class SeasonRuns:
    """A row on the hidden seeds of one season.

    Attributes:
        season: its name.
        track: digest.
        strategy, reference: which one ran, and whether it is a bound.
        runs: their `seed` is its number in the season, by which rows are paired; costs were not told.
    """

    season: str
    track: str
    strategy: str
    reference: bool
    runs: tuple[Run, ...]


@dataclass(frozen=True)
class Log:
    """What became of a submission, from the ledger; every word of it may be a stranger's.

    Attributes:
        slug: of the submission.
        bundle: SHA-256 of its file.
        entered: the day on which it was added.
        authors, licence, paper, chosen: as its manifest says.
        verdicts: with the days on which they were added, oldest first.
    """

    slug: str
    bundle: str
    entered: str
    authors: tuple[str, ...]
    licence: str
    paper: str
    chosen: str
    verdicts: tuple[tuple[str, Verdict], ...] = ()


@dataclass(frozen=True)
class Submitted:
    """What the ledger knows of a row.

    Attributes:
        badge: empty for a reference, which a verifier ran beside what was submitted.
        seasons: its runs on hidden seeds, the latest season last; none where it is not verified.
        log: None for a reference.
    """

    badge: Badge
    seasons: tuple[SeasonRuns, ...] = ()
    log: Log | None = None


@dataclass(frozen=True)
class Entry:
    """A row: a strategy with its hyper-parameters on one track, over its seeds.

    Attributes:
        id: digest of the row.
        slug: name of its page, unique on the board: `ewc-1a2b3c4d`.
        label: what a reader calls it, unique in its table.
        runs: those on the table's seeds first, in the order of seeds, then others.
        intervals: by metric, over the table's seeds; None where undefined. Those of curves are there where the track's
            protocol tests within experiences.
        standing, reason: whether it is ranked, and why not.
        badge: claimed, verified, or neither.
        chosen: how its hyper-parameters were chosen: `default`, `paper`, `tuned (50 trials)`, …
        family: kind of method, such as `replay` or `regularisation`.
        tier: 1 for the best row and all that cannot be told apart from it, and so on; None where unranked.
        against_best, against_finetune: paired comparisons; None for the row itself, or where there is no such row.
        hidden: the headline of its track on the hidden seeds of the latest season; None where it was not verified.
        caution: in words, that it is below the nearest class mean of pre-trained features, or does significantly worse
            on hidden seeds than on its own; empty where neither is so.
        log: what the ledger tells of it, where it was submitted.
        metering: the newest revision of metering in its table.
    """

    id: str
    slug: str
    label: str
    info: StrategyInfo
    runs: tuple[Run, ...]
    intervals: Mapping[str, Interval | None]
    standing: Standing
    reason: str = ""
    badge: Badge = ""
    chosen: str = "default"
    family: str = ""
    tier: int | None = None
    against_best: Comparison | None = None
    against_finetune: Comparison | None = None
    hidden: Interval | None = None
    caution: str = ""
    log: Log | None = None
    metering: int = 1

    @property
    def finished(self) -> list[Run]:
        """The runs that count."""
        return [run for run in self.runs if run.status == "finished"]

    def mean(self, attribute: str) -> float:
        """Mean of a cost, such as `train_seconds`, over the finished runs; NaN where there is none.

        Costs that were measured otherwise than the newest of the table are left out.
        """
        alike = counted(attribute, [self.metering])
        values = [float(getattr(run, attribute)) for run in self.finished if alike(run.metering)]
        return sum(values) / len(values) if values else float("nan")

    @property
    def score(self) -> str:
        """What its numbers are of: `accuracy`."""
        return next((run.score for run in self.finished), ACCURACY)

    @property
    def recomputed(self) -> bool:
        """Whether all its numbers were computed again from what is kept."""
        return all(run.recomputed for run in self.finished)

    @property
    def earlier_metering(self) -> int:
        """How many finished runs have times that were measured otherwise, so that they are left out of the means."""
        alike = counted("train_seconds", [self.metering])
        return sum(not alike(run.metering) for run in self.finished)


@dataclass(frozen=True)
class Table:
    """One track: rows with different digests never share a table.

    Attributes:
        slug: name of its page, unique on the board.
        seeds: those a ranked row must have finished; `seeds_rule` says where they come from.
        sort_key: the metric that orders ranked rows, best first; its direction is that of the metric. It is the
            headline of the track, unless the board decides otherwise.
        references, ranked, apart: entries, each in the order shown.
        score, unit: what its numbers are of, and what that counts; `target` is what was asked. Rows of another score
            stand apart.
        hidden: the track's verified rows and references once more, a table for each season.
        season: of the hidden seeds of such a table, whose `seeds` are their numbers; else empty.
    """

    track: Track
    digest: str
    slug: str
    label: str
    seeds: tuple[int, ...]
    seeds_rule: str
    sort_key: str
    references: tuple[Entry, ...]
    ranked: tuple[Entry, ...]
    apart: tuple[Entry, ...]
    score: str = ACCURACY
    unit: str = "samples"
    target: str = "classes"
    hidden: tuple["Table", ...] = ()
    season: str = ""

    @property
    def headline(self) -> str:
        """The metric that stands first, with its bounds and in all charts: that of the track."""
        return self.track.headline

    @property
    def entries(self) -> tuple[Entry, ...]:
        """All of them, in the order shown."""
        return self.references + self.ranked + self.apart

    @property
    def missing_references(self) -> str:
        """In words, which references of a track that starts from weights have no finished run; empty where all have."""
        return missing(self.track, {entry.info.name for entry in self.entries if entry.finished})

    @property
    def chance(self) -> float | None:
        """What one scores on average who looks at no input, mean over the runs that know it; None where none does."""
        known = [run.chance for entry in self.entries for run in entry.finished if run.chance == run.chance]
        return sum(known) / len(known) if known else None

    @property
    def earlier_metering(self) -> int:
        """How many finished runs have times that were measured otherwise than the newest."""
        return sum(entry.earlier_metering for entry in self.entries)


@dataclass(frozen=True)
class Aggregate:
    """One strategy across tracks, normalised to each track's references: 0 is finetune, 1 is joint.

    Attributes:
        label: the strategy with its settings.
        scores: by track digest, one normalised score per seed.
        iqm: interquartile mean over all scores; low, high: its stratified bootstrap interval (resamples seeds
            within each track, never tracks).
    """

    label: str
    scores: Mapping[str, tuple[float, ...]]
    iqm: float
    low: float
    high: float


@dataclass(frozen=True)
class Across:
    """What can be said over several tracks.

    Attributes:
        tracks: digests of the tracks that count: those with both references.
        aggregates: strategies that are ranked on all of them, best first.
        left_out: why other strategies are not among them, by label.
        coverage: the share of simulated 95 % bootstrap intervals at this number of tracks and seeds that hold the
            truth; None without aggregates.
        thresholds, profiles: performance profile: by label, the share of scores above each threshold.
        average_ranks: by label, over tracks; None where fewer than two rows or tracks are balanced.
        critical: groups of labels, best first, that the Friedman and Nemenyi tests cannot tell apart; a row may be
            in several. Empty where the tests were not made.
        skipped: by label, tracks that do not count, and why.
        friedman_p: of the Friedman test, whose blocks are the tracks; None where it was not made.
        critical_distance: average ranks further apart than this differ by the Nemenyi test; None likewise.
        ranks_note: what is compared, or why nothing is.
    """

    tracks: tuple[str, ...]
    aggregates: tuple[Aggregate, ...]
    left_out: Mapping[str, str] = field(default_factory=dict)
    coverage: float | None = None
    thresholds: tuple[float, ...] = ()
    profiles: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    average_ranks: Mapping[str, float] | None = None
    critical: tuple[tuple[str, ...], ...] = ()
    friedman_p: float | None = None
    critical_distance: float | None = None
    ranks_note: str = ""
    skipped: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Change:
    """A row that appeared, changed or went since the board was last built, and why."""

    date: str
    kind: Literal["appeared", "changed", "went"]
    track: str
    label: str
    why: str


@dataclass(frozen=True)
class Board:
    """Everything that is shown.

    Attributes:
        tables: in the order of their labels.
        across: None where fewer than two tracks have both references.
        changes: newest first.
        problems: what could not be read, one sentence each.
        title, source: what the board is called, and where its runs come from.
    """

    tables: tuple[Table, ...]
    across: Across | None
    changes: tuple[Change, ...]
    problems: tuple[str, ...]
    title: str
    source: str
