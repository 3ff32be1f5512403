"""How a benchmark that splits classes deals them out: how many to each experience, and in which order."""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Annotated, Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from clarena.errors import UsageError, unknown_name

NamedOrder = Literal["seed", "natural", "icarl"]
ORDERS: tuple[str, ...] = get_args(NamedOrder)
ClassOrder = Annotated[NamedOrder | tuple[int, ...] | tuple[str, ...], Field(union_mode="left_to_right")]
"""The seed's, the natural one, a published one, or the classes themselves, by number from 0 or by name."""

Count = Annotated[int, Field(ge=1)]
ClassSizes = Count | Annotated[tuple[Count, ...], Field(min_length=1)]
"""How many experiences share the classes, or how many classes each has."""

PUBLISHED_SEEDS = {"icarl": 1993}
"""Orders that papers share: numpy's `np.random.seed(SEED); np.random.permutation(classes)`.

`icarl` is the seed of iCaRL's code (Rebuffi et al. 2017), as PyCIL applies it: of CIFAR-100, 68, 56, 78, 8, 23, …
"""


def class_sizes(classes: int, experiences: int | Sequence[int], first: int | None = None) -> list[int]:
    """How many classes each experience has.

    Args:
        classes: of the data.
        experiences: how many there are, over which the classes are dealt out as evenly as they go (the first ones get
            the remainder); or the sizes themselves.
        first: the size of the first experience; the others then share the rest equally.

    Raises:
        UsageError: when there are more experiences than classes, or fewer than one; when sizes do not add up to the
            classes; when what a first experience leaves cannot be shared equally.
    """
    if not isinstance(experiences, int):
        if first is not None:
            raise UsageError("benchmark.experiences gives the size of every experience: leave that of the first out.")
        if min(experiences) < 1 or sum(experiences) != classes:
            raise UsageError(
                f"Experiences of {_listed(experiences)} classes are {sum(experiences)} in all, and the data have "
                f"{classes}. Every class is in one experience, and every experience has one or more."
            )
        return list(experiences)
    if not 1 <= experiences <= classes:
        raise UsageError(
            f"Cannot split {classes} classes into {experiences} experiences. "
            f"Choose between 1 and {classes}, so that each brings a class or more: "
            f"--set benchmark.experiences={max(1, min(experiences, classes))}."
        )
    if first is None:
        return [len(part) for part in np.array_split(np.arange(classes), experiences)]
    others, left = experiences - 1, classes - first
    if others < 1 or left < others:
        raise UsageError(
            f"A first experience of {first} of {classes} classes leaves {max(0, left)} for {others} more. "
            "Make the first smaller, so that each of the others has a class or more, or leave its size out."
        )
    if left % others:
        even = [first, *(len(part) for part in np.array_split(np.arange(left), others))]
        raise UsageError(
            f"After a first experience of {first} classes, {left} cannot be shared equally by {others} more. Change "
            f"benchmark.experiences, or give the size of each: --set benchmark.experiences={_listed(even)}."
        )
    return [first] + [left // others] * others


def class_order(class_names: Sequence[str], order: ClassOrder, generator: np.random.Generator) -> NDArray[np.int64]:
    """The classes by number, in the order in which a stream brings them [classes]; by `generator` for `seed` alone.

    Raises:
        UsageError: for an order that is not known, or a given one that lacks, repeats or makes up a class.
    """
    names, count = list(class_names), len(class_names)
    if order == "seed":
        return generator.permutation(count)
    if order == "natural":
        return np.arange(count)
    if order in PUBLISHED_SEEDS:
        return np.random.RandomState(PUBLISHED_SEEDS[order]).permutation(count)
    if isinstance(order, str) or (len(order) == 1 and count > 1 and order[0] not in names):
        raise unknown_name("class order", order if isinstance(order, str) else str(order[0]), ORDERS)
    number = {name: place for place, name in enumerate(names)} | {place: place for place in range(count)}
    found = Counter(number.get(one, -1) for one in order)
    unknown = [one for one in order if one not in number]
    repeated = [names[place] for place, times in found.items() if place >= 0 and times > 1]
    lacking = [name for place, name in enumerate(names) if place not in found]
    for what, which in (("names what is no class", unknown), ("repeats", repeated), ("lacks", lacking)):
        if which:
            raise UsageError(
                f"The class order {what}: {_listed(which[:5])}{', …' * (len(which) > 5)}. It has each of the "
                f"{count} classes once, by number from 0 or by name: {_listed(names[:5])}"
                f"{', …' * (len(names) > 5)}."
            )
    return np.array([number[one] for one in order])


def _listed(values: Iterable[Any]) -> str:
    return ",".join(map(str, values))
