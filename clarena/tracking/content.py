"""What MLflow is told of a record: tags, parameters, metrics, data set and files."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from clarena.record import plots
from clarena.record.catalogue import named
from clarena.record.record import Cell, Cost, Record
from clarena.record.store import PREDICTIONS, RECORD

LONGEST_PARAMETER, LONGEST_TAG, LONGEST_DIGEST = 6000, 8000, 36
"""MLflow's limits, in characters."""

Point = tuple[str, float, int]
"""A metric's key, value and step."""


def tags(record: Record) -> dict[str, str]:
    """The tags that a record's run and its row share."""
    cell = record.cell
    info = cell.strategy
    tags = {
        "clarena.row": cell.row,
        "clarena.track": cell.track.digest,
        "clarena.label": cell.track.label,
        "clarena.strategy": info.name,
        "clarena.plugin": info.plugin,
        "clarena.source_hash": info.source_hash,
        "clarena.reference": str(info.reference).lower(),
        "clarena.target": record.target,
        "clarena.score": record.score,
        "clarena.unit": record.unit,
    }
    if info.identity:
        tags["clarena.identity"] = info.identity
    if cell.track.pretrained:
        tags["clarena.weights_have_seen"] = "\n".join(cell.track.seen)
    return tags | ({"clarena.unranked": cell.track.unranked} if cell.track.unranked else {})


def parameters(cell: Cell) -> dict[str, str]:
    """Everything that was set: hyper-parameters, options of benchmark, stream and backbone, protocol, seed."""
    track, info = cell.track, cell.strategy
    values: dict[str, Any] = {
        "strategy": info.name,
        "seed": cell.seed,
        "learning_rate": info.learning_rate,
        "benchmark": track.benchmark.name,
        "scenario": track.scenario,
        "backbone": track.backbone.name,
    }
    groups: dict[str, dict[str, Any]] = {
        "strategy": info.hyperparameters,
        "benchmark": track.benchmark.options,
        "stream": track.stream.model_dump(exclude_defaults=True),
        "backbone": track.backbone.options,
        "protocol": track.protocol.model_dump(),
    }
    for group, options in groups.items():
        values |= {f"{group}.{name}": value for name, value in options.items()}
    texts = {key: value if isinstance(value, str) else json.dumps(value) for key, value in values.items()}
    return {re.sub(r"[^\w.\- /:]", "_", key): shortened(text, LONGEST_PARAMETER) for key, text in texts.items()}


def metrics(record: Record) -> list[Point]:
    """Final metrics and total costs (step 0), then what changes by experience, then by training step."""
    points: list[Point] = [(name, value, 0) for name, value in record.metrics.items()]
    if record.chance:
        points.append(("chance", float(np.mean(record.chance)), 0))
    if record.costs:
        totals = ("train_seconds", "predict_seconds", "peak_memory_bytes", "state_bytes", "parameters")
        points += [(name, getattr(record, name), 0) for name in totals]
    for cost in record.costs:
        names = [name for name in Cost.model_fields if name != "position"]
        points += [(f"experience/{name}", getattr(cost, name), cost.position) for name in names]
    for name, matrix in {named("accuracy", record.score): record.matrix, **record.matrices}.items():
        for i, row in enumerate(matrix.tolist()):
            points += _by_experience(name, row, i, i)
    for name, values in record.probes.items():
        points += [(f"probe/{name}", value, position) for position, value in enumerate(values)]
    for point, step in zip(record.curve, plots.cumulative_steps(record)):
        points += _by_experience("within", point.accuracy, point.position, step)
    return [point for point in points if np.isfinite(point[1])]  # undefined is absent


def _by_experience(group: str, row: Sequence[float], seen: int, step: int) -> list[Point]:
    width = len(str(len(row)))
    points = [(f"{group}/exp_{j:0{width}d}", value, step) for j, value in enumerate(row, start=1)]
    return points + ([(f"{group}/average_seen", float(np.mean(row[:seen])), step)] if seen else [])


def data_set(record: Record) -> Any:
    """The benchmark's data, by the fingerprint of their source."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    data = record.cell.track.benchmark
    counts = {
        "experiences": len(record.experiences),
        "train_samples": sum(experience.train_samples for experience in record.experiences),
        "test_samples": sum(experience.test_samples for experience in record.experiences),
    }
    described = Dataset(
        name=data.name,
        digest=(data.fingerprint or record.track_digest)[:LONGEST_DIGEST],
        source_type="clarena",
        source=data.model_dump_json(),
        profile=json.dumps(counts),
    )
    return DatasetInput(described, [InputTag("mlflow.data.context", "training")])


def write_artifacts(record: Record, content: bytes, predictions: bytes | None, folder: Path) -> None:
    """Write what goes with a run's numbers as files."""
    (folder / RECORD).write_bytes(content)
    if predictions is not None:
        (folder / PREDICTIONS).write_bytes(predictions)
    if np.isfinite(record.matrix).any():
        (folder / named("accuracy_matrix.png", record.score)).write_bytes(plots.accuracy_matrix(record))
        (folder / named("accuracy_curves.png", record.score)).write_bytes(plots.accuracy_curves(record))
    (folder / "environment.json").write_text(json.dumps(record.environment, indent=1))
    (folder / "command.txt").write_text(record.command + "\n", encoding="utf-8")
    if record.class_report:
        (folder / "class_report.json").write_text(json.dumps(record.class_report, indent=1))
        confusion = {"classes": record.output_names, "counts": record.confusion_matrix}
        (folder / "confusion_matrix.json").write_text(json.dumps(confusion))
    if record.traceback:
        (folder / "traceback.txt").write_text(record.traceback, encoding="utf-8")


def shortened(text: str, longest: int) -> str:
    """The text, or where MLflow would cut it, its beginning with a word on where the rest is."""
    if len(text) <= longest:
        return text
    return f"{text[: longest - 100]}… ({len(text)} characters: see {RECORD})"
