"""Benchmarks of your own data: `split:PATH` deals its classes out, `domain:PATHS` takes one source after another."""

import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self, TypeVar

import numpy as np
import torch
from clarena_native.benchmarks.families import Order, SplitClasses
from pydantic import Field
from torch import Tensor

from clarena import (
    Benchmark,
    ClarenaWarning,
    Data,
    DataError,
    Scenario,
    Stream,
    UsageError,
    family_member,
    split_by_domain,
    user_path,
)

from .arrays import Pixels, channels_last, read_arrays
from .images import read_images
from .texts import Words, encode, read_table

TestShare = Annotated[
    float, Field(gt=0, lt=1, description="Share of each class held out for testing, where the data does not say.")
]
TABLES = {".csv", ".tsv", ".jsonl"}


class Own(Benchmark):
    """Data that a path names.

    Attributes:
        paths: where it is.
    """

    paths: ClassVar[tuple[Path, ...]] = ()

    def data(self) -> Data:
        """The samples of all paths, each path a domain where there are several."""
        if not self.paths:
            raise UsageError(f"{self.name} needs a path in place of its placeholder.")
        parts = [self.read(path) for path in self.paths]
        data = parts[0] if len(parts) == 1 else joined(parts, self.paths)
        warn_of_overlap(data, self.name)
        return data

    def read(self, path: Path) -> Data:
        """The samples of one path."""
        raise NotImplementedError


class ArraysOwn(Pixels, Own):
    """Arrays in an `.npz`."""

    def read(self, path: Path) -> Data:
        return read_arrays(path)

    def inputs(self, x: Tensor) -> Tensor:
        return super().inputs(x.movedim(-1, 1) if x.dtype == torch.uint8 and channels_last(x) else x)


class ImagesOwn(Pixels, Own):
    """A folder of images for each class."""

    channels_last = True

    def __init__(
        self,
        *,
        size: Annotated[
            int | None,
            Field(ge=1, description="Height and width that images are brought to; none asks for images of one size."),
        ] = None,
        test_share: TestShare = 0.2,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.size = size
        self.test_share = test_share

    def read(self, path: Path) -> Data:
        return read_images(path, self.size, self.test_share)


class TextsOwn(Words, Own):
    """A table of texts and labels."""

    def __init__(self, *, test_share: TestShare = 0.2, **options: Any) -> None:
        super().__init__(**options)
        self.test_share = test_share

    def read(self, path: Path) -> Data:
        return encode(read_table(path), self.words, self.length, self.test_share, str(path))


_Family = TypeVar("_Family", bound=Own)


class SplitOwn(SplitClasses, Own):
    """The classes of your own data, a few at a time: a folder of images, an .npz, or a table of text."""

    name = "split:PATH"

    @classmethod
    def of(cls, argument: str) -> type[Self]:
        """The benchmark of a folder of images for each class, an `.npz`, a `.csv`, `.tsv` or `.jsonl`."""
        return made_for(cls, (argument,))


class DomainsOwn(Own):
    """Your own data from several sources, separated by commas: one domain after another, the same classes in each."""

    name = "domain:PATHS"
    scenarios: ClassVar[tuple[Scenario, ...]] = ("domain", "task", "class")

    def __init__(
        self,
        *,
        order: Annotated[Order, Field(description="Shuffle the domains by the seed, or keep them as given.")] = "seed",
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.order = order

    @classmethod
    def of(cls, argument: str) -> type[Self]:
        """The benchmark of several paths, separated by commas, all of one kind."""
        paths = tuple(argument.split(","))
        if len(paths) < 2:
            raise UsageError(f"domain:{argument} names one source. Give two or more: domain:PATH,PATH.")
        return made_for(cls, paths)

    def stream(self, data: Data, scenario: Scenario, generator: np.random.Generator) -> Stream:
        """Each source is an experience."""
        return split_by_domain(data, scenario, self.order, generator)


def made_for(family: type[_Family], paths: tuple[str, ...]) -> type[_Family]:
    """The class of a family for these paths: that family, with the way to read such paths."""
    places = tuple(user_path(path) for path in paths)
    kinds = {_kind(place) for place in places}
    if len(kinds) > 1:
        raise UsageError(f"The sources {', '.join(paths)} are of different kinds. Give folders only, or .npz only, …")
    stems = ",".join(place.name if place.is_dir() else place.stem for place in places)
    return family_member(family, stems, kinds.pop(), paths=places)


def _kind(path: Path) -> type[Own]:
    if not path.exists():
        raise DataError(f"There is nothing at {path}. Give a folder, an .npz, or a .csv, .tsv or .jsonl file.")
    if path.is_dir():
        return ImagesOwn
    if path.suffix.lower() == ".npz":
        return ArraysOwn
    if path.suffix.lower() in TABLES:
        return TextsOwn
    raise DataError(f"{path} is neither a folder nor an .npz, .csv, .tsv or .jsonl file.")


def joined(parts: list[Data], paths: tuple[Path, ...]) -> Data:
    """Several sources as the domains of one: all must have the same classes and inputs of one shape."""
    first = parts[0]
    for part, path in zip(parts[1:], paths[1:]):
        if part.class_names != first.class_names:
            odd = sorted(set(part.class_names) ^ set(first.class_names))
            raise DataError(f"{path} and {paths[0]} differ in their classes: {', '.join(odd[:5])}.")
        if part.x_train.shape[1:] != first.x_train.shape[1:] or part.x_train.dtype != first.x_train.dtype:
            shapes = [f"{p.x_train.dtype} {tuple(p.x_train.shape[1:])}" for p in (part, first)]
            raise DataError(f"{path} has inputs {shapes[0]}, {paths[0]} has {shapes[1]}. They must be alike.")

    def domains(sizes: list[int]) -> Tensor:
        return torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))

    joined: dict[str, Any] = {
        name: torch.cat([getattr(part, name) for part in parts]) for name in ("x_train", "y_train", "x_test", "y_test")
    }
    return replace(
        first,
        **joined,
        domain_train=domains([len(part.y_train) for part in parts]),
        domain_test=domains([len(part.y_test) for part in parts]),
        domain_names=tuple(path.stem for path in paths),
    )


def warn_of_overlap(data: Data, name: str) -> None:
    """Warn where test samples occur in training as well, with their number."""

    def hashes(x: Tensor) -> Iterator[int]:
        return (hash(row.tobytes()) for row in x.flatten(1).numpy())

    known = set(hashes(data.x_train))
    shared = sum(row in known for row in hashes(data.x_test))
    if shared:
        warnings.warn(
            f"{shared} of the {len(data.x_test)} test samples of {name} are in its training set as well.",
            ClarenaWarning,
            stacklevel=2,
        )
