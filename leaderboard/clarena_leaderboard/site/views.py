"""What the templates show: pages as plain values, so that templates decide on nothing but the markup."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from clarena.protocol.presets import FINAL
from clarena.record import curves
from clarena.record.catalogue import ACCURACY, ACCURACY_METRICS, named, titled
from clarena.record.statistics import Interval
from clarena_leaderboard.contents import Board, Entry, Run, Table
from clarena_leaderboard.site import charts, formatting, further
from clarena_leaderboard.site.exports import row_data
from clarena_leaderboard.site.formatting import headline, lowered
from clarena_leaderboard.site.hyperparameter_help import meanings
from clarena_leaderboard.site.verification import Judged, judged

KNOWN_FAMILIES = (
    "regularisation", "replay", "distillation", "gradient projection", "architecture", "meta-learning",
)  # fmt: skip
"""They have their colours for good; others take what is left, by name."""

SHOWN_METRICS = {
    "forgetting": "Forgetting",
    "average_incremental_accuracy": "Incremental",
    "backward_transfer": "Backward",
    "worst_experience_accuracy": "Worst",
}
"""The columns of a track's table beside its headline, and their titles where there is little room."""

MOST_CELLS = 12_000
"""Cells of matrices that a page shows as tables; what is beyond is in the files beside it."""

MOST_CLASSES = 30
"""Up to so many classes the confusion is a table; beyond, a list of what is confused most."""

LEVELS = 20
"""Steps of the colour scale of a table's cells."""

PRESENT, ROWS_NAMED = 8, 3


def families(board: Board) -> list[str]:
    """The families of the board, each at the index of its colour."""
    found = {entry.family for table in board.tables for entry in table.entries if entry.standing != "reference"}
    return [*KNOWN_FAMILIES, *sorted(found - set(KNOWN_FAMILIES))]


def shown_metrics(table: Table) -> dict[str, str]:
    """The columns of metrics that a track's table has beside its headline, by metric."""
    found = {FINAL: "Final"} | SHOWN_METRICS | dict(curves.SHORT if table.track.protocol.eval_every else {})
    return {metric: title for metric, title in found.items() if metric != table.headline}


def level(value: float | None) -> str:
    """The colour class of a fraction: h0 to h20, or `na` where it is undefined."""
    if value is None or not math.isfinite(value):
        return "na"
    return f"h{round(LEVELS * min(max(value, 0.0), 1.0))}"


# ---- The index ----


@dataclass(frozen=True)
class TrackLine:
    """A track on the front page."""

    table: Table
    best: tuple[Entry, ...]
    more: int
    accuracy: Any
    references: tuple[Entry, ...]


@dataclass(frozen=True)
class Index:
    """The front page: `groups` are its tracks by score, of which each has a table, accuracies first."""

    groups: tuple[tuple[str, tuple[TrackLine, ...]], ...]
    scenarios: tuple[str, ...]
    rows: int
    runs: int
    latest: str
    charts: Mapping[str, Markup]
    resampled: str


def index(board: Board) -> Index:
    """What the front page shows."""
    lines = []
    for table in board.tables:
        first = [entry for entry in table.ranked if entry.tier == 1]
        top = table.ranked[0].intervals.get(table.sort_key) if table.ranked else None
        lines.append(
            TrackLine(table, tuple(first[:ROWS_NAMED]), max(len(first) - ROWS_NAMED, 0), top, table.references)
        )
    runs = [run for table in board.tables for entry in table.entries for run in entry.runs]
    scores = sorted(dict.fromkeys(line.table.score for line in lines), key=lambda score: score != ACCURACY)
    return Index(
        tuple((score, tuple(line for line in lines if line.table.score == score)) for score in scores),
        tuple(dict.fromkeys(sorted(table.track.scenario for table in board.tables))),
        sum(len(table.entries) for table in board.tables),
        len(runs),
        max((run.started for run in runs), default="")[:10],
        across_charts(board),
        "Each bootstrap sample draws seeds with replacement within every track; tracks are never resampled, so the "
        "interval speaks of these tracks and no others.",
    )


