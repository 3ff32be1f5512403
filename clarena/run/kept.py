"""What a trained model is made of: all that it takes to use it without the data it was trained on, as plain data.

Classes are found again by name: strategy, backbone and benchmark through the plugins, and what a benchmark is made of
besides (the way it reads a path, the transforms of its experiences) in the modules in which it and its bases are
defined. Nothing in the file names a module.
"""

import dataclasses
import sys
from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor

from clarena.contract.benchmark import Benchmark, Transform
from clarena.contract.data import INPUTS
from clarena.contract.outputs import OutputSpace
from clarena.contract.rows import Conversion
from clarena.contract.samples import RowForm
from clarena.contract.strategy import Context, Strategy
from clarena.errors import PluginError, UsageError
from clarena.plugins.host import Host
from clarena.plugins.parameters import parse
from clarena.plugins.registry import family_member, family_of
from clarena.protocol.protocol import Track
from clarena.record.record import Cell
from clarena.run.realisation import CellClasses, Realisation, backbone_maker
from clarena.toolbox.seeding import Seeds

FORMAT = 2
"""Of the content; a file of another one is left alone. 2: says what the rows of buffers are."""

Content = Mapping[str, Any]


# ---- Writing ----


def content_of(cell: Cell, realised: Realisation, strategy: Strategy, predictions: str) -> dict[str, Any]:
    """What is kept of a strategy that has learned its stream.

    Args:
        predictions: digest of the predictions of the run, by which the record is known that this belongs to.

    Raises:
        UsageError: where the transform of an experience cannot be kept.
    """
    context, space, data = strategy.context, realised.space, realised.source
    learned = len(realised.stream.splits)
    return {
        "format": FORMAT,
        "cell": cell.model_dump_json(),
        "scenario": cell.track.scenario,
        "target": data.target,
        "predictions": predictions,
        "strategy": strategy.state_dict(),
        "context": {
            "input_shape": context.input_shape,
            "learning_rate": context.learning_rate,
            "outputs": context.outputs,
            "experiences": context.experiences,
            "tokens": realised.tokens(),
        },
        "outputs": {
            "names": list(realised.stream.output_names),
            "seen": sorted(space.seen),
            "tasks": [sorted(task) for task in space.tasks],
            "asked": [sorted(classes) for classes in realised.test.classes],
            "bytes": list(data.class_bytes),
        },
        "rows": {
            "shape": tuple(data.x_train.shape[1:]),
            "dtype": str(data.x_train.dtype).removeprefix("torch."),
            "encoding": dict(data.encoding),
            "as_stored": realised.conversion.as_stored,
            "example": data.x_test[realised.source_splits[learned - 1].test[:1]],
            **_labels(realised),
        },
        "benchmark": _made_of(type(realised.benchmark)),
        "transforms": kept_transforms(realised),
        **realised.carried,
    }


def _labels(realised: Realisation) -> dict[str, Any]:
    """The form of labels that are no classes; elsewhere classes are known by their names."""
    if realised.target.labels_are_classes:
        return {}
    y = realised.data.y_train
    return {"labels": {"shape": tuple(y.shape[1:]), "dtype": str(y.dtype).removeprefix("torch.")}}


def kept_transforms(realised: Realisation) -> list[Any]:
    """The transforms of all experiences as plain data, one where they share it; raises `UsageError` as `content_of`."""
    if isinstance(realised.source.x_train, tuple):
        raise UsageError(
            f"A model of {realised.track.benchmark.name} cannot be kept: a sample of it is several tensors, and new "
            "ones are read as one. Leave out --keep model."
        )
    found = [split.transform for split in realised.source_splits[: len(realised.stream.splits)]]
    if all(transform is found[0] for transform in found):
        found = found[:1]
    return [_plain(transform, type(realised.benchmark)) for transform in found]


def _plain(value: Any, benchmark: type[Benchmark]) -> Any:
    """A transform, or what it holds: plain values and tensors as they are, a data class by its name and fields."""
    if value is None or isinstance(value, bool | int | float | str | Tensor):
        return value
    if isinstance(value, tuple):
        return tuple(_plain(each, benchmark) for each in value)
    name = type(value).__name__
    if not dataclasses.is_dataclass(value) or _found(benchmark, name) is not type(value):
        raise UsageError(
            f"A model of {benchmark.name} cannot be kept: the transform of an experience is or holds a {name}, which "
            "is no data class of plain values and tensors beside its benchmark."
        )
    fields = {field.name: _plain(getattr(value, field.name), benchmark) for field in dataclasses.fields(value)}
    return {"name": name, "fields": fields}


