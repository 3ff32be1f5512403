"""A strategy saved after every experience, restored in a new process, and what becomes of it there.

Starting a process costs seconds, so one serves all scenarios of a strategy, or several strategies.
"""

import io
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from functools import cached_property
from importlib.machinery import PathFinder
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import cloudpickle
import torch
from torch.nn import Parameter

from clarena.checks.tiny import Subject
from clarena.checks.trial import Trial, laboratory
from clarena.plugins.registry import one_line
from clarena.toolbox.states import differing, same


@dataclass(frozen=True)
class Failure:
    """What went wrong.

    Attributes:
        after: how many experiences had been learned when the state was saved.
        error: why it cannot be restored; "" where it can, and goes on otherwise than the original.
        differs: what is different then.
        renamed: a parameter that had another name before, as `old → new`.
    """

    after: int
    error: str = ""
    differs: str = ""
    renamed: str = ""


class Restart:
    """Runs every subject here, and from each experience to the next in a new process.

    Make it before anything else runs: the classes are packed as they are now, so that what a strategy hides in its
    class does not travel.
    """

    def __init__(self, subjects: list[Subject]) -> None:
        self.subjects = subjects
        self.files = {name: path for subject in subjects for name, path in _loose_files(subject).items()}
        self.packed: dict[int, bytes] = {}  # by position in `subjects`
        self.failed: dict[int, Failure | None] = {}
        for position, subject in enumerate(subjects):
            try:
                self.packed[position] = cloudpickle.dumps(subject)
            except Exception as error:
                self.failed[position] = Failure(0, f"the class cannot be pickled: {one_line(error)}")

    def failure(self, subject: Subject) -> Failure | None:
        """The first thing that went wrong with one of the subjects, or None."""
        return self._failures[self.subjects.index(subject)]

    @cached_property
    def _failures(self) -> dict[int, Failure | None]:
        jobs: dict[int, tuple[bytes, list[bytes]]] = {}
        failures = dict(self.failed)
        for position, packed in self.packed.items():
            saved: list[bytes] = []
            try:
                trial = Trial(self.subjects[position])
                while trial.done < len(trial.steps) and position not in failures:
                    before = list(trial.strategy.named_parameters())
                    trial.step()
                    saved.append(_saved(trial))
                    if renamed := _renamed(before, trial):
                        failures[position] = Failure(trial.done, renamed=renamed)
                if position not in failures:
                    jobs[position] = packed, saved
            except Exception as error:
                failures[position] = Failure(len(saved), one_line(error))
        with tempfile.TemporaryDirectory() as folder:
            work, done = Path(folder, "work"), Path(folder, "done")
            work.write_bytes(cloudpickle.dumps((self.files, jobs)))
            process = subprocess.run(
                [sys.executable, "-c", f"from {__name__} import main; main()", str(work), str(done)],
                env=os.environ | {"PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
            )
            if done.exists():
                found: dict[int, Failure | None] = cloudpickle.loads(done.read_bytes())
                return failures | found
        last = (process.stderr.strip().splitlines() or [f"it ended with code {process.returncode}"])[-1]
        return failures | dict.fromkeys(jobs, Failure(1, last))


def main() -> None:
    """In the new process: restore every state, compare, learn the next experience, and compare again."""
    files, jobs = cloudpickle.loads(Path(sys.argv[1]).read_bytes())
    for name, path in files.items():
        spec = spec_from_file_location(name, path)
        assert spec is not None
        assert spec.loader is not None
        sys.modules[name] = module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    failures = {position: _first_failure(packed, saved) for position, (packed, saved) in jobs.items()}
    Path(sys.argv[2]).write_bytes(cloudpickle.dumps(failures))


def _first_failure(packed: bytes, saved: list[bytes]) -> Failure | None:
    for after, (now, then) in enumerate(zip(saved, [*saved[1:], None]), 1):
        try:
            with laboratory():
                trial = Trial(cloudpickle.loads(packed)).resume(_loaded(now)["state"], after)
                differs = _differing(trial, now)
                if then is not None and not differs:
                    trial.step()
                    differs = _differing(trial, then)
        except Exception as error:
            return Failure(after, error=one_line(error))
        if differs:
            return Failure(after, differs=differs)
    return None


def _renamed(before: list[tuple[str, Parameter]], trial: Trial) -> str:
    now = {id(parameter): name for name, parameter in trial.strategy.named_parameters()}
    changes = ((name, now.get(id(parameter), name)) for name, parameter in before)
    return next((f"{old} → {new}" for old, new in changes if old != new), "")


def _saved(trial: Trial) -> bytes:
    content = io.BytesIO()
    torch.save({"state": trial.strategy.state_dict(), "scores": trial.scores()}, content)
    return content.getvalue()


def _loaded(content: bytes) -> dict[str, Any]:
    return torch.load(io.BytesIO(content), weights_only=True)  # type: ignore[no-any-return]


def _differing(trial: Trial, expected: bytes) -> str:
    """In what a trial differs from what was saved, scores and state, bit for bit; "" in nothing."""
    wanted = _loaded(expected)
    keys = differing(dict(wanted["state"]), trial.state())
    return keys or ("" if same(wanted["scores"], trial.scores()) else "the scores, and nothing in the state")


def _loose_files(subject: Subject) -> dict[str, str]:
    """Modules, by name, that a new process does not find by itself: one-file plugins."""
    found = {}
    for cls in (*subject.strategy.__mro__, *subject.backbone.__mro__):
        name = cls.__module__
        file = getattr(sys.modules.get(name), "__file__", None)
        if file and name != "__main__" and "." not in name and PathFinder.find_spec(name) is None:
            found[name] = file
    return dict(reversed(found.items()))  # bases first
