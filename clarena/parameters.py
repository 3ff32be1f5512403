"""Hyper-parameters come from a class's signature: the command line, the help, and the records all read them here.

A parameter is a typed keyword argument of `__init__`, documented and bounded by `pydantic.Field`:

    def __init__(self, *, strength: Annotated[float, Field(ge=0, description="Weight of the penalty.")] = 1.0)
"""

import inspect
import json
import math
import types
from collections.abc import Mapping
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
    """The hyper-parameters of a class, in the order of its signature; arguments without a type are refused."""
    if cls.__init__ in (object.__init__, None):
        return {}
    try:
        hints = get_type_hints(cls.__init__, include_extras=True)
    except (NameError, TypeError) as error:
        raise PluginError(f"The annotations of {cls.__qualname__}.__init__ cannot be read: {error}") from error
    found = {}
    for argument in inspect.signature(cls.__init__).parameters.values():
        if argument.kind is not argument.KEYWORD_ONLY:
            continue
        annotation = hints.get(argument.name, Any)
        found[argument.name] = Parameter(argument.name, annotation, argument.default, _description(annotation))
    return found


def defaults(cls: type[Any]) -> dict[str, Any]:
    """The default of every hyper-parameter that has one."""
    return {name: p.default for name, p in parameters(cls).items() if p.default is not inspect.Parameter.empty}


def parse(cls: type[Any], values: Mapping[str, Any], owner: str) -> dict[str, Any]:
    """Check the given values against the signature and return all hyper-parameters, defaults filled in.

    Args:
        cls: whose `__init__` declares the parameters.
        values: given values; strings (from the command line) are read as JSON where the type asks for it.
        owner: what to call the class in messages (`ewc`, `benchmark split-digits`).

    Raises:
        UsageError: for an unknown parameter, a wrong type or a value out of range, naming the parameter, its type
            and its sentence.
    """
    known = parameters(cls)
    for name in values:
        if name not in known:
            raise unknown_name(f"hyper-parameter of {owner}", name, known)
    parsed = {}
    for name, parameter in known.items():
        if name in values:
            parsed[name] = _validate(parameter, values[name], owner)
        elif parameter.default is inspect.Parameter.empty:
            raise UsageError(f"{owner} needs {name} ({parameter.type_name}): {parameter.description}")
        else:
            parsed[name] = parameter.default
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
        if isinstance(result, float) and not math.isfinite(result):
            problem = "Input should be a finite number"
            continue
        return result
    raise UsageError(
        f"{owner}.{parameter.name} = {value!r} is not valid: {problem}.\n"
        f"{parameter.name} ({parameter.type_name}, default {parameter.default!r}): {parameter.description}"
    )


def _readings(value: Any) -> list[Any]:
    """What a value given as text may mean: itself, a JSON value, or `none`."""
    if not isinstance(value, str):
        return [value]
    readings: list[Any] = [value]
    try:
        readings.append(json.loads(value))
    except ValueError:
        if value.lower() == "none":
            readings.append(None)
        elif "," in value:
            readings.append([part.strip() for part in value.split(",")])
    return readings


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
