"""Data are read once in a process, again when their files change, and are those that a track was planned with."""

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
import pytest
import torch
import troublemakers as trouble
from pydantic import Field

import clarena
from clarena import Benchmark, Data, DataError, Track
from clarena.plugins.host import Host
from clarena.record.store import Store
from clarena.run.data import load, stated
from clarena.run.evaluation import carry_out
from clarena.run.planning import Plan, make_plan

CHOSEN: dict[str, Any] = {"benchmark": trouble.Tiny, "seeds": 1, "jobs": 1, "track": False, "protocol": "smoke"}


def written(path: Path, value: float, samples: int = 24) -> Path:
    x = np.random.default_rng(0).normal(size=(samples, 4)) + value
    y = np.arange(samples) % 4
    np.savez(path, x_train=x[4:], y_train=y[4:], x_test=x[:4], y_test=y[:4])
    return path


def plan(store: Path, benchmark: Any, **settings: Any) -> Plan:
    return make_plan(
        [trouble.Plain], benchmark=benchmark, scenario=None, backbone="mlp", preset="smoke", seeds=[0],
        settings={"benchmark": settings}, limit=None, device="cpu", store=store, retry=False, host=Host.discover(),
    )  # fmt: skip


def test_a_file_overwritten_within_one_session_is_another_track(tmp_path: Path) -> None:
    path, settings = tmp_path / "mine.npz", {"benchmark": {"experiences": 2}}
    chosen = CHOSEN | {"benchmark": f"split:{path}", "settings": settings, "store": tmp_path / "runs"}
    tracks = []
    for value in (0, 1, 1):
        if len(tracks) < 2:
            written(path, value)
        tracks.append(clarena.evaluate(trouble.Plain, **chosen).records[0].cell.track)
    assert len({track.digest for track in tracks}) == 2
    assert tracks[1].digest == tracks[2].digest
    assert tracks[1].benchmark.fingerprint == load_own(path).fingerprint()


def load_own(path: Path) -> Data:
    from clarena_data.own import SplitOwn

    return SplitOwn.of(str(path))().data()


def test_the_same_size_and_time_do_not_hide_a_change_just_made(tmp_path: Path) -> None:
    path = written(tmp_path / "mine.npz", 0)
    before = plan(tmp_path / "runs", f"split:{path}", experiences=2).track
    facts = path.stat()
    written(path, 1)
    os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    assert path.stat().st_size == facts.st_size
    assert plan(tmp_path / "runs", f"split:{path}", experiences=2).track.digest != before.digest


@pytest.mark.parametrize("name", ["photos/a/0.png", "photos/a/new.png"])
def test_folders_are_looked_into(tmp_path: Path, name: str) -> None:
    from PIL import Image

    for label in "ab":
        (tmp_path / "photos" / label).mkdir(parents=True)
        for number in range(4):
            Image.new("L", (4, 4), 10 * number).save(tmp_path / "photos" / label / f"{number}.png")
    before = plan(tmp_path / "runs", f"split:{tmp_path / 'photos'}", experiences=2).track
    Image.new("L", (4, 4), 99).save(tmp_path / name)
    assert plan(tmp_path / "runs", f"split:{tmp_path / 'photos'}", experiences=2).track.digest != before.digest


def test_what_has_not_changed_is_read_once() -> None:
    class Counted(trouble.Tiny):
        """Counts how often it is read."""

        name = "counted"
        reads: ClassVar[list[int]] = []
        watched: ClassVar[tuple[Path, ...]] = ()

        def source_files(self) -> Iterable[Path]:
            return self.watched

        def data(self) -> Data:
            self.reads.append(1)
            return super().data()

    first = load(Counted, {})
    assert load(Counted, {"experiences": 3}) is first  # its default
    assert len(Counted.reads) == 1
    Counted.watched = (Path("/nowhere/at/all"),)
    assert load(Counted, {}) is not first


