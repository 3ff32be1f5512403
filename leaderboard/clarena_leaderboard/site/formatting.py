"""How numbers and judgements read on a page, and what may become a link."""

import inspect
import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup, escape

from clarena.protocol.presets import FINAL
from clarena.record import metrics
from clarena.record.catalogue import ACCURACY_METRICS, titled
from clarena.record.statistics import Interval
from clarena_leaderboard.contents import Comparison, Entry, Table

NOTHING = "–"
MINUS = "−"

_LINK = re.compile(
    r"(https://[^\s<>\"'`\\]+[^\s<>\"'`\\.,;:!?)\]])|\barXiv:(\d{4}\.\d{4,5})|\bdoi:(10\.\d{4,9}/[^\s<>\"'`\\,;]+)"
)


def headline(table: Table) -> str:
    """What the headline of a track is called: `Accuracy` is the final average one."""
    return titled("Accuracy" if table.headline == FINAL else ACCURACY_METRICS[table.headline].title, table.score)


def lowered(title: str) -> str:
    """A title within a sentence: only its first letter is a small one."""
    return title[:1].lower() + title[1:]


def percent(value: Interval | float | None, digits: int = 1) -> str:
    """A fraction or difference in percent: `91.3 ± 1.2`, a dash where undefined."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return NOTHING
    text = value.percent(digits) if isinstance(value, Interval) else f"{100 * value:z.{digits}f}"
    return text.replace("-", MINUS)


def signed(value: float) -> str:
    """A difference in percentage points, with its sign."""
    return f"{100 * value:+z.1f}".replace("-", MINUS)


def seconds(value: float) -> str:
    """A time as a person says it: `0.42 s`, `12 s`, `3.5 min`, `2.1 h`."""
    if not math.isfinite(value):
        return NOTHING
    for limit, size, unit in ((120, 1, "s"), (7200, 60, "min"), (math.inf, 3600, "h")):
        if value < limit:
            return f"{value / size:.{2 if value / size < 1 else 1 if value / size < 100 else 0}f} {unit}"
    return NOTHING


def size(value: float) -> str:
    """Bytes as a person says them, in powers of a thousand."""
    return _scaled(value, ("B", "kB", "MB", "GB", "TB"))


def count(value: float) -> str:
    """How many: `574 k`, `1.2 M`."""
    return _scaled(value, ("", "k", "M", "G"))


def _scaled(value: float, units: tuple[str, ...]) -> str:
    if not math.isfinite(value):
        return NOTHING
    for unit in units:
        if value < 1000 or unit == units[-1]:
            break
        value /= 1000
    return f"{value:.{0 if unit == units[0] or value >= 100 else 1}f} {unit}".strip()


def p_value(value: float) -> str:
    """`p = 0.012` or `p < 0.001`."""
    return "p < 0.001" if value < 0.001 else f"p = {value:.3f}"


@dataclass(frozen=True)
class Judgement:
    """A comparison in words: what is claimed, the numbers beside it, and one whole sentence."""

    claim: str
    numbers: str
    sentence: str


def judgement(compared: Comparison | None) -> Judgement | None:
    """What a paired comparison says."""
    if compared is None:
        return None
    points = signed(compared.difference)
    tested = compared.p_value if compared.adjusted is None else compared.adjusted
    how = "" if compared.adjusted is None else ", Holm-corrected"
    opening = {
        "better": "Better than",
        "worse": "Worse than",
        "not told apart": "Not told apart from",
        "too few seeds": "Too few seeds to tell it from",
    }[compared.claim]
    sentence = (
        f"{opening} {compared.rival}: {points} points on average over {compared.n} shared seeds "
        f"({'exact ' if compared.exact else ''}two-sided sign-flip test, {p_value(tested)}{how})."
    )
    return Judgement(compared.claim, f"{points}, {p_value(tested)}", sentence)


@dataclass(frozen=True)
class MetricHelp:
    """What a metric's docstring says, taken apart."""

    name: str
    title: str
    summary: str
    paragraphs: tuple[tuple[str, str], ...]  # ("equation" or "text", content)
    higher_is_better: bool


def metric_help() -> dict[str, MetricHelp]:
    """Every metric's definition, from the docstring of its function."""
    found = {}
    for metric in ACCURACY_METRICS.values():
        summary, *blocks = _blocks(metric.function)
        for name in re.findall(r"`(\w+)`", " ".join(blocks)):  # what the equation is written with
            if name not in ACCURACY_METRICS and hasattr(metrics, name):
                blocks += _blocks(getattr(metrics, name))
        kinds = tuple(("equation" if _is_equation(block) else "text", block) for block in blocks)
        found[metric.name] = MetricHelp(
            metric.name, metric.title, " ".join(summary.split()), kinds, metric.higher_is_better
        )
    return found


def _blocks(function: Callable[..., Any]) -> list[str]:
    return inspect.cleandoc(function.__doc__ or "").split("\n\n")


def _is_equation(block: str) -> bool:
    first = block.splitlines()[0]
    return not first.startswith("Source") and bool(re.match(r"\(1/|min_|max_|f_j|sum_", first))


def hyperparameters(entry: Entry) -> dict[str, Any]:
    """Every setting of a row, nested ones (of a composite) by a dotted name."""
    flat = flattened(entry.info.hyperparameters)
    return flat if "learning_rate" in flat else flat | {"learning_rate": entry.info.learning_rate}


def flattened(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """`{"parts": {"ewc": {"strength": 1}}}` as `{"ewc.strength": 1}`."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            found |= flattened(value, "" if key == "parts" else f"{prefix}{key}.")
        else:
            found[prefix + key] = value
    return found


def setting(value: Any) -> str:
    """A value as `--set` takes it."""
    return "none" if value is None else value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def buffer_size(entry: Entry) -> int | None:
    """How many exemplars a row was given, where a hyper-parameter says so."""
    sizes = [v for k, v in hyperparameters(entry).items() if k.split(".")[-1] == "buffer_size" and isinstance(v, int)]
    return max(sizes, default=None)


def linked(text: str) -> Markup:
    """Escaped text in which https addresses, arXiv numbers and DOIs are links, and no other scheme is."""
    parts: list[Markup] = []
    end = 0
    for match in _LINK.finditer(text):
        parts.append(escape(text[end : match.start()]))
        address, arxiv, doi = match.groups()
        target = address or (f"https://arxiv.org/abs/{arxiv}" if arxiv else f"https://doi.org/{doi.rstrip('.')}")
        parts.append(Markup('<a href="{}" rel="noopener noreferrer">{}</a>').format(target, match.group()))
        end = match.end()
    return Markup("").join([*parts, escape(text[end:])])
