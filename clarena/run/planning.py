"""Plan which cells a request means: check it as a whole before anything runs, and look up what is there already."""

import os
import shlex
import sys
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field

from clarena.contract.backbone import Backbone
from clarena.contract.benchmark import Benchmark
from clarena.contract.strategy import NEEDS, Strategy, is_reference
from clarena.errors import ClarenaError, ClarenaWarning, UsageError, unknown_name
from clarena.plugins.composite import Composite, part_names
from clarena.plugins.host import Host
from clarena.plugins.identity import code_identity, source_hash
from clarena.plugins.parameters import parameters, parse
from clarena.plugins.registry import Registry, first_sentence
from clarena.protocol.features import frozen
from clarena.protocol.presets import NAMED
from clarena.protocol.protocol import SCENARIOS, NamedPart, Scenario, Track, protocol, variation
from clarena.record.reader import NewerError
from clarena.record.record import RETRIED, Cell, Record, StrategyInfo
from clarena.record.references import CHEAP
from clarena.record.store import Store
from clarena.run.boundaries import admit
from clarena.run.data import Loaded, blamed, load, stated
from clarena.run.deadline import NO_LIMITS, Limits, TimedOut, limited
from clarena.run.devices import check_devices
from clarena.run.environment import working_directory
from clarena.run.features import require_frozen
from clarena.run.keeping import lacks_model
from clarena.run.kept import kept_transforms
from clarena.run.realisation import CellClasses, Realisation
from clarena.run.rehearsal import check_allowances, check_backbone, check_buffers
from clarena.run.seeds import checked_seeds
from clarena.run.seen import pretraining
from clarena.run.updates import check_precision, check_updates
from clarena.run.worker import Work
from clarena.toolbox.seeding import forked
from clarena.toolbox.together import form_of, shape_of

Settings = Mapping[str, Mapping[str, Any]]
"""Values by owner: `{"ewc": {"strength": 10}, "benchmark": {"experiences": 2}, "protocol": {"epochs": 1}}`."""

OWNERS = ("benchmark", "stream", "backbone", "protocol")


@dataclass(frozen=True)
class Plan:
    """The cells of a request, and what the store holds of them.

    Attributes:
        works: all cells, strategy by strategy.
        done: records that are there already, by cell id.
        damaged: why a record cannot be read, by cell id; such a cell is not run.
        loaded: the data, for a report of them; None where they were not read for it.
        added: references that were not asked for by name.
    """

    track: Track
    works: list[Work]
    done: dict[str, Record]
    damaged: dict[str, str]
    loaded: Loaded | None = None
    added: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return f"Plan({self.track.label}: {len(self.works)} cells, {len(self.missing)} to run)"

    @property
    def missing(self) -> list[Work]:
        """The cells to be run."""
        return [work for work in self.works if work.cell.id not in self.done and work.cell.id not in self.damaged]


