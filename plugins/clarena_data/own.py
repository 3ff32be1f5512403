"""Benchmarks of your own data: `split:PATH` deals its classes out, `domain:PATHS` takes one source after another."""

import warnings
from collections.abc import Iterable, Iterator
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
    RowForm,
    Samples,
    Scenario,
    Stream,
    UsageError,
    family_member,
    read_pictures,
    readable_name,
    require_file,
    split_by_domain,
    user_path,
)

from .arrays import Arrays, Pixels, read_arrays
from .images import read_images
from .numbers import Standardise, Standardised, read_new_numbers, read_numbers, require_columns
from .tables import SUFFIXES, is_folder_of_datasets, read_table, text_columns
from .texts import Words, encode, text_rows

TestShare = Annotated[
    float, Field(gt=0, lt=1, description="Share of each class held out for testing, where the data does not say.")
]


class Own(Benchmark):
    """Data that a path names.

    Attributes:
        paths: where it is.
    """

    paths: ClassVar[tuple[Path, ...]] = ()

    def source_files(self) -> Iterable[Path]:
        """The paths."""
        return self.paths

    def data(self) -> Data:
        """The samples of all paths, each path a domain where there are several."""
        if not self.paths:
            raise UsageError(f"{self.name} needs a path in place of its placeholder.")
        parts = [self.read(path) for path in self.paths]
        data = parts[0] if len(parts) == 1 else joined(parts, self.paths)
        return replace(data, notes=(*data.notes, *self.form(data), *remarks(data)))

    def read(self, path: Path) -> Data:
        """The samples of one path."""
        raise NotImplementedError

    def form(self, data: Data) -> list[str]:
        """What the samples are taken for, a sentence each, where a person may mean something else."""
        return []


class ArraysOwn(Arrays, Own):
    """Arrays in an `.npz`."""

    def read(self, path: Path) -> Data:
        return self.laid_out(read_arrays(path))


class ImagesOwn(Pixels, Own):
    """A folder of images for each class."""

    channels_last = True
    added = frozenset({"white"})

    def __init__(
        self,
        *,
        size: Annotated[
            int | None,
            Field(ge=1, description="Height and width that images are brought to; none asks for images of one size."),
        ] = None,
        white: Annotated[
            float | None,
            Field(
                gt=0,
                description="The value of white in images of more than 8 bits, one for all; none takes 65,535, and 1 "
                "in floating point.",
            ),
        ] = None,
        test_share: TestShare = 0.2,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.size = size
        self.white = white
        self.test_share = test_share

    def read(self, path: Path) -> Data:
        return read_images(path, self.size, self.test_share, self.white)

    def read_new(self, path: Path, form: RowForm) -> Samples:
        """New images of a folder, in folders by class or all together, or one alone; or an `.npz` of their pixels."""
        if path.suffix.lower() == ".npz":
            return super().read_new(path, form)
        return read_pictures(path, form, resize=self.size is not None, white=self.white)


class TextsOwn(Words, Own):
    """A table of texts and labels."""

    added = frozenset({"tokenizer"})

    def __init__(self, *, test_share: TestShare = 0.2, **options: Any) -> None:
        super().__init__(**options)
        self.test_share = test_share

    def read(self, path: Path) -> Data:
        table = read_table(path)
        rows, notes = text_rows(table)
        return encode(rows, self.tokens, self.test_share, str(path), notes)


class NumbersOwn(Standardised, Own):
    """A table of numbers and labels."""

    def __init__(self, *, standardise: Standardise = True, test_share: TestShare = 0.2, **options: Any) -> None:
        super().__init__(**options)
        self.standardise = standardise
        self.test_share = test_share
        self._columns: list[str] = []

    def read(self, path: Path) -> Data:
        data, columns = read_numbers(read_table(path), self.test_share, str(path))
        require_columns(path, columns, self._columns or columns)
        self._columns = columns
        return data

    def read_new(self, path: Path, form: RowForm) -> Samples:
        """New rows of a table with the columns of training."""
        return read_new_numbers(path, form)


_Family = TypeVar("_Family", bound=Own)


class SplitOwn(SplitClasses, Own):
    """The classes of your own data, a few at a time: a folder of images, an .npz, or a table of texts or numbers."""

    name = "split:PATH"

    @classmethod
    def of(cls, argument: str) -> type[Self]:
        """The benchmark of a folder of images for each class, an `.npz`, or a table of texts or numbers."""
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
    if len({place.resolve() for place in places}) < len(places):
        raise UsageError(f"Of the sources {', '.join(paths)}, two are the same. Each must be another one.")
    kinds = {_kind(place) for place in places}
    if len(kinds) > 1:
        raise UsageError(f"The sources {', '.join(paths)} are of different kinds. Give folders only, or .npz only, …")
    stems = ",".join(readable_name(place.name if place.is_dir() else place.stem) for place in places)
    return family_member(family, stems, kinds.pop(), paths=places)


def _kind(path: Path) -> type[Own]:
    suffix = path.suffix.lower()
    if not path.exists():
        raise DataError(f"There is nothing at {path}. Give a folder, an .npz, or a table ({', '.join(SUFFIXES)}).")
    if path.is_dir() and not is_folder_of_datasets(path):
        return ImagesOwn
    if not path.is_dir() and suffix == ".npz":
        require_file(path)
        return ArraysOwn
    if path.is_dir() or suffix in SUFFIXES:
        return TextsOwn if text_columns(read_table(path)) else NumbersOwn
    raise DataError(f"{path} is neither a folder nor an .npz, nor a table ({', '.join(SUFFIXES)}).")


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

    known: dict[str, Path] = {}
    notes = []
    for part, path in zip(parts, paths):
        other = known.setdefault(part.fingerprint(), path)
        if other != path:
            notes.append(f"{other.name} and {path.name} hold the same samples.")

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
        domain_names=tuple(readable_name(path.stem) for path in paths),
        notes=tuple(dict.fromkeys([*(note for part in parts for note in part.notes), *notes])),
    )


def remarks(data: Data) -> list[str]:
    """What a person should know of data before they are learned from, a sentence each."""
    notes = []
    for part, y in (("training", data.y_train), ("test", data.y_test)):
        counts = torch.bincount(y, minlength=data.classes).tolist() if y.ndim == 1 else []
        for few in (0, 1) if part == "training" else (0,):
            names = [name for name, count in zip(data.class_names, counts) if count == few]
            if names:
                shown = ", ".join(names[:5]) + (", …" if len(names) > 5 else "")
                which = "class has" if len(names) == 1 else "classes have"
                amount = f"no {part} sample" if few == 0 else f"a single {part} sample"
                notes.append(f"{len(names)} {which} {amount}: {shown}.")
    if shared := overlap(data):
        notes.append(f"{shared} of the {len(data.x_test)} test samples are in the training set as well.")
    return notes


def overlap(data: Data) -> int:
    """How many test samples occur in training as well."""

    def hashes(x: Tensor) -> Iterator[int]:
        return (hash(row.tobytes()) for row in x.flatten(1).numpy())

    known = set(hashes(data.x_train))
    return sum(row in known for row in hashes(data.x_test))


def warn_of_overlap(data: Data, name: str) -> None:
    """Warn where test samples occur in training as well, with their number."""
    if shared := overlap(data):
        warnings.warn(
            f"{shared} of the {len(data.x_test)} test samples of {name} are in its training set as well.",
            ClarenaWarning,
            stacklevel=2,
        )
