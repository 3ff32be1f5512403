"""Features of a frozen backbone: computed once, kept, learned from as any input, and by whom they cannot be."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import fixed_networks
import numpy as np
import pytest
import torch
from clarena_native.benchmarks.digits import SplitDigits
from fixed_networks import Drawn, Fixed
from trained_models import rows_of

from clarena import DataError, Store, StoreError, UsageError, continue_run, evaluate, load_model
from clarena.plugins.host import PluginSources
from clarena.run.cache import Cache, size_named
from clarena.run.features import BATCH


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """A cache of the test's own."""
    monkeypatch.setenv("CLARENA_CACHE", str(tmp_path / "cache"))
    return Cache()


def run(tmp_path, strategies="finetune", backbone=Fixed, *, frozen="true", store="runs", **options):
    settings = {"backbone": {"frozen": frozen}, **options.pop("settings", {})}
    chosen = {"benchmark": "split-digits", "seeds": 1, "jobs": 1, "track": False, "protocol": "smoke"} | options
    results = evaluate(strategies, backbone=backbone, settings=settings, store=tmp_path / store, **chosen)
    assert not results.errors
    return results


def inputs():
    benchmark = SplitDigits()
    data = benchmark.data()
    return data, benchmark.inputs(data.x_train), benchmark.inputs(data.x_test)


def test_they_are_what_the_backbone_makes_of_every_input_and_are_kept_once(tmp_path, cache):
    run(tmp_path, protocol="standard", settings={"protocol": {"epochs": 1}})
    _, train, test = inputs()
    network = Fixed((1, 8, 8)).eval()
    with torch.no_grad():
        expected = [network(train), network(test)]
    kept = {entry.facts["of"]: cache.kept(entry.key) for entry in cache.entries()}
    assert sorted(kept) == ["split-digits, test samples", "split-digits, training samples"]
    torch.testing.assert_close(kept["split-digits, training samples"], expected[0])
    torch.testing.assert_close(kept["split-digits, test samples"], expected[1])


def test_a_run_from_the_cache_never_makes_the_backbone_and_other_splits_of_the_data_share_it(tmp_path, cache):
    run(tmp_path, protocol="standard", settings={"protocol": {"epochs": 1}})
    before, made = {entry.key for entry in cache.entries()}, Fixed.made
    options = {"protocol": {"epochs": 1}, "benchmark": {"experiences": 2}}
    run(tmp_path, ["finetune", "er", "ewc", "ncm"], seeds=[7], protocol="standard", settings=options)
    assert Fixed.made == made
    assert {entry.key for entry in cache.entries()} == before


def test_what_is_learned_is_what_a_frozen_backbone_with_a_head_learns(tmp_path):
    """NCM of features that were kept is NCM on the backbone itself: the same answers."""
    kept = run(tmp_path, "ncm", protocol="standard").records[0]
    chosen = {"benchmark": "split-digits", "backbone": Fixed, "seeds": 1, "jobs": 1, "track": False}
    direct = evaluate("ncm", store=tmp_path / "direct", **chosen).records[0]
    np.testing.assert_array_equal(kept.matrix, direct.matrix)
    assert kept.cell.track.digest != direct.cell.track.digest
    assert kept.cell.track.label == "split-digits/class/fixed+frozen/standard"


def test_exemplars_are_features_and_the_state_holds_no_backbone(tmp_path):
    settings = {"er": {"buffer_size": 10}}
    record = run(tmp_path, "er", settings=settings).records[0]
    half = run(tmp_path, "er", frozen="float16", settings=settings, store="half").records[0]
    numbers = 10 * 12
    assert record.state_bytes - half.state_bytes == numbers * 2
    assert "features of the frozen backbone" in record.cell.strategy.carries
    assert record.parameters == 12 * 10 + 10  # the head
    assert half.cell.track.frozen == "float16"
    assert half.cell.track.digest != record.cell.track.digest


