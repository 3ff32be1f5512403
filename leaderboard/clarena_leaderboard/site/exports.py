"""Tables as files: CSV, JSON, LaTeX (booktabs) and BibTeX; every text in them is a stranger's and escaped."""

import csv
import io
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from clarena.record.catalogue import named
from clarena.record.summary import finite_or_none
from clarena_leaderboard.contents import Comparison, Entry, Table
from clarena_leaderboard.site.formatting import buffer_size, headline, hyperparameters, size

_LATEX = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "%": r"\%", "_": r"\_",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "−": r"$-$", "–": "--",
    "<": r"\textless{}", ">": r"\textgreater{}", '"': r"\textquotedbl{}", "`": r"\textasciigrave{}",
    "λ": r"$\lambda$", "γ": r"$\gamma$", "α": r"$\alpha$", "β": r"$\beta$",
}  # fmt: skip

_PAPER = re.compile(r"(?P<authors>[^\d,;]{2,80}?) (?P<year>(?:19|20)\d\d), (?P<title>[^;]+?)(?:\. |\.?$)(?P<rest>.*)$")


def row_data(entry: Entry) -> dict[str, Any]:
    """A row as plain data, one key for each column of a file; undefined numbers are None."""
    hidden = named("hidden_accuracy", entry.score)
    intervals = {
        f"{named(name, entry.score)}{suffix}": finite_or_none(value)
        for name in entry.intervals
        for suffix, value in _numbers(entry, name).items()
    }
    return {
        "row": entry.id,
        "label": entry.label,
        "strategy": entry.info.name,
        "standing": entry.standing,
        "reason": entry.reason,
        "tier": entry.tier,
        "badge": entry.badge,
        hidden: entry.hidden.mean if entry.hidden else None,
        f"{hidden}_half_width": finite_or_none(entry.hidden.half_width) if entry.hidden else None,
        "caution": entry.caution,
        "chosen": entry.chosen,
        "family": entry.family,
        "score": entry.score,
        "recomputed": entry.recomputed,
        "n": next((interval.n for interval in entry.intervals.values() if interval), 0),
        **intervals,
        **{name: finite_or_none(entry.mean(name)) for name in ("train_seconds", "predict_seconds", "peak_memory_bytes",
                                                        "state_bytes", "parameters")},
        "metering": entry.metering,
        "earlier_metering": entry.earlier_metering,
        "buffer_size": buffer_size(entry),
        **_compared("against_best", entry.against_best),
        **_compared("against_finetune", entry.against_finetune),
        "hyperparameters": hyperparameters(entry),
        "plugin": entry.info.plugin,
        "source_hash": entry.info.source_hash,
        "identity": entry.info.identity,
        "paper": entry.info.paper,
    }  # fmt: skip


def _numbers(entry: Entry, name: str) -> dict[str, float]:
    interval = entry.intervals.get(name)
    if interval is None:
        return {"": math.nan, "_half_width": math.nan}
    return {"": interval.mean, "_half_width": interval.half_width}


def _compared(name: str, compared: Comparison | None) -> dict[str, Any]:
    if compared is None:
        return {f"{name}_{key}": None for key in ("claim", "difference", "p_value", "p_adjusted")}
    return {
        f"{name}_claim": compared.claim,
        f"{name}_difference": compared.difference,
        f"{name}_p_value": compared.p_value,
        f"{name}_p_adjusted": compared.adjusted,
    }


# ---- JSON and CSV ----


def to_json(data: Any) -> str:
    """JSON that any reader reads: no NaN."""
    return json.dumps(data, ensure_ascii=False, allow_nan=False, indent=1, default=str) + "\n"


