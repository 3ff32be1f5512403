"""From records to a table one can trust: a row per strategy, mean and interval over seeds, nothing left out."""

import math
from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np

from clarena.protocol.presets import FINAL
from clarena.record.aliases import Aliases
from clarena.record.catalogue import ACCURACY, ACCURACY_METRICS, named, titled, unnamed
from clarena.record.curves import SHORT
from clarena.record.metrics import Metric
from clarena.record.record import Record, StrategyInfo, counted
from clarena.record.references import BELOW, LINE, below, missing
from clarena.record.scoring import further_of, scoring
from clarena.record.statistics import Interval, student_t_interval


@dataclass(frozen=True)
class Row:
    """One strategy with its hyper-parameters on one track, over its seeds.

    Attributes:
        info: which strategy, and with what.
        records: all its records, whatever their status, in the order of seeds.
        id: the row's digest; that of the newest code which theirs is proven to be.
        earlier: whether they are of before there were identities, and not proven to be those of a later row.
        metering: the newest revision of metering in the row's table: costs are averaged where they were measured alike.
    """

    info: StrategyInfo
    records: tuple[Record, ...]
    id: str = ""
    earlier: bool = False
    metering: int = 1

    @property
    def finished(self) -> list[Record]:
        """The records that count."""
        return [record for record in self.records if record.status == "finished"]

    @property
    def seeds(self) -> list[int]:
        """The seeds of the finished records."""
        return [record.cell.seed for record in self.finished]

    @property
    def score(self) -> str:
        """What its numbers are of: `accuracy`."""
        return next((record.score for record in self.finished), self.records[0].score)

    @property
    def headline(self) -> str:
        """The metric by which its track compares rows, by the name that it has for accuracies."""
        return self.records[0].cell.track.headline

    @property
    def recomputed(self) -> bool:
        """Whether its target's scoring half is installed, so that its numbers follow from what is kept."""
        return scoring(self.records[0].target) is not None

    def interval(self, metric: str) -> Interval | None:
        """Mean and Student-t interval of a metric over finished seeds; None where it is undefined.

        Args:
            metric: by the name that it has for accuracies, whatever the score is; a further one by its own.
        """
        return _interval([record.metric(metric) for record in self.finished])

    @property
    def probes(self) -> list[str]:
        """What probes of its backbone have measured, by name."""
        return list(dict.fromkeys(name for record in self.finished for name in record.probes))

    def changed(self, probe: str) -> Interval | None:
        """Mean and interval of how what a probe measures has changed from before the stream to its end."""
        return _interval([record.changed(probe) for record in self.finished])

    def total(self, attribute: str) -> float:
        """Mean over finished seeds of a record's attribute, such as `train_seconds`; NaN where there is none.

        Costs that were measured otherwise than the newest of the table are left out.
        """
        alike = counted(attribute, [self.metering])
        values = [float(getattr(record, attribute)) for record in self.finished if alike(record.metering)]
        return float(np.mean(values)) if values else math.nan

    @property
    def chance(self) -> float | None:
        """What one scores on average who looks at no input, mean over the records that know it; None for none."""
        known = [float(np.mean(record.chance)) for record in self.records if record.chance]
        return float(np.mean(known)) if known else None

    @property
    def earlier_metering(self) -> int:
        """How many finished runs have times that were measured otherwise, so that they are left out of the means."""
        alike = counted("train_seconds", [self.metering])
        return sum(not alike(record.metering) for record in self.finished)

    @property
    def problems(self) -> str:
        """What became of the seeds that did not finish: `2 diverged, 1 failed`; empty where all did."""
        counts = Counter(record.status for record in self.records if record.status != "finished")
        return ", ".join(f"{count} {status.replace('_', ' ')}" for status, count in counts.items())

    def as_dict(self) -> dict[str, Any]:
        """The row as plain data, for JSON and CSV; undefined numbers are None."""
        record = self.records[0]
        headline, first = named("final_average_accuracy", self.score), ("final_average_accuracy", "forgetting")
        accuracy, forgetting = (self.interval(name) for name in first)
        names = unnamed(record.metrics or (self.finished[0].metrics if self.finished else {}), self.score)
        return {
            "track": record.cell.track.label,
            "track_digest": record.track_digest,
            "row": self.id,
            "earlier_version": self.earlier,
            "strategy": self.info.name,
            "plugin": self.info.plugin,
            "reference": self.info.reference,
            "hyperparameters": self.info.hyperparameters,
            "learning_rate": self.info.learning_rate,
            "source_hash": self.info.source_hash,
            "identity": self.info.identity,
            "n": len(self.finished),
            "seeds": self.seeds,
            "target": record.target,
            "score": self.score,
            "unit": record.unit,
            "headline": named(self.headline, self.score),
            "chance": self.chance,
            "recomputed": self.recomputed,
            headline: accuracy.mean if accuracy else None,
            f"{headline}_low": finite_or_none(accuracy.low) if accuracy else None,
            f"{headline}_high": finite_or_none(accuracy.high) if accuracy else None,
            **{
                named(name, self.score): interval.mean if (interval := self.interval(name)) else None
                for name in names
                if name not in first
            },
            "forgetting": forgetting.mean if forgetting else None,
            **{f"{name}_change": found.mean if (found := self.changed(name)) else None for name in self.probes},
            "train_seconds": finite_or_none(self.total("train_seconds")),
            "predict_seconds": finite_or_none(self.total("predict_seconds")),
            "peak_memory_bytes": finite_or_none(self.total("peak_memory_bytes")),
            "parameters": finite_or_none(self.total("parameters")),
            "state_bytes": finite_or_none(self.total("state_bytes")),
            "metering": self.metering,
            "earlier_metering": self.earlier_metering,
            "problems": self.problems,
            "unranked": record.cell.track.unranked,
        }