def across_charts(board: Board) -> dict[str, Markup]:
    """The charts of the summary over several tracks, by the name of their files."""
    across = board.across
    if across is None or not across.aggregates:
        return {}
    rows = [(each.label, each.iqm, each.low, each.high) for each in across.aggregates]
    x_title = "normalised score: 0 is finetune, 1 is joint"
    made = {"iqm": charts.intervals(rows, title="Interquartile mean over all tracks and seeds", x_title=x_title)}
    if across.profiles:
        lines = [
            charts.Line(label, across.thresholds, share, colour=f"c{i % 7}", strong=i < PRESENT)
            for i, (label, share) in enumerate(across.profiles.items())
        ]
        made["profile"] = charts.lines(
            lines, title="Performance profile", x_title=x_title, y_title="runs above the score, %", whole=False
        )
    if across.average_ranks:
        made["critical-difference"] = charts.critical_difference(
            across.average_ranks, across.critical, title="Average ranks and what cannot be told apart"
        )
    return made


def track_data(table: Table) -> dict[str, Any]:
    """A track as one line of a file."""
    best = table.ranked[0] if table.ranked else None
    interval = best.intervals.get(table.sort_key) if best else None
    return {
        "track": table.label,
        "track_digest": table.digest,
        "benchmark": table.track.benchmark.name,
        "scenario": table.track.scenario,
        "backbone": table.track.backbone.name,
        "ranked": len(table.ranked),
        "references": len(table.references),
        "apart": len(table.apart),
        "seeds": len(table.seeds),
        "best": best.label if best else None,
        "score": table.score,
        named(table.sort_key, table.score): interval.mean if interval else None,
    }


# ---- A track ----


@dataclass(frozen=True)
class Plot:
    """A scatter plot, with a second version on a linear axis where the first is logarithmic."""

    name: str
    caption: str
    chart: Markup
    linear: Markup | None
    front: tuple[str, ...]


@dataclass(frozen=True)
class TrackView:
    """What a track's page says besides its rows; `own` is the headline on public seeds, by row id."""

    headline: str

    families: tuple[tuple[str, int], ...]
    state_budgets: tuple[int, ...]
    bounds: tuple[float, ...]
    tiers: int
    own: Mapping[str, Interval | None]


def track(table: Table) -> TrackView:
    """What a track's page says besides its rows."""
    found = Counter(entry.family for entry in (*table.ranked, *table.apart))
    tiers = len({entry.tier for entry in table.ranked})
    own = {entry.id: entry.intervals[table.headline] for entry in table.entries}
    return TrackView(
        table.headline, tuple(sorted(found.items())), tuple(_budgets(table)), reference_means(table), tiers, own
    )


def reference_means(table: Table) -> tuple[float, ...]:
    """Where the bounds are."""
    return tuple(i.mean for e in table.references if (i := e.intervals.get(table.headline)))


def _budgets(table: Table) -> list[int]:
    """Round sizes between the smallest and the largest state of the rows, to filter by."""
    sizes = [value for e in (*table.ranked, *table.apart) if math.isfinite(value := e.mean("state_bytes")) and value]
    if not sizes:
        return []
    powers = range(math.floor(math.log10(min(sizes))), math.ceil(math.log10(max(sizes))) + 1)
    return [d * 10**e for e in powers for d in (1, 2, 5) if min(sizes) <= d * 10**e < max(sizes)]


def track_plots(table: Table, order: Sequence[str]) -> list[Plot]:
    """The headline against forgetting, seconds and bytes of state; drawn where at least two rows can be."""
    bounds = [(e.label, i.mean) for e in table.references if (i := e.intervals.get(table.headline))]
    plots = []
    for name, against, x_title, log in (
        ("forgetting", "forgetting", "forgetting, percentage points", False),
        ("seconds", "training time", "seconds of training", True),
        ("state", "what is carried on", "state, bytes", True),
    ):
        points = [point for e in table.ranked if (point := _point(e, table, name, order))]
        if len(points) < 2:
            continue
        log = log and min(p.x for p in points) > 0
        show = {"forgetting": "{:g}".format, "seconds": "{:g}".format, "state": lambda v: formatting.size(v)}[name]
        caption = f"{headline(table)} against {against}"
        y_title = titled(f"{ACCURACY_METRICS[table.headline].title.lower()}, %", table.score)
        title = f"{caption} on {table.label}"
        axes: dict[str, Any] = {"title": title, "x_title": x_title, "y_title": y_title, "show": show, "bounds": bounds}
        drawn = charts.scatter(points, **axes, log=log)
        linear = charts.scatter(points, **axes) if log else None
        front = tuple(points[i].label for i in charts.pareto([(p.x, p.y) for p in points]))
        plots.append(Plot(name, caption, drawn, linear, front))
    return plots


