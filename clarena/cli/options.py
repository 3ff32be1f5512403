"""Options that several commands share, and how their text is read."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clarena.errors import UsageError

if TYPE_CHECKING:
    from clarena.plugins.host import Host, PluginSources
    from clarena.record.store import Store

FLAG = ""
"""The metavar of an option that takes no value: the help then says nothing of types."""

MOST_SEEDS = 1000

PluginFiles = Annotated[
    list[Path] | None,
    typer.Option("--plugin", metavar="FILE", help="Load a one-file plugin; may be repeated."),
]
PluginDirs = Annotated[
    list[Path] | None,
    typer.Option("--plugins-dir", metavar="DIR", help="Load every *.py of a folder as a plugin."),
]
NoPlugins = Annotated[
    bool,
    typer.Option("--no-plugins", metavar=FLAG, help="Leave out installed third-party plugins and CLARENA_PLUGINS."),
]
StorePath = Annotated[Path, typer.Option("--store", metavar="DIR", help="Where records are kept.")]
AsJson = Annotated[bool, typer.Option("--json", metavar=FLAG, help="Print JSON instead of text.")]
NoTracking = Annotated[bool, typer.Option("--no-tracking", metavar=FLAG, help="Keep records in the store only.")]
TrackingUri = Annotated[
    str | None,
    typer.Option(
        "--tracking-uri",
        metavar="URI",
        help="MLflow store; default: MLFLOW_TRACKING_URI, else SQLite in this folder.",
    ),
]


TRACK = "Track"
"""The panel of the help with what takes part in a track's digest."""

BenchmarkName = Annotated[
    str, typer.Option(metavar="NAME", rich_help_panel=TRACK, help="The stream to learn; `clarena list` names them.")
]
ScenarioName = Annotated[
    str | None,
    typer.Option(metavar="NAME", rich_help_panel=TRACK, help="class, domain or task. Default: as the benchmark."),
]
BackboneName = Annotated[str, typer.Option(metavar="NAME", rich_help_panel=TRACK, help="The network under the head.")]
PresetName = Annotated[
    str,
    typer.Option(
        metavar="PRESET",
        rich_help_panel=TRACK,
        help="standard, online (one pass), smoke (seconds), or a paper's, such as b50-inc10: `clarena list`.",
    ),
]
Limit = Annotated[
    int | None,
    typer.Option(
        metavar="N", min=1, rich_help_panel=TRACK, help="Samples per experience, to try things; never ranked."
    ),
]
Device = Annotated[str, typer.Option(metavar="DEVICE", help="cpu, mps, cuda, cuda:N, or several: cuda:0,1,2.")]
Jobs = Annotated[
    int | None, typer.Option(metavar="N", min=1, help="Runs at a time. Default: one per core; one per GPU.")
]
Retry = Annotated[
    bool,
    typer.Option("--retry", metavar=FLAG, help="Run failed, timed-out, interrupted and out-of-memory cells again."),
]
Timeout = Annotated[
    float | None,
    typer.Option(
        "--timeout", metavar="SECONDS", help="End a run that takes longer; what it finished is recorded. Default: none."
    ),
]
ExperienceTimeout = Annotated[
    float | None,
    typer.Option("--experience-timeout", metavar="SECONDS", help="The same for each experience of a run."),
]


def plugin_sources(files: list[Path] | None, dirs: list[Path] | None, without: bool) -> "PluginSources":
    """Where to look for plugins."""
    from clarena.plugins.host import PluginSources

    return PluginSources(files=tuple(files or ()), directories=tuple(dirs or ()), third_party=not without)


def discover(files: list[Path] | None, dirs: list[Path] | None, without: bool) -> "Host":
    """The plugin host for these options."""
    from clarena.plugins.host import Host

    return Host.discover(plugin_sources(files, dirs, without))


def find_targets() -> None:
    """Have plugins looked for, should a record name a target that nobody has offered yet."""
    from clarena.record.scoring import search_with

    search_with(lambda: discover(None, None, without=False))


def existing_store(path: Path) -> "Store":
    """The store at this path; raises `UsageError` where there is none."""
    from clarena.record.store import Store

    find_targets()

    if not path.is_dir():
        raise UsageError(
            f"There is no store at {path}. Name one with --store, or make one: clarena evaluate ewc --store {path}"
        )
    return Store(path)


def parse_settings(items: list[str] | None) -> dict[str, dict[str, Any]]:
    """Read `--set owner.name=value` items; values stay text until the owner's signature is known.

    Raises:
        UsageError: for an item of another form, or one given twice.
    """
    settings: dict[str, dict[str, Any]] = {}
    for item in items or ():
        target, equals, value = item.partition("=")
        owner, dot, name = target.strip().rpartition(".")
        if not (equals and dot and owner and name):
            raise UsageError(
                f"--set {item!r} cannot be read. Write --set OWNER.NAME=VALUE, where OWNER is a strategy, "
                "benchmark, stream, backbone or protocol: --set ewc.strength=100"
            )
        if name in settings.setdefault(owner, {}):
            raise UsageError(f"--set gives {target} twice. Give it once.")
        settings[owner][name] = value.strip()
    return settings


def parse_seeds(text: str) -> list[int]:
    """Read `--seeds`: `5` is the first five, `0,3,7` those, `10-14` a range.

    Raises:
        UsageError: for text of another form, or more seeds than anyone can wait for.
    """
    try:
        if text.strip().isdigit():
            pieces = [range(int(text))]
        else:
            pieces = [_piece(part.strip()) for part in text.split(",") if part.strip()]
    except ValueError as error:
        raise UsageError(
            f"--seeds {text!r} cannot be read. Write 5 for the first five, 0,3,7 for those, or 10-14 for a range."
        ) from error
    # The length of a range is counted before it is spelled out: a slip of the finger must not fill the memory.
    if sum(max(0, piece.stop - piece.start) for piece in pieces) > MOST_SEEDS:
        raise UsageError(
            f"--seeds {text} asks for more than {MOST_SEEDS} seeds. A number alone says how many; for one seed write "
            f"it twice, as a range: --seeds {text}-{text}"
            if text.strip().isdigit()
            else f"--seeds {text} asks for more than {MOST_SEEDS} seeds."
        )
    return [seed for piece in pieces for seed in piece]


def _piece(part: str) -> range:
    """`7` or `10-14`; a minus in front belongs to the number."""
    low, dash, high = part.partition("-") if not part.startswith("-") else (part, "", "")
    return range(int(low), int(high if dash else low) + 1)
