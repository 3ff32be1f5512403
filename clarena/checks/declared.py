"""Rules about what a strategy's class declares; nothing is trained."""

import inspect
import re
from collections.abc import Iterator, Mapping
from typing import Any

from torch import nn

from clarena.contract.strategy import NEEDS, Strategy
from clarena.errors import ClarenaError
from clarena.plugins.parameters import parameters, parse
from clarena.plugins.registry import first_sentence
from clarena.protocol.protocol import SCENARIOS


class Broken(AssertionError):
    """A rule is not kept; the message says what to do."""


class NotApplicable(Exception):
    """A rule has nothing to say about this strategy in this scenario."""


def require(kept: bool, message: str) -> None:
    """Raise `Broken` unless the rule is kept."""
    if not kept:
        raise Broken(message)


def check_metadata(strategy: type[Strategy]) -> None:
    """The class says what it is: name, sentence, reference, scenarios, needs, typed and documented parameters."""
    problems = [*_facts(strategy), *_parameters(strategy)]
    require(not problems, "\n".join(problems))


def check_constructible(strategy: type[Strategy]) -> None:
    """An object can be made without arguments, and keeps its hyper-parameters as they were given."""
    known = parameters(strategy)
    needed = [name for name, parameter in known.items() if parameter.default is inspect.Parameter.empty]
    require(not needed, f"Give a default to {', '.join(needed)}: a strategy runs without any --set.")
    off = strategy.off if isinstance(strategy.off, Mapping) else {}
    for given in ({}, {name: value for name, value in off.items() if name in known}):
        require_stored(strategy(**given), given, "__init__")


def require_stored(strategy: Strategy, given: Mapping[str, Any], when: str) -> None:
    """Raise `Broken` unless each hyper-parameter, given or default, is an attribute of the same name and value."""
    for name, parameter in parameters(type(strategy)).items():
        value = given.get(name, parameter.default)
        stored = getattr(strategy, name, inspect.Parameter.empty)
        require(
            stored is value or (type(stored) is type(value) and stored == value),
            f"After {when} self.{name} is {'absent' if stored is inspect.Parameter.empty else repr(stored)}, but "
            f"{name} = {value!r} was given. Write self.{name} = {name} in __init__ and never change it; "
            "keep what you derive from it under another name.",
        )


def _facts(strategy: type[Strategy]) -> Iterator[str]:
    name = getattr(strategy, "name", None)
    if not isinstance(name, str) or not re.fullmatch(r"([a-z0-9][a-z0-9+._-]*/)?[a-z0-9][a-z0-9+._-]*", name):
        yield f"name is {name!r}. Use lower-case letters, digits and +._- as in 'ewc'."
    if not first_sentence(strategy.__doc__):
        yield "The class has no docstring. Say in one sentence what the strategy does."
    if not isinstance(strategy.reference, str) or not strategy.reference.strip():
        yield "reference is empty. Name the paper, or say in a sentence what this is."
    yield from _subset("scenarios", strategy.scenarios, SCENARIOS)
    if not strategy.scenarios:
        yield f"scenarios is empty. Name those it can run in: {', '.join(SCENARIOS)}."
    if strategy.targets is not None and not (
        isinstance(strategy.targets, frozenset | set)
        and strategy.targets
        and all(isinstance(name, str) for name in strategy.targets)
    ):
        yield f"targets is {strategy.targets!r}. Name those it learns, as in frozenset({{'classes'}}), or None for all."
    yield from _subset("needs", strategy.needs, NEEDS)
    if strategy.off is not None and not isinstance(strategy.off, Mapping):
        yield f"off is {strategy.off!r}. Map hyper-parameters to the values that switch the mechanism off, or None."
    elif strategy.off:
        try:
            parse(strategy, strategy.off, strategy.__name__)
        except ClarenaError as error:
            yield f"off does not fit the hyper-parameters: {error}"


def _subset(what: str, given: Any, known: Any) -> Iterator[str]:
    if not isinstance(given, frozenset | set):
        yield f"{what} is {given!r}. Make it a frozenset, such as frozenset({{{sorted(known)[0]!r}}})."
    elif unknown := sorted(set(given) - set(known)):
        yield f"{what} has {', '.join(map(repr, unknown))}. Known: {', '.join(known)}."


def _parameters(strategy: type[Strategy]) -> Iterator[str]:
    if strategy.__init__ is nn.Module.__init__:
        return
    for argument in list(inspect.signature(strategy.__init__).parameters.values())[1:]:
        if argument.kind not in (argument.KEYWORD_ONLY, argument.VAR_KEYWORD):  # `**options` go to the base class
            yield f"{argument} of __init__ is no hyper-parameter. Write each as a keyword-only argument, after `*`."
    for name, parameter in parameters(strategy).items():
        if parameter.annotation is Any:
            yield f"{name} has no type. Write {name}: Annotated[float, Field(description='…')] = …"
        elif not parameter.description:
            yield f"{name} has no description. Write Annotated[{parameter.type_name}, Field(description='…')]."
        elif parameter.default is not inspect.Parameter.empty:
            try:
                parse(strategy, {name: parameter.default}, strategy.__name__)
            except ClarenaError as error:
                if name in str(error):
                    yield f"The default of {name} does not fit its own type and bounds: {error}"