def test_data_that_change_between_planning_and_running_are_noticed(tmp_path: Path) -> None:
    path = written(tmp_path / "mine.npz", 0)
    planned = plan(tmp_path / "runs", f"split:{path}", experiences=2)
    written(path, 1)
    results = carry_out(planned, tmp_path / "runs", jobs=1, track=False)
    assert not results.records
    (message,) = results.errors.values()
    assert "The data of split:mine have changed since the evaluation was planned. Start it again." in message
    assert Store(tmp_path / "runs").records() == ([], [])


class Later(trouble.Tiny):
    """Has an option that was added later."""

    name = "later"
    added = frozenset({"sharp"})

    def __init__(self, *, experiences: int = 3, sharp: Annotated[bool, Field(description="Be sharp.")] = False) -> None:
        super().__init__(experiences=experiences)
        self.sharp = sharp


def test_an_option_added_later_moves_no_digest_at_its_default(tmp_path: Path) -> None:
    class Before(trouble.Tiny):
        """As it was before."""

        name = "later"

    def track(kind: type[Benchmark], **options: bool) -> Track:
        """As of a benchmark that is built in, for which no identity of its code stands in the track."""
        found = plan(tmp_path, kind, **options).track
        return found.model_copy(update={"benchmark": found.benchmark.model_copy(update={"identity": None})})

    before, after = (track(kind) for kind in (Before, Later))
    assert after.digest == before.digest
    assert track(Later, sharp=False).digest == before.digest
    sharp = track(Later, sharp=True)
    assert sharp.digest != before.digest
    assert sharp.benchmark.options == {"experiences": 3, "sharp": True}
    assert stated(Later, {"experiences": 3, "sharp": False}) == {"experiences": 3}


def test_the_report_is_kept_beside_the_records(tmp_path: Path) -> None:
    class Noted(trouble.Tiny):
        """Has something to say, and samples that occur twice."""

        name = "noted"

        def data(self) -> Data:
            whole = vars(super().data())
            x = whole["x_train"].clone()
            x[1] = x[0]
            test = whole["x_test"].clone()
            test[:2] = x[5]
            return Data(**whole | {"x_train": x, "x_test": test, "notes": ("Half of it was left out.",)})

    with pytest.warns(clarena.ClarenaWarning, match="Half of it was left out"):
        results = clarena.evaluate(trouble.Plain, store=tmp_path, **CHOSEN | {"benchmark": Noted})
    track = results.records[0].cell.track
    report = json.loads((tmp_path / track.digest[:12] / "data.json").read_text())
    data = Noted().data()
    assert report["fingerprint"] == track.benchmark.fingerprint
    assert report["train"] == {"samples": 84, "labels_by_class": [14] * 6}
    assert report["test"]["samples"] == 36
    assert report["twice"] == {"within_train": 1, "within_test": 1, "test_samples_in_train": 2}
    assert report["inputs"]["lowest"] == min(data.x_train.min(), data.x_test.min()).item()
    assert report["notes"] == ["Half of it was left out."]


@pytest.mark.parametrize(
    "error",
    [
        MemoryError("Unable to allocate 279. GiB"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: Unable to allocate 279. GiB"),
    ],
)
def test_data_that_do_not_fit_into_memory_are_no_fault_of_the_benchmark(tmp_path: Path, error: Exception) -> None:
    class Vast(trouble.Tiny):
        """Asks for more than there is."""

        name = "vast"

        def data(self) -> Data:
            raise error

    with pytest.raises(DataError, match=r"do not fit into memory \(.*Unable to allocate 279. GiB\)"):
        plan(tmp_path, Vast)


def test_inputs_that_cannot_be_made_are_found_in_planning(tmp_path: Path) -> None:
    class Odd(trouble.Tiny):
        """Cannot convert its rows."""

        name = "odd-inputs"

        def inputs(self, x: torch.Tensor) -> torch.Tensor:
            return x.view(-1, 3, 3)

    with pytest.raises(DataError, match="The benchmark odd-inputs is faulty: RuntimeError"):
        plan(tmp_path, Odd)