def _made_of(benchmark: type[Benchmark]) -> dict[str, Any]:
    """What a family's class has besides the family: bases by name, and plain attributes. No path is among them."""
    if family_of(benchmark) is None:
        return {}
    facts = {
        key: value
        for key, value in vars(benchmark).items()
        if not key.startswith("_") and key != "name" and isinstance(value, bool | int | float | str)
    }
    return {"bases": [base.__name__ for base in benchmark.__bases__[:-1]], "facts": facts}


def _found(cls: type[Any], name: str) -> Any:
    """What has this name in a module in which a class or one of its bases is defined; None where nothing has."""
    modules = (sys.modules.get(base.__module__) for base in cls.__mro__)
    return next((vars(module)[name] for module in modules if module is not None and name in vars(module)), None)


# ---- Reading ----


def classes_of(content: Content, cell: Cell, host: Host, given: Mapping[str, type[Any]]) -> CellClasses:
    """The classes behind a kept model; no data need be there.

    Args:
        given: a class in place of a name, for `strategy`, `benchmark` or `backbone`.
    """
    return CellClasses(
        strategy=given.get("strategy") or host.strategy(cell.strategy.name),
        benchmark=given.get("benchmark") or _benchmark(content, cell.track, host),
        backbone=given.get("backbone") or host.backbones.resolve(cell.track.backbone.name),
        targets=host.targets.load,
    )


def _benchmark(content: Content, track: Track, host: Host) -> type[Benchmark]:
    name, made_of = track.benchmark.name, content["benchmark"]
    if not made_of:
        return cast(type[Benchmark], host.benchmarks.resolve(name))
    family = host.benchmarks.load(name)
    bases = [_found(family, base) for base in made_of["bases"]]
    if not all(isinstance(base, type) and issubclass(base, Benchmark) for base in bases):
        raise PluginError(f"{family.name} no longer has what {name} was made of: {', '.join(made_of['bases'])}.")
    shown = name.partition(":")[2]
    return cast(type[Benchmark], family_member(family, shown, *bases, **made_of["facts"]))


def transforms_of(content: Content, benchmark: type[Benchmark]) -> list[Transform | None]:
    """The transforms that `kept_transforms` has written down."""
    return [_remade(value, benchmark) for value in content["transforms"]]


def _remade(value: Any, benchmark: type[Benchmark]) -> Any:
    if isinstance(value, tuple):
        return tuple(_remade(each, benchmark) for each in value)
    if not isinstance(value, dict):
        return value
    cls = _found(benchmark, value["name"])
    if not (isinstance(cls, type) and dataclasses.is_dataclass(cls)):
        raise PluginError(f"The transform {value['name']} of {benchmark.name} is no longer there.")
    return cls(**{name: _remade(field, benchmark) for name, field in value["fields"].items()})


def form_of(content: Content) -> RowForm:
    """How the rows that the model takes are stored."""
    rows = content["rows"]
    labels = RowForm(*_stored(rows["labels"]), {}) if "labels" in rows else None
    return RowForm(*_stored(rows), rows["encoding"], labels)


def _stored(form: Mapping[str, Any]) -> tuple[tuple[int, ...], torch.dtype]:
    dtype = next(dtype for dtype in INPUTS if str(dtype) == f"torch.{form['dtype']}")
    return tuple(form["shape"]), dtype


def strategy_of(
    content: Content, cell: Cell, parts: CellClasses, conversion: Conversion, device: torch.device
) -> Strategy:
    """The strategy with its state, in the outputs that exist; the caller keeps the global generators."""
    track, info, granted, outputs = cell.track, cell.strategy, content["context"], content["outputs"]
    target, names = parts.targets(content["target"])(), outputs["names"]
    space = OutputSpace(track.scenario, track.protocol, len(names), device, target, names)
    input_shape = tuple(granted["input_shape"])
    context = Context(
        scenario=track.scenario,
        protocol=track.protocol,
        device=device,
        input_shape=input_shape,
        learning_rate=granted["learning_rate"],
        space=space,
        seeds=Seeds(cell.seed),
        make_backbone=backbone_maker(track, parts.backbone, input_shape, granted["tokens"]),
        inputs=conversion,
        needs=parts.strategy.needs,
        outputs=granted["outputs"],
        experiences=granted["experiences"],
    )
    strategy = parts.strategy(**parse(parts.strategy, info.hyperparameters, info.name))
    strategy.setup(context)
    strategy.to(device)
    if outputs["tasks"]:
        space.begin([frozenset(task) for task in outputs["tasks"]])
    if not space.seen.issuperset(outputs["seen"]):  # boundaries were hidden: no task was ever told
        space.reveal(torch.tensor(outputs["seen"]))
    strategy.load_state_dict(content["strategy"])
    return strategy
