"""A stranger's strategy in a process of its own: it runs as it always does, and what it does wrong ends there."""

import json
import os
import time
from pathlib import Path

import numpy as np
import pytest
from submissions import HELPER, PLUGIN

from clarena import evaluate
from clarena.checks.tiny import TinyStream
from clarena.errors import PluginError
from clarena.plugins.host import Host, PluginSources
from clarena.run.planning import make_plan
from clarena.submission.child import Plugin
from clarena.submission.confined import confined, describe
from clarena.submission.messages import MOST_HEADER, receive, send

GIGABYTE = 2**30
TAIL = """

@hookimpl
def clarena_register_strategies(register):
    register(Mine)
"""
MOODY = (
    '''
"""Draws from every global generator, in training and in prediction."""

import random

import numpy as np
import torch

from clarena import GradientStrategy, hookimpl


class Mine(GradientStrategy):
    """Answers by chance, in part."""

    name = "mine"

    def step(self, batch):
        super().step(batch)
        with torch.no_grad():
            next(self.model.parameters()).add_(1e-3 * torch.rand(()) * random.random() * np.random.rand())

    def predict(self, x, task=None):
        scores = super().predict(x, task)
        return scores + 9 * torch.rand_like(scores) * np.random.rand() * random.random()
'''
    + TAIL
)


def plugin(folder: Path, text: str = PLUGIN, seconds: float = 120, memory: int = 4 * GIGABYTE) -> Plugin:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "mine_helper.py").write_text(HELPER)
    (folder / "mine.py").write_text(text)
    return Plugin(folder, "mine.py", "mine", memory, seconds)


def pair(given: Plugin, tmp_path: Path, **options):
    """The record of the same cell, once in this process and once confined."""
    common = {"seeds": [3], "jobs": 1, "track": False, "benchmark": TinyStream} | options
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(given.folder))
        sources = PluginSources(files=[given.folder / "mine.py"])
        free = evaluate("mine", store=tmp_path / "free", plugins=sources, **common).records[0]
    cls = confined(given, free.cell.track, TinyStream, "cpu")
    return free, evaluate(cls, store=tmp_path / "confined", **common).records[0]


@pytest.mark.parametrize(
    ("text", "options"),
    [
        (PLUGIN, {"scenario": "class", "settings": {"protocol": {"epochs": 2, "batch_size": 8, "eval_every": 2}}}),
        (
            MOODY,
            {
                "scenario": "task",
                "settings": {"protocol": {"epochs": 1, "batch_size": 8, "eval_batch_size": 5, "eval_every": 2}},
            },
        ),
    ],
)
def test_confined_is_bit_for_bit_what_it_is_in_the_open(tmp_path, text, options):
    free, shut = pair(plugin(tmp_path / "plugin", text), tmp_path, **options)
    assert shut.status == "finished", shut.reason
    assert free.predictions is not None
    assert shut.predictions == free.predictions
    assert len(free.curve) > 2
    np.testing.assert_array_equal([p.accuracy for p in shut.curve], [p.accuracy for p in free.curve])
    assert [(c.passes, c.steps) for c in shut.costs] == [(c.passes, c.steps) for c in free.costs]


@pytest.mark.parametrize("every", [0, 2])
def test_hidden_boundaries_are_hidden_from_the_process_as_well(tmp_path, monkeypatch, every):
    """Both sides walk along the same batches, and the rows are asked for between the same two."""
    monkeypatch.setattr("clarena.run.planning.admit", lambda *_: None)  # a verification plans by itself
    fields = {"epochs": 2, "batch_size": 8, "eval_every": every, "boundaries": "hidden"}
    settings = {"protocol": fields, "stream": {"blur": 0.3}}
    free, shut = pair(plugin(tmp_path / "plugin", MOODY), tmp_path, scenario="class", settings=settings)
    assert (free.status, shut.status) == ("finished", "finished"), shut.reason
    assert shut.predictions == free.predictions
    assert len(free.curve) == len(shut.curve) == (4 + 1 + 2 if every else 0)  # of 10, 4 and 6 steps
    np.testing.assert_array_equal([p.accuracy for p in shut.curve], [p.accuracy for p in free.curve])
    assert [(c.passes, c.steps) for c in shut.costs] == [(c.passes, c.steps) for c in free.costs]


