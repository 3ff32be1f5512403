"""How Avalanche's loaders read samples: a batch by a few indices, however large it is and whatever it is joined of."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import wraps
from typing import Any
from unittest.mock import patch

import pytest
import torch
from needs import needs
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import DataLoader, default_collate
from torch.utils.data.dataloader import _BaseDataLoaderIter

needs("avalanche")

from clarena_avalanche.library import import_avalanche

import_avalanche()

from avalanche.training.supervised.lamaml_v2 import Buffer
from avalanche.training.supervised.mer import MERBuffer
from clarena_avalanche import strategies
from clarena_avalanche.samples import Pool, Samples
from clarena_avalanche.table import RUNNING
from clarena_avalanche.trainer import labelled, stage

from clarena.checks.tiny import Subject
from clarena.checks.trial import Trial, laboratory

INDICES = {"index", "index_select", "select", "slice", "gather", "take", "unbind", "narrow", "split"}
MOST = 3
"""An index of the stream, one of the exemplars, and one that puts both in order."""
NEVER = {"naive", "cumulative", "joint", "from-scratch", "si", "rwalk", "lwf", "lfl", "cwr-star"}
"""They train on the host's batches and read nothing else."""


class Indices(TorchDispatchMode):
    """Counts the operations by which inputs, which are no integers, are taken out of tensors."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        indexed = func._schema.name.removeprefix("aten::") in INDICES
        self.count += indexed and args[0].is_floating_point()
        return func(*args, **(kwargs or {}))


@contextmanager
def reads() -> Iterator[list[tuple[int, int]]]:
    """Of each batch that one of Avalanche's loaders or buffers hands out meanwhile, its samples and their indices."""
    found: list[tuple[int, int]] = []

    def counted(read: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(read)
        def counting(self: Any, *args: Any) -> Any:
            with Indices() as indices:
                batch = read(self, *args)
            found.append((len(batch[1]), indices.count))
            return batch

        return counting

    with ExitStack() as stack:
        for cls, name in (_BaseDataLoaderIter, "__next__"), (MERBuffer, "get_batch"), (Buffer, "get_buffer_batch"):
            stack.enter_context(patch.object(cls, name, counted(getattr(cls, name))))
        yield found


@pytest.mark.parametrize("method", RUNNING, ids=lambda method: method.name)
def test_a_batch_is_read_by_a_few_indices(method: Any) -> None:
    hyper = {"batch_size_mem": 6} if method.name in {"er-ace", "mir"} else {}
    with laboratory(), reads() as found:
        Trial(Subject(getattr(strategies, method.class_name), "task"), protocol={"buffer_size": 13}, **hyper).finish()
    if method.name in NEVER:
        assert not found
    else:
        assert max(indices for _, indices in found) <= MOST < max(samples for samples, _ in found)


def test_indices_do_not_grow_with_the_batch() -> None:
    """Stream and exemplars of four buffers, shuffled together."""
    counts: list[int] = []
    stream, exemplars = Pool(counts.append), Pool(counts.append)
    x = torch.arange(80.0).reshape(40, 2)
    parts = [labelled(Samples(stream, [0] * 20, stream.add(x[:20])), [0] * 20)]
    parts += [labelled(Samples(exemplars, [k] * 5, exemplars.add(x[k : k + 5])), [0] * 5) for k in range(20, 40, 5)]
    whole = parts[0].concat(parts[1]).concat(parts[2]).concat(parts[3]).concat(parts[4])
    order = torch.randperm(40, generator=torch.Generator().manual_seed(0))
    for size in (4, 10, 20, 40):
        with reads() as found:
            batches = list(DataLoader(whole, batch_size=size, sampler=order.tolist()))
        assert torch.equal(torch.cat([batch[0] for batch in batches]), x[order])
        assert max(indices for _, indices in found) <= MOST
    assert sum(counts) == 4 * 40


def test_what_is_read_is_what_is_there() -> None:
    """One by one, joined by Avalanche or by torch: the same inputs, and each read is counted."""
    with laboratory():
        experience = Trial(Subject(strategies.Replay, "class")).begin()
    dataset = stage(experience, task_labels=False).dataset
    rows = [dataset[index] for index in (3, 0, 3)]
    expected = experience.x[[3, 0, 3]]
    assert torch.equal(default_collate(rows)[0], expected)
    assert torch.equal(torch.stack([row[0] for row in rows]), expected)
    assert torch.equal(torch.cat([row[0].unsqueeze(0) for row in rows]), expected)
    assert default_collate(rows)[1].tolist() == experience.y[[3, 0, 3]].tolist()
    assert experience.meter.accesses == 12
