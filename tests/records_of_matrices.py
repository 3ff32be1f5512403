"""Records that no run made, for tests of what reads them."""

from datetime import UTC, datetime
from typing import Any

from clarena.protocol.protocol import NamedPart, Protocol, Scenario, Track, protocol
from clarena.record.metrics import summarise
from clarena.record.record import Cell, Cost, Record, StrategyInfo

NAN = float("nan")
CLASS = [[NAN, NAN, NAN], [0.9, NAN, NAN], [0.5, 0.8, NAN], [0.4, 0.6, 1.0]]
DOMAIN = [[0.1, 0.2, 0.1], [0.9, 0.2, 0.3], [0.5, 0.8, 0.2], [0.4, 0.6, 1.0]]
JOINT = [[NAN] * 3, [NAN] * 3, [NAN] * 3, [0.7, 0.8, 0.9]]


def track(scenario: Scenario = "class", **changes: Any) -> Track:
    """A track of Split Digits as it is by default."""
    return Track(
        benchmark=NamedPart(
            name="split-digits", options={"experiences": 5, "class_order": "seed"}, fingerprint="0" * 64
        ),
        scenario=scenario,
        backbone=NamedPart(name="mlp", options={"hidden": (400, 400), "norm": "none", "dropout": 0.0}),
        protocol=protocol("standard", changes),
    )


def make_record(
    matrix: list[list[float]],
    *,
    strategy: str = "ewc",
    seed: int = 0,
    held_equal: Protocol | None = None,
    **fields: Any,
) -> Record:
    """A record of a run that ended with this accuracy matrix; five steps in each experience."""
    made_up = Track(
        benchmark=NamedPart(name="split-toy", options={"experiences": len(matrix) - 1}, fingerprint="f" * 64),
        scenario="class",
        backbone=NamedPart(name="mlp", options={"hidden": [8]}),
        protocol=held_equal or Protocol(),
    )
    info = StrategyInfo(name=strategy, source_hash="0" * 64, hyperparameters={"strength": 10.0}, learning_rate=0.05)
    cell = Cell(track=made_up, strategy=info, seed=seed)
    costs = [
        Cost(
            position=position, train_seconds=0.5 * position, predict_seconds=0.25, peak_memory_bytes=1000 * position,
            state_bytes=10 * position, parameters=99, passes=1, steps=5, replayed=0, scanned=0, accesses=0,
            mean_loss=1 / position,
        )
        for position in range(1, len(matrix))
    ]  # fmt: skip
    made: dict[str, Any] = {
        "status": "finished",
        "accuracy_matrix": matrix,
        "metrics": summarise(matrix),
        "costs": costs,
        "started": datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
        "ended": datetime(2026, 1, 2, 3, 4, 15, tzinfo=UTC),
    }
    return Record(cell=cell, cell_id=cell.id, track_digest=made_up.digest, **made | fields)