def make_plan(
    strategies: Sequence[str | type[Strategy]],
    *,
    benchmark: str | type[Benchmark],
    scenario: str | None,
    backbone: str | type[Backbone],
    preset: str,
    seeds: Sequence[int],
    settings: Settings,
    limit: int | None,
    device: str,
    store: str | Path,
    retry: bool,
    host: Host,
    chosen: Mapping[str, str] | None = None,
    tuning: bool = False,
    limits: Limits = NO_LIMITS,
    keep: bool = False,
    references: bool = False,
) -> Plan:
    """Check the request, and name its cells; see `clarena.evaluate`.

    Args:
        chosen: how a strategy's hyper-parameters were chosen, by its name; where nothing is said, they are the
            `default` or, with any among the settings, chosen `by hand`.
        tuning: plan tuning runs: on validation data, under seeds that are kept for them.
        limits: on the time of each run, and on that of trying the strategy out here.
        keep: keep the trained models; runs that finished without theirs are to be run again.
        references: on a track that starts from weights, add its cheap references where they can run.
    """
    if not strategies:
        raise UsageError("Name at least one strategy, such as finetune or ewc. clarena list names all.")
    seeds = checked_seeds(seeds, tuning)
    store = os.path.join(working_directory(), store)
    check_devices(device)
    changes = dict(settings.get("protocol", {})) | ({"limit": limit} if limit is not None else {})
    held_equal = protocol(preset, changes)
    if tuning:
        held_equal = held_equal.model_copy(update={"tested_on": "validation"})
    check_precision(held_equal, device)
    benchmark_class: type[Benchmark] = host.benchmarks.resolve(benchmark)
    backbone_class: type[Backbone] = host.backbones.resolve(backbone)
    options = parse(benchmark_class, {**split(preset, benchmark_class), **settings.get("benchmark", {})}, "benchmark")
    own, features = frozen(settings.get("backbone", {}))
    backbone_options = parse(backbone_class, own, "backbone")
    loaded = load(benchmark_class, options, host.targets.load)
    host.targets.scoring(loaded.data.target)  # where that half is broken, it is said now, and not at a run's end
    for note in loaded.data.notes:
        warnings.warn(note, ClarenaWarning, stacklevel=2)
    track = Track(
        benchmark=NamedPart(
            name=benchmark_class.name,
            options=stated(benchmark_class, options),
            revision=benchmark_class.revision,
            fingerprint=loaded.fingerprint,
            identity=part_identity(host.benchmarks, benchmark),
        ),
        scenario=_scenario(scenario, benchmark_class),
        backbone=NamedPart(
            name=backbone_class.name,
            options=backbone_options | ({"frozen": features} if features else {}),
            revision=backbone_class.revision,
            fingerprint=backbone_class.fingerprint(backbone_options),
            identity=part_identity(host.backbones, backbone),
        ),
        protocol=held_equal,
        stream=variation(settings.get("stream", {})),
    )
    if track.pretrained:
        track = track.model_copy(update={"pretraining": pretraining(backbone_class, backbone_options, loaded)})
    named = [(given, host.strategy(given)) for given in strategies]
    free = {*CHEAP} - {cls.name for _, cls in named} if references and track.pretrained else set()
    added = [name for name in CHEAP if name in free and name in host.strategies.names()]
    rows = named + [(name, host.strategy(name)) for name in added]
    _check_owners(settings, [owner for _, cls in rows for owner in _owners(cls)])
    # What is wrong with the request is said before features are computed, which may take minutes.
    infos = {cls: _strategy_info(cls, _values_of(cls, settings), track, _plugin(host, given)) for given, cls in named}
    works: list[Work] = []
    for given, cls in rows:
        by_hand = any(settings.get(owner) for owner in _owners(cls))
        how = (chosen or {}).get(cls.name, "by hand" if by_hand else "default")
        try:
            info = infos.get(cls) or _strategy_info(cls, _values_of(cls, settings), track, _plugin(host, given))
            info = info.model_copy(update={"chosen": how})
            with suppress(TimedOut), limited(limits.experience or limits.run):  # it will do so in its run as well
                parts = CellClasses(cls, benchmark_class, backbone_class, host.targets.load)
                _try_out(parts, info, track, seeds[0], first=not works, keep=keep)
        except UsageError as error:
            if given not in added:
                raise
            warnings.warn(f"{given}, a reference here, cannot run on this track: {error}", ClarenaWarning, stacklevel=2)
            added.remove(given)
            continue
        for seed in seeds:
            work = Work(
                cell=Cell(track=track, strategy=info, seed=seed),
                sources=host.sources,
                parts={"strategy": given, "benchmark": benchmark, "backbone": backbone},
                device=device,
                store=store,
                command=command(),
                retry=retry,
                limits=limits,
                keep=keep,
            )
            works.append(work)
    if len({work.cell.id for work in works}) < len(works):
        raise UsageError("A strategy is named twice. Name each once; --set changes its hyper-parameters.")
    done, damaged = {}, {}
    place = Store(store)
    for work in works:
        try:
            record = place.find(work.cell)
        except ClarenaError as error:
            if not retry or isinstance(error, NewerError):
                damaged[work.cell.id] = str(error)
            continue
        if record and not (retry and record.status in RETRIED) and not (keep and lacks_model(place, record)):
            done[work.cell.id] = record
    return Plan(track, works, done, damaged, loaded, tuple(added))


