"""CORe50: 50 household objects of ten categories, filmed in eleven sessions (Lomonaco & Maltoni, 2017).

164,866 images, 128×128, in colour. Sessions 3, 7 and 10 are tested on, the other eight are learned from. From the
authors' files: `core50_imgs.npz` holds all images in one array, `paths.pkl` the path of each (`s11/o1/C_11_01_000.png`:
session 11, object 1), and `LUP.pkl` the rows of each experience in each of ten published runs.
"""

import pickle
import zipfile
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from clarena_data.own import warn_of_overlap
from clarena_native.benchmarks.families import ClassOrderChoice, Experiences, FirstExperience, Order
from numpy.typing import NDArray
from pydantic import Field

from clarena import (
    Data,
    Scenario,
    Stream,
    UsageError,
    data_root,
    fetch,
    split_by_class,
    split_by_domain,
    split_by_groups,
)

from .decoded import CHUNK, cached, open_images, resized, write_arrays
from .pixels import Images

FILES = {
    "core50_imgs.npz": (
        "http://bias.csr.unibo.it/maltoni/download/core50/core50_imgs.npz",
        "3689d65d0a1c760b87821b114c8c4c6c",
    ),
    "paths.pkl": ("https://vlomonaco.github.io/core50/data/paths.pkl", "b568f86998849184df3ec3465290f1b0"),
    "LUP.pkl": ("https://vlomonaco.github.io/core50/data/LUP.pkl", "33afc26faa460aca98739137fdfa606e"),
}
"""Where each is published, and its MD5 as Avalanche has it; the authors publish none."""

TRAIN_SESSIONS = (1, 2, 4, 5, 6, 8, 9, 11)
CATEGORIES = (
    "plug adapter", "mobile phone", "scissors", "light bulb", "can", "glass", "ball", "marker", "cup", "remote control",
)  # fmt: skip
EACH = 5
"""Objects of a category, numbered one after another."""
SIZES = (10, *[5] * 8)
"""New objects in each experience of NC."""
Run = Annotated[
    int | None,
    Field(ge=0, le=9, description="One of the ten published runs, whose order is taken; none takes `order`."),
]


