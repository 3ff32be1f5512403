"""Several devices, among which cells are dealt out. The CPU has numbers too, and so stands in for many cards."""

from collections import Counter
from pathlib import Path

import pytest

from clarena import evaluate
from clarena.run.devices import device_names
from clarena.run.executors import default_jobs


@pytest.mark.parametrize(
    ("given", "names"),
    [
        ("cpu", ["cpu"]),
        ("cuda:0,1, 2", ["cuda:0", "cuda:1", "cuda:2"]),
        ("cuda:3,cuda:1", ["cuda:3", "cuda:1"]),
        ("cuda,cpu", ["cuda", "cpu"]),
    ],
)
def test_devices_are_named_one_by_one_or_by_number(given: str, names: list[str]) -> None:
    assert device_names(given) == names


def test_there_is_a_run_for_each_card_unless_more_are_asked_for() -> None:
    assert [default_jobs(device, 9) for device in ("cuda", "cuda:1", "cuda:0,1,2", "mps")] == [1, 1, 3, 1]
    assert default_jobs("cuda:0,1,2", 2) == 2


@pytest.mark.parametrize("jobs", [None, 3])
def test_cells_are_dealt_out_over_all_devices(tmp_path: Path, jobs: int | None) -> None:
    store = tmp_path / "runs"
    options = {"benchmark": "split-digits", "seeds": 4, "limit": 16, "store": store, "track": False}
    results = evaluate("finetune", device="cpu:0,1", jobs=jobs, **options)
    assert [record.status for record in results] == ["finished"] * 4
    used = Counter(record.environment["device"] for record in results)
    assert set(used) == {"cpu:0", "cpu:1"}
    alone = evaluate("finetune", jobs=1, **options | {"store": tmp_path / "alone"})
    assert [record.predictions for record in results] == [record.predictions for record in alone]
