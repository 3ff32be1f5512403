"""Made-up runs: as the board sees them, and as records with predictions in a store."""

import hashlib
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
from clarena_leaderboard.board import load_board
from clarena_leaderboard.collect import Found
from clarena_leaderboard.config import BoardConfig
from clarena_leaderboard.contents import Board, Run, Table
from clarena_leaderboard.sources import Collection
from records_with_predictions import summary

from clarena.protocol.protocol import NamedPart, Protocol, Track
from clarena.record.metrics import METRICS
from clarena.record.predictions import Predictions
from clarena.record.record import Cell, Cost, Record, StrategyInfo
from clarena.record.store import Store

MOMENT = datetime(2026, 3, 1, 12, tzinfo=UTC)
REFERENCES = ("finetune", "joint", "cumulative")


def track(name: str = "toy", **protocol: Any) -> Track:
    return Track(
        benchmark=NamedPart(name=name), scenario="class", backbone=NamedPart(name="mlp"), protocol=Protocol(**protocol)
    )


def info(name: str = "ewc", **changes: Any) -> StrategyInfo:
    facts = {
        "name": name,
        "source_hash": "a" * 64,
        "hyperparameters": {},
        "learning_rate": 0.001,
        "reference": name in REFERENCES,
    }
    return StrategyInfo(**facts | changes)


# --- as the board sees them

TOY = track()
_KNOWN: dict[int, tuple[Track, str]] = {}


def found(
    name: str = "ewc",
    seed: int = 0,
    accuracy: float = 0.5,
    *,
    at: Track = TOY,
    status: Any = "finished",
    day: int = 0,
    flaws: tuple[str, ...] = (),
    origin: str = "",
    metrics: dict[str, float] | None = None,
    **changes: Any,
) -> Found:
    """A run; every metric is its accuracy, unless `metrics` says otherwise."""
    strategy = info(name, **changes)
    _, digest = _KNOWN.setdefault(id(at), (at, at.digest))  # keeps the track, so that no other gets its id
    row = _sha(digest, name, strategy.hyperparameters, strategy.learning_rate, strategy.source_hash)
    run = Run(
        origin=origin or f"{digest[:4]}/{name}-{seed}-{day}",
        row=row,
        cell=_sha(row, seed),
        track=digest,
        seed=seed,
        status=status,
        reason="",
        metrics=dict.fromkeys(METRICS, accuracy) | (metrics or {}) if status == "finished" else {},
        flaws=flaws,
        train_seconds=1.0,
        predict_seconds=0.1,
        peak_memory_bytes=10,
        state_bytes=100,
        parameters=7,
        hardware="made up",
        started=(MOMENT + timedelta(days=day)).isoformat(),
        content=_sha(row, seed, accuracy, status, day),
    )
    return Found(run, strategy, at)


def row(name: str, accuracies: Sequence[float], **changes: Any) -> list[Found]:
    """A run for each accuracy, on seeds from 0."""
    return [found(name, seed, accuracy, **changes) for seed, accuracy in enumerate(accuracies)]


class Given:
    """A source of just these runs."""

    name = "a list"

    def __init__(self, runs: Iterable[Found]) -> None:
        self.runs = runs

    def collect(self, cache: Path | None = None) -> Collection:
        order = sorted(self.runs, key=lambda each: (each.run.started, each.run.cell, each.run.origin))
        return Collection(tuple(order), ())

    def load(self, run: Run) -> Any:
        raise NotImplementedError


def board(runs: Iterable[Found], previous: Any = None, submissions: Any = None, **config: Any) -> Board:
    return load_board(Given(runs), config=BoardConfig(**config), previous=previous, submissions=submissions)


def table(runs: Iterable[Found], **config: Any) -> Table:
    (only,) = board(runs, **config).tables
    return only


def _sha(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()


# --- as records in a store


def record(
    name: str = "ewc", seed: int = 0, right: int = 10, *, at: Track = TOY, day: int = 0, **fields: Any
) -> tuple[Record, Predictions]:
    """A run over two experiences of ten test samples each, which ends with so many of the first ten right.

    Final average accuracy (right / 10 + 1) / 2, forgetting 1 - right / 10.
    """
    labels, experience = np.repeat([0, 1], 10), np.repeat([0, 1], 10)
    predicted = np.full((3, 20), -1)
    predicted[1, :10] = 0
    predicted[2] = labels
    predicted[2, right:10] = 1
    predictions = Predictions.of_classes(predicted=predicted, labels=labels, experience=experience)
    started = MOMENT + timedelta(days=day, seconds=seed)
    cell = Cell(track=at, strategy=info(name), seed=seed)
    cost = dict.fromkeys(Cost.model_fields, 1)
    facts = {
        "cell": cell,
        "cell_id": cell.id,
        "track_digest": at.digest,
        "status": "finished",
        "output_names": ["cat", "dog"],
        "costs": [Cost(**cost), Cost(**cost | {"position": 2})],
        "environment": {"hardware": "made up"},
        "started": started,
        "ended": started + timedelta(seconds=1),
        **summary(predictions, ["cat", "dog"]),
    }
    return Record(**facts | fields), predictions


def keep(store: Store, *args: Any, **fields: Any) -> Record:
    """Write such a record with its predictions."""
    return store.write(*record(*args, **fields))