@pytest.mark.parametrize("benchmark", ["permuted-digits", "rotated-digits"])
def test_each_transform_has_features_of_its_own(tmp_path, benchmark):
    """As on the backbone itself, to which the transformed inputs are given."""
    settings = {"benchmark": {"experiences": 3}}
    kept = run(tmp_path, "ncm", benchmark=benchmark, protocol="standard", settings=settings).records[0]
    chosen = {"benchmark": benchmark, "backbone": Fixed, "settings": settings, "seeds": 1, "jobs": 1, "track": False}
    direct = evaluate("ncm", store=tmp_path / "direct", **chosen).records[0]
    np.testing.assert_allclose(kept.matrix, direct.matrix, atol=0.003)  # a tie may break by rounding


def test_a_varied_stream_sees_rows_that_moved_through_the_transform_they_came_from(tmp_path):
    settings = {"benchmark": {"experiences": 3}, "stream": {"blur": 0.3}}
    kept = run(tmp_path, "ncm", benchmark="rotated-digits", protocol="standard", settings=settings).records[0]
    chosen = {"benchmark": "rotated-digits", "backbone": Fixed, "settings": settings, "seeds": 1, "jobs": 1}
    direct = evaluate("ncm", store=tmp_path / "direct", track=False, **chosen).records[0]
    np.testing.assert_allclose(kept.matrix, direct.matrix, atol=0.003)


def test_of_a_limited_stream_only_what_it_has_is_computed(tmp_path, cache):
    run(tmp_path, limit=BATCH)
    assert {entry.facts["rows"] for entry in cache.entries()} == {5 * BATCH}


def test_a_kept_model_loads_the_backbone_to_predict_and_goes_on(tmp_path):
    plugins = PluginSources(files=(Path(fixed_networks.__file__),))
    told = {"limit": 16, "keep_models": True, "plugins": plugins}
    record = run(tmp_path, "er", "fixed", settings={"benchmark": {"experiences": 2}}, **told).records[0]
    model = load_model(record, tmp_path / "runs", plugins=plugins)
    answers = Store(tmp_path / "runs").predictions(record).answers["predicted"][-1]
    names = np.array(record.output_names)
    for rows, where in rows_of(record):
        assert model.predict(rows).tolist() == names[answers[where]].tolist()
    data = inputs()[0]
    new = tmp_path / "new.npz"
    np.savez(
        new, x_train=data.x_train[:16], y_train=data.y_train[:16], x_test=data.x_test[:16], y_test=data.y_test[:16]
    )
    later = continue_run(record, new, store=tmp_path / "runs", track=False, plugins=plugins)
    assert later.status == "finished"
    assert len(later.matrix) == 4
    again = load_model(later, tmp_path / "runs", plugins=plugins)
    right = (again.predict(data.x_test[:16]) == data.y_test[:16].numpy().astype(str)).mean()
    assert right == pytest.approx(later.matrix[-1][-1])


def test_weights_that_are_others_by_now_are_not_taken_for_the_old_ones(tmp_path, monkeypatch):
    results = run(tmp_path, "er", keep_models=True)
    monkeypatch.setattr(Fixed, "weights_seed", 6)
    with pytest.raises(UsageError, match="are no longer those that the track names"):
        results.model("er").predict(inputs()[0].x_test[:3])


# ---- What is refused ----


def test_features_of_the_seed_are_refused(tmp_path):
    with pytest.raises(UsageError, match=r"those of mlp are the seed's: it has no trained weights"):
        run(tmp_path, backbone="mlp")
    with pytest.raises(UsageError, match=r"those of drawn are the seed's: it draws layers\.4\.weight, layers\.4\.bias"):
        run(tmp_path, backbone=Drawn)


def test_what_trains_or_enters_the_backbone_is_refused(tmp_path):
    with pytest.raises(UsageError, match=r"l2p works on the tokens within its backbone.*only its features"):
        run(tmp_path, "l2p")
    with pytest.raises(UsageError, match=r"protocol\.augmentation changes images at every step"):
        run(tmp_path, settings={"protocol": {"augmentation": "flip"}})
    with pytest.raises(UsageError, match=r"backbone\.frozen = 'half' is not valid"):
        run(tmp_path, frozen="half")


def test_frozen_false_is_the_track_without_it(tmp_path):
    plain = evaluate("finetune", backbone=Fixed, seeds=1, protocol="smoke", jobs=1, track=False, store=tmp_path / "a")
    record = run(tmp_path, frozen="false").records[0]
    assert record.cell.id == plain.records[0].cell.id


