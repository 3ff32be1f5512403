"""A clock that waits for the device at both ends, and can be stopped for what should not count."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Self

import torch

from clarena.run.environment import synchronise


class Clock:
    """Seconds spent inside its `with` blocks, all together."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.seconds, self._began = device, 0.0, 0.0

    def __enter__(self) -> Self:
        synchronise(self.device)
        self._began = time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        synchronise(self.device)
        self.seconds += time.perf_counter() - self._began

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """Not counted: what happens inside, within a `with` of the clock."""
        self.__exit__()
        try:
            yield
        finally:
            self.__enter__()
