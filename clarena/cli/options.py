"""Options that several commands share, and how their text is read."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clarena.errors import UsageError

if TYPE_CHECKING:
    from clarena.host import Host, PluginSources

PluginFiles = Annotated[
    list[Path] | None,
    typer.Option("--plugin", metavar="FILE", help="Load a one-file plugin; may be repeated."),
]
PluginDirs = Annotated[
    list[Path] | None,
    typer.Option("--plugins-dir", metavar="DIR", help="Load every *.py of a folder as a plugin."),
]
NoPlugins = Annotated[
    bool, typer.Option("--no-plugins", help="Leave out installed third-party plugins and CLARENA_PLUGINS.")
]
StorePath = Annotated[Path, typer.Option("--store", metavar="DIR", help="Where records are kept.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
TrackingUri = Annotated[
    str | None,
    typer.Option(
        "--tracking-uri",
        metavar="URI",
        help="MLflow store; default: MLFLOW_TRACKING_URI, else SQLite in this folder.",
    ),
]


def plugin_sources(files: list[Path] | None, dirs: list[Path] | None, without: bool) -> "PluginSources":
    """Where to look for plugins."""
    from clarena.host import PluginSources

    return PluginSources(files=tuple(files or ()), directories=tuple(dirs or ()), third_party=not without)


def discover(files: list[Path] | None, dirs: list[Path] | None, without: bool) -> "Host":
    """The plugin host for these options."""
    from clarena.host import Host

    return Host.discover(plugin_sources(files, dirs, without))


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
                "benchmark, backbone or protocol: --set ewc.strength=100"
            )
        if name in settings.setdefault(owner, {}):
            raise UsageError(f"--set gives {target} twice. Give it once.")
        settings[owner][name] = value.strip()
    return settings


def parse_seeds(text: str) -> list[int]:
    """Read `--seeds`: `5` is the first five, `0,3,7` those, `10-14` a range.

    Raises:
        UsageError: for text of another form.
    """
    try:
        if text.strip().isdigit():
            return list(range(int(text)))
        seeds: list[int] = []
        for part in filter(None, (piece.strip() for piece in text.split(","))):
            low, dash, high = part.partition("-") if not part.startswith("-") else (part, "", "")
            seeds += range(int(low), int(high) + 1) if dash else [int(part)]
        return seeds
    except ValueError as error:
        raise UsageError(
            f"--seeds {text!r} cannot be read. Write 5 for the first five, 0,3,7 for those, or 10-14 for a range."
        ) from error
