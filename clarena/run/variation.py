"""Streams beyond clean splits: long tails, classes that come back, blurred boundaries and wrong labels, anywhere.

A variation takes the clean stream of any benchmark and changes which training rows each experience has, or under which
labels. Test data stay as they are: column j of the accuracy matrix is the j-th class group (or domain) of the clean
stream, whatever else is trained on beside it. `docs/protocol.md` has the equations and their sources.
"""

from collections import Counter
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from clarena.contract.benchmark import Stream
from clarena.contract.target import Target
from clarena.errors import UsageError
from clarena.protocol.protocol import Scenario, Variation
from clarena.toolbox.seeding import Seeds

Integers = NDArray[np.int64]


def varied(stream: Stream, variation: Variation, scenario: Scenario, seeds: Seeds, target: Target) -> Stream:
    """The clean stream as the variation has it; the same object where it changes nothing.

    Each kind of variation draws from a generator of its own name, so that one does not move another.

    Raises:
        UsageError: for what makes no sense in the scenario or of this target.
    """
    if variation == Variation():
        return stream
    _check(stream, variation, scenario, target)
    rows = _Rows.of(stream, target.labels_are_classes)
    if variation.imbalance > 1:
        rows = rows.long_tailed(variation.imbalance, stream.outputs, seeds.numpy("imbalance"))
    if variation.repeats:
        rows.repeat(variation.repeats, seeds.numpy("repeats"))
    if variation.blur:
        rows.blur(variation.blur, seeds.numpy("blur"))
    noisy = rows.mislabel(variation.label_noise, seeds.numpy("label_noise")) if variation.label_noise else Counter()
    splits = []
    for position, split in enumerate(stream.splits):
        here = np.flatnonzero(rows.place == position)
        splits.append(
            replace(
                split,
                train=torch.from_numpy(rows.row[here]),
                y_train=torch.from_numpy(rows.label[here]),
                origin=torch.from_numpy(rows.home[here]),
                group=tuple(sorted(target.shown(split.y_train, stream.outputs))),
                noisy=noisy[position],
            )
        )
    made = replace(stream, splits=tuple(splits))
    return renumbered(made) if scenario == "class" else made


def _check(stream: Stream, variation: Variation, scenario: Scenario, target: Target) -> None:
    asked = variation.model_dump(exclude_defaults=True)
    mixing = next((name for name in ("repeats", "blur") if name in asked), None)
    if mixing and scenario == "task":
        raise UsageError(
            f"stream.{mixing} makes no sense in the task scenario: a task label says which experience a sample belongs "
            "to. Use the class or the domain scenario."
        )
    if mixing and len(stream.splits) == 1:
        raise UsageError(f"stream.{mixing} needs a stream of at least two experiences to mix; this one has one.")
    by_label = next((name for name in ("imbalance", "label_noise") if name in asked), None)
    if by_label and not target.labels_are_classes:
        raise UsageError(f"stream.{by_label} needs a class for each sample; here the target is {target.name}.")


