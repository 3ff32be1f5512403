"""The space of a tuning: which values each hyper-parameter may take, and which of them to try next."""

import json
import math
import random
import re
from collections.abc import Iterable, Iterator, Mapping
from itertools import product
from typing import TYPE_CHECKING, Any

from pydantic import ConfigDict, PydanticUserError, TypeAdapter

from clarena.errors import UsageError
from clarena.plugins.parameters import Parameter
from clarena.protocol.frozen import FrozenModel

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

FACTOR = 100
"""Where nothing is said, a positive number is tried from a hundredth to a hundred times its default."""

GRID = 100
"""A space of choices alone with no more points than this is tried point by point, none of them twice."""

DIGITS = 4
"""Significant digits of the numbers that are tried, so that what is chosen can be typed."""


class Range(FrozenModel):
    """Numbers from `low` to `high`, both included; `log` spreads them evenly over the orders of magnitude."""

    low: float
    high: float
    log: bool = False
    whole: bool = False

    def __str__(self) -> str:
        return f"{self.low:.12g}..{self.high:.12g}{':log' if self.log else ''}"

    @property
    def checked(self) -> tuple[Any, ...]:
        """The values that a strategy must take if it is to take all: the two ends."""
        return self.low, self.high

    def holds(self, value: Any) -> bool:
        """Whether a value lies in it."""
        return isinstance(value, int | float) and self.low <= value <= self.high

    def distribution(self) -> "BaseDistribution":
        """For optuna."""
        from optuna.distributions import FloatDistribution, IntDistribution

        if self.whole:
            return IntDistribution(int(self.low), int(self.high), log=self.log)
        return FloatDistribution(self.low, self.high, log=self.log)

    def encode(self, value: Any) -> Any:
        """A value as optuna knows it."""
        return value

    def decode(self, drawn: Any) -> Any:
        """What optuna drew, in numbers that can be typed."""
        return drawn if self.whole else min(self.high, max(self.low, float(f"{drawn:.{DIGITS}g}")))


class Choice(FrozenModel):
    """One of some values."""

    options: tuple[Any, ...]

    def __str__(self) -> str:
        return ",".join(option if isinstance(option, str) else json.dumps(option) for option in self.options)

    @property
    def checked(self) -> tuple[Any, ...]:
        """The values that a strategy must take: all of them."""
        return self.options

    def holds(self, value: Any) -> bool:
        """Whether a value is one of them."""
        return value in self.options

    def distribution(self) -> "BaseDistribution":
        """For optuna, which knows an option by its position."""
        from optuna.distributions import CategoricalDistribution

        return CategoricalDistribution(tuple(range(len(self.options))))

    def encode(self, value: Any) -> Any:
        """A value as optuna knows it."""
        return self.options.index(value)

    def decode(self, drawn: Any) -> Any:
        """What optuna drew."""
        return self.options[drawn]


Space = dict[str, Range | Choice]
"""What is tuned, by name: `strength`, or `ewc.strength` for a part of a composite."""