class Core50(Images):
    """CORe50 at the size that is asked for."""

    def __init__(
        self,
        *,
        size: Annotated[int, Field(ge=8, le=128, description="Height and width that images are brought to.")] = 32,
        order: Annotated[
            Order, Field(description="Shuffle by the seed what comes one after another, or keep its natural order.")
        ] = "seed",
        run: Run = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.size = size
        self.order = order
        self.run = run

    def data(self) -> Data:
        """Images uint8 [n, size, size, 3] of 50 objects in eight sessions, mapped once for each process.

        The test images are of other sessions: they are dealt out to the eight in turn, object by object, so that the
        mean over them is the accuracy on all.

        Raises:
            DataError: when a file is missing or damaged and cannot be downloaded.
        """
        return load(self.size, data_root())

    def published(self, scenario: str) -> list[NDArray[np.int64]]:
        """The rows of all images that each experience of the published run has."""
        rows = pickle.loads(file("LUP.pkl").read_bytes())[scenario][self.run]
        return [np.asarray(experience, np.int64) for experience in rows[:-1]]  # the last is the test set


def file(name: str) -> Path:
    """One of `FILES`; raises `DataError` where it is neither there nor to be had."""
    return fetch(f"core50/{name}", *FILES[name])


def layout() -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Session 1 … 11 and object 1 … 50 of every image, int64 [n] each."""
    parts = [path.split("/") for path in pickle.loads(file("paths.pkl").read_bytes())]
    session, number = (np.array([int(part[column][1:]) for part in parts]) for column in (0, 1))
    return session, number


@cache
def load(size: int, root: Path) -> Data:
    """The images from `root`, which is the data root."""
    data = cached(f"core50-{size}", partial(write, size))
    warn_of_overlap(data, "CORe50")
    return data


def write(size: int, folder: Path) -> None:
    """Bring the images to size and put them into `folder`, see `store`: a few are in memory at a time."""
    session, number = layout()
    learned = np.isin(session, TRAIN_SESSIONS)
    with (
        zipfile.ZipFile(file("core50_imgs.npz")) as archive,
        archive.open("x.npy") as images,
        open_images(folder / "x_train.npy", (int(learned.sum()), size, size, 3)) as train,
        open_images(folder / "x_test.npy", (int((~learned).sum()), size, size, 3)) as test,
    ):
        np.lib.format.read_magic(images)
        (count, *shape), _, _ = np.lib.format.read_array_header_1_0(images)
        for start in range(0, count, CHUNK):
            rows = learned[start : start + CHUNK]
            pixels = np.frombuffer(images.read(len(rows) * int(np.prod(shape))), np.uint8).reshape(-1, *shape)
            pixels = resized(pixels, size)
            train.write(pixels[rows].data)
            test.write(pixels[~rows].data)
    y_test = number[~learned] - 1
    turn = np.empty(len(y_test), np.int64)
    turn[y_test.argsort(kind="stable")] = np.arange(len(y_test)) % len(TRAIN_SESSIONS)
    write_arrays(
        folder,
        y_train=number[learned] - 1,
        y_test=y_test,
        domain_train=np.searchsorted(TRAIN_SESSIONS, session[learned]),
        domain_test=turn,
        class_names=[f"{category} {number}" for category in CATEGORIES for number in range(1, EACH + 1)],
        domain_names=[f"session {session}" for session in TRAIN_SESSIONS],
    )


class Core50Nc(Core50):
    """CORe50 with new classes: ten objects, then five more in each of eight experiences; downloads some GB once."""

    name = "core50-nc"
    scenarios: ClassVar[tuple[Scenario, ...]] = ("class", "task", "domain")
    added = frozenset({"experiences", "first_experience"})

    def __init__(
        self,
        *,
        experiences: Experiences = SIZES,
        first_experience: FirstExperience = None,
        order: ClassOrderChoice = "seed",
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.experiences = experiences
        self.first_experience = first_experience
        self.order = order  # type: ignore[assignment]  # it orders classes here, and sessions elsewhere

    def stream(self, data: Data, scenario: Scenario, generator: np.random.Generator) -> Stream:
        """Nine experiences or as are set, each with all eight sessions of its objects."""
        if self.run is None:
            return split_by_class(data, scenario, self.experiences, self.order, generator, first=self.first_experience)
        if self.experiences != SIZES or self.first_experience is not None:
            raise UsageError("A published run has its experiences: leave benchmark.experiences, or benchmark.run, out.")
        _, number = layout()
        return split_by_groups(data, scenario, [np.unique(number[rows] - 1) for rows in self.published("nc")])


class Core50Ni(Core50):
    """CORe50 with new instances: all objects in one session after another; downloads some GB once."""

    name = "core50-ni"
    scenarios: ClassVar[tuple[Scenario, ...]] = ("domain", "task", "class")

    def __init__(
        self,
        *,
        level: Annotated[
            Literal["object", "category"], Field(description="Tell 50 objects apart, or their 10 categories.")
        ] = "object",
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.level = level

    def data(self) -> Data:
        """As `Core50`, the classes being objects or categories."""
        data = super().data()
        if self.level == "object":
            return data
        return replace(data, y_train=data.y_train // EACH, y_test=data.y_test // EACH, class_names=CATEGORIES)

    def stream(self, data: Data, scenario: Scenario, generator: np.random.Generator) -> Stream:
        """A session for each experience, tested on an eighth of the test images."""
        if self.run is None:
            return split_by_domain(data, scenario, self.order, generator)
        assert data.domain_train is not None
        assert data.domain_test is not None
        session, _ = layout()
        order = [TRAIN_SESSIONS.index(session[rows[0]]) for rows in self.published("ni")]
        place = torch.tensor(order).argsort()
        ordered = replace(
            data,
            domain_train=place[data.domain_train],
            domain_test=place[data.domain_test],
            domain_names=tuple(data.domain_names[domain] for domain in order),
        )
        return split_by_domain(ordered, scenario, "natural", generator)
