"""`clarena doctor`: is everything here as it should be, and if not, what to do."""

import importlib.metadata
import os
import platform
import socket
import sqlite3
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal
from urllib.parse import urlsplit

import typer
from rich.table import Table
from rich.text import Text

from clarena.cli import app
from clarena.cli.listing import install_command, is_installed, missing_packages, registries
from clarena.cli.options import AsJson, NoPlugins, PluginDirs, PluginFiles, StorePath, TrackingUri, discover
from clarena.cli.text import as_json as to_json
from clarena.cli.text import page, put
from clarena.errors import ClarenaError

if TYPE_CHECKING:
    from clarena.plugins.host import Host

CONNECT_SECONDS = 3
STYLES = {"ok": "green", "warning": "yellow", "problem": "bold red"}


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at: how it is, and where it is not well, what to do."""

    topic: str
    state: Literal["ok", "warning", "problem"]
    text: str
    remedy: str = ""


@app.command(epilog="Example: clarena doctor --store runs")
def doctor(
    store: StorePath = Path("runs"),
    tracking_uri: TrackingUri = None,
    plugin: PluginFiles = None,
    plugins_dir: PluginDirs = None,
    no_plugins: NoPlugins = False,
    as_json: AsJson = False,
) -> None:
    """Look for what is wrong here, and say what to do about it.

    Looks at versions, devices, store, MLflow, data and plugins, and changes nothing.
    Ends with exit code 1 when there is a problem.
    """
    host = discover(plugin, plugins_dir, no_plugins)
    findings = [
        *packages(),
        *import_name(),
        *hardware(),
        *writable_store(store),
        *tracking(tracking_uri),
        *data_sets(),
        *plugins(host),
        *registrations(host),
    ]
    if as_json:
        typer.echo(to_json([asdict(finding) for finding in findings]))
    else:
        _print(findings)
    if any(finding.state == "problem" for finding in findings):
        raise typer.Exit(1)


def packages() -> Iterator[Finding]:
    """Versions of Python and of everything we require; then the extras."""
    from packaging.requirements import Requirement

    from clarena.plugins.registry import DISTRIBUTION

    yield Finding("python", "ok", f"{platform.python_version()} on {platform.platform()}")
    metadata = importlib.metadata.distribution(DISTRIBUTION)
    yield Finding(DISTRIBUTION, "ok", metadata.version)
    wanted = [Requirement(line) for line in metadata.requires or ()]
    fitting = []
    for requirement in (each for each in wanted if each.marker is None or each.marker.evaluate({"extra": ""})):
        remedy = f"pip install '{requirement.name}{requirement.specifier}'"
        if not is_installed(requirement.name):
            yield Finding(requirement.name, "problem", "is not installed", remedy)
            continue
        version = importlib.metadata.version(requirement.name)
        if requirement.specifier.contains(version, prereleases=True):
            fitting.append(f"{requirement.name} {version}")
        else:
            yield Finding(requirement.name, "problem", f"{version} is not {requirement.specifier}", remedy)
    yield Finding("packages", "ok", ", ".join(fitting))
    extras = sorted(set(metadata.metadata.get_all("Provides-Extra") or ()) - {"all", "test"})
    there = [extra for extra in extras if not missing_packages(extra)]
    absent = [extra for extra in extras if missing_packages(extra)]
    text = f"installed: {', '.join(there) or 'none'}; not installed: {', '.join(absent) or 'none'}"
    yield Finding("extras", "ok", f"{text}. To add one: {install_command(absent[0])}" if absent else text)


def import_name() -> Iterator[Finding]:
    """An unrelated distribution is called `clarena` and owns the same import name."""
    if is_installed("clarena"):
        text = f"another distribution, clarena {importlib.metadata.version('clarena')}, writes to the same folder"
        remedy = "pip uninstall clarena clarena-bench; pip install clarena-bench"
        yield Finding("import name", "problem", text, remedy)


def hardware() -> Iterator[Finding]:
    """Cores and CUDA devices."""
    from clarena.run.executors import default_jobs

    jobs = default_jobs("cpu", os.cpu_count() or 1)
    yield Finding("cores", "ok", f"{jobs}: evaluate runs {jobs} at a time, with one thread each (--jobs)")
    try:
        import torch
    except (ImportError, OSError) as error:
        yield Finding("torch", "problem", f"cannot be imported: {error}", "pip install --force-reinstall torch")
        return
    if not torch.cuda.is_available():
        built = "this torch is built without CUDA" if torch.version.cuda is None else "torch finds no CUDA device"
        yield Finding("devices", "ok", f"cpu ({built})")
        return
    for index in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(index)
        text = f"{torch.cuda.get_device_name(index)}, {free / 1e9:.1f} of {total / 1e9:.1f} GB free"
        yield Finding(f"cuda:{index}", "ok", text)


def writable_store(path: Path) -> Iterator[Finding]:
    """Whether records can be written, and those that are there be read."""
    from clarena.record.store import Store

    if problem := unwritable(path):
        yield Finding("store", "problem", problem, "choose another with --store")
        return
    if not path.exists():
        yield Finding("store", "ok", f"{path} will be made by the first run")
        return
    records, damaged = Store(path).records()
    counts = Counter(record.status.replace("_", " ") for record in records)
    held = ", ".join(f"{count} {status}" for status, count in counts.items()) or "no record yet"
    yield Finding("store", "ok", f"{path}: {held}")
    if damaged:
        text = f"{len(damaged)} of its records cannot be read"
        yield Finding("store", "warning", text, f"clarena results --store {path} says why")


def tracking(uri: str | None) -> Iterator[Finding]:
    """Whether MLflow can be reached or written; no MLflow is opened."""
    from clarena.tracking import resolve_uri
    from clarena.tracking.uri import database_file, public

    remedy = "choose another with --tracking-uri, or run with --no-tracking"
    try:
        uri = resolve_uri(uri)
    except ClarenaError as error:
        yield Finding("mlflow", "problem", str(error), remedy)
        return
    problem = ""
    if database := database_file(uri):
        problem = unwritable(database.parent) or (_unreadable_database(database) if database.exists() else "")
    elif uri.startswith("http"):
        problem = _unreachable(uri)
    new = " (will be made by the first run)" if database and not database.exists() else ""
    if problem:
        yield Finding("mlflow", "problem", problem, remedy)
    else:
        yield Finding("mlflow", "ok", f"{public(uri)}{new}")


def data_sets() -> Iterator[Finding]:
    """Where downloaded data are kept, and which are there."""
    from clarena.toolbox.downloads import data_root

    try:
        root = data_root()
    except ClarenaError as error:
        yield Finding("data", "warning", str(error), "set CLARENA_DATA to a folder you can write to")
        return
    held = sorted(path.name for path in root.glob("[!.]*") if path.is_dir() and any(path.iterdir()))
    problem = unwritable(root)
    text = f"{root}: {', '.join(held) or 'nothing yet; what ships inside packages needs no download'}"
    if problem:
        text += f" ({problem}; nothing can be downloaded)"
        yield Finding("data", "warning", text, "set CLARENA_DATA to a folder you can write to")
    else:
        yield Finding("data", "ok", text)


def plugins(host: "Host") -> Iterator[Finding]:
    """Those that loaded, and those that did not."""
    names = [f"{name} ({origin})" for name, origin in host.plugins.items()]
    yield Finding("plugins", "ok", ", ".join(names) or "none")
    for broken in host.broken:
        text = f"{broken.origin}: {broken.reason}"
        yield Finding(f"plugin {broken.plugin}", "problem", text, "mend it, or leave it out with --no-plugins")


def registrations(host: "Host") -> Iterator[Finding]:
    """Whether every class can be imported, and is what its registration says."""
    agreeing: Counter[str] = Counter()
    for title, registry in registries(host).items():
        for entry in registry:
            topic = f"{registry.kind.word} {entry.name}"
            if entry.extra and missing_packages(entry.extra):
                continue  # it is told among the extras
            try:
                differences = registry.compare(entry)
            except ClarenaError as error:
                yield Finding(topic, "problem", str(error), f"mend the plugin {entry.plugin}")
                continue
            agreeing[title] += not differences
            for difference in differences:
                yield Finding(topic, "warning", difference, f"make them agree in the plugin {entry.plugin}")
    counts = ", ".join(f"{count} {title}" for title, count in agreeing.items())
    yield Finding("registrations", "ok", f"{counts} are what they are registered as")


def unwritable(folder: Path) -> str:
    """Why nothing can be written to a folder (or made where it is to be); empty where it can."""
    place = folder.absolute()
    while not place.exists():
        place = place.parent
    if not place.is_dir():
        return f"{place} is not a folder"
    try:
        with tempfile.TemporaryFile(dir=place):
            return ""
    except OSError as error:
        return f"cannot write to {place}: {error.strerror}"


def _unreadable_database(path: Path) -> str:
    try:
        with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as connection:
            connection.execute("SELECT name FROM sqlite_master").fetchall()
    except sqlite3.Error as error:
        return f"{path} cannot be opened: {error}"
    return ""


def _unreachable(uri: str) -> str:
    server = urlsplit(uri)
    port = server.port or (443 if server.scheme == "https" else 80)
    try:
        socket.create_connection((server.hostname or "", port), CONNECT_SECONDS).close()
    except OSError as error:
        return f"nothing answers at {server.hostname}:{port}: {error}"
    return ""


def _print(findings: list[Finding]) -> None:
    console = page()
    grid = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold", style="cyan", max_width=28)
    grid.add_column(overflow="fold")
    for finding in findings:
        text = Text(finding.text)
        if finding.remedy:
            text.append(f"\n→ {finding.remedy}", STYLES[finding.state])
        grid.add_row(Text(finding.state, STYLES[finding.state]), Text(finding.topic), text)
    put(console, grid)
    problems = sum(finding.state == "problem" for finding in findings)
    console.print(f"\n{problems or 'No'} problem{'' if problems == 1 else 's'}.", style="bold")