def requested(items: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Name and text of `--space` items; `NAME` alone has no text."""
    for item in items:
        name, equals, text = (part.strip() for part in item.partition("="))
        if not name or (equals and not text):
            raise UsageError(
                f"--space {item!r} cannot be read. Write NAME=LOW..HIGH, NAME=LOW..HIGH:log, NAME=A,B,C, or NAME for "
                "its default range: --space strength=0.1..1000:log"
            )
        yield name, text


def read(name: str, text: str, parameter: Parameter) -> Range | Choice:
    """Read `LOW..HIGH`, `LOW..HIGH:log` or `A,B,C`; whether the strategy takes these values is not looked at.

    Raises:
        UsageError: for text of another form, or a range that is empty.
    """
    bounds = re.fullmatch(r"(.+?)\.\.(.+?)(:log)?", text)
    if not bounds:
        options = tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
        if len(options) > 1:
            return Choice(options=options)
        raise UsageError(
            f"--space {name}={text} leaves nothing to choose. Write {name}=LOW..HIGH or {name}=A,B,C; a single value "
            "is fixed by --set."
        )
    log = bool(bounds[3])
    try:
        low, high = float(bounds[1]), float(bounds[2])
    except ValueError as error:
        raise UsageError(f"--space {name}={text} cannot be read: {error}. Write {name}=0.1..1000:log.") from error
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise UsageError(f"--space {name}={text} is empty: the lower end comes first, and both are finite.")
    if log and low <= 0:
        raise UsageError(f"--space {name}={text}: a logarithmic range begins above 0.")
    return Range(low=low, high=high, log=log, whole=_schema(parameter).get("type") == "integer")


def derived(parameter: Parameter, default: Any) -> Range | Choice | None:
    """What follows from a parameter's annotation and default where nothing is said.

    * Literals and booleans: every value.
    * Numbers between two bounds: evenly between them; a bound that is not allowed itself is left by a hundredth.
    * Positive numbers: `FACTOR` times less to `FACTOR` times more than the default, by orders of magnitude, within
      the bounds.
    * Anything else has no scale to go by, and whole numbers count what a method spends (exemplars, passes, draws):
      both are left alone.
    """
    schema = _schema(parameter)
    if schema.get("type") == "boolean":
        return Choice(options=(False, True))
    if len(schema.get("enum", ())) > 1:
        return Choice(options=tuple(schema["enum"]))
    if schema.get("type") != "number":
        return None
    low = schema.get("minimum", schema.get("exclusiveMinimum", -math.inf))
    high = schema.get("maximum", schema.get("exclusiveMaximum", math.inf))
    if math.isfinite(low) and math.isfinite(high):
        margin = (high - low) / 100
        return Range(
            low=low + margin * ("minimum" not in schema), high=high - margin * ("maximum" not in schema), whole=False
        )
    if not isinstance(default, int | float) or default <= 0:
        return None
    return Range(low=max(low, float(f"{default / FACTOR:.12g}")), high=min(high, default * FACTOR), log=True)


def grid(space: Space) -> list[dict[str, Any]] | None:
    """Every point of a space of a few choices, in a random order that is always the same; None for other spaces."""
    options = [dimension.options for dimension in space.values() if isinstance(dimension, Choice)]
    if len(options) < len(space) or math.prod(map(len, options)) > GRID:
        return None
    points = [dict(zip(space, values)) for values in product(*options)]
    random.Random(0).shuffle(points)
    return points


def suggest(space: Space, scored: Iterable[tuple[Mapping[str, Any], float]], number: int) -> dict[str, Any]:
    """What a trial tries: a function of the values and scores of earlier trials and of its number, and of nothing else.

    Source: Bergstra et al. 2011, "Algorithms for hyper-parameter optimization" (TPE), as optuna has it.

    Args:
        scored: values and score, the higher the better, of each earlier trial.
        number: of the trial; it seeds the sampler, so that trials which know the same differ.
    """
    import optuna

    distributions = {name: dimension.distribution() for name, dimension in space.items()}
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=number))
    for values, score in scored:
        if all(dimension.holds(values[name]) for name, dimension in space.items()):  # a default may lie outside
            params = {name: dimension.encode(values[name]) for name, dimension in space.items()}
            study.add_trial(optuna.trial.create_trial(params=params, distributions=distributions, value=score))
    drawn = study.ask(distributions).params
    return {name: dimension.decode(drawn[name]) for name, dimension in space.items()}


def _schema(parameter: Parameter) -> dict[str, Any]:
    """The JSON schema of a parameter's type, without `none`; empty where there is none, or more than one."""
    try:
        adapter: TypeAdapter[Any] = TypeAdapter(parameter.annotation, config=ConfigDict(arbitrary_types_allowed=True))
        schema = adapter.json_schema()
    except PydanticUserError:
        return {}
    kinds = [kind for kind in schema.get("anyOf", [schema]) if kind.get("type") != "null"]
    return kinds[0] if len(kinds) == 1 else {}
