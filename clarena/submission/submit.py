"""From a plugin and its runs to a bundle; what could not be ranked is refused, with the reason."""

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, ValidationError

from clarena.errors import UsageError, unknown_name
from clarena.plugins.host import Host
from clarena.plugins.registry import STRANGER
from clarena.protocol.frozen import FrozenModel
from clarena.protocol.protocol import PRESETS, SCENARIOS
from clarena.record.archive import pack
from clarena.record.reader import sealed
from clarena.record.record import Record
from clarena.record.store import PREDICTIONS, RECORD, Store
from clarena.submission.bundle import MANIFEST, RECORDS, SOURCE, sha256
from clarena.submission.evidence import unrankable
from clarena.submission.manifest import Claim, ClaimedRun, Line, Manifest, Name
from clarena.submission.source import GatheredSource

if TYPE_CHECKING:
    from clarena.contract.strategy import Strategy
    from clarena.run.planning import Plan


class About(FrozenModel):
    """What only its authors can say of a submission; options, or a TOML file beside the plugin.

    Attributes:
        name: of the submission, where it is not the strategy's.
        chosen: how the hyper-parameters were chosen.
    """

    name: Name | None = None
    authors: Annotated[list[Line], Field(min_length=1)]
    paper: Line | Literal[""] = ""
    licence: Line
    chosen: Line | None = None


@dataclass(frozen=True)
class TrackChoice:
    """A track as it is asked for: `split-digits/class`, `split-digits/class/mlp/standard`."""

    benchmark: str
    scenario: str
    backbone: str = "mlp"
    preset: str = "standard"


def read_track(text: str) -> TrackChoice:
    """Read BENCHMARK/SCENARIO[/BACKBONE[/PRESET]]; raises `UsageError` for another form."""
    parts = text.split("/")
    if not 2 <= len(parts) <= 4 or not all(parts):
        raise UsageError(
            f"--track {text!r} cannot be read. Write BENCHMARK/SCENARIO and, where they are others than mlp "
            "and standard, the backbone and the protocol behind it: --track split-digits/class/mlp/online"
        )
    choice = TrackChoice(*parts)
    if choice.scenario not in SCENARIOS:
        raise unknown_name("scenario", choice.scenario, SCENARIOS)
    if choice.preset not in PRESETS:
        raise unknown_name("protocol", choice.preset, PRESETS)
    return choice


