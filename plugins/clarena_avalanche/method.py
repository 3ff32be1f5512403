"""What there is to say of one of Avalanche's strategies, as data. Nothing heavy is imported here."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import Field

Hyper = tuple[Any, Any]
"""A hyper-parameter: its annotation, with bounds and a sentence, and its default."""


def number(default: float, meaning: str, **bounds: float) -> Hyper:
    """A float."""
    return Annotated[float, Field(description=meaning, **bounds)], default  # type: ignore[call-overload]


def numbers(default: float, meaning: str) -> Hyper:
    """A float, or one for each experience."""
    return Annotated[float | tuple[float, ...], Field(description=f"{meaning}, or one for each experience.")], default


def whole(default: int, meaning: str, least: int = 1) -> Hyper:
    """An integer of at least `least`."""
    return Annotated[int, Field(ge=least, description=meaning)], default


def choice(default: str, meaning: str, *others: str) -> Hyper:
    """One of several words."""
    return Annotated[Literal[(default, *others)], Field(description=meaning)], default


def switch(default: bool, meaning: str) -> Hyper:
    """Yes or no."""
    return Annotated[bool, Field(description=meaning)], default


def exemplars(meaning: str = "Exemplars kept in total") -> Hyper:
    """A share of the protocol's buffer."""
    sentence = f"{meaning}; none takes all that the protocol grants."
    return Annotated[int | None, Field(ge=0, description=sentence)], None


def rate(default: float) -> Hyper:
    """The learning rate, where the mathematics fixes the optimiser."""
    return number(default, "Learning rate of the plain SGD.", gt=0)


@dataclass(frozen=True)
class Method:
    """One of Avalanche's strategies, as the realisation runs it.

    Attributes:
        name: within this plugin.
        builds: the class that Avalanche calls it, of `avalanche.training.supervised` or, for one that is an Avalanche
            plugin alone, of `avalanche.training.plugins`; a class elsewhere as `"package.module:Class"`.
        summary: one line.
        paper: whose method it is.
        family: the kind of method, as for native strategies.
        differs: what Avalanche does otherwise than the paper or a native namesake, as numbered lines.
        hyper: what `--set` reaches: the constructor's own parameters, by name.
        fixed: arguments of the constructor that the host decides.
        buffer: the hyper-parameter that says how many exemplars are kept; it is granted by the protocol.
        remembers: the attributes, of the strategy, its plugins or its model, that live on between experiences.
        carries: the same in words.
        needs_exemplars: whether it cannot train at all without a buffer.
        task_heads: whether the model is given task labels in the task scenario.
        adapter: the class of `clarena_avalanche.single_methods` that fits it in.
        refuses: why it cannot run; None where it can.
    """

    name: str
    builds: str
    summary: str
    paper: str
    family: str
    differs: str = ""
    hyper: Mapping[str, Hyper] = field(default_factory=dict)
    fixed: Mapping[str, Any] = field(default_factory=dict)
    buffer: str | None = None
    remembers: tuple[str, ...] = ()
    carries: str = "the model"
    scenarios: frozenset[str] = frozenset({"class", "domain", "task"})
    needs: frozenset[str] = frozenset()
    off: Mapping[str, Any] | None = None
    exceptions: Mapping[str, str] = field(default_factory=dict)
    needs_exemplars: bool = False
    task_heads: bool = True
    adapter: str = "Adapted"
    refuses: str | None = None

    @property
    def class_name(self) -> str:
        """What its class is called in `clarena_avalanche.strategies`: `er-ace` is `ErAce`."""
        return "".join(part.capitalize() for part in self.name.split("-"))