def _point(entry: Entry, table: Table, name: str, order: Sequence[str]) -> charts.Point | None:
    accuracy, forgetting = entry.intervals.get(table.headline), entry.intervals.get("forgetting")
    x = {
        "forgetting": 100 * forgetting.mean if forgetting else math.nan,
        "seconds": entry.mean("train_seconds"),
        "state": entry.mean("state_bytes"),
    }[name]
    if accuracy is None or not math.isfinite(x):
        return None
    half = accuracy.half_width if math.isfinite(accuracy.half_width) else 0.0
    hover = (
        f"{entry.label}: {lowered(headline(table))} {formatting.percent(accuracy)} %, "
        f"forgetting {formatting.percent(forgetting)} %, "
        f"{formatting.seconds(entry.mean('train_seconds'))} of training, "
        f"{formatting.size(entry.mean('state_bytes'))} of state"
    )
    return charts.Point(
        entry.label, entry.slug, x, accuracy.mean, max(accuracy.mean - half, 0), min(accuracy.mean + half, 1),
        order.index(entry.family), entry.tier == 1, hover,
    )  # fmt: skip


# ---- A row ----


@dataclass(frozen=True)
class RowView:
    """What a row's page shows besides its entry and its data; `mean` is its matrix of scores, `further` are others,
    each with a title and what is better, and `numbers` their metrics.
    """

    mean: Sequence[Sequence[float | None]]
    further: tuple[tuple[str, str, Sequence[Sequence[float | None]]], ...]
    numbers: tuple[tuple[str, str], ...]
    matrices: tuple[tuple[str, Sequence[Sequence[float | None]]], ...]
    hidden_matrices: int
    experiences: tuple[dict[str, Any], ...]
    settings: tuple[tuple[str, Any, str], ...]
    confusion: dict[str, Any] | None
    flawed: tuple[Run, ...]
    judged: tuple[Judged, ...]


