"""From a board to a folder of static pages: what each page is made of, and when it must be made again."""

import base64
import hashlib
import json
from collections.abc import Callable, Iterator
from functools import cache, partial
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

import clarena
from clarena.record import curves, metrics, pooled, statistics
from clarena.record.catalogue import named, titled
from clarena_leaderboard import contents
from clarena_leaderboard.changes import manifest
from clarena_leaderboard.contents import Board, Entry, Table
from clarena_leaderboard.site import charts, exports, formatting, views
from clarena_leaderboard.site.detail import Load, row_detail
from clarena_leaderboard.site.publish import Part, Read, Report, publish
from clarena_leaderboard.site.svg import standalone

PACKAGE = "clarena_leaderboard.site"
MEMORY = "memory.json"
"""The file of a site in which the next build finds what this one showed, for the change log."""
SCRIPTS = ("theme.js", "page.js", "table.js", "compare.js")


def build_site(board: Board, load: Load, out: Path) -> Report:
    """Write the board as static pages into `out`; pages whose content did not change keep their bytes.

    Args:
        board: what is shown.
        load: gives the whole record and the predictions of a run.
        out: a folder that is new, empty, or holds a site of ours.

    Raises:
        ClarenaError: where `out` holds something else or cannot be written; the old site then stays as it was.
    """
    return publish(out, parts(board, load))


def parts(board: Board, load: Load) -> Iterator[Part]:
    """Everything the site consists of."""
    environment = _environment()
    families = views.families(board)
    base = _key(_code(), board.title, families)
    tables = {table.slug: _table_key(table) for table in board.tables}

    def page(template: str, **context: Any) -> str:
        return environment.get_template(template).render(board=board, families=families, **context)

    for table in board.tables:
        for entry in table.entries:
            data = _key(
                *(base, table.digest, table.seeds, table.target, table.unit),
                *(entry.info, entry.label, entry.standing, entry.reason, entry.runs),
            )
            yield Part(f"row/{entry.slug}/data", data, partial(_row_data, entry, table, load))
            around = (table.slug, table.label, table.sort_key)
            yield Part(f"row/{entry.slug}", _key(data, entry, around), partial(_row_page, page, entry, table))
        key = _key(base, tables[table.slug])
        yield Part(f"track/{table.slug}", key, partial(_track_page, page, families, table))
        yield Part(f"compare/{table.slug}", key, partial(_compare_page, page, table))
    everything = _key(base, board.source, board.problems, board.across, board.changes, tables)
    yield Part("index", everything, lambda _: _index_page(page, board))
    yield Part("changes", _key(base, board.changes), lambda _: {"changes.html": page("changes.html")})
    memory = manifest(board).model_dump_json(indent=1)
    yield Part("memory", _key(memory), lambda _: {MEMORY: memory})
    yield Part("metrics", base, lambda _: {"metrics.html": page("metrics.html")})


def security_policy() -> str:
    """The content security policy as a server's header: that of the pages, and no page may be framed."""
    return f"{_policy(('style.css', *SCRIPTS))}; frame-ancestors 'none'"


# ---- Pages ----


def _index_page(page: Callable[..., str], board: Board) -> dict[str, str]:
    made = {"index.html": page("index.html", view=views.index(board))}
    rows = [views.track_data(table) for table in board.tables]
    made |= {"tracks.csv": exports.to_csv(rows), "tracks.json": exports.to_json(rows)}
    return made | {f"{name}.svg": standalone(svg) for name, svg in views.across_charts(board).items()}


def _track_page(page: Callable[..., str], families: list[str], table: Table, _: Read) -> dict[str, str]:
    plots = views.track_plots(table, families)
    base = f"track/{table.slug}"
    made = {
        f"{base}.html": page("track.html", table=table, plots=plots, view=views.track(table)),
        f"{base}.bib": exports.to_bibtex(table.entries),
        **{f"{base}-{plot.name}.svg": standalone(plot.chart) for plot in plots},
    }
    for each in (table, *table.hidden):
        made |= _table_files(each)
    return made


def _table_files(table: Table) -> dict[str, str]:
    rows = [exports.row_data(entry) for entry in table.entries]
    whole = {"track": table.track.model_dump(mode="json"), "track_digest": table.digest, "seeds": table.seeds}
    return {
        f"track/{table.slug}.csv": exports.to_csv(rows),
        f"track/{table.slug}.json": exports.to_json({**whole, "sort_key": table.sort_key, "rows": rows}),
        f"track/{table.slug}.tex": exports.to_latex(table),
    }


