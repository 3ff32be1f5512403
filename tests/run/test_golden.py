"""Golden trajectories: a change that moves results is noticed, and said in a revision or in a new row.

What is compared, and how closely. The same environment gives the same bits, but another processor or release of torch
adds in another order: relative errors of 1e-7 that training carries on. So the numbers are compared within what such
errors can do, and no closer:

* the mean loss of each experience and the norm of each parameter at the end (of a closed form, which has no loss, the
  norms of its sums), to one part in a thousand. They depend on every batch, mask, initial weight and update, and a
  change of any of these moves them by far more;
* each cell of the accuracy matrix, to one test sample: one that lies on the boundary may fall to the other side.

That this is wide enough is tested as well: initial weights that are off by ten times the rounding error still pass.
That it is narrow enough, too: another seed, another learning rate by one part in a hundred, or one batch more fail,
and no native passes for finetune. (To the bit, two versions are compared by `perf/same_bits.py`.)

Four files are of long runs of the host's procedure; the others, one for each native and a composite, are of short ones
at the strategy's defaults. Write one with `PYTHONPATH=tests python tests/run/test_golden.py NAME`.
"""

import json
import math
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from clarena_native.backbones.small import Mlp
from clarena_native.backbones.transformers import ViTTiny
from clarena_native.benchmarks.digits import SplitDigits
from clarena_native.strategies.references.finetune import Finetune
from clarena_native.strategies.regularisation.ewc import EWC
from clarena_native.strategies.replay.er import ER
from tiny import walk
from torch import nn

from clarena import Strategy
from clarena.checks.tiny import TinyTransformer, tiny_backbone
from clarena.plugins.host import Host, PluginSources
from clarena.protocol.protocol import REVISION, SCENARIOS
from clarena.record.metrics import accuracy_matrix
from clarena.run.testset import UNDEFINED

FOLDER = Path(__file__).parent / "golden"
HOST = Host.discover(PluginSources(third_party=False))

LONG = {
    "finetune": lambda: Finetune(),
    "ewc": lambda: EWC(strength=10.0),
    "ewc-online": lambda: EWC(strength=10.0, mode="online", decay=0.9, fisher="sample"),
    "er": lambda: ER(buffer_size=50),
}
LONG_RUN = {"epochs": 2, "batch_size": 32, "learning_rate": 0.001, "buffer_size": 50}

SHORT = [e.name for e in HOST.strategies if e.plugin == "native" and e.name not in LONG] + ["ewc+lwf+gem"]
SHORT_RUN = {"limit": 64, "epochs": 3, "batch_size": 16, "learning_rate": 0.005, "buffer_size": 50}
# At the first step of a distillation old and new scores are the same, and their gradient is what rounding leaves of 0.
# Adam makes a full step of it, in a random direction; plain SGD a step of nothing.
PLAIN = {"optimizer": "sgd", "learning_rate": 0.05}
# An ℓ₁ penalty turns its sign at 0, to where it draws: a small one, in small steps, does not go by rounding alone.
CHANGES = {"lwf": PLAIN, "icarl": PLAIN, "n-lora": PLAIN, "mer": {"limit": 24, "epochs": 2}}  # steps on single samples
# So it is with what has no gradient but rounding's: the biases of keys, which a softmax does not see.
CHANGES |= dict.fromkeys(("aper", "ease", "slca"), PLAIN | {"learning_rate": 0.5})
OPTIONS: dict[str, dict[str, Any]] = {
    "mer": {"draw_size": 4},
    "gdumb": {"epochs": 10},
    "n-lora": {"strength": 1e-3},
    "ranpac": {"projection": 200},
    "randumb": {"embedding": 200},
}

STRATEGIES: dict[str, Callable[[], Strategy]] = {
    **LONG,
    **{name: partial(HOST.strategy(name), **OPTIONS.get(name, {})) for name in SHORT},
}
RUNS = {name: LONG_RUN if name in LONG else SHORT_RUN | CHANGES.get(name, {}) for name in STRATEGIES}
CASES = [
    (name, scenario) for name, make in STRATEGIES.items() for scenario in SCENARIOS if scenario in make().scenarios
]
MOVED = (
    "The results moved. If the host's procedure was meant to change, raise REVISION (clarena.protocol.protocol) and "
    "write all files anew; if this strategy was, write its file anew, and say in the changelog that its earlier rows "
    "are of another version: PYTHONPATH=tests python tests/run/test_golden.py {}. If neither, undo what moved them."
)


def noisy(module: nn.Module, error: float, noise: torch.Generator) -> nn.Module:
    """The module with every parameter off by a relative error."""
    with torch.no_grad():
        for p in module.parameters():
            p.mul_(1 + error * torch.randn(p.shape, generator=noise))
    return module


