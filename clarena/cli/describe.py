"""`clarena describe`: all that is known of one strategy, backbone, benchmark, target or protocol."""

import inspect
import shlex
import sys
import textwrap
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer
from rich.table import Table
from rich.text import Text

from clarena.cli import app
from clarena.cli.listing import registries
from clarena.cli.options import AsJson, NoPlugins, PluginDirs, PluginFiles, discover
from clarena.cli.text import as_json as to_json
from clarena.cli.text import numbered, page, prose, put, reflow, value
from clarena.errors import PluginError, UnknownNameError, unknown_name

if TYPE_CHECKING:
    from clarena.plugins.host import Host
    from clarena.plugins.parameters import Parameter
    from clarena.plugins.registry import Offer, Registry

TEXT_WIDTH = 100


@app.command(epilog="Example: clarena describe ewc")
def describe(
    name: Annotated[
        str,
        typer.Argument(metavar="NAME", help="A strategy, backbone, benchmark, target or protocol; see `clarena list`."),
    ],
    plugin: PluginFiles = None,
    plugins_dir: PluginDirs = None,
    no_plugins: NoPlugins = False,
    as_json: AsJson = False,
) -> None:
    """Show a strategy, backbone, benchmark or target with all its options, or a protocol with what it sets.

    For a strategy also its paper, where it differs from it, what it needs and carries, and how to switch it off. For a
    benchmark of your own data, such as `split:photos`, also what those data are.
    """
    preset = _preset(name)
    host = discover(plugin, plugins_dir, no_plugins)
    pages = [_facts(host, registry, entry, name) for registry, entry in find(host, name, required=preset is None)]
    if as_json:
        typer.echo(to_json([*pages, *([preset] if preset else [])]))
    else:
        for facts in pages:
            _print(facts)
        if preset:
            _print_preset(preset)
    if any(facts["problem"] for facts in pages):
        raise typer.Exit(1)


def find(host: "Host", name: str, required: bool = True) -> list[tuple["Registry", "Offer"]]:
    """Everything of this name, whatever its kind; raises `UnknownNameError` where there is nothing and must be."""
    from clarena.protocol.presets import NAMED

    found = []
    for registry in registries(host).values():
        try:
            found.append((registry, registry.entry(name)))
        except UnknownNameError:
            continue
    if not found and required:
        known = [*NAMED, *(entry.name for registry in registries(host).values() for entry in registry)]
        broken = {f"{each.plugin} ({each.origin})": each.reason for each in host.broken}
        raise unknown_name("strategy, benchmark or other entry", name, known, broken, see="clarena list")
    return found


def _preset(name: str) -> dict[str, Any] | None:
    """What a protocol of this name sets, as plain data; None where there is none."""
    from clarena.protocol.presets import NAMED
    from clarena.protocol.protocol import PRESETS

    if name not in NAMED:
        return None
    preset, fields = NAMED[name], PRESETS[name].model_dump(mode="json", exclude_defaults=True)
    owned = {f"protocol.{key}": setting for key, setting in fields.items()}
    owned |= {f"benchmark.{key}": setting for key, setting in preset.benchmark.items()}
    words = ["clarena", "evaluate", "finetune", "er", "--protocol", name]
    if preset.on:
        words += ["--benchmark", preset.on]
    return {
        "kind": "protocol",
        "name": name,
        "summary": preset.summary,
        "settings": owned,
        "headline": preset.headline,
        "source": preset.source,
        "example": shlex.join(words),
    }


def _print_preset(facts: dict[str, Any]) -> None:
    console = page()
    console.print(Text.assemble((facts["name"], "bold cyan"), "  protocol"))
    console.print(f"{facts['summary']}\n")
    console.print("Sets" if facts["settings"] else "Leaves every field at its default", style="bold")
    grid = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    for name, setting in facts["settings"].items():
        grid.add_row(Text(f"  {name}", "cyan"), Text(value(setting)))
    if facts["settings"]:
        put(console, grid)
    console.print(f"\nHeadline  {facts['headline']}")
    if facts["source"]:
        console.print("\nSource", style="bold")
        console.print(textwrap.indent(reflow(facts["source"], min(console.width, TEXT_WIDTH) - 2), "  "))
    console.print("\nExample", style="bold")
    console.print(f"  {facts['example']}\n", soft_wrap=True)