def to_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """CSV with a column for every key; texts that a spreadsheet would run as a formula begin with an apostrophe."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([_cell(column) for column in columns])
    for row in rows:
        writer.writerow([_cell(row.get(column)) for column in columns])
    return text.getvalue()


def _cell(value: Any) -> Any:
    if isinstance(value, Mapping | list | tuple):
        value = json.dumps(value, ensure_ascii=False, default=str)
    if not isinstance(value, str):
        return value
    line = _one_line(value)
    return "'" + line if line.lstrip()[:1] in {"=", "+", "-", "@"} else line


def _one_line(text: str) -> str:
    """Text without control characters and line breaks of any kind: a space in the place of each."""
    return "".join(c if c.isprintable() else " " for c in text)


# ---- LaTeX ----


def latex(text: str) -> str:
    """Text that LaTeX prints as it stands; control characters become spaces."""
    return "".join(_LATEX.get(c, c) for c in _one_line(text))


COLUMNS = r"(\%) & Forgetting (\%) & Backward transfer (\%) & Training (s) & State \\"


def to_latex(table: Table) -> str:
    """The table of a track: booktabs, references first, then the ranked rows."""
    lines = [
        f"% {latex(table.label)}, track {table.digest[:12]}; needs \\usepackage{{booktabs}}",
        r"\begin{tabular}{lrrrrr}",
        r"\toprule",
        f"Strategy & {latex(headline(table))} " + COLUMNS,
        r"\midrule",
    ]
    for position, group in enumerate((table.references, table.ranked)):
        if position and group and table.references:
            lines.append(r"\midrule")
        lines += [_latex_row(entry, table.headline) for entry in group]
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", _note(table), ""])


def _latex_row(entry: Entry, metric: str) -> str:
    cells = [latex(entry.label)]
    cells += [latex_number(entry, name) for name in (metric, "forgetting", "backward_transfer")]
    seconds, state = entry.mean("train_seconds"), entry.mean("state_bytes")
    cells += [f"{seconds:.1f}" if math.isfinite(seconds) else "--", latex(size(state))]
    return " & ".join(cells) + r" \\"


def latex_number(entry: Entry, metric: str) -> str:
    """`$91.3 \\pm 1.2$`, or two dashes."""
    interval = entry.intervals.get(metric)
    if interval is None:
        return "--"
    return f"${interval.percent().replace('±', chr(92) + 'pm')}$"


def _note(table: Table) -> str:
    return f"% Mean and 95 % Student-t interval over {len(table.seeds)} seeds. Rows that stand apart are left out."


def matrix_latex(matrix: Sequence[Sequence[float | None]]) -> str:
    """An averaged matrix of scores [T + 1, T] in percent, booktabs; undefined cells are empty."""
    count = len(matrix[0]) if matrix else 0
    head = " & ".join(["After", *map(str, range(1, count + 1))]) + r" \\"
    lines = [r"\begin{tabular}{r" + "r" * count + "}", r"\toprule", head, r"\midrule"]
    for i, row in enumerate(matrix):
        if i or any(value is not None for value in row):
            cells = ["" if value is None else f"{100 * value:.1f}" for value in row]
            lines.append(" & ".join([str(i), *cells]) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", ""])


# ---- BibTeX ----


def to_bibtex(entries: Iterable[Entry]) -> str:
    """The papers of these rows, each once, in the order in which they occur."""
    papers = dict.fromkeys(entry.info.paper.strip() for entry in entries)
    keys: dict[str, int] = {}
    return "\n".join(bibtex(paper, keys) for paper in papers if paper)


def bibtex(paper: str, keys: dict[str, int] | None = None) -> str:
    """One entry: authors, year and title where the text gives them as `Authors 2017, Title. arXiv:…`, else a note."""
    keys = {} if keys is None else keys
    match = _PAPER.match(" ".join(paper.split()))
    fields = {"note": paper}
    key = re.sub(r"[^a-z]+", "", paper.lower())[:24] or "paper"
    if match:
        authors = match["authors"].removesuffix(" et al.")
        names = re.sub(r"\s*&\s*|,\s+", " and ", authors) + (" and others" if authors != match["authors"] else "")
        fields = {"author": names, "title": match["title"].rstrip("."), "year": match["year"], "note": match["rest"]}
        key = re.sub(r"[^a-z]", "", authors.split(" ")[0].lower()) + match["year"]
    for pattern, field, address in (
        (r"arXiv:(\d{4}\.\d{4,5})", "eprint", "https://arxiv.org/abs/"),
        (r"doi:(10\.[^\s,;{}\\]+)", "doi", "https://doi.org/"),
    ):
        if found := re.search(pattern, paper):
            number = found[1].rstrip(".")
            fields |= {field: number, "url": address + number}
            fields |= {"archiveprefix": "arXiv"} if field == "eprint" else {}
            fields["note"] = fields["note"].replace(found[0], "").strip(" .,;") if match else fields["note"]
    keys[key] = keys.get(key, 0) + 1
    suffix = "" if keys[key] == 1 else f"-{keys[key]}"
    body = "".join(f"  {name} = {{{_bibtex_value(value, name)}}},\n" for name, value in fields.items() if value)
    return f"@misc{{{key}{suffix},\n{body}}}\n"


def _bibtex_value(value: str, field: str) -> str:
    if field in ("url", "doi", "eprint"):
        return value
    text = latex(value.replace("{", "(").replace("}", ")"))
    return f"{{{text}}}" if field == "title" else text
