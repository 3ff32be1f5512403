"""Runs the command line in this process, through the same door as the shell: `clarena.cli.main`."""

import io
import json
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

from clarena.cli import main


@dataclass(frozen=True)
class Outcome:
    """What a command printed, and its exit code."""

    code: int
    out: str
    err: str

    @property
    def data(self) -> Any:
        return json.loads(self.out)


def clarena(*arguments: object) -> Outcome:
    """Run `clarena ARGUMENTS`; an exception that leaves `main` leaves here, too."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    command = ["clarena", *map(str, arguments)]
    with redirect_stdout(out), redirect_stderr(err), patch.object(sys, "argv", command), _same_signals():
        try:
            main()
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
    return Outcome(code, out.getvalue(), err.getvalue())


def smoke(store: object, *arguments: object) -> Outcome:
    """Evaluate on very little data, in this process."""
    quick = ("--protocol", "smoke", "--limit", 16, "--jobs", 1, "--no-tracking", "--store", store)
    return clarena("evaluate", *arguments, *quick)


@contextmanager
def _same_signals() -> Iterator[None]:
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
