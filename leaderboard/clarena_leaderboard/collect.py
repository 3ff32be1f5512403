"""Runs, condensed from their records: every number is recomputed, and what does not agree is said."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from clarena.protocol.protocol import Track
from clarena.record.aliases import Aliases
from clarena.record.catalogue import unnamed
from clarena.record.recomputation import Checked, disagreements
from clarena.record.record import Cell, StrategyInfo
from clarena.record.scoring import scoring
from clarena_leaderboard.contents import Run


@dataclass(frozen=True)
class Found:
    """A run, with the row and the track it belongs to."""

    run: Run
    info: StrategyInfo
    track: Track


def followed(found: Found, aliases: Aliases) -> Found:
    """The run under the newest code that its own is proven to be: the row that it counts for is that one's."""
    cell = aliases.newest(Cell(track=found.track, strategy=found.info, seed=found.run.seed))
    return Found(replace(found.run, row=cell.row), cell.strategy, found.track)


def condense(checked: Checked, origin: str, logged: Mapping[str, float] | None = None) -> Found:
    """What a board keeps of a record that was read.

    Args:
        origin: of the run.
        logged: metrics that were logged somewhere else as well, such as in MLflow.
    """
    record = checked.record
    finished = record.status == "finished"
    run = Run(
        origin=origin,
        row=record.cell.row,
        cell=record.cell_id,
        track=record.track_digest,
        seed=record.cell.seed,
        status=record.status,
        reason=record.reason or "",
        metrics=unnamed(checked.metrics, record.score) if finished else {},
        flaws=(*checked.flaws, *(disagreements(logged or {}, checked.metrics, "MLflow") if finished else ())),
        train_seconds=record.train_seconds,
        predict_seconds=record.predict_seconds,
        peak_memory_bytes=record.peak_memory_bytes,
        state_bytes=record.state_bytes,
        parameters=record.parameters,
        hardware=record.environment.get("hardware", ""),
        started=record.started.isoformat(),
        metering=record.metering,
        content=checked.sha256,
        target=record.target,
        score=record.score,
        unit=record.unit,
        chance=float(np.mean(record.chance)) if record.chance else float("nan"),
        recomputed=scoring(record.target) is not None,
    )
    return Found(run, record.cell.strategy, record.cell.track)
