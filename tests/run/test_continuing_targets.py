"""Going on where labels are no classes: as if the stream had been longer, and labels that do not fit are refused."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_language import SMALL, WIDTH
from trained_models import evaluated

import clarena
from clarena import DataError, Record, UsageError, continue_run, load_model
from clarena.plugins.host import PluginSources
from clarena.toolbox.states import differing

COUNTS = Path(clarena.__file__).parents[1] / "plugins" / "examples" / "counts.py"
HOUSES = '''

class Houses(Visitors):
    """The first houses, in their order."""

    name = "houses"

    def __init__(self, *, houses: int = 3) -> None:
        super().__init__()
        self.houses = houses

    def data(self) -> Data:
        data = super().data()
        kept, tested = (domain < self.houses for domain in (data.domain_train, data.domain_test))
        return Data(
            data.x_train[kept], data.y_train[kept], data.x_test[tested], data.y_test[tested], data.class_names,
            data.domain_train[kept], data.domain_test[tested], data.domain_names[: self.houses], target="counts",
        )

    def stream(self, data: Data, scenario: str, generator: np.random.Generator) -> Stream:
        return split_by_domain(data, scenario, "natural", generator)


@hookimpl
def clarena_register_benchmarks(register):
    register(Houses)
'''


def same_but_for_what_was_not_asked(record: Record, whole: Record) -> None:
    """What was not there yet could not be asked about it; all else is as in the longer stream.

    Test samples come in other batches, and a processor rounds a row of a product otherwise in another batch.
    """
    expected = np.array(whole.matrix)
    expected[:-1, -1] = np.nan
    assert record.matrix == pytest.approx(expected, nan_ok=True, abs=1e-6)
    assert record.output_names == whole.output_names
    assert [cost.steps for cost in record.costs] == [cost.steps for cost in whole.costs]


def states(*records: Record, store: Path, plugins: PluginSources | None = None) -> list[dict[str, Any]]:
    return [load_model(each, store, plugins=plugins).strategy.state_dict() for each in records]


@pytest.fixture(scope="module")
def houses(tmp_path_factory):
    """A plugin with three houses, of which two are learned, and the third as arrays."""
    folder = tmp_path_factory.mktemp("houses")
    (folder / "houses.py").write_text(COUNTS.read_text() + HOUSES)
    plugins = PluginSources(files=(folder / "houses.py",))
    from clarena.plugins.host import Host

    data = Host.discover(plugins).benchmarks.resolve("houses")().data()
    new = {"x_train": data.domain_train, "x_test": data.domain_test}
    arrays = {name: getattr(data, name)[domain == 2].numpy() for name, domain in new.items()}
    arrays |= {"y" + name[1:]: getattr(data, "y" + name[1:])[domain == 2].numpy() for name, domain in new.items()}
    np.savez(folder / "third.npz", **arrays)
    return folder, plugins, arrays


def of_houses(folder: Path, plugins: PluginSources, strategy: str, count: int) -> Record:
    settings = {"benchmark": {"houses": count}}
    results = evaluated(folder, strategy, benchmark="houses", plugins=plugins, settings=settings, limit=None)
    assert not results.errors
    return results.records[0]


@pytest.mark.parametrize("strategy", ["finetune", "er", "ewc", "lwf", "agem"])
def test_counts_go_on_as_in_a_longer_stream(strategy, houses, tmp_path):
    folder, plugins, _ = houses
    whole, record = (of_houses(tmp_path, plugins, strategy, count) for count in (3, 2))
    store = tmp_path / "runs"
    went = continue_run(record, folder / "third.npz", store=store, plugins=plugins, track=False)
    assert (went.status, went.target, went.score) == ("finished", "counts", "closeness")
    same_but_for_what_was_not_asked(went, whole)
    assert differing(*states(went, whole, store=store, plugins=plugins)) == ""


def test_counts_hold_out_a_share_evenly(houses, tmp_path):
    folder, plugins, arrays = houses
    record = of_houses(tmp_path, plugins, "finetune", 2)
    np.savez(tmp_path / "new.npz", x=arrays["x_train"], y=arrays["y_train"].astype(np.int64))
    went = continue_run(record, tmp_path / "new.npz", store=tmp_path / "runs", plugins=plugins, track=False)
    assert (went.experiences[-1].train_samples, went.experiences[-1].test_samples) == (
        64,
        48,
    )  # of 192, the protocol takes 64
    again = continue_run(went, folder / "third.npz", store=tmp_path / "runs", plugins=plugins, track=False)
    assert np.isfinite(again.matrix[-1]).all()  # what was held out travels with the model


BAD_COUNTS = [
    (lambda y: {}, "new.npz has no labels"),
    (lambda y: {"y": y[:, 0]}, r"Labels are \[\] of int32; this model takes \[3\] of int32"),
    (lambda y: {"y": y + 0.5}, r"Labels are \[3\] of float64; this model takes \[3\] of int32"),
    (lambda y: {"y": y - 100}, r"The labels in new.npz are torch.int32 \[240, 3\]. Give whole numbers, 0 or more"),
    (lambda y: {"y": y.astype(str)}, r"Labels must be numbers \[n, 3\]"),
    (lambda y: {"y": y[1:]}, "has 240 inputs and 239 labels"),
]


@pytest.mark.parametrize(("change", "message"), BAD_COUNTS, ids=range(len(BAD_COUNTS)))
def test_labels_that_are_not_the_target_s_are_refused(change, message, houses, tmp_path):
    folder, plugins, arrays = houses
    record = of_houses(folder, plugins, "finetune", 2)
    np.savez(tmp_path / "new.npz", x=arrays["x_train"], **change(arrays["y_train"]))
    with pytest.raises(DataError, match=message):
        continue_run(record, tmp_path / "new.npz", store=folder / "runs", plugins=plugins, track=False)


LETTERS = {"ab.txt": "ab ", "xyz.txt": "xyz ", "no.txt": "no-"}
TEXTS = {name: "".join(np.random.default_rng(0).choice([*letters], 600)) for name, letters in LETTERS.items()}


def write(folder: Path) -> list[str]:
    for name, text in TEXTS.items():
        (folder / name).write_text(text)
    return [str(folder / name) for name in TEXTS]


@pytest.mark.parametrize("strategy", ["finetune", "er", "lwf"])
@pytest.mark.parametrize("tokens", ["bytes", pytest.param("subwords", marks=pytest.mark.needs("tokenizers"))])
def test_a_language_model_reads_on(strategy, tokens, tmp_path):
    paths = write(tmp_path)
    settings = {"benchmark": SMALL | {"tokens": tokens, "subwords": 260}, "backbone": WIDTH}

    def trained(count: int) -> Record:
        benchmark = f"language:{','.join(paths[:count])}"
        options = {"benchmark": benchmark, "backbone": "text-transformer", "settings": settings, "limit": None}
        results = evaluated(tmp_path, strategy, **options)
        assert not results.errors
        return results.records[0]

    whole, record = trained(3), trained(2)
    benchmark = f"language:{','.join(paths[:2])}"
    went = continue_run(record, paths[2], store=tmp_path / "runs", track=False, benchmark=benchmark)
    same_but_for_what_was_not_asked(went, whole)
    assert went.bits_per_byte[-1] == pytest.approx(whole.bits_per_byte[-1], abs=1e-5)
    assert differing(*states(went, whole, store=tmp_path / "runs")) == ""
    model, samples = load_model(went, tmp_path / "runs"), load_model(went, tmp_path / "runs").read(paths[2])
    assert samples.y is not None
    assert model.scores(samples.x[:1]).shape == (1, 8, len(model.class_names))


def test_a_text_that_cannot_be_read_on_is_refused(tmp_path):
    paths = write(tmp_path)
    options = {"benchmark": f"language:{','.join(paths[:2])}", "backbone": "text-transformer"}
    record = evaluated(tmp_path, "finetune", **options, settings={"benchmark": SMALL, "backbone": WIDTH}).records[0]
    (tmp_path / "short.txt").write_text("a")
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\xff")
    for name, message in (("short.txt", "is too short"), ("binary.txt", "cannot be read as UTF-8")):
        with pytest.raises(DataError, match=message):
            continue_run(record, tmp_path / name, store=tmp_path / "runs", track=False)


def test_labels_of_tokens_come_in_an_npz(tmp_path):
    plugin = tmp_path / "tags.py"
    plugin.write_text(
        "import torch\nfrom clarena import Benchmark, Data, hookimpl, split_by_domain\n\n\n"
        'class Parity(Benchmark):\n    """Which are odd."""\n\n    name, scenarios = "parity", ("domain",)\n'
        "    vocabulary = 10\n\n    def data(self):\n        x = torch.arange(240).reshape(40, 6) * 7 % 10\n"
        "        y, site = x % 2, torch.arange(40) % 2\n        y[:, 0] = -100\n"
        '        names = ("even", "odd")\n'
        '        return Data(x, y, x, y, names, site, site, ("a", "b"), target="tokens")\n\n'
        "    def inputs(self, x):\n        return x\n\n    def stream(self, data, scenario, generator):\n"
        '        return split_by_domain(data, scenario, "natural", generator)\n\n\n'
        "@hookimpl\ndef clarena_register_benchmarks(register):\n    register(Parity)\n"
    )
    plugins = PluginSources(files=(plugin,))
    options = {"benchmark": "parity", "backbone": "text-transformer", "settings": {"backbone": WIDTH}}
    record = evaluated(tmp_path, "er", plugins=plugins, **options).records[0]
    x = torch.arange(60).reshape(10, 6) % 10
    np.savez(tmp_path / "new.npz", x=x, y=x % 2)
    went = continue_run(record, tmp_path / "new.npz", store=tmp_path / "runs", plugins=plugins, track=False)
    assert (went.status, went.target, len(went.experiences)) == ("finished", "tokens", 3)
    assert np.isfinite(went.matrix[-1]).all()
    np.savez(tmp_path / "odd.npz", x=x, y=x % 3)
    with pytest.raises(DataError, match=r"The labels in odd.npz run from 0 to 2, but there are 2 classes"):
        continue_run(record, tmp_path / "odd.npz", store=tmp_path / "runs", plugins=plugins, track=False)


# ---- Limits ----

SLEEPY = '''
import os
import time
from clarena import GradientStrategy, hookimpl


class Sleepy(GradientStrategy):
    """Does not wake up while it is dark."""

    name = "sleepy"

    def before_experience(self, experience):
        while os.environ.get("WEATHER") == "dark":
            try:
                time.sleep(0.1)
            except BaseException:  # nothing that Python does ends it
                pass


@hookimpl
def clarena_register_strategies(register):
    register(Sleepy)
'''


def test_a_run_that_takes_too_long_is_ended_and_recorded(tmp_path, monkeypatch):
    (tmp_path / "sleepy.py").write_text(SLEEPY)
    plugins = PluginSources(files=(tmp_path / "sleepy.py",))
    record = evaluated(tmp_path, "sleepy", plugins=plugins).records[0]
    x = np.arange(20 * 64).reshape(20, 1, 8, 8).astype(np.uint8) % 17
    np.savez(tmp_path / "new.npz", x=x, y=["ten"] * 20)
    options = {"store": tmp_path / "runs", "plugins": plugins, "track": False, "benchmark": "split-digits"}
    monkeypatch.setattr("clarena.run.executors.PATIENCE_SECONDS", 0.5)
    monkeypatch.setenv("WEATHER", "dark")
    late = continue_run(record, tmp_path / "new.npz", experience_timeout=5, **options)
    assert (late.status, late.reason) == ("timed_out", "experience 6 took longer than 5 s")
    assert np.array_equal(late.matrix[:6, :5], record.matrix, equal_nan=True)  # what was known before stays known
    monkeypatch.setenv("WEATHER", "light")
    assert continue_run(record, tmp_path / "new.npz", timeout=300, **options).status == "finished"
    with pytest.raises(UsageError, match="timeout = 0 is not valid"):
        continue_run(record, tmp_path / "new.npz", timeout=0, **options)