def _row_data(entry: Entry, table: Table, load: Load, _: Read) -> dict[str, str]:
    data = row_detail(entry, table, load)
    matrix, cell = data[named("accuracy_matrix", entry.score)], named("accuracy", entry.score)
    lines = [
        {"seed": seed, "after_experience": i, "experience": j + 1, cell: value}
        for seed, rows in matrix["seeds"].items()
        for i, row in enumerate(rows)
        for j, value in enumerate(row)
        if value is not None
    ]
    base = f"row/{entry.slug}"
    made = {f"{base}.json": json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":")) + "\n"}
    made |= {f"{base}.csv": exports.to_csv(lines), f"{base}.tex": exports.matrix_latex(matrix["mean"])}
    if bibliography := exports.to_bibtex([entry]):
        made[f"{base}.bib"] = bibliography
    return made


def _row_page(page: Callable[..., str], entry: Entry, table: Table, read: Read) -> dict[str, str]:
    data = json.loads(read(f"row/{entry.slug}.json"))
    curves = {"": views.over_time(entry, data), "-within": views.within(entry, data)}
    view = views.row(entry, table, data)
    made = {f"row/{entry.slug}.html": page("row.html", entry=entry, table=table, data=data, curves=curves, view=view)}
    return made | {f"row/{entry.slug}{name}.svg": standalone(chart) for name, chart in curves.items() if chart}


def _compare_page(page: Callable[..., str], table: Table, read: Read) -> dict[str, str]:
    rows = [views.compare_data(e, table, json.loads(read(f"row/{e.slug}.json"))) for e in table.entries]
    return {f"compare/{table.slug}.html": page("compare.html", table=table, data=embedded(rows))}


# ---- Digests ----


def _key(*things: Any) -> str:
    return hashlib.sha256(repr(things).encode()).hexdigest()


def _table_key(table: Table) -> str:
    rest = (
        table.track.model_dump(),
        table.digest,
        table.slug,
        table.label,
        table.seeds,
        table.seeds_rule,
        table.sort_key,
        (table.target, table.score, table.unit),
    )
    return _key(rest, [_key(entry) for entry in table.entries], [_table_key(hidden) for hidden in table.hidden])


@cache
def _code() -> str:
    """Digest of the code that turns a board into pages: other code makes all pages anew."""
    digest = hashlib.sha256(clarena.__version__.encode())
    paths = [path for path in Path(__file__).parent.rglob("*") if path.suffix in (".py", ".html", ".css", ".js")]
    paths += [Path(str(module.__file__)) for module in (curves, metrics, pooled, statistics, contents)]
    for path in sorted(paths):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()


# ---- Templates ----


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader(PACKAGE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.globals.update(
        style=_inline("style", "style.css"), script=lambda name: _inline("script", name), policy=_policy,
        metric_help=formatting.metric_help(), spark=charts.spark, mark=charts.mark, views=views,
        version=clarena.__version__,
    )  # fmt: skip
    shown = (
        *("percent", "signed", "seconds", "size", "count", "judgement"),
        *("linked", "setting", "buffer_size", "hyperparameters"),
    )
    for function in (*(getattr(formatting, name) for name in shown), views.level, titled):
        environment.filters[function.__name__] = function
    return environment


@cache
def _static(name: str) -> str:
    return (files(PACKAGE) / "static" / name).read_text(encoding="utf-8")


def _inline(element: str, name: str) -> Markup:
    """A style sheet or script of ours within the page: a page from `file://` may load no other file."""
    return Markup(f"<{element}>{_static(name)}</{element}>")


def _policy(names: tuple[str, ...]) -> str:
    """Nothing but our own style and scripts, by their SHA-256; no connection, frame, form, plugin or image."""
    hashes: dict[str, list[str]] = {"css": [], "js": []}
    for name in names:
        digest = base64.b64encode(hashlib.sha256(_static(name).encode()).digest()).decode()
        hashes[name.rpartition(".")[2]].append(f"'sha256-{digest}'")
    return (
        f"default-src 'none'; style-src {' '.join(hashes['css'])}; script-src {' '.join(hashes['js'])}; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )


def embedded(data: Any) -> Markup:
    """Data within a page: JSON in which nothing can end its `<script>` element."""
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(f'<script type="application/json" id="data">{text}</script>')
