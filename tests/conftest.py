"""Settings of the whole suite."""

import os
import signal

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")

import pytest
from hypothesis import settings

settings.register_profile("clarena", deadline=None, print_blob=True)  # a deadline is a timed assertion
settings.load_profile("clarena")

# A shell that starts a job in the background has it ignore Ctrl-C, and so would every process that a test interrupts.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """A parallel test run sets a width for its workers; what is printed must be that of a pipe."""
    monkeypatch.delenv("COLUMNS", raising=False)
