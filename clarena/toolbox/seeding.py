"""One seed in, named independent generators out.

Every source of chance has a name and a stream of its own, derived from (seed, name, experience) by NumPy's
`SeedSequence`. So a strategy that draws extra numbers cannot change another's batches, and nothing about chance
needs saving: a resumed run reseeds at the start of an experience exactly as an uninterrupted one does.
"""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from zlib import crc32

import numpy as np
import torch

BEFORE_LEARNING = -1
"""The `experience` of what is drawn before the stream begins: the class order and the first initialisation."""

AUGMENTATION = torch.Generator()
"""Draws the views of training images. Global as torch's own generators are, and seeded with them: a model's copies draw
from the one stream, whoever made them and whenever."""


class Seeds:
    """The named generators of one run; all of them live on the CPU, so that CPU and GPU runs see the same draws."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.start(BEFORE_LEARNING)

    def start(self, experience: int) -> None:
        """Begin an experience (0-based): every named generator starts anew, and so do the global ones."""
        self.experience = experience
        self._generators: dict[str, torch.Generator] = {}
        state = self._entropy("global")
        _seed_torch(state)
        AUGMENTATION.manual_seed(self._entropy("augmentation"))
        np.random.seed(state % 2**32)
        random.seed(state)

    def apart(self, name: str, experience: int) -> torch.Generator:
        """The generator of this name as it starts in another experience; the one in use goes on where it is."""
        return torch.Generator().manual_seed(self._entropy(name, experience))

    def torch(self, name: str) -> torch.Generator:
        """The generator of this name; asking again within an experience continues the same stream."""
        if name not in self._generators:
            self._generators[name] = torch.Generator().manual_seed(self._entropy(name))
        return self._generators[name]

    def numpy(self, name: str) -> np.random.Generator:
        """A fresh NumPy generator for this name at the start of its stream."""
        return np.random.default_rng(self._entropy(name))

    @contextmanager
    def scope(self, name: str) -> Iterator[None]:
        """Run code that draws from the global generators (layer initialisation) on the named stream instead."""
        seed = int(torch.randint(2**62, (), generator=self.torch(name)))
        with forked(seed):
            yield

    def _entropy(self, name: str, experience: int | None = None) -> int:
        experience = self.experience if experience is None else experience
        words = [self.seed, crc32(name.encode()), experience + 1]
        return int(np.random.SeedSequence(words).generate_state(1, np.uint64)[0] >> 1)


@contextmanager
def forked(seed: int) -> Iterator[None]:
    """Seed the global generators (torch on every device, augmentation, NumPy, random) inside; restore them after."""
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
    numpy_state, python_state, augmentation_state = np.random.get_state(), random.getstate(), AUGMENTATION.get_state()
    with torch.random.fork_rng(devices):
        _seed_torch(seed)
        AUGMENTATION.manual_seed(seed)
        np.random.seed(seed % 2**32)
        random.seed(seed)
        try:
            yield
        finally:
            AUGMENTATION.set_state(augmentation_state)
            np.random.set_state(numpy_state)
            random.setstate(python_state)


def _seed_torch(seed: int) -> None:
    """Seed torch's global generators; `torch.manual_seed` costs a millisecond where CUDA was not used yet."""
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(seed)