def rows(records: list[Record], aliases: Aliases | None = None) -> list[Row]:
    """The rows of one track: references first, then by the track's headline, best first; ties by name.

    Args:
        records: of one track.
        aliases: which of their codes are proven to be one: those records share a row.
    """
    aliases = aliases or Aliases()
    grouped: dict[str, dict[int, Record]] = {}
    infos: dict[str, StrategyInfo] = {}
    for record in records:
        cell = aliases.newest(record.cell)
        seeds = grouped.setdefault(row := cell.row, {})
        if row not in infos or record.cell.row == row:  # as the newest code has it, where that has run
            infos[row] = record.cell.strategy if record.cell.row == row else cell.strategy
        other = seeds.get(record.cell.seed)
        if other is None or (other.status != "finished" and record.status == "finished"):
            seeds[record.cell.seed] = record
    newest = max((record.metering for record in records if record.status == "finished"), default=1)
    table = [
        Row(infos[row], tuple(seeds[seed] for seed in sorted(seeds)), row, not infos[row].identity, newest)
        for row, seeds in grouped.items()
    ]

    def order(row: Row) -> tuple[bool, float, str]:
        interval = row.interval(row.headline)
        return not row.info.reference, -(interval.mean if interval else -1.0), row.info.name

    return sorted(table, key=order)


def by_track(records: list[Record]) -> list[list[Record]]:
    """Records by track and score: of other digests, or of another score, they never share a table.

    What came to no matrix goes with the track's first.
    """
    first: dict[str, str] = {}
    for record in records:
        if record.matrix.size:
            first.setdefault(record.track_digest, record.score)
    tables: dict[tuple[str, str], list[Record]] = {}
    for record in records:
        score = record.score if record.matrix.size else first.get(record.track_digest, record.score)
        tables.setdefault((record.track_digest, score), []).append(record)
    return list(tables.values())


def below_line(table: list[Row]) -> list[bool]:
    """Of each row whether its headline is below that of the nearest class mean, on a track that starts from weights."""
    lines = [row for row in table if row.info.name == LINE and row.finished and row.records[0].cell.track.pretrained]
    if not lines:
        return [False] * len(table)
    line = _headlines(lines[0])
    return [row.info.name != LINE and below(_headlines(row), line) for row in table]


def _headlines(row: Row) -> dict[int, float]:
    found = {record.cell.seed: record.metric(row.headline) for record in row.finished}
    return {seed: value for seed, value in found.items() if math.isfinite(value)}


def row_labels(table: list[Row]) -> list[str]:
    """A name for each row; where a name occurs more than once, with what tells those rows apart.

    That is the hyper-parameters in which they differ, or where there are none, the beginning of the code's identity.
    """
    names = Counter(row.info.name for row in table)
    labels = []
    for row in table:
        label = row.info.name
        if names[label] > 1:
            rivals = [_settings(rival) for rival in table if rival.info.name == label]
            mine = _settings(row)
            varied = [key for key in mine if any(rival.get(key) != mine[key] for rival in rivals)]
            if sum(rival == mine for rival in rivals) > 1:
                mine, varied = mine | {"source": row.info.code[:8]}, [*varied, "source"]
            label += "".join(f" {key}={mine[key]}" for key in varied)
        labels.append(label)
    return labels


NOTHING = "–"
AS_STORED = "‡"
"""Marks a row whose target's scoring half is not installed: its matrix is taken as it stands."""
BENEATH = "§"
"""Marks a row that does not reach the nearest class mean on a track that starts from weights."""
EARLIER = "†"
"""Marks a row of before there were identities of code, which is not proven to be a row of today."""


