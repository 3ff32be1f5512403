"""What was read correctly before keeps its digest: these are of tracks as they were before tables and layouts."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clarena.plugins.host import Host
from clarena.run.planning import make_plan

N = np.arange(12 * 6 * 5 * 3).reshape(12, 6, 5, 3)
Y = np.arange(12) % 4
PIXELS = (N % 251).astype(np.uint8)
ARRAYS = {
    "bytes": (PIXELS, Y, "d82f586b72a50f8f9e22548d3327b93ac5a3ebdc717cd4f34ee8143c688399df"),
    "first": (PIXELS.transpose(0, 3, 1, 2), Y, "b61c13836f55c9ddb976a2da5c34fdf67912a1005542d3799674e9a09a804959"),
    "floats": (
        np.sin(N.reshape(12, -1)),
        np.array(["ant", "bee", "cat", "dog"])[Y],
        "efa94c99639d8b751b30a4cd7b6510bf61b5cd816a7df46653dcfdc245d27da4",
    ),
    "grey": (PIXELS[..., 0], Y + 7, "e46e19423f0fd04dd80f91810a440963fe721bd1c9b72470537120adcad472cb"),
}


def digest(path: Path) -> str:
    plan = make_plan(
        ["finetune"], benchmark=f"split:{path}", scenario=None, backbone="mlp", preset="standard", seeds=[0],
        settings={"benchmark": {"experiences": 2}}, limit=None, device="cpu", store=path.parent / "runs", retry=False,
        host=Host.discover(),
    )  # fmt: skip
    return plan.track.digest


@pytest.mark.parametrize("name", ARRAYS)
def test_arrays(tmp_path: Path, name: str) -> None:
    x, y, expected = ARRAYS[name]
    np.savez(tmp_path / f"{name}.npz", x_train=x[:8], y_train=y[:8], x_test=x[8:], y_test=y[8:])
    assert digest(tmp_path / f"{name}.npz") == expected


def test_images(tmp_path: Path) -> None:
    for row in range(12):
        folder = tmp_path / "photos" / ("train" if row < 8 else "test") / f"c{Y[row]}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(PIXELS[row]).save(folder / f"{row}.png")
    assert digest(tmp_path / "photos") == "0fc0de9fb0136b9c1d6cc9014e5525ca49b7d6e8357410a4d53cef48b0b12f22"


def test_texts(tmp_path: Path) -> None:
    texts = [f'"where is my {i % 7}, card number {i}?",{"abcd"[i % 4]}' for i in range(24)]
    (tmp_path / "t.csv").write_text("\n".join(["Text,label", *texts]))
    assert digest(tmp_path / "t.csv") == "fcd8ef61075fcabd1408c5a4b68904a3e0318e0084dc896064ce423169ed0854"
    rows = [
        {"sentence": f"é {i % 5} über {i}", "intent": i % 3, "split": "test" if i % 4 == 3 else "train"}
        for i in range(24)
    ]
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert digest(tmp_path / "t.jsonl") == "965eef2590b231781e8af67333b78e844719b3d3094efca15b92415ec90786ee"
