"""What strategies hold while they learn does not grow with the number of batches: no list of gradients, no graph."""

import gc

import pytest
import torch
from test_native_strategies import CLASSES, HOST, name_of, needed
from tiny import walk
from torch import Tensor

from clarena import Experience

CASES = [
    *((cls, {}) for cls in CLASSES),
    *((HOST.strategy("ewc"), {"fisher": kind}) for kind in ("sample", "empirical", "argmax", "batched")),
    *((HOST.strategy("mas"), {"estimator": "batched", "estimator_batch": size}) for size in (None, 2)),
    (HOST.strategy("er"), {"policy": "balanced_random", "draw": "pass"}),
    (HOST.strategy("si+lwf+gem"), {}),
]
SLACK = 2**12
"""Bytes: the losses of single steps are kept by some, to be averaged once."""


def held() -> int:
    """Bytes of all tensors that have come since `gc.freeze()`, each storage once."""
    tensors = [found for found in gc.get_objects() if isinstance(found, Tensor)]
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}
    return sum(storages.values())


def peak(cls, options, batch_size, monkeypatch) -> int:
    """The most that is held at the end of any loop over the first two experiences."""
    most = 0

    def watched(loop):
        def over(experience, *args):
            nonlocal most
            for batch in loop(experience, *args):
                yield batch
            del batch
            most = max(most, held())

        return over

    with monkeypatch.context() as patched:
        for name in ("scan", "batches"):
            patched.setattr(Experience, name, watched(getattr(Experience, name)))
        gc.freeze()
        try:
            sizes = {"batch_size": batch_size, "eval_batch_size": batch_size}
            ours = walk(cls(**options), "task", epochs=1, buffer_size=8, **sizes, **needed(cls))
            for position in range(min(2, len(ours.realised.steps))):
                ours.step(position)
        finally:
            gc.unfreeze()
    return most


@pytest.mark.parametrize(("cls", "options"), CASES, ids=lambda value: name_of(value) if isinstance(value, type) else "")
def test_what_is_held_does_not_grow_with_the_number_of_batches(cls, options, monkeypatch):
    few, many = (peak(cls, options, size, monkeypatch) for size in (16, 2))
    assert few > 0
    assert many <= few + SLACK


def test_a_list_of_gradients_would_be_noticed(monkeypatch):
    """What `ewc.fisher=batched` once did."""

    class Hoarder(HOST.strategies.load("finetune")):
        """Keeps the gradient of every batch."""

        def before_experience(self, experience):
            self.hoard = []

        def after_backward(self, batch):
            self.hoard.append(torch.cat([p.grad.flatten() for p in self.model.parameters() if p.grad is not None]))

    few, many = (peak(Hoarder, {}, size, monkeypatch) for size in (16, 2))
    assert many > few + SLACK