def row(entry: Entry, table: Table, data: Mapping[str, Any]) -> RowView:
    """What a row's page shows besides its entry and its data."""
    matrix = data[named("accuracy_matrix", entry.score)]
    seeds = list(matrix["seeds"].items())
    cells = len(matrix["mean"]) * len(matrix["mean"][0]) if matrix["mean"] else 0
    shown = max(0, MOST_CELLS // cells - 1) if cells else 0
    whole = [(f"Mean over {len(seeds)} seeds", matrix["mean"])] if cells and (cells <= MOST_CELLS) else []
    means = meanings(entry.info.name) if entry.info.plugin.startswith("native") else {}
    settings = [(name, value, means.get(name, "")) for name, value in formatting.hyperparameters(entry).items()]
    return RowView(
        matrix["mean"],
        tuple(further.matrices(table, data)),
        tuple((each.title, shown) for each, shown in further.numbers(entry, table)),
        (*whole, *((f"Seed {seed}", rows) for seed, rows in seeds[:shown] if len(seeds) > 1)),
        max(0, len(seeds) - shown) if len(seeds) > 1 else 0,
        tuple(_experience_lines(data, matrix["mean"])),
        tuple(settings),
        _confusion_view(data["confusion"]),
        tuple(run for run in entry.runs if run.flaws or run.status != "finished"),
        tuple(judged(entry, table)),
    )


def _experience_lines(data: Mapping[str, Any], mean: Sequence[Sequence[float | None]]) -> list[dict[str, Any]]:
    """For each experience: what it held, its score just after it and at the end, and its forgetting."""
    forgotten = data["forgetting_per_experience"]
    lines = []
    for j, experience in enumerate(data["experiences"]):
        drawn = bool(mean) and j < len(mean[0])
        lines.append(
            {
                "number": j + 1,
                **experience,
                "learned": mean[j + 1][j] if drawn else None,
                "final": mean[-1][j] if drawn else None,
                "forgetting": forgotten[j] if j < len(forgotten) else None,
            }
        )
    return lines


def _confusion_view(confusion: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Shares of each true class as a table, or what is confused most."""
    if confusion is None:
        return None
    names, counts = confusion["classes"], confusion["counts"]
    totals = [sum(line) for line in counts]
    wrong = sorted(
        ((counts[i][j], names[i], names[j], totals[i]) for i in range(len(names)) for j in range(len(names)) if i != j),
        key=lambda each: -each[0],
    )
    rows = [
        (name, total, [count / total if total else None for count in line])
        for name, total, line in zip(names, totals, counts)
    ]
    return {
        "names": names,
        "rows": rows if len(names) <= MOST_CLASSES else None,
        "wrong": [w for w in wrong[:15] if w[0]],
    }


def over_time(entry: Entry, data: Mapping[str, Any]) -> Markup | None:
    """The score over time: the mean of the experiences seen with its interval, and each experience."""
    mean, seen = (data[named(key, entry.score)] for key in ("accuracy_matrix", "accuracy_over_time"))
    mean = mean["mean"]
    time = [i + 1 for i, point in enumerate(seen) if point["mean"] is not None]
    if len(time) < 2:
        return None
    lines = []
    for j in range(len(mean[0])):
        steps = [i for i in range(j + 1, len(mean)) if mean[i][j] is not None]
        lines.append(
            charts.Line(f"experience {j + 1}", steps, [mean[i][j] for i in steps], colour="muted", strong=False)
        )
    points = [seen[i - 1] for i in time]
    half = [point["half_width"] or 0.0 for point in points]
    centre = [point["mean"] for point in points]
    low, high = [m - h for m, h in zip(centre, half)], [m + h for m, h in zip(centre, half)]
    lines.append(charts.Line("mean of those seen", time, centre, low, high))
    title, y_title = (titled(words, entry.score) for words in ("Accuracy over time of", "accuracy, %"))
    return charts.lines(lines, title=f"{title} {entry.label}", x_title="experiences learned", y_title=y_title)


def within(entry: Entry, data: Mapping[str, Any]) -> Markup | None:
    """The score within experiences, by step of training, where the protocol tested there."""
    points = [point for point in data["curve"] if point["mean"] is not None]
    if len(points) < 2:
        return None
    mean = charts.Line("mean of those seen", [p["step"] for p in points], [p["mean"] for p in points])
    title, y_title = (titled(words, entry.score) for words in ("Accuracy within experiences of", "accuracy, %"))
    return charts.lines([mean], title=f"{title} {entry.label}", x_title="steps of training", y_title=y_title)


# ---- Comparing ----


def compare_data(entry: Entry, table: Table, data: Mapping[str, Any]) -> dict[str, Any]:
    """A row as the compare page's script reads it."""
    whole = row_data(entry)
    over_time = data[named("accuracy_over_time", entry.score)]
    runs = {run.seed: run for run in entry.runs if run.status == "finished" and run.seed in table.seeds}
    curve = [[_short(point["mean"]), _short(point["half_width"])] for point in over_time]
    return {
        "slug": entry.slug,
        "label": entry.label,
        "facts": {
            "standing": entry.standing, "tier": entry.tier, "family": entry.family, "hyper-parameters": entry.chosen,
        },
        "metrics": {
            name: [_short(whole[key]), _short(whole[f"{key}_half_width"])]
            for name, key in ((name, named(name, entry.score)) for name in entry.intervals)
        },
        "costs": {name: whole[name] for name in ("train_seconds", "state_bytes", "parameters", "buffer_size")},
        "settings": {name: formatting.setting(value) for name, value in formatting.hyperparameters(entry).items()},
        "seeds": {seed: _short(run.metrics.get(table.sort_key, math.nan), 9) for seed, run in runs.items()},
        "curve": curve,
    }  # fmt: skip


def _short(value: float | None, digits: int = 5) -> float | None:
    return None if value is None or not math.isfinite(value) else round(value, digits)
