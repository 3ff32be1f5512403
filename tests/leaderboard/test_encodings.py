"""Every command where standard output has another encoding than UTF-8."""

import json
import os
import subprocess
import sys

import pytest
from made_up import keep, track

from clarena.record.record import CurvePoint
from clarena.record.store import Store

COMMANDS = ("list", "describe ewc", "results", "results --records", "results --format csv", "results --json",
            "reproduce", "compare ewc er", "leaderboard build --out {out}", "evaluate --help", "evaluate nonsense",
            "doctor", "evaluate finetune ewc --protocol smoke --limit 16 --seeds 2 --no-tracking --jobs 1")  # fmt: skip
"""What needs no data but the digits; the store is given to those that take one."""

DRIVER = """
import os, shlex, sys
from clarena.cli import main
for command in sys.argv[1:]:
    sys.argv = ["clarena", *shlex.split(command)]
    os.environ["COLUMNS"] = "80"
    try:
        main()
        code = 0
    except SystemExit as end:
        code = end.code or 0
    sys.stdout.flush()
    print(f"### {command} ended with {code}", file=sys.stderr)
"""


@pytest.fixture
def store(tmp_path):
    store = Store(tmp_path / "runs")
    often = track(eval_every=1)
    curve = [CurvePoint(position=2, step=1, accuracy=[0.5, 0.5])]
    for seed in range(2):
        for name in ("ewc", "er"):
            keep(store, name, seed, 8 - seed, at=often, curve=curve)
    keep(store, "λ-méthode ≥ 2", 0, 8, at=often)
    return store.path


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_every_command_prints_where_the_encoding_lacks_signs(store, tmp_path, encoding):
    """In readable ASCII, in tables that stay aligned, and JSON that holds what it holds elsewhere."""
    takes_store = ("results", "compare", "leaderboard", "evaluate", "doctor")
    commands = [command.format(out=tmp_path / "site") for command in COMMANDS]
    commands = [
        f"{command} --store {store}" if command.startswith(takes_store) and "help" not in command else command
        for command in commands
    ]
    done = subprocess.run(
        [sys.executable, "-c", DRIVER, *commands], capture_output=True, check=True, cwd=tmp_path,
        env=os.environ | {"PYTHONIOENCODING": encoding},
    )  # fmt: skip
    out, err = done.stdout.decode(encoding), done.stderr.decode(encoding)
    assert "Traceback" not in err
    codes = [line.rpartition(" ")[2] for line in err.splitlines() if line.startswith("### ")]
    assert codes == ["2" if "nonsense" in command else "0" for command in commands]
    assert "the weight of the penalty lambda/2 sum F (theta - theta*)" in " ".join(out.split())
    assert ("87.5 ±" if encoding == "cp1252" else "87.5 +-") in out
    told = out[out.index('{\n  "tracks"') :]
    data = json.JSONDecoder().raw_decode(told)[0]
    assert "λ-méthode ≥ 2" in {row["strategy"] for group in data["tracks"] for row in group["rows"]}
    assert "lambda-m" in out  # and in the table, as well as it can be written
    if encoding == "ascii":
        rows = [line for line in out.splitlines() if " +-" in line and "|" in line and line.startswith(("er ", "ewc "))]
        assert {tuple(i for i, sign in enumerate(line) if sign == "|") for line in rows[:2]} == {
            tuple(i for i, sign in enumerate(rows[0]) if sign == "|")
        }
    assert "Characters that the output cannot hold were replaced" in err