def _facts(host: "Host", registry: "Registry", entry: "Offer", given: str) -> dict[str, Any]:
    """A page as plain data; `given` is the name that was asked for."""
    argument = given.partition(":")[2] if entry.placeholder else ""
    made = argument not in ("", entry.placeholder)
    if made:
        entry = replace(entry, name=given)
    facts: dict[str, Any] = {
        "kind": registry.kind.word,
        "name": entry.name,
        "plugin": entry.plugin,
        "origin": entry.origin,
        "summary": entry.summary,
        "problem": None,
    }
    try:
        cls = registry.load(entry.qualified)
        if made:
            cls = registry.resolve(f"{entry.qualified.partition(':')[0]}:{argument}")
        parameters = _parameters(cls)
    except PluginError as error:
        return facts | {"problem": str(error)}
    text = _text(cls)
    if registry.kind.word == "strategy":
        facts |= _strategy(cls)
    elif registry.kind.word == "benchmark":
        facts |= _data(host, cls) if made else {}
        facts |= {"scenarios": list(cls.scenarios), "variations": _variations()}
    elif registry.kind.word == "backbone":
        seen = {data.names[0]: len(data.classes) for data in cls.seen_data()}
        facts |= {"trained_on": cls.trained_on, "seen_data": seen}
    elif registry.kind.word == "target":
        facts |= {"scenarios": list(cls.scenarios)}
    return facts | {
        "identity": _identity(cls),
        "parameters": parameters,
        "text": text,
        "differences": numbered(text),
        "mismatches": registry.compare(entry),
        "example": _example(registry.kind.word, entry, cls, parameters),
    }


def _strategy(cls: Any) -> dict[str, Any]:
    from clarena.contract.strategy import NEEDS, is_reference
    from clarena.protocol.protocol import SCENARIOS

    return {
        "paper": cls.reference,
        "family": cls.family,
        "scenarios": [scenario for scenario in SCENARIOS if scenario in cls.scenarios],
        "targets": None if cls.targets is None else sorted(cls.targets),
        "needs": {need: NEEDS.get(need, "") for need in sorted(cls.needs)},
        "carries": cls.carries,
        "off": None if cls.off is None else dict(cls.off),
        "reference": is_reference(cls),
        "exceptions": dict(cls.exceptions),
    }


def _identity(cls: type[Any]) -> str:
    from clarena.plugins.identity import code_identity

    return code_identity(cls)


def _data(host: "Host", cls: Any) -> dict[str, Any]:
    """What the data of a benchmark of files are."""
    from clarena.run.data import loaded_from_files

    loaded = loaded_from_files(cls, host.targets.load)
    return {} if loaded is None else {"data": loaded.report, "data_summary": loaded.summary}


def _parameters(cls: type[Any]) -> list[dict[str, Any]]:
    from clarena.plugins.parameters import parameters

    return [_parameter(each) for each in parameters(cls).values()]


def _variations() -> list[dict[str, Any]]:
    """What `--set stream.NAME` varies on any benchmark."""
    from clarena.plugins.parameters import Parameter
    from clarena.protocol.protocol import Variation

    hints = get_type_hints(Variation, include_extras=True)
    fields = Variation.model_fields.items()
    return [
        _parameter(Parameter(f"stream.{name}", hints[name], field.default, field.description or ""))
        for name, field in fields
    ]


def _parameter(each: "Parameter") -> dict[str, Any]:
    return {
        "name": each.name,
        "type": each.type_name,
        "required": each.default is inspect.Parameter.empty,
        "default": None if each.default is inspect.Parameter.empty else each.default,
        "description": each.description,
    }


def _text(cls: type[Any]) -> str:
    """The docstring of the module, and what those of the class and its bases outside the host say besides."""
    module = sys.modules.get(cls.__module__)
    parts = [prose(inspect.cleandoc(module.__doc__))] if module and module.__doc__ else []
    for base in cls.__mro__:
        if base.__module__.partition(".")[0] in ("clarena", "torch", "abc", "builtins", "typing") or not base.__doc__:
            continue
        docstring = prose(inspect.cleandoc(base.__doc__))
        parts.append(docstring.partition("\n\n")[2] if base is cls else docstring)
    return "\n\n".join(filter(None, parts))


def _example(kind: str, entry: "Offer", cls: type[Any], parameters: list[dict[str, Any]]) -> str:
    """A command that runs it."""
    if kind == "target":
        return f'Data(…, target="{entry.name}")  # in the benchmark'
    words = ["clarena", "evaluate"]
    if kind == "strategy":
        rivals = [name for name in ("finetune", "joint") if name != entry.name]
        words += [entry.name, *rivals]
        if "class" not in cls.scenarios:
            words += ["--scenario", sorted(cls.scenarios)[0]]
        if "known_stream_length" in cls.needs:
            words += ["--set", "protocol.stream_length=known"]
    else:
        words += ["finetune", "joint", f"--{kind}", entry.name]
    owner = cls.name if kind == "strategy" else kind
    shown = [each for each in parameters if each["default"] is not None]
    if shown:
        words += ["--set", f"{owner}.{shown[0]['name']}={value(shown[0]['default'])}"]
    if entry.origin.endswith(".py"):
        words += ["--plugin", entry.origin]
    return shlex.join(words)


