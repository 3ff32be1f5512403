"""Data that are mapped from a file which somebody changes under a run: one message, and what is finished stays."""

import clarena_data.arrays as arrays
import numpy as np
import pytest
import torch

from clarena import DataError, GradientStrategy, evaluate
from clarena.contract import rows
from clarena.plugins.host import Host, PluginSources
from clarena.run.data import load

HOST = Host.discover(PluginSources(third_party=False))


@pytest.fixture
def file(tmp_path, monkeypatch):
    """Large for this test: mapped, and read batch by batch."""
    monkeypatch.setattr(arrays, "LARGE_FILE", 0)
    monkeypatch.setattr(rows, "KEPT", 0)
    made = np.random.default_rng(0)
    x, y = made.integers(0, 256, (120, 8, 8), dtype=np.uint8), np.arange(120) % 6
    np.savez(tmp_path / "data.npz", x_train=x[:90], y_train=y[:90], x_test=x[90:], y_test=y[90:])
    return tmp_path / "data.npz"


class Shortens(GradientStrategy):
    """Has somebody save the data anew, and shorter, in the middle of its second experience."""

    name = "shortens"
    file = None

    def after_step(self, batch):
        if self.experience.position == 1 and self.file is not None:
            with self.file.open("r+b") as opened:
                opened.truncate(2000)


def test_it_ends_in_a_message_and_what_is_finished_stays(file, tmp_path):
    Shortens.file = None
    options = {"benchmark": f"split:{file}", "seeds": 1, "jobs": 1, "track": False, "protocol": "smoke"}
    options["settings"] = {"benchmark": {"experiences": 3}, "protocol": {"batch_size": 4}}
    (before,) = evaluate("finetune", store=tmp_path / "runs", **options).records
    assert before.status == "finished"
    Shortens.file = file
    results = evaluate([Shortens], store=tmp_path / "runs", **options)
    (record,) = results.records
    assert record.status == "failed"
    assert "data.npz was changed while a run read its data: it has 2000 bytes" in record.outcome
    assert "What is finished stays." in record.outcome


def test_mapped_arrays_are_the_same_data(file, monkeypatch):
    mapped = load(HOST.benchmarks.resolve(f"split:{file}"), {})
    monkeypatch.setattr(arrays, "LARGE_FILE", 2**40)
    read = HOST.benchmarks.resolve(f"split:{file}")().data()
    assert read.fingerprint() == mapped.fingerprint
    assert torch.equal(read.x_train, mapped.data.x_train)


def test_a_damaged_one_is_refused(file):
    where = file.read_bytes().index(b"x_train.npy") + 400
    with file.open("r+b") as opened:
        opened.seek(where)
        opened.write(b"\0\1\2\3")
    with pytest.raises(DataError, match="CRC"):
        HOST.benchmarks.resolve(f"split:{file}")().data()