@dataclass
class _Rows:
    """Every training row of a stream, in the order of the clean stream.

    Attributes:
        home: the experience a row has in the clean stream [n].
        place: the one it has now [n].
        row: of the source arrays [n].
        label: in the stream [n, …].
        by_class: whether labels are classes.
    """

    home: Integers
    place: Integers
    row: Integers
    label: Integers
    by_class: bool

    @staticmethod
    def of(stream: Stream, by_class: bool) -> "_Rows":
        home = np.repeat(np.arange(len(stream.splits)), [len(split.train) for split in stream.splits])
        row = torch.cat([split.train for split in stream.splits]).numpy()
        return _Rows(home, home.copy(), row, torch.cat([split.y_train for split in stream.splits]).numpy(), by_class)

    def long_tailed(self, ratio: float, classes: int, generator: np.random.Generator) -> "_Rows":
        """Of the class of rank k, keep the share ratio^(−k/(K−1)) in each experience, rounded, and at least one row.

        Ranks of classes are drawn, and so are ranks of source rows, of which the lowest are kept: experiences that
        share rows (permuted, rotated) keep the same ones.
        """
        rank = generator.permutation(classes)
        share = ratio ** (-rank / max(1, classes - 1))
        order = generator.permutation(int(self.row.max()) + 1)[self.row]
        kept = np.zeros(len(self.row), dtype=bool)
        for home in np.unique(self.home):
            for present in np.unique(self.label[self.home == home]):
                members = np.flatnonzero((self.home == home) & (self.label == present))
                count = max(1, round(len(members) * float(share[present])))
                kept[members[order[members].argsort()[:count]]] = True
        return replace(self, home=self.home[kept], place=self.place[kept], row=self.row[kept], label=self.label[kept])

    def repeat(self, share: float, generator: np.random.Generator) -> None:
        """Hold back a share of each experience but the last, and deal it out evenly to all later ones."""
        last = int(self.home.max())
        for position in range(last):
            held = self._drawn(np.flatnonzero(self.home == position), share, generator)
            self.place[held] = position + 1 + np.arange(len(held)) % (last - position)

    def blur(self, share: float, generator: np.random.Generator) -> None:
        """Exchange a share of each experience for as many rows of the others, by chance.

        Every experience offers its share; what is offered is dealt out anew, as many rows to each as it offered, and
        none goes back. Where one would offer more than all others together, it offers as many as they.
        """
        offers = [self._drawn(np.flatnonzero(self.place == p), share, generator) for p in range(self.home.max() + 1)]
        total = sum(map(len, offers))
        offers = [offer[: total - len(offer)] for offer in offers]
        slots = np.concatenate([self.place[offer] for offer in offers])  # the experience of each free place
        items = generator.permutation(np.concatenate(offers))  # the row that goes there
        for position in range(len(offers)):
            back = np.flatnonzero((slots == position) & (self.place[items] == position))
            others = np.flatnonzero((slots != position) & (self.place[items] != position))
            swapped = generator.permutation(others)[: len(back)]  # as many there are: see the cut above
            items[back], items[swapped] = items[swapped], items[back]
        self.place[items] = slots

    def mislabel(self, share: float, generator: np.random.Generator) -> "Counter[int]":
        """Give a share of each experience another label that occurs in it, each with the same probability.

        Returns:
            how many labels are now wrong, by experience; 0 where there is one class only.
        """
        noisy: Counter[int] = Counter()
        for position in np.unique(self.place).tolist():
            here = np.flatnonzero(self.place == position)
            labels = np.unique(self.label[here])
            if len(labels) == 1:
                continue
            wrong = self._drawn(here, share, generator)
            true = np.searchsorted(labels, self.label[wrong])
            drawn = (true + generator.integers(1, len(labels), len(wrong))) % len(labels)
            self.label[wrong] = labels[drawn]
            noisy[position] = len(wrong)
        return noisy

    def _drawn(self, rows: Integers, share: float, generator: np.random.Generator) -> Integers:
        """A random share of some rows, rounded; but one row of each class stays out of it, so that none vanishes."""
        drawn = generator.permutation(rows)
        label = self.label[drawn] if self.by_class else np.zeros(len(drawn))
        _, stays = np.unique(label, return_index=True)
        return np.delete(drawn, stays)[: round(share * len(rows))]


def renumbered(stream: Stream) -> Stream:
    """The stream with its labels numbered in order of first appearance, as in a clean one."""
    order = dict.fromkeys(label for split in stream.splits for label in split.classes)
    order |= dict.fromkeys(range(stream.outputs))  # those that never occur in training come last
    number = torch.empty(stream.outputs, dtype=torch.long)
    number[list(order)] = torch.arange(stream.outputs)
    splits = tuple(
        replace(
            split,
            y_train=number[split.y_train],
            y_test=number[split.y_test],
            group=tuple(sorted(number[list(split.tested)].tolist())),
        )
        for split in stream.splits
    )
    return Stream(splits, tuple(stream.output_names[label] for label in order))