# ---- The page as text ----


def _print(facts: dict[str, Any]) -> None:
    console = page()
    source = f"  {facts['kind']} of plugin {facts['plugin']} ({facts['origin']})"
    console.print(Text.assemble((facts["name"], "bold cyan"), source), soft_wrap=True)
    console.print(f"{facts['summary']}.\n")
    if facts["problem"]:
        console.print(facts["problem"], style="red", soft_wrap=True)
        return
    put(console, _short_facts(facts))
    if "data" in facts:
        console.print("\nData", style="bold")
        for line in (facts["data_summary"], *facts["data"]["notes"]):
            console.print(Text(f"  {line}"), soft_wrap=True)
    if facts["parameters"] or facts["kind"] == "strategy":
        console.print("\nHyper-parameters" if facts["kind"] == "strategy" else "\nOptions", style="bold")
        grid = _parameter_table(facts["parameters"], console.width)
        if facts["kind"] == "strategy" and all(each["name"] != "learning_rate" for each in facts["parameters"]):
            grid.add_row("  learning_rate", "protocol's", "float, > 0", "Of the optimiser; every strategy has it.")
        put(console, grid)
    if facts["kind"] == "benchmark":
        console.print("\nVariations of its stream, as of any", style="bold")
        put(console, _parameter_table(facts["variations"], console.width))
    if facts["text"]:
        console.print("\nAbout", style="bold")
        console.print(textwrap.indent(reflow(facts["text"], min(console.width, TEXT_WIDTH) - 2), "  "))
    if facts["mismatches"]:
        console.print("\nThe registration and the class disagree", style="bold yellow")
        for line in facts["mismatches"]:
            console.print(f"  {line}")
    console.print("\nExample", style="bold")
    console.print(f"  {facts['example']}", soft_wrap=True)
    console.print()


def _short_facts(facts: dict[str, Any]) -> Table:
    rows = {}
    if "scenarios" in facts:
        rows["scenarios"] = ", ".join(facts["scenarios"])
    if facts["kind"] == "strategy":
        off = facts["off"]
        rows = {"paper": facts["paper"] or "none given", "family": facts["family"] or "none given"} | rows
        if facts["targets"] is not None:
            rows["targets"] = ", ".join(facts["targets"])
        rows["needs"] = "\n".join(f"{need}: {means}" for need, means in facts["needs"].items()) or "nothing besides"
        rows["carries"] = facts["carries"]
        rows["off"] = (
            "cannot be switched off"
            if off is None
            else " ".join(f"{name}={value(default)}" for name, default in off.items()) + " equals finetune, bit for bit"
            if off
            else "it is finetune"
        )
        if facts["reference"]:
            rows["ranked"] = "no: it is a reference row, shown apart"
        if facts["exceptions"]:
            rows["exceptions"] = "\n".join(f"{check}: {reason}" for check, reason in facts["exceptions"].items())
    elif facts["kind"] == "benchmark":
        rows["scenarios"] += "  (the first is the default)"
    elif facts.get("trained_on"):
        rows["trained on"] = f"{facts['trained_on']}  (weights=default)"
        named = [f"{name} ({count} classes)" if count else name for name, count in facts["seen_data"].items()]
        rows["compared"] = f"with the names of a track's benchmark: {', '.join(named) or 'nothing, none is declared'}"
    rows["identity"] = f"{facts['identity'][:12]}  (of its code)"
    grid = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    for title, text in rows.items():
        grid.add_row(title, Text(text))
    return grid


def _parameter_table(parameters: list[dict[str, Any]], width: int) -> Table:
    grid = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    grid.add_column("  name", no_wrap=True, style="cyan")
    grid.add_column("default", overflow="fold", max_width=width // 5)
    grid.add_column("type", overflow="fold", max_width=width // 3)
    grid.add_column("meaning", overflow="fold")
    for each in parameters:
        default = "required" if each["required"] else value(each["default"])
        cells = (f"  {each['name']}", default, each["type"], each["description"])
        grid.add_row(*map(Text, cells))
    return grid