# ---- The cache ----


def facts(**more):
    return {"backbone": "net", "of": "data", **more}


def numbers(seed, rows=8):
    return [torch.randn(4, 3, generator=torch.Generator().manual_seed(seed + part)) for part in range(rows // 4)]


def test_what_was_put_in_comes_out_and_is_made_once(cache):
    parts = numbers(0)
    assert cache.kept("a" * 64) is None
    assert torch.equal(cache.fill("a" * 64, parts, 8, facts()), torch.cat(parts))

    def never():
        raise AssertionError("made twice")
        yield

    assert torch.equal(cache.fill("a" * 64, never(), 8, facts()), torch.cat(parts))


@pytest.mark.parametrize("change", ["altered", "shorter", "facts"])
def test_a_file_that_was_altered_on_disk_is_told_and_not_read(cache, change):
    cache.fill("a" * 64, numbers(0), 8, facts())
    path = cache.root / f"{'a' * 64}.npy"
    if change == "facts":
        path.with_suffix(".json").write_text("{")
    else:
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        time.sleep(0.01)
        path.write_bytes(content if change == "altered" else content[:-4])
    with pytest.raises(DataError, match=r"altered on disk|as long as they were|cannot be read"):
        cache.kept("a" * 64)


def test_what_was_not_used_for_longest_goes_and_what_was_just_made_stays(cache, monkeypatch):
    for place, key in enumerate("abc"):
        cache.fill(key * 64, numbers(place), 8, facts())
        time.sleep(0.02)
    cache.kept("a" * 64)
    size = cache.entries()[0].size
    monkeypatch.setenv("CLARENA_CACHE_LIMIT", str(2 * size))
    cache.fill("d" * 64, numbers(9), 8, facts())
    assert {entry.key[0] for entry in cache.entries()} == {"a", "d"}
    assert [entry.key[0] for entry in cache.trim(size, spare="a" * 64)] == ["d"]
    with pytest.raises(UsageError, match="no key of cached features named"):
        cache.clear(["x"])
    assert len(cache.clear(["a"])) == 1
    assert cache.entries() == []


def test_features_that_are_more_than_there_may_be_are_refused_before_they_are_made(cache, monkeypatch):
    monkeypatch.setenv("CLARENA_CACHE_LIMIT", "50")
    with pytest.raises(UsageError, match="the cache may hold"):
        cache.fill("a" * 64, numbers(0, rows=800), 800, facts())
    assert not list(cache.root.glob("*a*.npy"))
    with pytest.raises(UsageError, match="is no size"):
        size_named("many", "SIZE")
    assert (size_named("1.5GB", ""), size_named("3 kb", ""), size_named("7", "")) == (1_500_000_000, 3000, 7)


def test_a_full_disk_is_one_message_and_leaves_nothing(cache, monkeypatch):
    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StoreError, match=r"cannot be kept in .*No space left on device.*CLARENA_CACHE"):
        cache.fill("a" * 64, numbers(0), 8, facts())
    assert [path.suffix for path in cache.root.iterdir()] == [".lock"]


FILLING = """
import sys, time, torch
from clarena.run.cache import Cache
def parts():
    print("begun", flush=True)
    for part in range(4):
        time.sleep(float(sys.argv[1]))
        yield torch.full((2, 3), float(part))
print(Cache().fill("b" * 64, parts(), 8, {"backbone": "net", "of": "data"}).sum().item(), flush=True)
"""


def test_two_processes_do_the_work_once_and_one_that_was_killed_leaves_nothing_half(cache):
    def start(pause):
        command = [sys.executable, "-c", FILLING, str(pause)]
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    doomed = start(5)
    assert doomed.stdout.readline() == "begun\n"
    time.sleep(0.2)
    doomed.send_signal(signal.SIGKILL)
    doomed.wait()
    assert cache.entries() == []
    assert cache.kept("b" * 64) is None
    both = [start(0.1), start(0.1)]
    said = sorted(process.communicate()[0] for process in both)
    assert said == ["36.0\n", "begun\n36.0\n"]
