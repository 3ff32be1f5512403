"""The parts of pages that are made from the code: commands, catalogues, metrics, fields, and outlines of classes."""

import ast
import inspect
import sys
import textwrap
from collections.abc import Iterator, Mapping
from types import ModuleType
from typing import Any

import typer

import clarena
from clarena.cli import app
from clarena.cli import commands as every_command  # noqa: F401 - each adds itself to `app`
from clarena.cli.text import prose, value
from clarena.contract.strategy import NEEDS
from clarena.plugins.host import Host, PluginSources
from clarena.plugins.parameters import parameters
from clarena.plugins.registry import Registry, first_sentence
from clarena.protocol.presets import NAMED
from clarena.protocol.protocol import PRESETS, Protocol
from clarena.record import curves, likelihoods, metrics, pooled
from clarena.record.catalogue import ACCURACY_METRICS
from made.reported import TITLES, reported

# ---- The command line ----


def commands() -> str:
    """Every command with its arguments and options."""
    group = typer.main.get_command(app)
    parts = [f"{group.help}\n", option_table(group)]
    for name, command in group.commands.items():  # type: ignore[attr-defined]
        parts += [f"## `clarena {name}`\n", f"{command.help}\n"]
        if not hasattr(command, "commands"):
            parts += [option_table(command)]
            continue
        for below, one in command.commands.items():
            parts += [f"### `clarena {name} {below}`\n", f"{one.help}\n", option_table(one)]
    return "\n".join(parts)


def option_table(command: Any) -> str:
    """Arguments and options of one command."""
    rows = []
    for parameter in command.params:
        spelled = ", ".join(f"`{name}`" for name in parameter.opts)
        if parameter.param_type_name == "argument":
            spelled = f"`{parameter.metavar or parameter.name.upper()}`"
        elif parameter.metavar:
            spelled += f" `{parameter.metavar}`"
        default = parameter.default
        shown = "" if default in (None, False) or callable(default) else f"`{default}`"
        rows.append([spelled, parameter.help or "", shown])
    return table(["", "", "default"], rows)


# ---- Outlines ----


def needs() -> str:
    """What a strategy may say it cannot do without."""
    return table(["need", "meaning"], [[f"`{need}`", meaning] for need, meaning in NEEDS.items()])


def stub(target: Any) -> str:
    """The source of a class or function as it stands, without private members and without bodies."""
    source = textwrap.dedent(inspect.getsource(target))
    return "\n".join(outline(ast.parse(source).body[0], source.splitlines()))


def outline(node: ast.stmt, lines: list[str]) -> Iterator[str]:
    """The lines of a definition that a reader needs."""
    if not isinstance(node, ast.FunctionDef | ast.ClassDef):
        yield from lines[node.lineno - 1 : node.end_lineno]
        return
    shown = [decorator for decorator in node.decorator_list if "hookspec" not in ast.unparse(decorator)]
    first = min([node.lineno, *(decorator.lineno for decorator in shown)])
    told = node.body[0]
    *head, last = lines[first - 1 : told.lineno - 1]
    yield from head
    if ast.get_docstring(node):
        yield last
        yield from lines[told.lineno - 1 : told.end_lineno]
    else:
        yield f"{last} ..."
    if isinstance(node, ast.ClassDef):
        before: type[ast.stmt] = ast.Expr
        for member in filter(is_public, node.body):
            if isinstance(member, ast.FunctionDef) or type(member) is not before:
                yield ""
            before = type(member)
            yield from outline(member, lines)


def is_public(member: ast.stmt) -> bool:
    """Whether a member of a class belongs into its documentation."""
    if isinstance(member, ast.FunctionDef):
        return not member.name.startswith("_") or member.name in ("__init__", "__call__")
    if isinstance(member, ast.AnnAssign):
        return not ast.unparse(member.target).startswith("_")
    return isinstance(member, ast.Assign) and ast.unparse(member.targets[0]) != "model_config"


# ---- Strategies, backbones, benchmarks ----


def strategies() -> str:
    """Every strategy in full."""
    return catalogue(host().strategies, strategy)


def backbones() -> str:
    """Every backbone in full."""
    return catalogue(host().backbones, lambda cls: docstring(cls) + trained_on(cls) + options(cls))


def trained_on(cls: type[clarena.Backbone]) -> str:
    """What the published weights of a backbone have seen, where that is known."""
    return f"\nWith `weights=default` it was trained on {cls.trained_on}.\n" if cls.trained_on else ""


def benchmarks() -> str:
    """Every benchmark in full."""
    return catalogue(host().benchmarks, benchmark)


def host() -> Host:
    """What the built-in plugins offer."""
    return Host.discover(PluginSources(third_party=False))


def catalogue(registry: Registry, describe: Any) -> str:
    """What the built-in plugins offer of one kind: a list, then each in full."""
    entries = [entry for entry in registry if entry.plugin != "avalanche"]  # it has a page of its own, see parity.py
    parts = [table(["name", ""], [[f"[`{e.name}`](#{slug(e.name)})", e.summary] for e in entries])]
    for entry in entries:
        parts += [f"## `{entry.name}` {{ #{slug(entry.name)} }}\n", describe(registry.load(entry.name))]
    return "\n".join(parts)


