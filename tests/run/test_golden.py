"""Golden trajectories: a change of the host that moves results is noticed, and raises the protocol's revision.

What is compared, and how closely. The same environment gives the same bits, but another processor or release of torch
adds in another order: relative errors of 1e-7 that training carries on. So the numbers are compared within what such
errors can do, and no closer:

* the mean loss of each experience and the norm of each parameter at the end, to one part in a thousand. They depend
  on every batch, mask, initial weight and update, and a change of any of these moves them by far more;
* each cell of the accuracy matrix, to one test sample: one that lies on the boundary may fall to the other side.

That this is wide enough is tested as well: initial weights that are off by ten times the rounding error still pass.
That it is narrow enough, too: another seed, another learning rate by one part in a hundred, or one batch more fail.
Write the files anew with `python tests/test_golden.py`.
"""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from clarena_native.backbones import Mlp
from clarena_native.benchmarks.digits import SplitDigits
from clarena_native.strategies.er import ER
from clarena_native.strategies.ewc import EWC
from clarena_native.strategies.finetune import Finetune
from tiny import SCENARIOS, walk

from clarena.protocol.protocol import REVISION
from clarena.record.metrics import accuracy_matrix

FOLDER = Path(__file__).parent / "golden"
STRATEGIES = {
    "finetune": lambda: Finetune(),
    "ewc": lambda: EWC(strength=10.0),
    "ewc-online": lambda: EWC(strength=10.0, mode="online", decay=0.9, fisher="sample"),
    "er": lambda: ER(buffer_size=50),
}
MOVED = (
    "The results moved. If that is meant (the host's procedure changed), raise clarena.protocol.REVISION and "
    "regenerate with: python tests/test_golden.py. If not, undo what moved them."
)


def trajectory(strategy: str, scenario: str, seed: int = 0, error: float = 0.0, **protocol: Any) -> dict[str, Any]:
    """Two passes of the standard protocol over split-digits; `error` is the relative error of the first weights."""
    walked = walk(
        STRATEGIES[strategy](),
        scenario,  # type: ignore[arg-type]
        seed=seed,
        backbone=Mlp,
        options={"hidden": (50,)},
        benchmark=SplitDigits,
        **{"epochs": 2, "batch_size": 32, "learning_rate": 0.001, "buffer_size": 50} | protocol,
    )
    noise = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in walked.strategy.model.parameters():
            p.mul_(1 + error * torch.randn(p.shape, generator=noise))
    rows, losses = [walked.predict()], []
    for position in range(len(walked.realised.steps)):
        losses.append(walked.step(position).meter.mean_loss)
        rows.append(walked.predict())
    test = walked.realised.test
    matrix = accuracy_matrix(rows, test.labels, test.experience, len(test.classes))
    return {
        "revision": REVISION,
        "samples": np.bincount(test.experience).tolist(),
        "accuracy": [[None if math.isnan(cell) else round(cell, 6) for cell in row] for row in matrix.tolist()],
        "loss": [float(f"{loss:.6g}") for loss in losses],
        "norms": [float(f"{float(p.norm()):.6g}") for p in walked.parameters()],
    }


def differences(found: dict[str, Any], golden: dict[str, Any]) -> list[str]:
    """What differs by more than rounding can do."""
    wrong = [f"{key}: {found[key]}, was {golden[key]}" for key in ("revision", "samples") if found[key] != golden[key]]
    for key in ("loss", "norms"):
        if found[key] != pytest.approx(golden[key], rel=1e-3):
            wrong.append(f"{key}: {found[key]}, was {golden[key]}")
    one = 1.01 / np.array(golden["samples"])
    accuracy, expected = (np.array(part["accuracy"], dtype=float) for part in (found, golden))
    if accuracy.shape != expected.shape or (np.isnan(accuracy) != np.isnan(expected)).any():
        wrong.append(f"undefined cells: {found['accuracy']}, was {golden['accuracy']}")
    elif (np.nan_to_num(abs(accuracy - expected)) > one).any():
        wrong.append(f"accuracy: {found['accuracy']}, was {golden['accuracy']}")
    return wrong


def golden(strategy: str, scenario: str) -> dict[str, Any]:
    return json.loads((FOLDER / f"{strategy}.json").read_text())[scenario]  # type: ignore[no-any-return]


@pytest.mark.parametrize("scenario", SCENARIOS)
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_trajectory(strategy: str, scenario: str) -> None:
    wrong = differences(trajectory(strategy, scenario), golden(strategy, scenario))
    assert not wrong, "\n".join([MOVED, *wrong])


@pytest.mark.parametrize("scenario", SCENARIOS)
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_rounding_moves_nothing(strategy: str, scenario: str) -> None:
    assert not differences(trajectory(strategy, scenario, error=1e-6), golden(strategy, scenario))


@pytest.mark.parametrize(
    "change", [{"seed": 1}, {"learning_rate": 0.00101}, {"batch_size": 31}, {"weight_decay": 0.01}]
)
@pytest.mark.parametrize("strategy", ["finetune", "er"])
def test_a_real_change_is_noticed(strategy: str, change: dict[str, Any]) -> None:
    assert differences(trajectory(strategy, "class", **change), golden(strategy, "class"))


if __name__ == "__main__":
    torch.set_num_threads(1)
    FOLDER.mkdir(exist_ok=True)
    for name in STRATEGIES:
        by_scenario = {scenario: trajectory(name, scenario) for scenario in SCENARIOS}
        lines = [
            f' "{scenario}": {{\n' + ",\n".join(f'  "{k}": {json.dumps(v)}' for k, v in found.items()) + "\n }"
            for scenario, found in by_scenario.items()
        ]
        (FOLDER / f"{name}.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")
