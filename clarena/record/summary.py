"""From records to a table one can trust: a row per strategy, mean and interval over seeds, nothing left out."""

import math
from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np

from clarena.record.curves import SHORT
from clarena.record.record import Record, StrategyInfo
from clarena.record.statistics import Interval, student_t_interval


@dataclass(frozen=True)
class Row:
    """One strategy with its hyper-parameters on one track, over its seeds.

    Attributes:
        info: which strategy, and with what.
        records: all its records, whatever their status, in the order of seeds.
    """

    info: StrategyInfo
    records: tuple[Record, ...]

    @property
    def finished(self) -> list[Record]:
        """The records that count."""
        return [record for record in self.records if record.status == "finished"]

    @property
    def seeds(self) -> list[int]:
        """The seeds of the finished records."""
        return [record.cell.seed for record in self.finished]

    def interval(self, metric: str) -> Interval | None:
        """Mean and Student-t interval of a metric over finished seeds; None where it is undefined."""
        return _interval([record.metrics.get(metric, math.nan) for record in self.finished])

    def total(self, attribute: str) -> float:
        """Mean over finished seeds of a record's attribute, such as `train_seconds`; NaN where none finished."""
        values = [float(getattr(record, attribute)) for record in self.finished]
        return float(np.mean(values)) if values else math.nan

    @property
    def problems(self) -> str:
        """What became of the seeds that did not finish: `2 diverged, 1 failed`; empty where all did."""
        counts = Counter(record.status for record in self.records if record.status != "finished")
        return ", ".join(f"{count} {status.replace('_', ' ')}" for status, count in counts.items())

    def as_dict(self) -> dict[str, Any]:
        """The row as plain data, for JSON and CSV; undefined numbers are None."""
        record = self.records[0]
        accuracy, forgetting = self.interval("final_average_accuracy"), self.interval("forgetting")
        return {
            "track": record.cell.track.label,
            "track_digest": record.track_digest,
            "strategy": self.info.name,
            "plugin": self.info.plugin,
            "reference": self.info.reference,
            "hyperparameters": self.info.hyperparameters,
            "learning_rate": self.info.learning_rate,
            "source_hash": self.info.source_hash,
            "n": len(self.finished),
            "seeds": self.seeds,
            "final_average_accuracy": accuracy.mean if accuracy else None,
            "final_average_accuracy_low": finite_or_none(accuracy.low) if accuracy else None,
            "final_average_accuracy_high": finite_or_none(accuracy.high) if accuracy else None,
            **{
                name: interval.mean if (interval := self.interval(name)) else None
                for name in record.metrics or (self.finished and self.finished[0].metrics) or {}
                if name not in ("final_average_accuracy", "forgetting")
            },
            "forgetting": forgetting.mean if forgetting else None,
            "train_seconds": finite_or_none(self.total("train_seconds")),
            "predict_seconds": finite_or_none(self.total("predict_seconds")),
            "peak_memory_bytes": finite_or_none(self.total("peak_memory_bytes")),
            "parameters": finite_or_none(self.total("parameters")),
            "state_bytes": finite_or_none(self.total("state_bytes")),
            "problems": self.problems,
            "unranked": record.cell.track.unranked,
        }


def rows(records: list[Record]) -> list[Row]:
    """The rows of one track: references first, then by final average accuracy, best first; ties by name."""
    grouped: dict[str, list[Record]] = {}
    for record in records:
        grouped.setdefault(record.cell.row, []).append(record)
    table = [
        Row(group[0].cell.strategy, tuple(sorted(group, key=lambda record: record.cell.seed)))
        for group in grouped.values()
    ]

    def order(row: Row) -> tuple[bool, float, str]:
        interval = row.interval("final_average_accuracy")
        return not row.info.reference, -(interval.mean if interval else -1.0), row.info.name

    return sorted(table, key=order)


def by_track(records: list[Record]) -> dict[str, list[Record]]:
    """Records by track digest: rows with different digests never share a table."""
    tracks: dict[str, list[Record]] = {}
    for record in records:
        tracks.setdefault(record.track_digest, []).append(record)
    return tracks


def row_labels(table: list[Row]) -> list[str]:
    """A name for each row; where a name occurs more than once, with what tells those rows apart.

    That is the hyper-parameters in which they differ, or where there are none, the beginning of the source's hash.
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
                mine, varied = mine | {"source": row.info.source_hash[:8]}, [*varied, "source"]
            label += "".join(f" {key}={mine[key]}" for key in varied)
        labels.append(label)
    return labels


NOTHING = "–"


def table_texts(table: list[Row]) -> tuple[list[str], list[list[str]]]:
    """Titles and cells of a track's table as a person reads them, the strategy first; wherever it is shown.

    Columns of bits per byte and of what did not finish are there where a row has any.
    """
    language = any(row.interval("final_bits_per_byte") for row in table)
    problems = any(row.problems for row in table)
    titles = ["strategy", "final accuracy %", "n", "forgetting %", "train s", "state"]
    titles += ["bits per byte"] * language + ["not finished"] * problems
    lines = []
    for label, row in zip(row_labels(table), table):
        seconds = row.total("train_seconds")
        cells = [
            label,
            percent(row.interval("final_average_accuracy")),
            str(len(row.finished)),
            percent(row.interval("forgetting")),
            NOTHING if math.isnan(seconds) else f"{seconds:.1f}",
            size(row.total("state_bytes")),
        ]
        lines.append(cells + [plain(row.interval("final_bits_per_byte"))] * language + [row.problems] * problems)
    return titles, lines


def curve_texts(table: list[Row]) -> tuple[list[str], list[list[str]]]:
    """The same of what was measured within experiences; no lines where nothing was."""
    lines = [[label, *(percent(row.interval(name)) for name in SHORT)] for label, row in zip(row_labels(table), table)]
    measured = any(row.interval(name) for row in table for name in SHORT)
    return ["strategy", *(f"{title} %" for title in SHORT.values())], lines if measured else []


def legend(table: list[Row]) -> str:
    """What the numbers of a table are."""
    about = "Mean ± half-width of the 95 % Student-t interval over n seeds."
    return about + " References come first; they are never ranked." * any(row.info.reference for row in table)


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


def finite_or_none(value: float) -> float | None:
    """The number, or None where it is undefined."""
    return value if math.isfinite(value) else None
