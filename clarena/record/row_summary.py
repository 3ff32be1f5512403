"""What a person reviews of a row's archive: some thirty lines of TOML."""

import json
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from clarena.record.record import Record
from clarena.record.statistics import student_t_interval

VERSIONS = ("clarena-bench", "python", "torch", "numpy")


def row_summary(records: Sequence[Record], archive: str, sha256: str, size: int) -> str:
    """The summary of a row's records; the same records give the same text.

    Args:
        archive: name of the file that holds them, with its SHA-256 and its size in bytes.
    """
    first = records[0]
    info, track = first.cell.strategy, first.cell.track
    finished = [record for record in records if record.status == "finished"]
    lines = [
        "# A row of the board. Made by `clarena store pack` from the archive beside it; edits are lost.",
        *_pairs({"archive": archive, "sha256": sha256, "bytes": size}),
        "",
        *_pairs({"strategy": info.name, "plugin": info.plugin, "paper": info.paper, "reference": info.reference}),
        *_pairs({"track": track.label, "track_digest": first.track_digest, "row": first.cell.row}),
        *_pairs({"weights_have_seen": track.seen} if track.pretrained else {}),
        *_pairs({"code": info.source_hash, "chosen": info.chosen, "learning_rate": info.learning_rate}),
        *_pairs({"seeds": [record.cell.seed for record in records]}),
        *_pairs({"statuses": ", ".join(f"{n} {status}" for status, n in Counter(r.status for r in records).items())}),
        *_pairs({"command": first.command, "ran": f"{first.started:%Y-%m-%d} to {records[-1].ended:%Y-%m-%d}"}),
        "",
        "[hyperparameters]",
        *_pairs(info.hyperparameters),
        "",
        "[metrics] # mean ± half-width of the 95 % Student-t interval over finished seeds",
        *_pairs({name: _interval([r.metrics.get(name, math.nan) for r in finished]) for name in _metrics(finished)}),
        "",
        "[costs] # means over finished seeds; seconds depend on the machine",
        *_pairs({name: _mean([float(getattr(record, name)) for record in finished]) for name in _COSTS}),
        "",
        "[environment]",
        *_pairs({name: _each(r.environment.get(name, "") for r in records) for name in (*VERSIONS, "hardware")}),
    ]
    return "\n".join(lines) + "\n"


_COSTS = ("train_seconds", "predict_seconds", "peak_memory_bytes", "state_bytes", "parameters")


def _metrics(finished: Sequence[Record]) -> list[str]:
    return list(finished[0].metrics) if finished else []


def _interval(values: Sequence[float]) -> str:
    if not values or not all(map(math.isfinite, values)):
        return "undefined"
    found = student_t_interval(values)
    return f"{found.mean:.4f}" if not math.isfinite(found.high) else f"{found.mean:.4f} ± {found.high - found.mean:.4f}"


def _mean(values: Sequence[float]) -> float | int | str:
    if not values:
        return "undefined"
    mean = sum(values) / len(values)
    return round(mean) if mean >= 1000 else float(f"{mean:.4g}")


def _each(values: Iterable[str]) -> str:
    """Those that occur, each once."""
    return ", ".join(dict.fromkeys(value for value in values if value))


def _pairs(values: dict[str, Any]) -> list[str]:
    return [
        f"{name if name.replace('_', '').isalnum() and name.isascii() else _toml(name)} = {_toml(value)}"
        for name, value in values.items()
    ]


def _toml(value: Any) -> str:
    """A value in TOML: none as `--set` takes it, what is nested as JSON in a string."""
    if value is None:
        return '"none"'
    if isinstance(value, list) and all(isinstance(item, int | float | str) for item in value):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return repr(value)
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
