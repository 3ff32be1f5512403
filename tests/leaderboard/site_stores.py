"""Small stores of made-up runs, one of them hostile, and the sites built from them."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
from clarena_leaderboard.board import load_board
from clarena_leaderboard.contents import Board
from clarena_leaderboard.site.publish import Report
from clarena_leaderboard.site.render import build_site
from clarena_leaderboard.sources import StoreSource
from records_with_predictions import summary

from clarena.protocol.protocol import NamedPart, Protocol, Scenario, Track
from clarena.record.predictions import Predictions
from clarena.record.record import Cell, Cost, ExperienceInfo, Record, Status, StrategyInfo
from clarena.record.store import Store

EXPERIENCES, SAMPLES = 3, 60
CLASSES = ["ant", "bee", "cat", "dog", "eel", "fox"]
MOMENT = datetime(2026, 1, 1, tzinfo=UTC)

EVIL = '"><img src=x onerror="window.hacked=1"></script><script>window.hacked=1</script><b a=\'{{7*7}}&amp;\u2028'
"""Ends an attribute, an element and a script, and would be a template."""


@dataclass(frozen=True)
class Made:
    """A row to be made: how often it is right about what it learned, and what is said of it."""

    name: str
    level: float
    seconds: float = 1.0
    state: int = 100_000
    family: str = "replay"
    settings: Mapping[str, Any] = field(default_factory=dict)
    status: Status = "finished"
    seeds: int | None = None
    said: str = ""
    paper: str = "Ant et al. 2020, On Ants & Bees. arXiv:2001.01234"

    @property
    def reference(self) -> bool:
        return self.name in ("finetune", "joint", "cumulative")


ROWS = (
    Made("finetune", 0.2, 1.0, 50_000, "reference"),
    Made("joint", 0.97, 1.2, 50_000, "reference"),
    Made("ewc", 0.5, 2.0, 150_000, "regularisation", {"strength": 100.0}),
    Made("er", 0.8, 2.5, 400_000, "replay", {"buffer_size": 200}),
    Made("gdumb", 0.9, 6.0, 390_000, "replay", {"buffer_size": 200}),
    Made("lwf", 0.45, 3.0, 100_000, "distillation"),
    Made("slow", 0.6, 90.0, 900_000, "replay"),
    Made("broken", 0.3, 1.0, 50_000, "replay", status="failed"),
    Made("young", 0.7, 1.0, 50_000, "replay", seeds=2),
)

HOSTILE = (
    Made("finetune", 0.2, family="reference"),
    Made("joint", 0.97, family="reference"),
    Made("=cmd|' /C calc'!A0" + EVIL, 0.8, 2.0, 10_000, EVIL, {EVIL: EVIL, "a": "\\input{/etc/passwd}"}, said=EVIL,
         paper=f"javascript:alert(1) http://plain.example https://good.example/a?b={EVIL}"),
    Made("../../../etc/passwd", 0.6, 3.0, 20_000, EVIL, said=EVIL, paper=EVIL),
    Made("%00 $&_#^~\\end{tabular}", 0.5, 4.0, 30_000, "replay", status="failed", said=EVIL),
)  # fmt: skip


def make_store(
    folder: Path,
    rows: Iterable[Made] = ROWS,
    *,
    scenarios: Iterable[Scenario] = ("class",),
    seeds: int = 10,
    benchmark: str = "made-up",
    classes: list[str] = CLASSES,
    hidden: int = 8,
) -> Path:
    """A store with a run for each row, scenario and seed."""
    store = Store(folder)
    for s, scenario in enumerate(scenarios):
        track = Track(
            benchmark=NamedPart(name=benchmark, options={"experiences": EXPERIENCES}, fingerprint="f" * 64),
            scenario=scenario,
            backbone=NamedPart(name="mlp", options={"hidden": [hidden]}),
            protocol=Protocol(),
        )
        for r, made in enumerate(rows):
            for seed in range(seeds if made.seeds is None else made.seeds):
                store.write(*_run(made, track, seed, 10_000 * s + 100 * r + seed, classes))
    return folder


def make_site(store: Path, out: Path) -> tuple[Board, Report]:
    """Read the store and write the site, as `clarena leaderboard build` does without its memory of the last build."""
    source = StoreSource(store)
    board = load_board(source)
    return board, build_site(board, source.load, out)


def _run(made: Made, track: Track, seed: int, number: int, classes: list[str]) -> tuple[Record, Predictions | None]:
    info = StrategyInfo(
        name=made.name,
        plugin=made.said or "native (clarena-bench 0.1.0)",
        source_hash="a" * 64,
        hyperparameters=dict(made.settings),
        learning_rate=0.001,
        reference=made.reference,
        summary=made.said or f"Does {made.name}",
        paper=made.paper,
        family=made.family,
        carries=made.said,
        chosen=made.said or "default",
    )
    cell = Cell(track=track, strategy=info, seed=seed)
    started = MOMENT + timedelta(minutes=number)
    base: dict[str, Any] = {
        "cell": cell,
        "cell_id": cell.id,
        "track_digest": cell.track.digest,
        "status": made.status,
        "environment": {"hardware": made.said or "made up, 2 cores", "python": "3.11"},
        "command": f"clarena evaluate {made.name}",
        "started": started,
        "ended": started + timedelta(seconds=30),
    }
    if made.status != "finished":
        return Record(**base, reason=made.said or "it broke", traceback=made.said or "Traceback: it broke"), None
    predictions = _predictions(made, number)
    costs = [
        Cost(
            position=position, train_seconds=made.seconds / EXPERIENCES, predict_seconds=0.01, peak_memory_bytes=10**8,
            state_bytes=made.state, parameters=5000, passes=1, steps=10, replayed=0, scanned=0, accesses=0,
            mean_loss=0.5,
        )
        for position in range(1, EXPERIENCES + 1)
    ]  # fmt: skip
    experiences = [
        ExperienceInfo(classes=classes[2 * j : 2 * j + 2], train_samples=40, test_samples=20)
        for j in range(EXPERIENCES)
    ]
    told = summary(predictions, classes)
    outcome = {name: told[name] for name in ("accuracy_matrix", "metrics")} | {"output_names": classes}
    return Record(**base, **outcome, experiences=experiences, costs=costs), predictions


def _predictions(made: Made, number: int) -> Predictions:
    """Right about the latest experience, and as often as `level` says about those before it."""
    generator = np.random.default_rng(number)
    owner = np.arange(SAMPLES) * EXPERIENCES // SAMPLES
    labels = 2 * owner + np.arange(SAMPLES) % 2
    time = np.arange(EXPERIENCES + 1)[:, None]
    right = generator.random((EXPERIENCES + 1, SAMPLES)) < np.where(owner[None] == time - 1, 0.97, made.level)
    predicted = np.where(right, labels, (labels + 1) % 6)
    predicted[owner[None] >= time] = -1  # not yet learned
    if made.name == "joint":
        predicted[:-1] = -1
    return Predictions.of_classes(predicted=predicted, labels=labels, experience=owner)