def split(preset: str, benchmark: type[Benchmark]) -> dict[str, Any]:
    """The options of the benchmark that go with a preset; raises `UsageError` where it has none such."""
    options = dict(NAMED[preset].benchmark)
    if lacking := options.keys() - parameters(benchmark).keys():
        raise UsageError(
            f"--protocol {preset} says how classes are split ({', '.join(sorted(lacking))}), and {benchmark.name} does "
            "not split any. Choose a benchmark that does, such as split-cifar100, or another protocol: clarena list."
        )
    return options


def _try_out(parts: CellClasses, info: StrategyInfo, track: Track, seed: int, *, first: bool, keep: bool) -> None:
    """Make one seed's stream and set the strategy up, so that what cannot work fails here and not in every cell.

    The backbone, which all strategies share, is tried with the first.

    Only what the user can fix in the request is raised; a faulty strategy fails in its own run, where its traceback
    is recorded.
    """
    with forked(seed):
        try:
            realised = Realisation(track, parts, seed, torch.device("cpu"))
        except Exception as error:  # whatever a plugin's benchmark raises
            raise blamed(error, track.benchmark.name) from error
        if first:
            check_backbone(realised)
        if keep:
            kept_transforms(realised)
        check_buffers(parts.strategy, info.hyperparameters, track.protocol, realised.target)
        try:
            realised.set_up(parts.strategy(**info.hyperparameters), info.learning_rate)
        except UsageError:
            raise
        except Exception:
            return
        admit(track, parts, info, seed)
        check_allowances(track, parts, info, seed)
        if not realised.target.labels_are_classes:
            _rehearse(parts, info, track, seed)


def _rehearse(parts: CellClasses, info: StrategyInfo, track: Track, seed: int) -> None:
    """Learn two samples of each of two experiences: most methods are made for classes, and their code says how many.

    Of tokens the first three: fewer than there are outputs, so that one dimension cannot be taken for the other.

    Raises:
        UsageError: where the strategy cannot learn what is asked, or its scores have another shape.
    """
    short = track.protocol.model_copy(update={"epochs": 1, "limit": 2})
    once = track.model_copy(update={"protocol": short})
    realised = Realisation(once, parts, seed, torch.device("cpu"))
    try:
        strategy = realised.set_up(parts.strategy(**info.hyperparameters), info.learning_rate)
        for positions in realised.steps[:2]:
            realised.begin(positions)
            experience = realised.experience(positions)
            x = experience.x
            if realised.positions and realised.positions == shape_of(x):
                x = x[:, :3]
                experience.x, experience.y = x, experience.y[:, :3]
            strategy.learn(experience)
            answer = tuple(strategy.predict(x, experience.task).shape)
            wanted = (len(experience.y), *realised.target.positions(experience.y), realised.space.width)
            if answer != wanted:
                raise UsageError(f"for {len(experience)} inputs {form_of(x)} its scores are {answer}, not {wanted}")
    except Exception as error:  # whatever comes of labels that are not what a method expects
        what = str(error) if isinstance(error, ClarenaError) else f"{type(error).__name__}: {error}"
        raise UsageError(
            f"{info.name} cannot learn {track.benchmark.name}, whose target is {realised.target.name}, as it is set: "
            f"{what}\nMethods that look at scores or parameters alone can: finetune, er, ewc with --set "
            "ewc.fisher=sample, …"
        ) from error


def _owners(cls: type[Strategy]) -> list[str]:
    """The owners by which a strategy's hyper-parameters are set; a composite's are `ewc+lwf.ewc` and the like."""
    if issubclass(cls, Composite):
        return [cls.name, *(f"{cls.name}.{member.name}" for member in cls.members)]
    return [cls.name]


def _values_of(cls: type[Strategy], settings: Settings) -> dict[str, Any]:
    values = dict(settings.get(cls.name, {}))
    if issubclass(cls, Composite):
        given = {member.name: settings.get(f"{cls.name}.{member.name}", {}) for member in cls.members}
        values["parts"] = cls.complete(given)
    return values


