"""`clarena doctor`: is everything here as it should be, and if not, what to do."""

import importlib.metadata
import os
import platform
import shutil
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from filelock import FileLock
from rich.table import Table
from rich.text import Text

from clarena.cli import app
from clarena.cli.listing import install_command, is_installed, missing_packages, registries
from clarena.cli.options import FLAG, AsJson, NoPlugins, PluginDirs, PluginFiles, StorePath, TrackingUri, discover
from clarena.cli.text import as_json as to_json
from clarena.cli.text import page, put
from clarena.errors import ClarenaError, StoreError

if TYPE_CHECKING:
    from clarena.plugins.host import Host
    from clarena.record.record import Record
    from clarena.record.store import Store

SMALL, LITTLE_SPACE = 100_000, 1e9
"""Bytes: written to see whether anything can be, and left on a disk that will soon be full."""
PLATFORMS = {"Linux": "Linux", "Darwin": "macOS"}
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
    repair: Annotated[
        bool,
        typer.Option(
            "--repair",
            metavar=FLAG,
            help="Set a half-made or damaged MLflow database aside, make a new one, and fill it from the store.",
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Look for what is wrong here, and say what to do about it.

    Looks at versions, devices, disks, store, MLflow, data and plugins, and opens what it calls ok. Changes nothing,
    unless --repair is given. Ends with exit code 1 when there is a problem.
    """
    host = discover(plugin, plugins_dir, no_plugins)
    findings = [
        *(repaired(tracking_uri, store) if repair else ()),
        *packages(),
        *import_name(),
        *hardware(),
        *writable_store(store),
        *tracking(tracking_uri, store),
        *disks(store),
        *home(),
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
    if platform.system() not in PLATFORMS:
        text = f"CLArena is tried on {' and '.join(PLATFORMS.values())} alone; elsewhere runs happen one at a time"
        yield Finding("platform", "warning", text, "use --jobs 1, on the CPU, without limits on time")
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
    """Cores, and every device that can be had: each computes something."""
    from clarena.run.executors import default_jobs

    jobs = default_jobs("cpu", os.cpu_count() or 1)
    yield Finding("cores", "ok", f"{jobs}: evaluate runs {jobs} at a time, with one thread each (--jobs)")
    try:
        import torch
    except (ImportError, OSError) as error:
        yield Finding("torch", "problem", f"cannot be imported: {error}", "pip install --force-reinstall torch")
        return
    with warnings.catch_warnings(record=True) as said:  # too old a driver is a warning to torch
        warnings.simplefilter("always")
        found = torch.cuda.is_available()
    devices = ["cpu", *(f"cuda:{index}" for index in range(torch.cuda.device_count() if found else 0))]
    for device in devices:
        try:
            computed = (torch.ones(8, 8, device=device) @ torch.ones(8, 8, device=device)).sum().item()
            text = f"{torch.__version__} computes on it" if computed == 512 else f"8³ is {computed} on it"
            if device != "cpu":
                free, total = torch.cuda.mem_get_info(device)
                text += f": {torch.cuda.get_device_name(device)}, {free / 1e9:.1f} of {total / 1e9:.1f} GB free"
        except RuntimeError as error:  # torch's word for whatever a driver says
            computed, text = 0, f"cannot be used: {str(error).partition(chr(10))[0]}"
        sound = computed == 512
        remedy = "pip install --force-reinstall torch" if device == "cpu" else "run with --device cpu; see nvidia-smi"
        yield Finding(device, "ok" if sound else "problem", text, "" if sound else remedy)
    if not found:
        why = "; ".join(str(each.message).partition("\n")[0] for each in said)
        built = "this torch is built without it" if torch.version.cuda is None else "torch finds no device"
        yield Finding("cuda", "ok", f"none: {why or built}")


def writable_store(path: Path) -> Iterator[Finding]:
    """Whether records can be written, and those that are there be read."""
    from clarena.record.store import Store

    if problem := unwritable(path):
        yield Finding("store", "problem", problem, "choose another with --store")
        return
    if not path.exists():
        yield Finding("store", "ok", f"{path} will be made by the first run")
        return
    found, damaged = Store(path).read()
    try:
        aliases = Store(path).aliases()
    except ClarenaError as error:
        yield Finding("store", "problem", str(error), "mend that file, or move it away")
        return
    records = [each.record for each in found]
    counts = Counter(record.status.replace("_", " ") for record in records)
    held = ", ".join(f"{count} {status}" for status, count in counts.items()) or "no record yet"
    yield Finding("store", "ok", f"{path}: {held}")
    if bare := sum(not each.sealed for each in found):
        text = f"{bare} of its records carry no SHA-256 of their own: only their metrics are checked, by recomputation"
        yield Finding("store", "ok", text)
    unread = [problem for record in records if (problem := _without_predictions(Store(path), record))]
    if unread:
        text = f"{len(unread)} of its records are without their predictions: {unread[0]}"
        yield Finding("store", "warning", text, "move these folders away, and evaluate again")
    if damaged:
        text = f"{len(damaged)} of its records, folders or archives cannot be read or believed"
        yield Finding("store", "warning", text, f"clarena results --store {path} says why")
    if earlier := sum(map(aliases.is_earlier, records)):
        text = f"{earlier} of its records are of an earlier version, and not known to be today's"
        yield Finding("store", "warning", text, f"clarena store upgrade --store {path}")


def repaired(uri: str | None, store: Path) -> Iterator[Finding]:
    """What `--repair` did."""
    from clarena.record.store import Store
    from clarena.tracking import resolve_uri
    from clarena.tracking.health import OTHERWISE, repair

    try:
        for done in repair(resolve_uri(uri), Store(store)):
            yield Finding("repair", done.state, done.text, done.remedy)
    except ClarenaError as error:
        yield Finding("repair", "problem", str(error), OTHERWISE)


def tracking(uri: str | None, store: Path) -> Iterator[Finding]:
    """Whether MLflow answers and takes records, and whether it has all that the store holds."""
    from clarena.record.store import Store
    from clarena.tracking import resolve_uri
    from clarena.tracking.health import OTHERWISE, examine
    from clarena.tracking.uri import database_file

    try:
        uri = resolve_uri(uri)
    except ClarenaError as error:
        yield Finding("mlflow", "problem", str(error), OTHERWISE)
        return
    database = database_file(uri)
    if database and (problem := unwritable(database.parent)):
        yield Finding("mlflow", "problem", problem, OTHERWISE)
        return
    health = examine(uri, Store(store))
    yield Finding("mlflow", health.state, health.text, health.remedy)


def home() -> Iterator[Finding]:
    """Whether there is a home folder, where downloads and MLflow's empty database are kept."""
    try:
        problem = unwritable(Path.home() / ".cache")
    except RuntimeError as error:
        problem = str(error)
    remedy = "set HOME, or CLARENA_DATA for what is downloaded" if problem else ""
    yield Finding("home", "warning" if problem else "ok", problem or f"{Path.home()} can be written to", remedy)


def disks(store: Path) -> Iterator[Finding]:
    """Free space where records, the working directory's files and temporary ones go."""
    for topic, place in {"store": store, "this folder": Path(), "temporary files": Path(tempfile.gettempdir())}.items():
        there = nearest(place)
        try:
            free = shutil.disk_usage(there).free
        except OSError as error:
            yield Finding(
                "disk", "problem", f"{there} ({topic}) cannot be looked at: {error.strerror}", "mount it again"
            )
            continue
        remedy = "" if free >= LITTLE_SPACE else "make room, or choose another place (--store, TMPDIR)"
        text = f"{topic}: {free / 1e9:.1f} GB free at {there}"
        yield Finding(f"disk of {topic}", "warning" if remedy else "ok", text, remedy)


def _without_predictions(store: "Store", record: "Record") -> str:
    if not record.predictions:
        return ""
    try:
        store.predictions(record)
    except StoreError as error:
        return str(error)
    return ""


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
    unchecked = " (not checked: the contents, which are when they are read)" if held else ""
    text = f"{root}{unchecked}: {', '.join(held) or 'nothing yet; what ships inside packages needs no download'}"
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
    unchecked = 0
    for title, registry in registries(host).items():
        for entry in registry:
            topic = f"{registry.kind.word} {entry.name}"
            if entry.extra and missing_packages(entry.extra):
                unchecked += 1  # which extra that is, is told above
                continue
            try:
                differences = registry.compare(entry)
            except ClarenaError as error:
                yield Finding(topic, "problem", str(error), f"mend the plugin {entry.plugin}")
                continue
            agreeing[title] += not differences
            for difference in differences:
                yield Finding(topic, "warning", difference, f"make them agree in the plugin {entry.plugin}")
    counts = ", ".join(f"{count} {title}" for title, count in agreeing.items())
    rest = f"; {unchecked} not checked, for their extra is not installed" if unchecked else ""
    yield Finding("registrations", "ok", f"{counts} are what they are registered as{rest}")


def unwritable(folder: Path) -> str:
    """Why nothing can be written to a folder (or made where it is to be); empty where it can."""
    place = nearest(folder)
    if not place.is_dir():
        return f"{place} is not a folder"
    try:
        # On a full disk an empty file can be made; only what reached it was written. Cells are locked as well.
        with tempfile.TemporaryDirectory(dir=place, prefix=".clarena-") as trial:
            with (Path(trial) / "file").open("wb") as file:
                file.write(bytes(SMALL))
                file.flush()
                os.fsync(file.fileno())
            with FileLock(Path(trial) / "lock", timeout=0):
                return ""
    except OSError as error:
        return f"cannot write to {place}: {error.strerror or error}"


def nearest(place: Path) -> Path:
    """The place itself, or the folder above in which it would be made."""
    place = place.absolute()
    while not place.exists():
        place = place.parent
    return place


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
