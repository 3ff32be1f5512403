"""Made-up records with predictions, for what reads and packs them; nothing is trained."""

import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np

from clarena.protocol.protocol import NamedPart, Protocol, Track
from clarena.record.predictions import Predictions
from clarena.record.reader import seal
from clarena.record.recomputation import facts
from clarena.record.record import Cell, Cost, ExperienceInfo, Record, StrategyInfo
from clarena.record.scoring import scoring
from clarena.record.store import Store

MOMENT = datetime(2026, 3, 1, 12, tzinfo=UTC)
TRACK = Track(benchmark=NamedPart(name="toy"), scenario="class", backbone=NamedPart(name="mlp"), protocol=Protocol())


def summary(predictions: Predictions, names: Sequence[str]) -> dict[str, Any]:
    """The fields of a record that follow from predictions, of classes or of the tokens of a text."""
    target = scoring("classes" if predictions.log_probability is None else "text")
    assert target is not None
    return facts(target, predictions, names)


def made_predictions(seed: int = 0, *, samples: int = 60, classes: int = 6, language: bool = False) -> Predictions:
    """Three experiences, of which each row knows those before it."""
    rng = np.random.default_rng(seed)
    samples = max(samples, classes)
    labels = rng.integers(0, classes, samples)
    labels[:classes] = np.arange(classes)
    experience = labels * 3 // classes
    predicted = np.full((4, samples), -1)
    for row in range(1, 4):
        seen = experience < row
        predicted[row, seen] = np.where(rng.random(samples) < 0.7, labels, rng.integers(0, classes, samples))[seen]
    if not language:
        return Predictions.of_classes(predicted=predicted, labels=labels, experience=experience)
    likely = np.where(predicted < 0, np.nan, -rng.random((4, samples))).astype(np.float32)
    return Predictions.of_classes(
        predicted=predicted,
        labels=labels,
        experience=experience,
        log_probability=likely,
        text_bytes=rng.integers(1, 9, samples),
    )


def made_record(
    seed: int = 0, name: str = "ewc", *, track: Track = TRACK, language: bool = False, classes: int = 6, **fields: Any
) -> tuple[Record, Predictions]:
    """A finished run with numbers in all its fields."""
    predictions = made_predictions(seed, language=language, classes=classes)
    names = [f"class {number}" for number in range(classes)]
    rng = np.random.default_rng(seed + 1000)
    info = StrategyInfo(
        name=name, source_hash="a" * 64, hyperparameters={"strength": 1e-5, "kept": None}, learning_rate=0.001
    )
    cell = Cell(track=track, strategy=info, seed=seed)
    counts = {"peak_memory_bytes": 10**8, "state_bytes": 5000, "parameters": 1234, "steps": 40, "replayed": 3}
    costs = [
        Cost(
            position=position,
            train_seconds=rng.random(),
            predict_seconds=rng.random() / 1e6,
            passes=10.0,
            scanned=7,
            accesses=0,
            mean_loss=rng.random(),
            **counts,
        )
        for position in (1, 2, 3)
    ]
    facts: dict[str, Any] = {
        "cell": cell,
        "cell_id": cell.id,
        "track_digest": track.digest,
        "status": "finished",
        "output_names": names,
        "experiences": [ExperienceInfo(classes=names[:2], train_samples=9, test_samples=20) for _ in range(3)],
        "costs": costs,
        "environment": {"hardware": "made up", "python": "3.11"},
        "command": "clarena evaluate ewc",
        "started": MOMENT + timedelta(seconds=seed),
        "ended": MOMENT + timedelta(seconds=seed + 1),
        **summary(predictions, names),
    }
    return Record(**facts | fields), predictions


def kept(store: Store, *args: Any, **fields: Any) -> Record:
    """Such a record, written into a store."""
    return store.write(*made_record(*args, **fields))


def changed(path: Path, *, sealed: bool = True, **fields: Any) -> None:
    """Overwrite fields of a record on disk, as a forger would who knows of the hash, or else without any."""
    path.write_text(json.dumps(resealed(json.loads(path.read_text()) | fields, sealed=sealed)))


def resealed(content: dict[str, Any], *, sealed: bool = True) -> dict[str, Any]:
    """A record as data with the hash that it has now, or without: where it is to have none, or can have none."""
    content = {name: value for name, value in content.items() if name != "sha256"}
    try:
        return content | ({"sha256": seal(content)} if sealed else {})
    except ValueError:
        return content
