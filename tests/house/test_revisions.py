"""A built-in backbone or benchmark that computes something else raises its `revision`.

Of built-ins no code is in a track's digest: the revision stands for it. So what they compute is written down here, for
small instances: of a backbone the norm of each parameter as it is first drawn, and its output in both modes; of a
benchmark the SHA-256 of arrays, rows, labels and names, which are whole numbers, and the norms of what a model gets.
Numbers with a fraction are compared to one part in a thousand, since another processor or release of torch rounds
otherwise. A release that draws other random numbers from one seed (2.4 does) leaves out the few entries that such draws
decide. Write it anew with `PYTHONPATH=tests python tests/house/test_revisions.py`.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from needs import needs

from clarena import Benchmark
from clarena.plugins.host import Host, PluginSources
from clarena.plugins.parameters import parse
from clarena.toolbox.seeding import Seeds, forked

FILE = Path(__file__).with_name("revisions.json")
HOST = Host.discover(PluginSources(third_party=False))
SHAPE, VOCABULARY = (3, 32, 32), 11

BACKBONES: dict[str, list[dict[str, Any]]] = {
    "mlp": [{"hidden": [5, 4], "norm": norm} for norm in ("none", "batch", "group", "layer")] + [{"dropout": 0.3}, {}],
    "mlp-truncated": [{"hidden": [5, 4]}, {}],
    "cnn": [{"widths": [4, 8], "features": 5, "norm": norm} for norm in ("none", "batch", "group", "layer")] + [{}],
    "resnet18": [{"width": 4, "norm": norm} for norm in ("none", "batch", "group", "layer")],
    "vit-tiny": [{"patch": 8, "width": 12, "depth": 2, "dropout": dropout} for dropout in (0.0, 0.2)],
    "text-transformer": [{"width": 12, "depth": 2, "heads": 3, "dropout": dropout} for dropout in (0.0, 0.2)],
    "avalanche/icarl-net": [{}],
    "avalanche/lenet5": [{}],
    "avalanche/simple-cnn": [{}],
    "avalanche/simple-mlp": [{}],
    "avalanche/slim-resnet18": [{}],
}
BENCHMARKS: dict[str, list[dict[str, Any]]] = {
    "split-digits": [{}, {"experiences": 3, "class_order": "natural"}],
    "permuted-digits": [{"experiences": 3}],
    "rotated-digits": [{"experiences": 4}, {"experiences": 3, "max_angle": 90.0, "order": "natural"}],
    "split:PATH": [{"experiences": 2}, {"experiences": 2, "class_order": "natural"}],
}
ELSEWHERE = {
    "pytorch, timm or transformers computes them": {"gpt2", "resnet18-imagenet", "hf:MODEL", "timm:NAME"}
    | {"torchvision:NAME"},
    "packages hold their weights, see tests/with_weights": {"efficientnet-lite0", "efficientnet-lite2"}
    | {"minilm", "smollm2"},
    "their files are not here": {"banking77", "clinc150", "core50-nc", "core50-ni", "domain:PATHS", "five-texts"}
    | {"language-stream", "language:PATHS", "sentiment-domains", "small-norb", "split-cifar10", "split-cifar100"}
    | {"split-cifar100-20", "split-small-norb", "split-tiny-imagenet", "torchvision:NAME"}
    | {f"{how}-{what}mnist" for how in ("split", "permuted", "rotated") for what in ("", "fashion-")}
    | {f"avalanche/{name}" for name in ("permuted-mnist", "rotated-mnist", "split-mnist", "split-fmnist")}
    | {"avalanche/split-cifar10", "avalanche/split-cifar100"},
    "continuum makes them": {
        f"continuum/{name}:PATH" for name in ("class-incremental", "instance-incremental", "permutations", "rotations")
    }
    | {"continuum/transformation-incremental:PATH"},
}
"""Entries that are not held to anything here, with the reason."""

DRAWS = {
    "dropout": lambda: torch.nn.functional.dropout(torch.ones(20), 0.3),
    "truncated normal": lambda: torch.nn.init.trunc_normal_(torch.empty(20)),
}
"""Random numbers of torch, which another release may draw otherwise from one seed."""

CASES = [("backbones", name, options) for name, found in BACKBONES.items() for options in found] + [
    ("benchmarks", name, options) for name, found in BENCHMARKS.items() for options in found
]


def label(kind: str, name: str, options: dict[str, Any]) -> str:
    return " ".join([name, *(f"{key}={value}" for key, value in options.items())])


def number(value: torch.Tensor) -> float:
    return float(f"{float(value):.6g}")


def drawn() -> dict[str, float]:
    """What this torch draws."""
    found = {}
    for name, draw in DRAWS.items():
        with forked(0):
            found[name] = number(draw() @ torch.arange(1.0, 21.0))
    return found


def decided_by(name: str, options: dict[str, Any]) -> set[str]:
    """The draws that a case hangs on."""
    dropout = {"dropout"} if options.get("dropout") else set()
    return dropout | ({"truncated normal"} if name in ("mlp-truncated", "vit-tiny") else set())


def backbone(name: str, options: dict[str, Any]) -> dict[str, Any]:
    """What a backbone begins with and computes."""
    cls = HOST.backbones.load(name)
    tokens = cls.takes_tokens
    shape = (7,) if tokens else SHAPE
    noise = torch.Generator().manual_seed(0)
    x = torch.randint(1, VOCABULARY, (4, *shape), generator=noise) if tokens else torch.rand(4, *shape, generator=noise)
    extra = (VOCABULARY, False) if tokens else ()
    with forked(0):
        made = cls(shape, *extra, **parse(cls, options, name))
        first = [number(p.detach().norm()) for p in made.parameters()]
        trained = made.train()(x).detach()
    tested = made.eval()(x).detach()
    places = torch.arange(1, tested.numel() + 1) / tested.numel()  # so that no two outputs may change places
    outputs = [number(part) for y in (trained, tested) for part in (y.norm(), (y.flatten() * places).norm())]
    names = hashlib.sha256("\n".join(made.state_dict()).encode()).hexdigest()
    return {"revision": cls.revision, "features": made.features, "names": names, "first": first, "outputs": outputs}


def mine(folder: Path) -> str:
    """Forty small images of four classes, and eight for the test."""
    x = np.random.RandomState(0).randint(0, 256, (48, 1, 4, 4)).astype(np.uint8)  # the legacy stream is fixed for good
    y = np.arange(48) % 4
    np.savez(folder / "mine.npz", x_train=x[:40], y_train=y[:40], x_test=x[40:], y_test=y[40:])
    return str(folder / "mine.npz")


def benchmark(name: str, options: dict[str, Any], folder: Path) -> dict[str, Any]:
    """What streams a benchmark makes of which data."""
    cls = HOST.benchmarks.load(name)
    if name == "split:PATH":
        cls = cls.of(mine(folder))
    made: Benchmark = cls(**parse(cls, options, name))
    data = made.data()
    found: dict[str, Any] = {"revision": cls.revision, "data": data.fingerprint()}
    for scenario in cls.scenarios:
        stream = made.stream(data, scenario, Seeds(0).numpy("class_order"))
        whole, norms = hashlib.sha256("\n".join(stream.output_names).encode()), []
        for split in stream.splits:
            for rows in (split.train, split.y_train, split.test, split.y_test):
                whole.update(rows.numpy().tobytes())
            x = made.inputs(data.x_train[split.train[:8]])
            x = x if split.transform is None else split.transform(x)
            places = torch.arange(1, x.numel() + 1) / x.numel()
            norms += [number(x.norm()), number((x.flatten() * places).norm())]
        found[scenario] = {"stream": whole.hexdigest(), "inputs": norms}
    return found


def computed(kind: str, name: str, options: dict[str, Any], folder: Path) -> dict[str, Any]:
    return backbone(name, options) if kind == "backbones" else benchmark(name, options, folder)


def same(found: Any, golden: Any) -> bool:
    """Alike, numbers with a fraction to one part in a thousand."""
    if isinstance(golden, dict):
        return found.keys() == golden.keys() and all(same(found[key], golden[key]) for key in golden)
    if isinstance(golden, list):
        return len(found) == len(golden) and all(map(same, found, golden))
    return bool(found == pytest.approx(golden, rel=1e-3)) if isinstance(golden, float) else bool(found == golden)


def complaint(what: str, kind: str, found: dict[str, Any], golden: dict[str, Any] | None) -> str | None:
    """What is to be done, if anything."""
    anew = "write the file anew: PYTHONPATH=tests python tests/house/test_revisions.py"
    if golden is None:
        return f"Nothing is written down of {what}: {anew}."
    if same(found, golden):
        return None
    if found["revision"] > golden["revision"]:
        return f"{what} is of revision {found['revision']} now: {anew}, and say in the changelog what changed."
    changed = [key for key in golden if not same(found.get(key), golden[key])]
    return (
        f"{what} computes something else ({', '.join(changed)}), and is of revision {found['revision']} as before: "
        f"records of both would stand in one table. If it is meant, raise `revision` of its class (by one; it is 1 "
        f"where the class names none), then {anew}. If it is not, undo it."
    )


@pytest.mark.parametrize(("kind", "name", "options"), CASES, ids=lambda value: value if isinstance(value, str) else "")
def test_what_is_computed_changes_with_the_revision_alone(kind, name, options, tmp_path):
    if name.startswith("avalanche/"):
        needs("avalanche")
    golden = json.loads(FILE.read_text())
    draws = drawn()
    if other := [draw for draw in decided_by(name, options) if not same(draws[draw], golden["draws"][draw])]:
        pytest.skip(f"torch {torch.__version__} draws {' and '.join(other)} otherwise")
    what = label(kind, name, options)
    found = computed(kind, name, options, tmp_path)
    problem = complaint(what, kind, found, golden[kind].get(what))
    assert problem is None, problem


def test_every_built_in_is_written_down_or_said_not_to_be():
    named = {*BACKBONES, *BENCHMARKS}.union(*ELSEWHERE.values())
    assert {e.name for found in (HOST.backbones, HOST.benchmarks) for e in found} == named


def test_a_change_is_noticed_until_the_revision_is_raised(monkeypatch):
    from clarena_native.backbones.small import Mlp

    options = {"hidden": [5, 4], "norm": "none"}
    golden = json.loads(FILE.read_text())["backbones"][label("backbones", "mlp", options)]
    forward = Mlp.forward
    monkeypatch.setattr(Mlp, "forward", lambda self, x: 1.01 * forward(self, x))
    problem = complaint("mlp", "backbones", backbone("mlp", options), golden)
    assert "computes something else (outputs)" in problem
    assert "raise `revision`" in problem
    monkeypatch.setattr(Mlp, "revision", 2)
    assert "write the file anew" in complaint("mlp", "backbones", backbone("mlp", options), golden)


if __name__ == "__main__":
    from tempfile import TemporaryDirectory

    torch.set_num_threads(1)
    content: dict[str, dict[str, Any]] = {"draws": drawn(), "backbones": {}, "benchmarks": {}}
    for kind, name, options in CASES:
        with TemporaryDirectory() as folder:
            content[kind][label(kind, name, options)] = computed(kind, name, options, Path(folder))
    parts = (
        f' "{kind}": {{\n'
        + ",\n".join(f"  {json.dumps(key)}: {json.dumps(value)}" for key, value in found.items())
        + "\n }"
        for kind, found in content.items()
    )
    FILE.write_text("{\n" + ",\n".join(parts) + "\n}\n")
