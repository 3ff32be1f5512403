"""`clarena check`: the conformance kit, with a line for each rule as it is tried."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from clarena.cli import app
from clarena.cli.options import AsJson, NoPlugins, PluginDirs, PluginFiles, discover, parse_settings
from clarena.cli.text import as_json as to_json
from clarena.cli.text import page
from clarena.errors import PluginError, UsageError, unknown_name

if TYPE_CHECKING:
    from clarena.checks import CheckResult, Suite
    from clarena.contract.backbone import Backbone
    from clarena.contract.strategy import Strategy
    from clarena.plugins.host import Host

MARKS = {
    "passed": ("ok", "green"),
    "failed": ("FAILED", "bold red"),
    "excepted": ("excepted", "yellow"),
    "unexpectedly_passed": ("passed!", "yellow"),
    "not_applicable": ("–", "dim"),
}


@app.command(epilog="Example: clarena check mymethod.py --scenario class")
def check(
    targets: Annotated[
        list[str],
        typer.Argument(metavar="NAME|FILE.py", help="Strategies by name, or one-file plugins with all they hold."),
    ],
    scenario: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="class, domain or task; may be repeated. Default: all it declares."),
    ] = None,
    backbone: Annotated[
        str | None, typer.Option(metavar="NAME", help="The network under the head. Default: a tiny one.")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="backbone.NAME=VALUE", help="An option of the backbone; may be repeated."),
    ] = None,
    plugin: PluginFiles = None,
    plugins_dir: PluginDirs = None,
    no_plugins: NoPlugins = False,
    as_json: AsJson = False,
) -> None:
    """Try every rule of the contract on a strategy.

    They are tried on a tiny stream of made-up data and take seconds. Ends with exit code 1 when one is broken.
    """
    from clarena.checks import Suite
    from clarena.toolbox.downloads import user_path

    files = {user_path(target): target for target in targets if target.endswith(".py")}
    host = discover([*(plugin or []), *files], plugins_dir, no_plugins)
    strategies = _strategies(host, files, [target for target in targets if not target.endswith(".py")])
    backbone_and_options = _backbone(host, backbone, settings)
    scenarios = _scenarios(scenario)
    reports = []
    for name, strategy in strategies.items():
        results = _try_out(name, Suite(strategy, scenarios, *backbone_and_options), quiet=as_json)
        reports.append({"strategy": name, "ok": all(r.ok for r in results), "results": [asdict(r) for r in results]})
    if as_json:
        typer.echo(to_json(reports))
    if not all(report["ok"] for report in reports):
        raise typer.Exit(1)


def _strategies(host: "Host", files: dict[Path, str], names: list[str]) -> dict[str, type["Strategy"]]:
    """The classes meant, by name: all that the one-file plugins hold (path -> as it was given), and those named."""
    found: dict[str, type[Strategy]] = {}
    for path, given in files.items():
        for each in host.broken:
            if each.origin == str(path):
                raise PluginError(f"{given} cannot be loaded: {each.reason}.")
        offered = [entry for entry in host.strategies if entry.origin == str(path)]
        if not offered:
            raise UsageError(
                f"{given} registers no strategy. Call register(…) in its hook clarena_register_strategies."
            )
        found |= {entry.name: host.strategies.load(entry.name) for entry in offered}
    return found | {host.strategies.entry(name).name: host.strategies.load(name) for name in names}


def _backbone(
    host: "Host", name: str | None, settings: list[str] | None
) -> tuple[type["Backbone"] | None, dict[str, Any]]:
    """The class of the backbone, and its options; None stands for a tiny one, which has none."""
    from clarena.checks import TinyMlp
    from clarena.plugins.parameters import parse

    backbone = None if name is None else host.backbones.resolve(name)
    by_owner = parse_settings(settings)
    options = by_owner.pop("backbone", {})
    if by_owner:
        raise UsageError(
            f"--set names {', '.join(by_owner)}, but checks run at the defaults of a strategy, on data of their own. "
            "Only the backbone has options here: --backbone cnn --set backbone.norm=batch"
        )
    return backbone, parse(backbone or TinyMlp, options, "backbone")


def _scenarios(names: list[str] | None) -> list[Any] | None:
    from clarena.protocol.protocol import SCENARIOS

    for name in names or ():
        if name not in SCENARIOS:
            raise unknown_name("scenario", name, SCENARIOS)
    return list(dict.fromkeys(names)) if names else None


def _try_out(name: str, suite: "Suite", quiet: bool) -> list["CheckResult"]:
    """Run all checks, rule by rule, each in every scenario; print a line for each rule and a summary."""
    from clarena.checks import CHECKS, summary

    console = page()
    scenarios = list(suite.subjects)
    width = max(map(len, CHECKS))
    if not quiet:
        columns = "".join(f"{scenario:<10}" for scenario in scenarios).rstrip()
        console.print(Text(f"{name:<{width + 4}}{columns}", "bold"))
    results = []
    for rule in CHECKS:
        line = Text(f"  {rule:<{width + 2}}")
        for case in (case for case in suite.cases if case[0] == rule):
            result = suite.result(*case)
            results.append(result)
            mark, style = MARKS[result.outcome]
            line.append(f"{mark:<10}", style)
        if not quiet:
            line.rstrip()
            console.print(line)
    if not quiet:
        failed = any(not result.ok for result in results)
        console.print()
        console.print(summary(suite.strategy, results), style="red" if failed else "green")
        console.print()
    return results
