"""`clarena list`: what there is, and what is broken. Nothing heavy is imported."""

import importlib.metadata
import re
from functools import cache
from typing import TYPE_CHECKING, Any

import typer
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from clarena.cli import app
from clarena.cli.options import AsJson, NoPlugins, PluginDirs, PluginFiles, discover
from clarena.cli.text import as_json as to_json
from clarena.cli.text import page, put

if TYPE_CHECKING:
    from clarena.plugins.host import Host
    from clarena.plugins.registry import Registry


LEAST_SUMMARY = 60
"""Columns that a summary needs beside its name; in a narrower terminal it gets lines of its own."""


@app.command("list", epilog="Example: clarena list   Then: clarena describe ewc")
def list_(
    plugin: PluginFiles = None,
    plugins_dir: PluginDirs = None,
    no_plugins: NoPlugins = False,
    as_json: AsJson = False,
) -> None:
    """Name every strategy, backbone, benchmark, target, protocol and broken plugin."""
    from clarena.protocol.presets import NAMED

    host = discover(plugin, plugins_dir, no_plugins)
    catalogue = {title: [_facts(entry) for entry in registry] for title, registry in registries(host).items()}
    protocols = [{"name": name, "summary": preset.summary} for name, preset in NAMED.items()]
    broken = [{"plugin": each.plugin, "origin": each.origin, "reason": each.reason} for each in host.broken]
    if as_json:
        typer.echo(to_json(catalogue | {"protocols": protocols, "broken": broken}))
    else:
        _print(catalogue, protocols, broken)


def registries(host: "Host") -> dict[str, "Registry"]:
    """The four registries by their titles."""
    return {
        "strategies": host.strategies,
        "backbones": host.backbones,
        "benchmarks": host.benchmarks,
        "targets": host.targets,
    }


@cache
def missing_packages(extra: str | None) -> tuple[str, ...]:
    """The packages of one of our extras that are not installed."""
    from clarena.plugins.registry import DISTRIBUTION

    wanted = [line for line in importlib.metadata.requires(DISTRIBUTION) or () if _extra(line) == extra]
    names = [match[0] for line in wanted if (match := re.match(r"[\w.-]+", line))]
    return tuple(name for name in names if not is_installed(name))


def is_installed(distribution: str) -> bool:
    """Whether a distribution is there; it is not imported."""
    try:
        importlib.metadata.distribution(distribution)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def install_command(extra: str) -> str:
    """How to get an extra."""
    from clarena.plugins.registry import DISTRIBUTION

    return f"pip install '{DISTRIBUTION}[{extra}]'"


def _extra(requirement: str) -> str | None:
    """The extra that a line of a distribution's metadata belongs to; None for what everyone needs."""
    match = re.search(r"""extra\s*==\s*['"]([^'"]+)""", requirement)
    return match[1] if match else None


def _facts(entry: Any) -> dict[str, Any]:
    missing = bool(entry.extra and missing_packages(entry.extra))
    return {
        "name": entry.name,
        "summary": entry.summary,
        "plugin": entry.plugin,
        "origin": entry.origin,
        "needs_extra": entry.extra if missing else None,
    }


def _print(
    catalogue: dict[str, list[dict[str, Any]]], protocols: list[dict[str, str]], broken: list[dict[str, str]]
) -> None:
    from clarena.protocol.protocol import Variation

    console = page()
    ours: list[dict[str, Any]] = [{**facts, "plugin": "", "needs_extra": None} for facts in protocols]
    catalogue = catalogue | {"protocols": ours}
    every = [facts for group in catalogue.values() for facts in group]
    widths = {key: max((len(facts[key]) for facts in every), default=0) for key in ("name", "plugin")}
    beside = console.width - sum(widths.values()) >= LEAST_SUMMARY
    for title, group in catalogue.items():
        console.print(title.capitalize(), style="bold")
        grid = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
        if beside:
            grid.add_column(min_width=widths["name"], style="cyan", no_wrap=True)
            grid.add_column(min_width=widths["plugin"], style="dim")
        grid.add_column(overflow="fold")
        for facts in group:
            summary = Text(facts["summary"])
            if extra := facts["needs_extra"]:
                summary.append(f" (not installed: {extra})", "yellow")
            if beside:
                grid.add_row(Text(facts["name"]), Text(facts["plugin"]), summary)
            else:
                grid.add_row(Text.assemble((facts["name"], "cyan"), "  ", (facts["plugin"], "dim")))
                grid.add_row(Padding(summary, (0, 0, 0, 4)))
        put(console, grid)
        console.print()
    options = ", ".join(f"stream.{name}" for name in Variation.model_fields)
    console.print(f"Every benchmark's stream can be varied: --set {options}; see clarena describe split-digits\n")
    for extra in sorted({facts["needs_extra"] for facts in every} - {None}):
        console.print(f"To install what {extra} needs: {install_command(extra)}", style="yellow")
    if broken:
        console.print("Broken plugins, of which nothing is registered", style="bold red")
        grid = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
        grid.add_column(style="cyan", overflow="fold")
        grid.add_column(overflow="fold")
        for each in broken:
            grid.add_row(Text(each["plugin"]), Text(f"{each['reason']}\n{each['origin']}"))
        put(console, grid)