def read_about(beside: Path, given: dict[str, Any]) -> About:
    """What the authors say: the options given, and for the rest `mymethod.toml` beside `mymethod.py`.

    Raises:
        UsageError: the file cannot be read, or authors or licence are missing.
    """
    written: dict[str, Any] = {}
    if beside.exists():
        try:
            written = tomllib.loads(beside.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise UsageError(f"{beside} cannot be read: {error}.") from error
    try:
        return About.model_validate(written | {key: value for key, value in given.items() if value})
    except ValidationError as error:
        missing = [str(each["loc"][0]) for each in error.errors() if each["type"] == "missing"]
        others = [f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors() if e["type"] != "missing"]
        said = ([f"Not said: {', '.join(missing)}."] if missing else []) + [f"Not valid: {other}." for other in others]
        raise UsageError(
            f'{" ".join(said)} Give --author "Ada Lovelace" --licence Apache-2.0 [--paper https://…], or write\n'
            f'{beside}:\n  authors = ["Ada Lovelace"]\n  licence = "Apache-2.0"\n  paper = "https://…"'
        ) from error


def choose_strategy(host: Host, source: GatheredSource, wanted: str | None) -> str:
    """The name of the strategy to be submitted: the one that the plugin offers, or the wanted one of several.

    Raises:
        UsageError: the plugin is broken, offers none, or several without a word which; or the name is taken.
    """
    if host.broken and (
        mine := [each for each in host.broken if each.plugin in (source.entry, Path(source.entry).stem)]
    ):
        raise UsageError(f"{source.entry} cannot be loaded from a bundle: {mine[0].reason}.")
    plugin = Path(source.entry).stem if source.entry.endswith(".py") else source.entry
    offered = [entry.name for entry in host.strategies if entry.plugin == plugin]
    if not offered:
        raise UsageError(
            f"{source.entry} registers no strategy. Call register(…) in its hook clarena_register_strategies."
        )
    if wanted is None and len(offered) > 1:
        raise UsageError(f"{source.entry} offers {', '.join(offered)}. Say which: --strategy {offered[0]}")
    return wanted or offered[0]


def refuse(host: Host, name: str, cls: "type[Strategy]", choices: Sequence[TrackChoice], seeds: Sequence[int]) -> None:
    """Raise `UsageError` for what could not be ranked, before anything is run."""
    from clarena.contract.strategy import is_reference

    if is_reference(cls):
        raise UsageError(f"{name} sees past data, or is plain finetune: a bound, shown apart and never ranked.")
    if cls.name in host.strategies.names() and host.strategies.entry(cls.name).rank != STRANGER:
        raise UsageError(f"{cls.name} is a strategy of CLArena. Give yours a name of its own.")
    for choice in choices:
        for registry, part in ((host.benchmarks, choice.benchmark), (host.backbones, choice.backbone)):
            if registry.entry(part).rank == STRANGER:
                raise UsageError(
                    f"{part} comes with a plugin: a verifier does not have it. Submit on what CLArena has."
                )
    if not seeds:
        raise UsageError("Give at least one seed.")


def claimed(plan: "Plan", name: str, records: Sequence[Record]) -> Claim:
    """The claim that these records amount to; `name` is the strategy's own.

    Raises:
        UsageError: where they could not be ranked: runs that did not finish, too few seeds, a limited protocol.
    """
    cells = [work.cell for work in plan.works if work.cell.strategy.name == name]
    by_id = {record.cell_id: record for record in records}
    finished = [by_id[cell.id] for cell in cells if cell.id in by_id and by_id[cell.id].status == "finished"]
    if len(finished) < len(cells):
        states = [
            f"seed {cell.seed} {by_id[cell.id].status if cell.id in by_id else 'was not recorded'}"
            for cell in cells
            if cell.id not in by_id or by_id[cell.id].status != "finished"
        ]
        raise UsageError(
            f"{plan.track.label} could not be ranked: {', '.join(states)}. A ranked row finishes on every seed; "
            "--retry runs again what failed."
        )
    runs = [ClaimedRun(seed=r.cell.seed, cell=r.cell_id, metrics=r.metrics) for r in finished]
    return Claim(track=plan.track, learning_rate=cells[0].strategy.learning_rate, runs=runs)


def check_rankable(plan: "Plan", name: str) -> None:
    """Raise `UsageError` where the claim that a plan leads to could not be ranked, before it is carried out."""
    cells = [work.cell for work in plan.works if work.cell.strategy.name == name]
    runs = [ClaimedRun(seed=cell.seed, cell=cell.id, metrics={}) for cell in cells]
    claim = Claim(track=plan.track, learning_rate=cells[0].strategy.learning_rate, runs=runs)
    if reason := unrankable(claim):
        raise UsageError(f"{plan.track.label} could not be ranked: {reason}.")


def make_bundle(
    source: GatheredSource, about: About, claims: Sequence[Claim], records: Sequence[Record], store: Store
) -> bytes:
    """The bundle of these claims; the same store gives the same bytes."""
    from clarena import __version__

    info = records[0].cell.strategy
    if len({record.cell.strategy.code for record in records}) > 1:
        raise UsageError(
            f"The records of {info.name} are of several versions of its code, and a bundle holds one. "
            "Run them again in a store of their own: --store."
        )
    name = about.name or info.name
    parts = {f"{SOURCE}/{path}": content for path, content in source.files.items()}
    for record in records:
        store.predictions(record)  # raises where they are not those of the record
        _, content = store.files(record.cell)
        # Where the plugin lay on its author's machine is nobody's business.
        told = record.cell.strategy.model_copy(update={"plugin": f"submission {name}"})
        cell = record.cell.model_copy(update={"strategy": told})
        home = Store(RECORDS).folder(cell).as_posix()
        written = sealed(record.model_copy(update={"cell": cell})).model_dump_json(indent=1)
        parts |= {f"{home}/{RECORD}": written.encode(), f"{home}/{PREDICTIONS}": content or b""}
    manifest = Manifest(
        name=name,
        authors=about.authors,
        paper=about.paper,
        licence=about.licence,
        entry=source.entry,
        strategy=info.name,
        source_hash=info.source_hash,
        identity=info.identity,
        hyperparameters=Record.model_validate_json(
            written
        ).cell.strategy.hyperparameters,  # as written: lists, not tuples
        chosen=about.chosen or info.chosen or "default",
        claims=list(claims),
        parts={path: sha256(content) for path, content in parts.items()},
        clarena=__version__,
    )
    return pack(parts | {MANIFEST: manifest.model_dump_json(indent=1).encode()})
