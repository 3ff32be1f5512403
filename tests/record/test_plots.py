"""Pictures: valid, sensible in size, and true to what they show."""

import io
import subprocess
import sys
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from clarena.protocol.protocol import NamedPart, Protocol, Track
from clarena.record import plots
from clarena.record.metrics import summarise
from clarena.record.record import Cell, Cost, CurvePoint, Record, StrategyInfo

NAN = float("nan")
CLASS = [[NAN, NAN, NAN], [0.9, NAN, NAN], [0.5, 0.8, NAN], [0.4, 0.6, 1.0]]
DOMAIN = [[0.1, 0.2, 0.1], [0.9, 0.2, 0.3], [0.5, 0.8, 0.2], [0.4, 0.6, 1.0]]
JOINT = [[NAN] * 3, [NAN] * 3, [NAN] * 3, [0.7, 0.8, 0.9]]


def make_record(
    matrix: list[list[float]], *, strategy: str = "ewc", seed: int = 0, protocol: Protocol | None = None, **fields: Any
) -> Record:
    """A record of a run that ended with this accuracy matrix; five steps in each experience."""
    track = Track(
        benchmark=NamedPart(name="split-toy", options={"experiences": len(matrix) - 1}, fingerprint="f" * 64),
        scenario="class",
        backbone=NamedPart(name="mlp", options={"hidden": [8]}),
        protocol=protocol or Protocol(),
    )
    info = StrategyInfo(name=strategy, source_hash="0" * 64, hyperparameters={"strength": 10.0}, learning_rate=0.05)
    cell = Cell(track=track, strategy=info, seed=seed)
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
    return Record(cell=cell, cell_id=cell.id, track_digest=track.digest, **made | fields)


def stream(experiences: int) -> list[list[float]]:
    """A matrix of any size: what was learned stays at 0.9, the rest is undefined."""
    return [[0.9 if j < i else NAN for j in range(experiences)] for i in range(experiences + 1)]


def pixels(png: bytes) -> np.ndarray:
    assert png.startswith(b"\x89PNG\r\n\x1a\n")
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)


@pytest.mark.parametrize("picture", [plots.accuracy_matrix, plots.accuracy_curves])
@pytest.mark.parametrize(
    "matrix", [CLASS, DOMAIN, JOINT, stream(1), stream(12), stream(13), stream(60)],
    ids=["class", "domain", "joint", "T=1", "T=12", "T=13", "T=60"],
)  # fmt: skip
def test_every_shape_of_matrix_gives_a_picture_of_sensible_size(picture, matrix):
    image = pixels(picture(make_record(matrix)))
    height, width, _ = image.shape
    assert 250 <= height <= 1200
    assert 400 <= width <= 1200
    assert (image != 255).any()


def test_different_matrices_give_different_pictures_and_equal_ones_the_same():
    other = [row[:] for row in CLASS]
    other[2][0] = 0.7
    for picture in (plots.accuracy_matrix, plots.accuracy_curves):
        assert picture(make_record(CLASS)) == picture(make_record(CLASS))
        assert picture(make_record(CLASS)) != picture(make_record(other))


def test_the_heatmap_shows_each_value_in_its_place():
    """Bright where an experience was just learned, dark below it where it is forgotten, grey where undefined."""
    image = pixels(plots.accuracy_matrix(make_record([[NAN, NAN], [1.0, NAN], [0.0, 1.0]])))
    yellow, purple, grey = (253, 231, 37), (68, 1, 84), (236, 236, 236)
    body = image[:, : int(image.shape[1] * 0.75)]  # without the scale at the right
    (top, left), (bottom, right) = (
        corner(np.argwhere((abs(body - yellow) < 6).all(axis=-1)), axis=0) for corner in (np.min, np.max)
    )
    quarters = [[yellow, grey], [purple, yellow]]
    for (i, j), _ in np.ndenumerate(np.zeros((2, 2))):
        y, x = top + (bottom - top) * (0.15 + 0.5 * i), left + (right - left) * (0.15 + 0.5 * j)
        patch = image[int(y) : int(y) + 8, int(x) : int(x) + 8].reshape(-1, 3)
        assert np.median(patch, axis=0) == pytest.approx(quarters[i][j], abs=6), (i, j)


def test_curves_within_experiences_add_a_panel():
    curve = [
        CurvePoint(position=position, step=step, accuracy=[0.1 * step] * 3) for position in (1, 2, 3) for step in (2, 4)
    ]
    plain, within = make_record(CLASS), make_record(CLASS, curve=curve)
    assert pixels(plots.accuracy_curves(within)).shape[0] > 1.5 * pixels(plots.accuracy_curves(plain)).shape[0]


def test_steps_count_over_the_whole_stream():
    points = [(1, 2), (1, 4), (2, 2), (3, 4)]
    curve = [CurvePoint(position=position, step=step, accuracy=[0.5] * 3) for position, step in points]
    assert plots.cumulative_steps(make_record(CLASS, curve=curve)) == [2, 4, 7, 14]
    stopped = make_record(CLASS, curve=curve)
    stopped = stopped.model_copy(update={"costs": stopped.costs[:2]})  # ended within the third experience
    assert plots.cumulative_steps(stopped) == [2, 4, 7, 14]


def test_a_long_name_with_mathematical_signs_is_drawn_as_it_is():
    record = make_record(CLASS, strategy="group/ewc+lwf$_{x}$" * 6, status="out_of_memory")
    assert pixels(plots.accuracy_matrix(record))[:, -3:].min() == 255  # it ends before the margin


def test_any_thread_may_draw():
    drawn: list[bytes] = []
    thread = threading.Thread(target=lambda: drawn.append(plots.accuracy_curves(make_record(CLASS))))
    thread.start()
    thread.join()
    assert drawn == [plots.accuracy_curves(make_record(CLASS))]


def test_pyplot_which_is_not_for_threads_stays_out():
    drawing = "import sys, test_plots as t; t.plots.accuracy_curves(t.make_record(t.CLASS))"
    asking = "sys.exit('matplotlib.pyplot' in sys.modules)"
    subprocess.run([sys.executable, "-c", f"{drawing}; {asking}"], cwd=Path(__file__).parent, check=True)