def table_texts(table: list[Row]) -> tuple[list[str], list[list[str]]]:
    """Titles and cells of a track's table as a person reads them, the strategy first; wherever it is shown.

    Columns of further matrices (bits per byte), of probes and of what did not finish are there where a row has any; one
    of the pooled score where experiences are of unequal sizes, and one of the headline where that is another metric.
    """
    target = next((row.records[0].target for row in table if row.finished), "")
    further = [group[0] for group in further_of(target).values() if any(row.interval(group[0].name) for row in table)]
    problems = any(row.problems for row in table)
    pooled = any(_unequal(row) for row in table)
    own = any(row.headline != FINAL for row in table)
    score = max((row.score for row in table if row.finished), default=ACCURACY)
    titles = ["strategy", *["headline %"] * own, f"final {score} %", *["pooled %"] * pooled]
    titles += ["n", "forgetting %", "train s", "state"]
    probes = list(dict.fromkeys(name for row in table for name in row.probes))
    titles += [_column(metric) for metric in further] + [f"Δ {name.replace('_', ' ')}" for name in probes]
    titles += ["not finished"] * problems
    lines = []
    for label, row, beneath in zip(row_labels(table), table, below_line(table)):
        seconds = row.total("train_seconds")
        cells = [
            label + f" {EARLIER}" * row.earlier + f" {AS_STORED}" * (not row.recomputed) + f" {BENEATH}" * beneath,
            *[percent(row.interval(row.headline))] * own,
            percent(row.interval(FINAL)),
            *[percent(row.interval("final_pooled_accuracy"))] * pooled,
            str(len(row.finished)),
            percent(row.interval("forgetting")),
            NOTHING if math.isnan(seconds) else f"{seconds:.1f}",
            size(row.total("state_bytes")),
        ]
        cells += [(percent if metric.fraction else plain)(row.interval(metric.name)) for metric in further]
        cells += [plain(row.changed(name)) for name in probes]
        lines.append(cells + [row.problems] * problems)
    return titles, lines


def curve_texts(table: list[Row]) -> tuple[list[str], list[list[str]]]:
    """The same of what was measured within experiences; no lines where nothing was."""
    lines = [[label, *(percent(row.interval(name)) for name in SHORT)] for label, row in zip(row_labels(table), table)]
    measured = any(row.interval(name) for row in table for name in SHORT)
    return ["strategy", *(f"{title} %" for title in SHORT.values())], lines if measured else []


def legend(table: list[Row]) -> str:
    """What the numbers of a table are."""
    about = "Mean ± half-width of the 95 % Student-t interval over n seeds."
    about += " References come first; they are never ranked." * any(row.info.reference for row in table)
    for name in dict.fromkeys(row.headline for row in table if row.headline != FINAL):
        title = titled(ACCURACY_METRICS[name].title, table[0].score)
        about += f"\nHeadline, by which the track's paper compares: {title.lower()}."
    chance = [row.chance for row in table if row.chance is not None]
    if chance:
        about += (
            f"\nChance, the best that can be had without looking at an input: {100 * float(np.mean(chance)):.1f} %."
        )
    if any(below_line(table)):
        about += f"\n{BENEATH}: {BELOW} ({LINE}), on the seeds that both have."
    if table and (lacking := missing(table[0].records[0].cell.track, {row.info.name for row in table if row.finished})):
        about += f"\n{lacking}"
    if any(not row.recomputed for row in table):
        targets = ", ".join(dict.fromkeys(row.records[0].target for row in table if not row.recomputed))
        about += f"\n{AS_STORED}: not recomputed: no plugin that is installed, or named in CLARENA_PLUGINS, offers the "
        about += f"target {targets}."
    if any(row.earlier for row in table):
        about += f"\n{EARLIER}: of an earlier version, until it is proven to be today's: clarena store upgrade, "
        about += "clarena results attest."
    if earlier := sum(row.earlier_metering for row in table):
        about += f"\nTraining times of {earlier} runs are left out: they were measured before revision "
        about += f"{table[0].metering} of metering, and otherwise."
    return about


def percent(interval: Interval | None) -> str:
    """`91.3 ± 1.2`, or a dash where it is undefined."""
    return NOTHING if interval is None else interval.percent()


def plain(interval: Interval | None) -> str:
    """`2.31 ± 0.04`, or a dash where it is undefined; one number alone has no interval."""
    if interval is None:
        return NOTHING
    return f"{interval.mean:.2f}" + (f" ± {interval.half_width:.2f}" if interval.n > 1 else "")


def size(count: float) -> str:
    """Bytes as a person says them."""
    if math.isnan(count):
        return NOTHING
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return NOTHING


def _settings(row: Row) -> dict[str, Any]:
    return row.info.hyperparameters | {"learning_rate": row.info.learning_rate}


def _interval(values: list[float]) -> Interval | None:
    if not values or not all(map(math.isfinite, values)):
        return None
    return student_t_interval(values)


def _column(metric: Metric) -> str:
    """A column's title: `bits per byte`."""
    return metric.title.removeprefix("Final ").lower() + " %" * metric.fraction


def _unequal(row: Row) -> bool:
    """Whether one experience is tested on a quarter more samples than another, so that weighing them matters."""
    sizes = [each.test_samples for each in row.records[0].experiences]
    return max(sizes, default=0) > 1.25 * min(sizes, default=0)


def finite_or_none(value: float) -> float | None:
    """The number, or None where it is undefined."""
    return value if math.isfinite(value) else None
