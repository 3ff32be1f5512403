"""How long does a board of 5,000 runs take? (targets: from a store 60 s, then 5 s; from MLflow 120 s, then 10 s)

Whole processes: the first build of board and pages, then another after one new run. Each is timed without the pages
as well. The runs are made up: ten seeds of fifty rows on ten tracks, with predictions drawn at random.
Run: `python perf/leaderboard.py [runs] [folder that keeps the made-up runs for another time]`.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from time import perf_counter

import numpy as np
from made_up_mlflow import log

from clarena.protocol.protocol import NamedPart, Protocol, Track
from clarena.record.predictions import Predictions
from clarena.record.recomputation import facts
from clarena.record.record import Cell, Cost, ExperienceInfo, Record, StrategyInfo
from clarena.record.scorings import BUILT_IN
from clarena.record.store import Store
from clarena.tracking import Tracker

TRACKS, SEEDS, EXPERIENCES, SAMPLES = 10, 10, 5, 360
NAMES = [f"{i}" for i in range(10)]
MOMENT = datetime(2026, 1, 1, tzinfo=UTC)


def cells(runs: int) -> Iterator[Cell]:
    """So many cells: on each track, seed by seed, the references and then rows of one strategy at many strengths."""
    for i in range(runs):
        rest, seed = divmod(i, SEEDS)
        row, number = divmod(rest, TRACKS)
        track = Track(
            benchmark=NamedPart(name=f"made-up-{number}", options={"experiences": EXPERIENCES}),
            scenario="class",
            backbone=NamedPart(name="mlp"),
            protocol=Protocol(),
        )
        name = ("finetune", "joint")[row] if row < 2 else f"method{row % 7}"
        info = StrategyInfo(
            name=name,
            source_hash=f"{row:064d}",
            hyperparameters={"strength": float(row)} if row > 1 else {},
            learning_rate=0.001,
            reference=row < 2,
            family="made up",
        )
        yield Cell(track=track, strategy=info, seed=seed)


def outcome(cell: Cell, number: int) -> tuple[Record, Predictions]:
    """A run that predicts at random: right more often the stronger its strategy, and finetune least of all."""
    generator = np.random.default_rng(number)
    strength = cell.strategy.hyperparameters.get("strength", 0 if cell.strategy.name == "finetune" else 60)
    owner = np.arange(SAMPLES) * EXPERIENCES // SAMPLES
    labels = 2 * owner + generator.integers(0, 2, SAMPLES)
    right = generator.random((EXPERIENCES + 1, SAMPLES)) < 0.2 + 0.01 * strength
    predicted = np.where(right, labels, generator.integers(0, 10, (EXPERIENCES + 1, SAMPLES)))
    predicted[owner[None] >= np.arange(EXPERIENCES + 1)[:, None]] = -1  # what was not yet learned
    predictions = Predictions.of_classes(predicted=predicted, labels=labels, experience=owner)
    costs = [
        Cost(
            position=position,
            train_seconds=float(generator.random()),
            predict_seconds=0.01,
            peak_memory_bytes=10**9,
            state_bytes=10**6,
            parameters=10**5,
            passes=10,
            steps=900,
            replayed=0,
            scanned=0,
            accesses=0,
            mean_loss=0.1,
        )
        for position in range(1, EXPERIENCES + 1)
    ]
    started = MOMENT + timedelta(minutes=number)
    record = Record(
        cell=cell,
        cell_id=cell.id,
        track_digest=cell.track.digest,
        status="finished",
        output_names=NAMES,
        experiences=[ExperienceInfo(classes=NAMES[i : i + 2], train_samples=288, test_samples=72) for i in range(5)],
        costs=costs,
        environment={"hardware": "made up"},
        command="clarena evaluate",
        started=started,
        ended=started + timedelta(minutes=1),
        **facts(BUILT_IN["classes"], predictions, NAMES),
    )
    return record, predictions


def fill(store: Store, runs: int) -> None:
    """Write so many made-up runs."""
    for number, cell in enumerate(cells(runs)):
        store.write(*outcome(cell, number))


BOARD = """
import sys
from pathlib import Path
from clarena_leaderboard.board import load_board
from clarena_leaderboard.sources import open_source
store, uri, folder = sys.argv[1:]
board = load_board(open_source(Path(store), uri or None), cache=Path(folder) / "board.cache")
print(sum(len(entry.runs) for table in board.tables for entry in table.entries), "runs", end="")
"""

SITE = """
import sys
from pathlib import Path
from clarena_leaderboard.cli import build
store, uri, folder = sys.argv[1:]
build(store=Path(store), tracking_uri=uri or None, out=Path(folder) / "site")
"""


def timed(what: str, code: str, *arguments: object) -> None:
    """Run a program and say how long it took."""
    start, before = perf_counter(), os.times()
    done = subprocess.run([sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True)
    taken, after = perf_counter() - start, os.times()
    busy = after.children_user + after.children_system - before.children_user - before.children_system
    print(
        f"{what:<38} {taken:6.1f} s, {busy:6.1f} s of a core   {(done.stdout or done.stderr)[-200:].strip()}",
        flush=True,
    )


def main(runs: int = 5000, folder: str | None = None) -> None:
    """Make what is not there yet, and time both sources."""
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(folder or scratch)
        store, database = Store(place / f"runs{runs}"), place / f"mlflow{runs}" / "mlflow.db"
        if not store.path.exists():
            fill(store, runs)
        if not database.exists():
            log(store, database)
        uri = f"sqlite:///{database}"
        for name, source in (("store", ""), ("MLflow", uri)):
            out = Path(scratch) / name
            out.mkdir()
            for which in ("first", "same again", "one new run"):
                if which == "one new run":
                    held = len(list(store.path.glob("*/*/record.json")))
                    *_, cell = cells(held + 1)
                    made = store.write(*outcome(cell, held))
                    if source:
                        tracker = Tracker(store, uri)
                        tracker.log(made)
                        assert not tracker.failures, tracker.failures
                timed(f"{name}, {which}: board alone", BOARD, store.path, source, out)
                timed(f"{name}, {which}: board and pages", SITE, store.path, source, out)


if __name__ == "__main__":
    main(*(int(argument) if argument.isdigit() else argument for argument in sys.argv[1:]))  # type: ignore[arg-type]
