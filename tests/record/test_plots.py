"""Pictures: valid, sensible in size, and true to what they show."""

import io
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from records_of_matrices import CLASS, DOMAIN, JOINT, NAN, make_record

from clarena.record import plots
from clarena.record.record import CurvePoint


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
    drawing = (
        "import sys, records_of_matrices as m, clarena.record.plots as p; p.accuracy_curves(m.make_record(m.CLASS))"
    )
    asking = "sys.exit('matplotlib.pyplot' in sys.modules)"
    subprocess.run([sys.executable, "-c", f"{drawing}; {asking}"], cwd=Path(__file__).parents[1], check=True)
