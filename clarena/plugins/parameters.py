"""Hyper-parameters come from a class's signature: the command line, the help, and the records all read them here.

A parameter is a typed keyword argument of `__init__`, documented and bounded by `pydantic.Field`:

    def __init__(self, *, strength: Annotated[float, Field(ge=0, description="Weight of the penalty.")] = 1.0)
"""

import inspect
import json
import math
import types
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from pydantic import ConfigDict, PydanticSchemaGenerationError, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from clarena.errors import PluginError, UsageError, unknown_name


@dataclass(frozen=True)
class Parameter:
    """One hyper-parameter as the signature declares it.

    Attributes:
        name: of the keyword argument.
        annotation: the full annotation, with bounds.
        default: its default value; `inspect.Parameter.empty` where there is none.
        description: one sentence.
    """

    name: str
    annotation: Any
    default: Any
    description: str

    @property
    def type_name(self) -> str:
        """The type as a person would write it: `float`, `exact | sample`, `int | none`, with bounds."""
        metadata = self.annotation.__metadata__ if get_origin(self.annotation) is Annotated else ()
        base = self.annotation.__origin__ if metadata else self.annotation
        bounds = [_bound(entry) for info in metadata for entry in getattr(info, "metadata", ())]
        return ", ".join([_type_name(base), *filter(None, bounds)])


def parameters(cls: type[Any]) -> dict[str, Parameter]:
    """The hyper-parameters of a class, in the order of its signature; one without a type takes anything.

    Where a constructor passes `**options` on, those of the next class in line that has one come after its own.
    """
    found: dict[str, Parameter] = {}
    for base in cls.__mro__:
        constructor = vars(base).get("__init__")
        if constructor is None or base is object:
            continue
        try:
            hints = get_type_hints(constructor, include_extras=True)
        except (NameError, TypeError) as error:
            raise PluginError(f"The annotations of {base.__qualname__}.__init__ cannot be read: {error}") from error
        arguments = inspect.signature(constructor).parameters.values()
        for argument in arguments:
            if argument.kind is argument.KEYWORD_ONLY and argument.name not in found:
                annotation = hints.get(argument.name, Any)
                found[argument.name] = Parameter(argument.name, annotation, argument.default, _description(annotation))
        if not any(argument.kind is argument.VAR_KEYWORD for argument in arguments):
            break
    return found


def defaults(cls: type[Any]) -> dict[str, Any]:
    """The default of every hyper-parameter that has one."""
    return {name: p.default for name, p in parameters(cls).items() if p.default is not inspect.Parameter.empty}


def parse(cls: type[Any], values: Mapping[str, Any], owner: str, also: Sequence[str] = ()) -> dict[str, Any]:
    """Check the given values against the signature and return all hyper-parameters, defaults filled in.

    Args:
        cls: whose `__init__` declares the parameters.
        values: given values; strings (from the command line) are read as JSON where the type asks for it.
        owner: what to call the class in messages (`ewc`, `benchmark`).
        also: what can be set besides, and is not among the values.

    Raises:
        UsageError: for an unknown parameter, a wrong type or a value out of range, naming the parameter, its type
            and its sentence.
    """
    known = parameters(cls)
    for name in values:
        if name not in known:
            kind = "option of the" if owner in ("benchmark", "backbone") else "hyper-parameter of"
            raise unknown_name(f"{kind} {owner}", name, [*known, *also])
    parsed = {}
    for name, parameter in known.items():
        value = values.get(name, parameter.default)
        if value is inspect.Parameter.empty:
            raise UsageError(f"{owner} needs {name} ({parameter.type_name}): {parameter.description}")
        # Defaults, too: a `float` that is 1 by default and one that was set to 1.0 are the same hyper-parameter.
        parsed[name] = _validate(parameter, value, owner)
    return parsed


def _validate(parameter: Parameter, value: Any, owner: str) -> Any:
    try:
        adapter: TypeAdapter[Any] = TypeAdapter(parameter.annotation, config=ConfigDict(arbitrary_types_allowed=True))
    except PydanticSchemaGenerationError as error:
        raise PluginError(f"{owner} declares {parameter.name} with a type that cannot be read: {error}") from error
    problem = ""
    for candidate in _readings(value):
        try:
            result = adapter.validate_python(candidate)
        except ValidationError as error:
            problem = problem or error.errors()[0]["msg"]
            continue
        if not _finite(result):
            problem = "Input should be a finite number"
            continue
        return result
    raise UsageError(
        f"{owner}.{parameter.name} = {value!r} is not valid: {problem}.\n"
        f"{parameter.name} ({parameter.type_name}, default {parameter.default!r}): {parameter.description}"
    )


def _readings(value: Any) -> list[Any]:
    """What text may mean, in this order: `none`, itself, a JSON value, or a list such as `400,400`."""
    if not isinstance(value, str):
        return [value]
    readings: list[Any] = [None, value] if value.lower() == "none" else [value]
    with suppress(ValueError):
        readings.append(json.loads(value))
    parts = [part.strip() for part in value.strip("() ").split(",")]
    readings.append([part for part in parts if part])
    return readings


def _finite(value: Any) -> bool:
    """Whether there is no NaN and no infinity in it, however deep."""
    if isinstance(value, dict):
        return all(map(_finite, value.values()))
    if isinstance(value, list | tuple | set | frozenset):
        return all(map(_finite, value))
    return not isinstance(value, float) or math.isfinite(value)


def _description(annotation: Any) -> str:
    if get_origin(annotation) is Annotated:
        for info in annotation.__metadata__:
            if isinstance(info, FieldInfo) and info.description:
                return info.description
            if isinstance(info, str):
                return info
    return ""


def _bound(entry: Any) -> str:
    for attribute, sign in (("ge", "≥"), ("gt", ">"), ("le", "≤"), ("lt", "<")):
        if hasattr(entry, attribute):
            return f"{sign} {getattr(entry, attribute)}"
    return ""


def _type_name(base: Any) -> str:
    origin = get_origin(base)
    if base is type(None):
        return "none"
    if origin is Literal:
        return " | ".join(str(option) for option in get_args(base))
    if origin in (Union, types.UnionType):
        return " | ".join(_type_name(option) for option in get_args(base))
    if origin is Annotated:
        return _type_name(base.__origin__)
    if origin is not None:
        inner = ", ".join("…" if option is ... else _type_name(option) for option in get_args(base))
        return f"{origin.__name__}[{inner}]"
    return getattr(base, "__name__", str(base))
