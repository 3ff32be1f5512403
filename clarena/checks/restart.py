"""A strategy saved in the middle of a stream, restored in a new process, and what becomes of it there.

Starting a process costs seconds, so one serves all scenarios of a strategy, or several strategies.
"""

import io
import os
import subprocess
import sys
import tempfile
from functools import cached_property
from importlib.machinery import PathFinder
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import cloudpickle
import torch

from clarena.checks.tiny import Subject
from clarena.checks.trial import Trial, laboratory
from clarena.plugins.registry import one_line

Answer = list[torch.Tensor] | str
"""The scores at the end of the stream, or what went wrong."""


class Restart:
    """Runs every subject half way here, and the rest of the way in a new process.

    Make it before anything else runs: the classes are packed as they are now, so that what a strategy hides in its
    class does not travel.
    """

    def __init__(self, subjects: list[Subject]) -> None:
        self.subjects = subjects
        self.files = {name: path for subject in subjects for name, path in _loose_files(subject).items()}
        self.packed: dict[int, bytes] = {}  # by position in `subjects`
        self.failed: dict[int, Answer] = {}
        for position, subject in enumerate(subjects):
            try:
                self.packed[position] = cloudpickle.dumps(subject)
            except Exception as error:
                self.failed[position] = f"the class cannot be pickled: {one_line(error)}"

    def scores(self, subject: Subject) -> Answer:
        """The scores of one of the subjects at the end of the stream, or what went wrong."""
        return self._answers[self.subjects.index(subject)]

    @cached_property
    def _answers(self) -> dict[int, Answer]:
        jobs: dict[int, tuple[bytes, bytes]] = {}
        answers = dict(self.failed)
        for position, packed in self.packed.items():
            try:
                trial = Trial(self.subjects[position])
                for _ in range(half(trial)):
                    trial.step()
                saved = io.BytesIO()
                torch.save(trial.strategy.state_dict(), saved)
                jobs[position] = packed, saved.getvalue()
            except Exception as error:
                answers[position] = one_line(error)
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
                finished: dict[int, Answer] = cloudpickle.loads(done.read_bytes())
                return answers | finished
        last = (process.stderr.strip().splitlines() or [f"it ended with code {process.returncode}"])[-1]
        return answers | dict.fromkeys(jobs, last)


def half(trial: Trial) -> int:
    """After how many steps the state is saved."""
    return max(1, len(trial.steps) - 1)


def main() -> None:
    """In the new process: restore, finish, and hand back the scores."""
    files, jobs = cloudpickle.loads(Path(sys.argv[1]).read_bytes())
    for name, path in files.items():
        spec = spec_from_file_location(name, path)
        assert spec is not None
        assert spec.loader is not None
        sys.modules[name] = module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    answers: dict[int, Answer] = {}
    for position, (packed, saved) in jobs.items():
        try:
            with laboratory():
                trial = Trial(cloudpickle.loads(packed))
                state = torch.load(io.BytesIO(saved), weights_only=True)
                answers[position] = trial.resume(state, half(trial)).finish().scores()
        except Exception as error:
            answers[position] = one_line(error)
    Path(sys.argv[2]).write_bytes(cloudpickle.dumps(answers))


def _loose_files(subject: Subject) -> dict[str, str]:
    """Modules, by name, that a new process does not find by itself: one-file plugins."""
    found = {}
    for cls in (*subject.strategy.__mro__, *subject.backbone.__mro__):
        name = cls.__module__
        file = getattr(sys.modules.get(name), "__file__", None)
        if file and name != "__main__" and "." not in name and PathFinder.find_spec(name) is None:
            found[name] = file
    return dict(reversed(found.items()))  # bases first
