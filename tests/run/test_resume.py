"""A run killed at any moment goes on from its last finished experience, and ends as if nothing had happened.

Run as a script, this file is what gets killed: it forks a process for each case, which runs its cell and sends itself
SIGKILL at the moment of the case.
"""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from clarena import Store, evaluate

KEPT = {"optimizer": "adam", "optimizer_state": "kept", "epochs": 2, "limit": 40}
CELLS = {
    "finetune": {},
    "finetune-task": {"scenario": "task"},
    "ewc": {"settings": {"ewc": {"mode": "online"}}},
    "er": {},
    "er-augmented": {"settings": {"protocol": KEPT | {"augmentation": "crop-flip"}}},
    "scr-viewed": {"settings": {"protocol": KEPT | {"augmentation": "contrastive"}}},
    "er-task": {"scenario": "task", "settings": {"er": {"buffer_size": 20, "policy": "class_balanced"}}},
}

MOMENTS = {
    # when: after which experience the run goes on
    "in the middle of the first experience": [],
    "while the first checkpoint is written": [],
    "first checkpoint written": [1],
    "in the middle of the second experience": [1],
    "while the second checkpoint is written": [1],
    "second checkpoint written": [2],
    "last checkpoint written": [3],
    "while the record is written": [3],
}
CASES = [(cell, moment) for cell in ("ewc", "er") for moment in MOMENTS]
CASES += [
    (cell, "in the middle of the second experience")
    for cell in ("finetune", "finetune-task", "er-task", "er-augmented", "scr-viewed")
]


def run(cell: str, store: Path, retry: bool = False):
    options = CELLS[cell]
    settings = {"protocol": KEPT, "benchmark": {"experiences": 3}} | options.get("settings", {})
    chosen = {"scenario": "class", "seeds": [3], "jobs": 1, "track": False, "retry": retry} | options
    results = evaluate(cell.split("-")[0], store=store, **chosen | {"settings": settings})
    assert not results.errors
    return results.records[0]


def arrange(moment: str) -> None:
    """Have this process killed at a moment of the run that follows."""
    from clarena.run.runner import Run

    def die() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    save, watch, fsync = Run._save, Run._watch, os.fsync
    saved: list[int] = []
    number = {"first": 1, "second": 2, "last": 3}.get(
        next(filter({"first", "second", "last"}.__contains__, moment.split()), "")
    )

    def saving(self, strategy):
        save(self, strategy)
        saved.append(1)
        if moment.endswith("checkpoint written") and len(saved) == number:
            die()

    def watching(self, realised, strategy, experience, clock, meter):
        watch(self, realised, strategy, experience, clock, meter)
        told = experience.on_step

        def on_step(step):
            told(step)
            if moment.startswith("in the middle") and experience.position + 1 == number and step == 3:
                die()

        experience.on_step = on_step

    def synchronising(descriptor):
        name = os.readlink(f"/proc/self/fd/{descriptor}")
        checkpoint = moment.endswith("checkpoint is written") and ".checkpoint" in name and len(saved) == number - 1
        if checkpoint or (moment == "while the record is written" and ".record" in name):
            die()
        fsync(descriptor)

    Run._save, Run._watch, os.fsync = saving, watching, synchronising


def kill_all(root: Path) -> None:
    import sklearn.datasets
    import sklearn.metrics  # noqa: F401 - once, not in every fork; but no training here: autograd does not survive one

    for cell, moment in CASES:
        child = os.fork()
        if child == 0:
            arrange(moment)
            run(cell, root / cell / moment)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        assert os.WIFSIGNALED(status), (cell, moment, status)
        assert os.WTERMSIG(status) == signal.SIGKILL, (cell, moment, status)


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    root = tmp_path_factory.mktemp("killed")
    subprocess.run([sys.executable, __file__, str(root)], check=True)
    return root


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    root = tmp_path_factory.mktemp("uninterrupted")
    return {cell: run(cell, root / cell) for cell in CELLS}


@pytest.mark.parametrize(("cell", "moment"), CASES)
def test_a_killed_run_ends_as_one_never_interrupted(killed, uninterrupted, cell, moment):
    whole = uninterrupted[cell]
    store = Store(killed / cell / moment)
    assert store.find(whole.cell) is None
    assert (store.folder(whole.cell) / "checkpoint.pt").exists() == bool(MOMENTS[moment])
    record = run(cell, store.path)
    assert record.status == "finished"
    assert record.resumed == MOMENTS[moment]
    assert record.predictions == whole.predictions  # the SHA-256 of the file
    assert [(c.steps, c.replayed, c.mean_loss, c.state_bytes) for c in record.costs] == [
        (c.steps, c.replayed, c.mean_loss, c.state_bytes) for c in whole.costs
    ]
    kept = {path.name for path in store.folder(whole.cell).iterdir()}
    assert kept == {"record.json", "predictions.npz", ".lock"}


@pytest.mark.parametrize("cell", ["er", "er-task"])
def test_a_run_stopped_again_and_again_ends_as_one_never_interrupted(tmp_path, uninterrupted, monkeypatch, cell):
    """Stopped in every experience, and resumed each time: the record tells all of it."""
    from clarena.run.runner import Run

    watch = Run._watch
    stops = iter([0, 1, 2])
    stop = next(stops)

    def watching(self, realised, strategy, experience, clock, meter):
        watch(self, realised, strategy, experience, clock, meter)
        told = experience.on_step

        def on_step(step):
            told(step)
            if experience.position == stop and step == 2:
                raise KeyboardInterrupt

        experience.on_step = on_step

    monkeypatch.setattr(Run, "_watch", watching)
    for finished in (0, 1, 2):
        with pytest.raises(KeyboardInterrupt):
            run(cell, tmp_path, retry=True)
        record = run(cell, tmp_path)  # not run again without being asked
        assert (record.status, record.reason) == ("interrupted", "stopped by the user")
        assert record.resumed == list(range(1, finished))
        assert len(record.costs) == finished
        stop = next(stops, None)
    record = run(cell, tmp_path, retry=True)
    assert (record.status, record.resumed) == ("finished", [1, 2])
    assert record.predictions == uninterrupted[cell].predictions


def test_a_run_killed_between_record_and_checkpoint_is_not_run_again(tmp_path, uninterrupted, monkeypatch):
    def unlink(path, missing_ok=False):
        if path.name == "checkpoint.pt":
            raise KeyboardInterrupt
        return real(path, missing_ok=missing_ok)

    real = Path.unlink
    monkeypatch.setattr(Path, "unlink", unlink)
    with pytest.raises(KeyboardInterrupt):
        run("er", tmp_path)
    monkeypatch.undo()
    (record,), _ = Store(tmp_path).records()
    assert record.status == "finished"
    assert run("er", tmp_path, retry=True).started == record.started
    assert record.predictions == uninterrupted["er"].predictions


if __name__ == "__main__":
    kill_all(Path(sys.argv[1]))