def _strategy_info(cls: type[Strategy], values: Mapping[str, Any], track: Track, plugin: str) -> StrategyInfo:
    if track.scenario not in cls.scenarios:
        raise UsageError(
            f"{cls.name} does not run in the {track.scenario} scenario; it runs in: {_in_order(cls.scenarios)}."
        )
    if "known_stream_length" in cls.needs and track.protocol.stream_length == "unknown":
        raise UsageError(f"{cls.name} {NEEDS['known_stream_length']}. Grant it: --set protocol.stream_length=known.")
    check_updates(cls, track.protocol)
    require_frozen(track, cls)
    values = dict(values)
    rate = track.protocol.learning_rate
    owner = owner_of_learning_rate(cls)
    if owner is None and "learning_rate" in values:
        rate = parse(LearningRate, {"learning_rate": values.pop("learning_rate")}, cls.name)["learning_rate"]
    if owner not in (None, cls.name) and "learning_rate" in values:
        raise UsageError(
            f"{cls.name} takes the learning rate of its part {owner}. Set that one: "
            f"--set {cls.name}.{owner}.learning_rate={values['learning_rate']}"
        )
    hyperparameters = parse(cls, values, cls.name, also=["learning_rate"] if owner is None else [])
    if owner is not None:
        own = hyperparameters if owner == cls.name else hyperparameters["parts"][owner]
        rate = own["learning_rate"]
    return StrategyInfo(
        name=cls.name,
        plugin=plugin,
        source_hash=source_hash(cls),
        identity=code_identity(cls),
        hyperparameters=hyperparameters,
        learning_rate=rate,
        reference=is_reference(cls) or (track.pretrained and cls.name in CHEAP),
        summary=first_sentence(cls.__doc__),
        paper=cls.reference,
        family=cls.family,
        carries=f"{cls.carries}, all in features of the frozen backbone" if track.frozen else cls.carries,
    )


def part_identity(registry: Registry, given: str | type[Any]) -> str | None:
    """The identity of a benchmark's or backbone's code; None where it is built in, and its revision stands for it."""
    return None if registry.is_built_in(given) else code_identity(registry.resolve(given))


def owner_of_learning_rate(cls: type[Strategy]) -> str | None:
    """Who declares a learning rate of its own: the strategy, the first part of a composite that does, or nobody."""
    members = cls.members if issubclass(cls, Composite) else (cls,)
    return next((member.name for member in members if "learning_rate" in parameters(member)), None)


class LearningRate:
    """The one hyper-parameter that the host owns: every strategy's row may set its own."""

    def __init__(
        self, *, learning_rate: Annotated[float, Field(gt=0, description="Learning rate of the optimiser.")]
    ) -> None:
        self.learning_rate = learning_rate


def _scenario(wanted: str | None, benchmark: type[Benchmark]) -> Scenario:
    if wanted is None:
        return benchmark.scenarios[0]
    if wanted not in SCENARIOS:
        raise unknown_name("scenario", wanted, SCENARIOS)
    if wanted not in benchmark.scenarios:
        raise UsageError(
            f"{benchmark.name} makes no sense in the {wanted} scenario; it has: {', '.join(benchmark.scenarios)}."
        )
    return wanted


def _check_owners(settings: Settings, names: list[str]) -> None:
    for owner in settings:
        if owner not in (*OWNERS, *names):
            raise unknown_name("strategy or part of this track", owner, [*OWNERS, *names])


def _plugin(host: Host, given: str | type[Any]) -> str:
    """The plugin that offers a strategy, with its origin; a class given from Python has none."""
    if not isinstance(given, str):
        return f"class {given.__module__}.{given.__qualname__}"
    if given not in host.strategies.names() and len(parts := part_names(given)) > 1:
        return ", ".join(sorted({_plugin(host, part) for part in parts}))
    entry = host.strategies.entry(given)
    return f"{entry.plugin} ({entry.origin})"


def command() -> str:
    """The command that asked for this, as it can be typed again."""
    return shlex.join(["clarena", *sys.argv[1:]]) if Path(sys.argv[0]).name == "clarena" else "clarena.evaluate(...)"


def _in_order(scenarios: frozenset[str]) -> str:
    return ", ".join(scenario for scenario in SCENARIOS if scenario in scenarios)