def strategy(cls: type[clarena.Strategy]) -> str:
    """A strategy: what its file says, its facts, and its hyper-parameters."""
    facts = {
        "scenarios": ", ".join(sorted(cls.scenarios)),
        "reference": cls.reference,
        "family": cls.family,
        "carries on": cls.carries,
        "needs": ", ".join(sorted(cls.needs)),
        "equals finetune at": ", ".join(f"`{key}={value}`" for key, value in (cls.off or {}).items()),
    }
    listed = "".join(f"* {name}: {value.rstrip('.')}.\n" for name, value in facts.items() if value)
    beside = f"\nReported, and got:\n\n{table(TITLES, lines)}" if (lines := reported(cls.name)) else ""
    return f"{inspect.cleandoc(module_of(cls).__doc__ or '')}\n\n{listed}{options(cls)}{beside}"


def benchmark(cls: type[clarena.Benchmark]) -> str:
    """A benchmark: its source, its family, its scenarios and its options."""
    told = "\n\n".join(prose(docstring(base)) for base in cls.__bases__)
    return f"{told}\n\n* scenarios: {', '.join(cls.scenarios)}; the first is the default.\n{options(cls)}"


def options(cls: type) -> str:
    """The keyword arguments of a class, as `--set` takes them."""
    rows = [[f"`{p.name}`", p.type_name, f"`{value(p.default)}`", p.description] for p in parameters(cls).values()]
    return "\n" + table(["option", "type", "default", ""], rows) if rows else ""


def module_of(cls: type) -> ModuleType:
    """The module that defines a class."""
    return sys.modules[cls.__module__]


def docstring(cls: type) -> str:
    """The docstring of a class."""
    return inspect.cleandoc(cls.__doc__ or "") + "\n"


# ---- Metrics and protocol ----


def metric_page() -> str:
    """Every metric with its equation and source."""
    parts = [inspect.cleandoc(metrics.__doc__ or "").partition("\n\n")[2] + "\n"]
    rows = [
        [f"`{m.name}`", first_sentence(m.function.__doc__), m.unit, "higher" if m.higher_is_better else "lower"]
        for m in (*ACCURACY_METRICS.values(), *likelihoods.LANGUAGE_METRICS.values())
    ]
    parts.append(table(["metric", "", "unit", "better"], rows))
    others = [metrics.forgetting_per_experience, metrics.accuracy_matrix]
    others += [metrics.class_report, metrics.confusion_matrix]
    others += [*(m.function for m in likelihoods.LANGUAGE_METRICS.values()), likelihoods.bits_per_byte]
    for function in [*(m.function for m in metrics.METRICS.values()), *others]:
        parts += [f"## `{function.__name__}`\n", code(stub(function))]
    parts += ["## Pooled over all samples seen\n", inspect.cleandoc(pooled.__doc__ or "") + "\n"]
    parts += [f"### `{m.name}`\n\n{code(stub(m.function))}" for m in pooled.POOLED_METRICS.values()]
    parts += ["## Within experiences\n", inspect.cleandoc(curves.__doc__ or "") + "\n"]
    for function in [*(m.function for m in curves.CURVE_METRICS.values()), curves.evaluations]:
        parts += [f"### `{function.__name__}`\n", code(stub(function))]
    return "\n".join(parts)


def protocol_fields() -> str:
    """Every field of the protocol under every preset; what papers' presets set, options of the benchmark included."""
    general = {name: PRESETS[name] for name, preset in NAMED.items() if not preset.on}
    rows = []
    for name, field in Protocol.model_fields.items():
        values = [f"`{value(getattr(preset, name))}`" for preset in general.values()]
        rows.append([f"`{name}`", *values, field.description or ""])
    papers = {name: preset for name, preset in NAMED.items() if preset.on}
    fields = {key: None for preset in papers.values() for key in preset.protocol}
    options = {key: None for preset in papers.values() for key in preset.benchmark}
    cells = [[f"`{key}`", *(_set(preset.protocol, key) for preset in papers.values())] for key in fields]
    cells += [[f"`benchmark.{key}`", *(_set(preset.benchmark, key) for preset in papers.values())] for key in options]
    header = ["papers' presets", *(f"`{name}`" for name in papers)]
    return table(["field", *general, "meaning"], rows) + "\n" + table(header, cells)


def _set(values: Mapping[str, Any], key: str) -> str:
    return f"`{value(values[key])}`" if key in values else ""


# ---- Markdown ----


def table(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    cells = [[" ".join(cell.split()).replace("|", "\\|") for cell in line] for line in lines]
    return "".join(f"| {' | '.join(line)} |\n" for line in cells)


def code(text: str) -> str:
    """A block of Python."""
    return f"```python\n{text.rstrip()}\n```\n"


def slug(name: str) -> str:
    """An anchor for a name."""
    return name.lower().replace("+", "p").replace(":", "-").replace("/", "-")