def drawn_as_here() -> bool:
    """Whether this release of torch makes the same truncated normal values of a seed as the one of constraints.txt."""
    drawn = nn.init.trunc_normal_(torch.empty(2), generator=torch.Generator().manual_seed(0))
    return drawn.tolist() == pytest.approx([1.5409961, -0.2934289])


def trajectory(
    make: Callable[[], Strategy], scenario: str, seed: int = 0, error: float = 0.0, **protocol: Any
) -> dict[str, Any]:
    """A strategy on split-digits; `error` is the relative error of the first weights."""
    made = make()
    tokens = tiny_backbone(type(made)) is TinyTransformer
    if tokens and not drawn_as_here():
        pytest.skip(f"torch {torch.__version__} draws the first values of a vision transformer otherwise")
    walked = walk(
        made,
        scenario,  # type: ignore[arg-type]
        seed=seed,
        backbone=ViTTiny if tokens else Mlp,
        options={"patch": 2, "width": 24, "depth": 2} if tokens else {"hidden": (50,)},
        benchmark=SplitDigits,
        **protocol,
    )
    strategy, noise = walked.strategy, torch.Generator().manual_seed(0)
    noisy(strategy, error, noise)
    backbone = strategy.context.make_backbone  # for those that begin a network later, or another
    strategy.context.make_backbone = lambda: noisy(backbone(), error, noise)
    rows, losses = [walked.predict()], []
    for step in range(len(walked.realised.steps)):
        experience = walked.step(step)
        losses += [] if (loss := experience.meter.mean_loss) is None else [loss]
        rows += [[UNDEFINED] * len(rows[0])] * (experience.position + 1 - len(rows))  # those that joint leaves out
        rows.append(walked.predict())
    test = walked.realised.test
    matrix = accuracy_matrix(rows, test.labels, test.experience, len(test.classes))
    sums = [b for b in strategy.buffers() if b.is_floating_point()]  # of closed forms, which have no loss
    held = [*strategy.parameters(), *([] if losses else sums)]
    return {
        "revision": REVISION,
        "samples": np.bincount(test.experience).tolist(),
        "accuracy": [[None if math.isnan(cell) else round(cell, 6) for cell in row] for row in matrix.tolist()],
        "loss": [float(f"{loss:.6g}") for loss in losses],
        "norms": [float(f"{float(p.detach().norm()):.6g}") for p in held],
    }


def found(name: str, scenario: str, **changes: Any) -> dict[str, Any]:
    """The trajectory that the file of this name is of."""
    return trajectory(STRATEGIES[name], scenario, **RUNS[name] | changes)


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
    file = FOLDER / f"{strategy}.json"
    assert file.exists(), f"There is no golden trajectory. PYTHONPATH=tests python tests/run/test_golden.py {strategy}"
    return json.loads(file.read_text())[scenario]  # type: ignore[no-any-return]


@pytest.mark.parametrize(("strategy", "scenario"), CASES)
def test_trajectory(strategy: str, scenario: str) -> None:
    wrong = differences(found(strategy, scenario), golden(strategy, scenario))
    assert not wrong, "\n".join([MOVED.format(strategy), *wrong])


@pytest.mark.parametrize(("strategy", "scenario"), CASES)
def test_rounding_moves_nothing(strategy: str, scenario: str) -> None:
    assert not differences(found(strategy, scenario, error=1e-6), golden(strategy, scenario))


def test_there_is_no_file_of_nothing() -> None:
    assert {file.stem for file in FOLDER.iterdir()} == set(STRATEGIES)


@pytest.mark.parametrize(
    "change", [{"seed": 1}, {"learning_rate": 0.00101}, {"batch_size": 31}, {"weight_decay": 0.01}]
)
@pytest.mark.parametrize("strategy", ["finetune", "er"])
def test_a_real_change_is_noticed(strategy: str, change: dict[str, Any]) -> None:
    assert differences(found(strategy, "class", **change), golden(strategy, "class"))


@pytest.mark.parametrize("strategy", SHORT)
def test_the_runs_are_long_enough_to_show_the_mechanism(strategy: str) -> None:
    """With its switch off, or as finetune where it has none, the strategy ends elsewhere."""
    scenario = next(scenario for name, scenario in CASES if name == strategy)
    off = HOST.strategy(strategy).off
    control = partial(HOST.strategy(strategy), **off) if off else Finetune
    without = trajectory(control, scenario, **RUNS[strategy])
    assert differences(without, golden(strategy, scenario))


def write(name: str) -> None:
    """Write the file of one strategy anew."""
    parts = []
    for scenario in (scenario for case, scenario in CASES if case == name):
        items = found(name, scenario).items()
        values = ",\n".join(f'  "{key}": {json.dumps(value)}' for key, value in items)
        parts.append(f' "{scenario}": {{\n{values}\n }}')
    (FOLDER / f"{name}.json").write_text("{\n" + ",\n".join(parts) + "\n}\n")


if __name__ == "__main__":
    torch.set_num_threads(1)
    for name in sys.argv[1:]:
        write(name)
