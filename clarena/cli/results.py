"""`clarena results`: what a store holds, one table per track."""

import csv
import io
import json
import sys
from contextlib import nullcontext, redirect_stdout
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich import box
from rich.table import Table
from rich.text import Text

from clarena.cli import app
from clarena.cli.options import (
    FLAG,
    AsJson,
    Device,
    Jobs,
    NoPlugins,
    PluginDirs,
    PluginFiles,
    StorePath,
    discover,
    existing_store,
)
from clarena.cli.text import as_json as to_json
from clarena.cli.text import page, put
from clarena.errors import UsageError, unknown_name
from clarena.run.output import holds

if TYPE_CHECKING:
    from clarena.record.record import Record
    from clarena.record.store import Damaged, Store


class Format(StrEnum):
    """What to print."""

    TABLE = "table"
    CSV = "csv"
    JSON = "json"


results_commands = typer.Typer()
app.add_typer(results_commands, name="results")


@results_commands.callback(
    invoke_without_command=True, epilog="Example: clarena results --track split-digits --format csv > results.csv"
)
def results(
    context: typer.Context,
    store: StorePath = Path("runs"),
    track: Annotated[
        str | None,
        typer.Option(metavar="TRACK", help="Only tracks whose digest begins so, or whose label contains it."),
    ] = None,
    strategy: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Only this strategy; may be repeated.")
    ] = None,
    records: Annotated[
        bool, typer.Option("--records", metavar=FLAG, help="One line for each record, not for each row of seeds.")
    ] = False,
    form: Annotated[
        Format | None, typer.Option("--format", metavar="FORMAT", help="table, csv or json. Default: table.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show what a store holds, a table for each track.

    Runs that did not finish and damaged records are shown as well. Needs neither plugins nor data.
    """
    if context.invoked_subcommand:
        return
    if as_json and form not in (None, Format.JSON):
        raise UsageError(f"--json and --format {form} exclude each other. Give one.")
    form = Format.JSON if as_json else form or Format.TABLE
    place = existing_store(store)
    found, damaged = place.read()
    held = [each.record for each in found]
    bare = sum(not each.sealed for each in found)
    chosen = _chosen(held, track, strategy or [], store)
    if form is Format.JSON:
        typer.echo(to_json(_data(place, chosen, damaged, records) | {"unsealed": bare}))
        return
    if form is Format.CSV:
        lines = [_line(place, record) for record in chosen] if records else _rows(place, chosen)
        content = to_csv(lines)
        typer.echo(content, nl=False)
        if not holds(content):
            typer.secho(
                "Characters that the output cannot hold were replaced: set PYTHONIOENCODING=utf-8.",
                fg="yellow",
                err=True,
            )
    elif records:
        _print_records(chosen)
    else:
        _print_tables(place, chosen)
    for each in damaged:
        typer.secho(f"Damaged: {each.reason}", fg="yellow", err=True)
    if bare:
        typer.echo(
            f"{bare} of {len(held)} records carry no SHA-256 of their own: older than it, or altered. "
            "Their metrics are what their predictions give; their costs and words are shown as they stand.",
            err=True,
        )
    if not held:
        typer.echo(f"The store {store} holds no {'readable ' if damaged else ''}record.", err=True)


@results_commands.command(epilog="Example: clarena results attest ewc --store runs")
def attest(
    context: typer.Context,
    row: Annotated[
        str,
        typer.Argument(metavar="ROW", help="A strategy, or the beginning of a row's digest (clarena results --json)."),
    ],
    store: Annotated[Path | None, typer.Option(metavar="DIR", help="Where records are kept. Default: runs.")] = None,
    device: Device = "cpu",
    jobs: Jobs = None,
    plugin: PluginFiles = None,
    plugins_dir: PluginDirs = None,
    no_plugins: NoPlugins = False,
    as_json: AsJson = False,
) -> None:
    """Prove that rows of an earlier version are of today's code, by running two seeds of each again.

    Where all predictions are the same bits, the old records count as today's; otherwise it says where they differ, and
    nothing is changed. The new runs are not kept.
    """
    from clarena.run.versions import attest as run_again

    parent = context.parent.params["store"] if context.parent else "runs"
    place = existing_store(store or Path(parent))  # which an older typer leaves as text
    with redirect_stdout(sys.stderr) if as_json else nullcontext():  # what a plugin prints
        found = run_again(place, discover(plugin, plugins_dir, no_plugins), row, device=device, jobs=jobs)
    if as_json:
        typer.echo(to_json(asdict(found)))
    elif not found.differences:
        typer.echo(
            f"{found.strategy}: all predictions of {found.runs} runs are the same bits; {len(found.rows)} rows of an "
            "earlier version are today's from now on."
        )
    if found.differences:
        typer.secho(f"{found.strategy} is not proven to be the same; nothing was changed.", fg="red", err=True)
        for line in found.differences:
            typer.echo(f"  {line}", err=True)
        raise typer.Exit(1)


def to_csv(lines: list[dict[str, Any]]) -> str:
    """CSV with a column for every key; an undefined number is an empty field, a nested value is JSON."""
    columns = list(dict.fromkeys(key for line in lines for key in line))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    for line in lines:
        writer.writerow({key: _field(value) for key, value in line.items()})
    return text.getvalue() if columns else ""


def _field(value: Any) -> Any:
    """A value that fits into one field."""
    return json.dumps(value, ensure_ascii=False) if isinstance(value, dict | list) else value


def _chosen(held: list["Record"], track: str | None, strategies: list[str], store: Path) -> list["Record"]:
    """The records that were asked for; raises `UnknownNameError` where a name matches none."""
    chosen, see = held, f"clarena results --store {store}"
    if track is not None and held:
        chosen = [r for r in chosen if r.track_digest.startswith(track) or track in r.cell.track.label]
        if not chosen:
            raise unknown_name(f"track in {store}", track, {r.cell.track.label for r in held}, see=see)
    for name in strategies if held else ():
        names = {record.cell.strategy.name for record in chosen}
        if name not in names:
            raise unknown_name(f"strategy among these records of {store}", name, names, see=see)
    return [record for record in chosen if not strategies or record.cell.strategy.name in strategies]


def _rows(store: "Store", records: list["Record"]) -> list[dict[str, Any]]:
    from clarena.cli.table import as_data

    return [row for group in as_data(records, store.aliases()) for row in group["rows"]]


def _line(store: "Store", record: "Record") -> dict[str, Any]:
    """A record as one line of data; undefined numbers are None."""
    info, data = record.cell.strategy, record.model_dump(mode="json", include={"metrics", "started", "ended"})
    ran = bool(record.costs)
    return {
        "track": record.cell.track.label,
        "track_digest": record.track_digest,
        "row": store.aliases().newest(record.cell).row,
        "earlier_version": store.aliases().is_earlier(record),
        "strategy": info.name,
        "seed": record.cell.seed,
        "status": record.status,
        "reason": record.reason,
        "target": record.target,
        "score": record.score,
        **data["metrics"],
        "train_seconds": record.train_seconds if ran else None,
        "predict_seconds": record.predict_seconds if ran else None,
        "peak_memory_bytes": record.peak_memory_bytes if ran else None,
        "state_bytes": record.state_bytes if ran else None,
        "parameters": record.parameters if ran else None,
        "metering": record.metering,
        "hyperparameters": info.hyperparameters,
        "learning_rate": info.learning_rate,
        "plugin": info.plugin,
        "source_hash": info.source_hash,
        "identity": info.identity,
        "device": record.environment.get("device"),
        "started": data["started"],
        "ended": data["ended"],
        "cell": record.cell_id,
        "folder": str(store.home(record.cell)),
    }


def _data(store: "Store", chosen: list["Record"], damaged: list["Damaged"], lines: bool) -> dict[str, Any]:
    from clarena.cli.table import as_data

    unreadable = [{"path": str(each.path), "reason": each.reason} for each in damaged]
    if lines:
        return {"records": [_line(store, record) for record in chosen], "damaged": unreadable}
    return {"tracks": as_data(chosen, store.aliases()), "damaged": unreadable}


# ---- Text ----


def _print_tables(store: "Store", records: list["Record"]) -> None:
    from clarena.cli.table import print_table
    from clarena.record.summary import by_track, rows

    for group in by_track(records):
        print_table(group[0].cell.track, rows(group, store.aliases()))
        _print_reasons(group)


def _print_reasons(records: list["Record"]) -> None:
    """What became of the runs that did not finish."""
    console = page()
    for record in records:
        if record.status != "finished":
            status = record.status.replace("_", " ")
            console.print(f"{record.cell.label}: {status}: {record.reason or 'no reason given'}", style="yellow")


def _print_records(records: list["Record"]) -> None:
    from clarena.cli.progress import outcome
    from clarena.record.summary import by_track

    console = page()
    for group in by_track(records):
        console.print(Text.assemble("\n", (group[0].cell.track.label, "bold"), f"  ({group[0].track_digest[:12]})"))
        grid = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
        for title in ("strategy", "seed", "status", "started"):
            grid.add_column(title, no_wrap=True, justify="right" if title == "seed" else "left")
        grid.add_column("result", overflow="fold")
        for record in sorted(group, key=lambda record: (record.cell.strategy.name, record.cell.row, record.cell.seed)):
            name, seed, started = record.cell.strategy.name, str(record.cell.seed), f"{record.started:%Y-%m-%d %H:%M}"
            told = outcome(record) if record.status == "finished" else record.reason or ""
            status = Text(record.status.replace("_", " "), "" if record.status == "finished" else "yellow")
            grid.add_row(Text(name), seed, status, started, Text(told))
        put(console, grid)