@pytest.mark.parametrize(
    ("line", "said", "seconds"),
    [
        ("import time; time.sleep(1000)", r"did not answer within 3 s, and was ended", 3),
        ("while True: pass", r"did not answer within 3 s, and was ended", 3),
        ("import sys; sys.exit('enough')", r"SystemExit: enough \(at line 1 of mine.py\)", 60),
        ("import os; os._exit(7)", r"process ended with code 7", 60),
        ("import ctypes; ctypes.string_at(0)", r"was ended by signal 11", 60),
        ("import no_such_package", r"No module named 'no_such_package'", 60),
        ("held = bytearray(6 * 2**30)", r"MemoryError", 60),
        ("import sys, os; os.write(int(sys.argv[1]), b'x' * 64); os._exit(0)", r"answered what is no answer", 60),
        (
            'import sys, os; h = b\'{"kind": "owned"}\'; os.write(int(sys.argv[1]), len(h).to_bytes(4) + bytes(4) + h)',
            r"answered what is no answer",
            60,
        ),
    ],
)
def test_a_plugin_that_does_not_load_is_told_of_and_harms_nothing(tmp_path, line, said, seconds):
    began = time.monotonic()
    with pytest.raises(PluginError, match=said):
        describe(plugin(tmp_path, f"{line}\n{PLUGIN}", seconds))
    assert seconds != 3 or time.monotonic() - began >= 3


def test_what_loads_says_who_it_is(tmp_path):
    facts = describe(plugin(tmp_path))
    assert (facts.name, facts.reference) == ("mine", False)
    assert len(facts.source_hash) == len(facts.identity) == 64
    assert facts.identity != facts.source_hash


SMOKE = {"seeds": 1, "track": False, "benchmark": TinyStream, "protocol": "smoke"}


@pytest.fixture(scope="module")
def track():
    """The track of `SMOKE`."""
    host = Host.discover(PluginSources(third_party=False))
    common = {"scenario": "class", "backbone": "mlp", "preset": "smoke", "seeds": [0], "settings": {}, "limit": None}
    return make_plan(
        ["finetune"], benchmark=TinyStream, device="cpu", store="nowhere", retry=False, host=host, **common
    ).track


@pytest.mark.parametrize(
    ("line", "status", "said"),
    [
        ("os._exit(3)", "failed", "ended with code 3"),
        ("raise ZeroDivisionError('one over nothing')", "failed", "one over nothing (at line"),
        ("torch.empty(2**42)", "out_of_memory", ""),
        ("self.held = loss * float('nan'); return loss * float('nan')", "diverged", "not finite"),
        ("time.sleep(1000)", "failed", "did not answer within"),
    ],
)
def test_what_goes_wrong_in_a_run_is_that_runs_status(tmp_path, track, line, status, said):
    text = f'''
import os, time, torch
from clarena import GradientStrategy, hookimpl


class Mine(GradientStrategy):
    """Goes wrong in its second experience."""

    name = "mine"

    def loss(self, batch):
        loss = super().loss(batch)
        if self.experience.position == 1:
            {line}
        return loss
{TAIL}'''
    given = plugin(tmp_path / "plugin", text, seconds=20 if "sleep" in line else 120)
    cls = confined(given, track, TinyStream, "cpu")
    (record,) = evaluate(cls, store=tmp_path / "runs", jobs=1, **SMOKE)
    assert record.status == status, record.reason
    assert said in (record.reason or "")
    assert np.isfinite(record.matrix[1, 0])


def test_neither_secrets_nor_what_it_starts_stay(tmp_path, monkeypatch):
    """Variables of the environment do not go over; its folder and its children go when it does."""
    monkeypatch.setenv("MY_TOKEN", "hidden")
    spy = "\n".join(
        [
            "import json, os, subprocess",
            "child = subprocess.Popen(['sleep', '1000'])",
            "seen = {'env': sorted(os.environ), 'cwd': os.getcwd(), 'child': child.pid}",
            f"open({str(tmp_path / 'seen')!r}, 'w').write(json.dumps(seen))",
        ]
    )
    describe(plugin(tmp_path / "plugin", spy + PLUGIN))
    seen = json.loads((tmp_path / "seen").read_text())
    assert "MY_TOKEN" not in seen["env"]
    assert "PATH" in seen["env"]
    assert not os.path.exists(seen["cwd"])
    give_up = time.monotonic() + 60
    while _runs(seen["child"]) and time.monotonic() < give_up:
        time.sleep(0.05)
    assert not _runs(seen["child"])


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_messages_arrive_as_sent_and_what_is_none_is_refused():
    import socket

    here, there = socket.socketpair()
    send(here, {"kind": "x", "n": 1}, b"body")
    assert receive(there) == ({"kind": "x", "n": 1}, b"body")
    with pytest.raises(TimeoutError):
        receive(there, time.monotonic() + 0.05)
    for header in (b"[1]", b"{", b"[" * 100_000):
        here.sendall(len(header).to_bytes(4) + bytes(4) + header)
        with pytest.raises(ValueError):  # noqa: PT011 - any of them will do
            receive(there)
    here.sendall((MOST_HEADER + 1).to_bytes(4) + bytes(4))
    with pytest.raises(ValueError, match="too long"):
        receive(there)
    here.close()
    with pytest.raises(EOFError):
        receive(there)
