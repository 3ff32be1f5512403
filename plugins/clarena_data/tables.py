"""Tables in files: CSV, TSV and JSON lines, Parquet and Arrow, and folders of Hugging Face datasets.

A table is columns of values by their lower-case names. What its columns mean is decided here as well: which are labels,
which say what a row is for, and which are numbers.
"""

import csv
import io
import json
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from clarena import DataError, Samples, file_stamps, readable_name, require_file

TEXT_COLUMNS = ("text", "sentence", "utterance", "review", "x")
LABEL_COLUMNS = ("label", "class", "category", "intent", "y")
SPLIT = "split"
ROW_NUMBERS = ("", "id", "idx", "index", "unnamed: 0", "__index_level_0__")
"""What columns are called that number the rows: they are no property of a sample, and may give its class away."""

TRAIN, TEST = ("train", "training"), ("test", "testing")
VALIDATION = ("validation", "valid", "val", "dev", "development")

DELIMITED, JSON_LINES = (".csv", ".tsv"), (".jsonl",)
PARQUET, ARROW = (".parquet",), (".arrow", ".feather")
SUFFIXES = (*DELIMITED, *JSON_LINES, *PARQUET, *ARROW)
DELIMITERS = {",": "a comma", ";": "a semicolon", "\t": "a tab"}


@dataclass(frozen=True, eq=False)
class Table:
    """Rows and columns.

    Attributes:
        path: where it was read.
        columns: by lower-case name: object arrays of what the file has, or numbers.
        lines: where in the file each row is, from 1.
        notes: what was left out or read in a particular way, a sentence each.
    """

    path: Path
    columns: dict[str, NDArray[Any]]
    lines: NDArray[np.int64]
    notes: tuple[str, ...] = ()

    def where(self, row: int) -> str:
        """A row as a person finds it."""
        lines = self.path.suffix.lower() in DELIMITED + JSON_LINES
        return f"{self.path}, {'line' if lines else 'row'} {self.lines[row]}"

    def rows(self, kept: NDArray[np.bool_]) -> "Table":
        """Some of its rows."""
        columns = {name: column[kept] for name, column in self.columns.items()}
        return replace(self, columns=columns, lines=self.lines[kept])

    def noted(self, *notes: str) -> "Table":
        """It, and more to say of it."""
        return replace(self, notes=(*self.notes, *notes))


def is_folder_of_datasets(path: Path) -> bool:
    """Whether Hugging Face's `save_to_disk` made this folder."""
    return (path / "dataset_dict.json").is_file() or (path / "state.json").is_file()


def read_table(path: Path) -> Table:
    """The table in a file or folder, kept until it changes.

    Raises:
        DataError: for what cannot be read or parsed, columns of one name, or an unknown word in the column `split`.
    """
    return _read(path, file_stamps([path]))


@lru_cache(maxsize=4)
def _read(path: Path, stamps: object) -> Table:
    suffix = path.suffix.lower()
    if path.is_dir():
        from .arrow import read_datasets

        table = read_datasets(path)
    elif suffix in PARQUET + ARROW:
        from .arrow import read_file

        table = read_file(require_file(path))
    else:
        content = utf8(path)
        table = _json_lines(path, content) if suffix in JSON_LINES else _delimited(path, content)
    return _divided(table)


def utf8(path: Path) -> str:
    """The text of a file; raises `DataError` where there is none, or it is not UTF-8."""
    try:
        return require_file(path).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read as UTF-8 text: {error}. Save it as UTF-8.") from error


def table_of(path: Path, rows: Sequence[tuple[int, dict[str, Any]]]) -> Table:
    """A table of rows, each with its line and its values by name; what a row lacks is None."""
    names = list(dict.fromkeys(name for _, row in rows for name in row))
    columns = {name: objects([row.get(name) for _, row in rows]) for name in names}
    return Table(path, columns, np.array([line for line, _ in rows], dtype=np.int64))


def objects(values: Sequence[Any]) -> NDArray[Any]:
    """A column of anything."""
    column = np.empty(len(values), dtype=object)
    column[:] = values
    return column


def named_once(path: Path, names: Sequence[str]) -> list[str]:
    """The names of columns as they are asked for; raises `DataError` where two are the same."""
    found = [readable_name(name).strip().lower() for name in names]
    double = next((name for name in found if found.count(name) > 1), None)
    if double is not None:
        raise DataError(f"{path} has two columns named {double!r}. Rename or remove one.")
    return found


# ---- Lines ----


def _json_lines(path: Path, content: str) -> Table:
    rows = []
    for number, line in enumerate(content.split("\n"), 1):  # other separators of lines may stand within a text
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path}, line {number} is not JSON: {error}.") from error
        if not isinstance(row, dict):
            raise DataError(f"{path}, line {number} must be an object with a text and a label, not {line[:40]!r}.")
        rows.append((number, row))
    return table_of(path, rows)


def _delimited(path: Path, content: str) -> Table:
    """The rows under a first line of names, divided by what the names are found with."""
    header = content.partition("\n")[0]
    order = sorted(DELIMITERS, key=lambda mark: mark != "\t") if path.suffix.lower() == ".tsv" else list(DELIMITERS)
    delimiter = next((mark for mark in order if _has_label(header, mark)), None)
    if delimiter is None:  # new samples need no label: what divides the names into most
        delimiter = max(order, key=lambda mark: len(next(csv.reader([header], delimiter=mark), [])))
    notes = [] if delimiter == order[0] else [f"{path.name}: columns are divided by {DELIMITERS[delimiter]}."]
    try:
        return _parsed(path, content, delimiter, csv.QUOTE_MINIMAL).noted(*notes)
    except DataError as error:
        if delimiter != "\t" or '"' not in content:
            raise
        try:  # many write tabs between fields, and a quotation mark for itself
            table = _parsed(path, content, delimiter, csv.QUOTE_NONE)
        except DataError:
            raise error from None
        return table.noted(*notes, f"{path.name}: quotation marks are read as part of the text, not around it.")


def _has_label(header: str, delimiter: str) -> bool:
    names = next(csv.reader([header], delimiter=delimiter), [])
    return len(names) > 1 and any(name.strip().lower() in LABEL_COLUMNS for name in names)


def _parsed(path: Path, content: str, delimiter: str, quoting: Any) -> Table:
    rows: list[tuple[int, dict[str, Any]]] = []
    with wide_fields(len(content)):
        # Lines end with "\n" alone, which `read_text` has made of "\r\n": whatever else breaks a line is text.
        reader = csv.reader(io.StringIO(content), delimiter=delimiter, quoting=quoting, strict=True)
        try:
            names = named_once(path, next(reader, []))
            for fields in reader:
                if not fields:
                    continue
                if len(fields) != len(names):
                    raise DataError(f"{path}, line {reader.line_num} has not as many fields as the first line.")
                rows.append((reader.line_num, dict(zip(names, fields))))
        except csv.Error as error:
            raise DataError(f"{path}, line {reader.line_num} cannot be parsed: {error}.") from error
    return table_of(path, rows)


@contextmanager
def wide_fields(size: int) -> Iterator[None]:
    """Let `csv` take fields of that many characters; it refuses those above 131,072 unless it is told."""
    limit = csv.field_size_limit()
    csv.field_size_limit(max(limit, size))
    try:
        yield
    finally:
        csv.field_size_limit(limit)


# ---- What columns mean ----


def _divided(table: Table) -> Table:
    """The table without rows for validation, its column `split` holding `train`, `test`, or nothing."""
    if SPLIT not in table.columns:
        return table
    words = [str("" if value is None else value).strip().lower() for value in table.columns[SPLIT]]
    known = {**dict.fromkeys(TRAIN, "train"), **dict.fromkeys(TEST, "test"), "": ""}
    for row, word in enumerate(words):
        if word not in known and word not in VALIDATION:
            raise DataError(
                f"{table.where(row)}: the split {readable_name(word)!r} is none of train, test and validation. Rename "
                "it, or remove the column, and a share of each class is held out for testing."
            )
    table.columns[SPLIT] = objects([known.get(word, "") for word in words])
    kept = np.array([word not in VALIDATION for word in words])
    notes = []
    if not kept.all():
        notes.append(
            f"{table.path.name}: {int((~kept).sum())} rows for validation are left out; they are neither learned from "
            "nor tested on."
        )
    blank = words.count("")
    if 0 < blank < len(words):
        notes.append(f"{table.path.name}: {blank} rows do not say what they are for, and are learned from.")
    return table.rows(kept).noted(*notes)


def parts_of(table: Table) -> list[str]:
    """What each row is for: `train`, `test`, or nothing where there is no such column."""
    return list(table.columns.get(SPLIT, [""] * len(table.lines)))


def coalesced(table: Table, names: Sequence[str], what: str) -> tuple[list[Any], list[str]]:
    """In each row the first of these columns that has a value, and which of the columns were taken.

    Raises:
        DataError: where a row has none, or its value is a list, an object, or no number at all.
    """
    found = [name for name in names if name in table.columns]
    values: list[Any] = []
    used: dict[str, None] = {}
    for row in range(len(table.lines)):
        name = next((name for name in found if table.columns[name][row] is not None), None)
        if name is None and found:
            raise DataError(f"{table.where(row)}: the {what} is missing. Give one, or remove the line.")
        if name is None:
            raise DataError(
                f"{table.where(row)} has no column {' or '.join(names)}; it has: {', '.join(table.columns)}. The first "
                "line of a table names its columns."
            )
        value = table.columns[name][row]
        if not isinstance(value, str | bool | int | float | np.number) or (
            not isinstance(value, str) and not math.isfinite(value)
        ):
            raise DataError(
                f"{table.where(row)}: the {what} is {_shown(value)}. Give a name or a number, or remove the line."
            )
        values.append(value.item() if isinstance(value, np.number) else value)
        used[name] = None
    return values, list(used)


def labels_of(table: Table) -> tuple[list[str], list[str]]:
    """The label of each row, and the columns they are from; raises `DataError` as `coalesced`, and for empty ones."""
    values, used = coalesced(table, LABEL_COLUMNS, "label")
    labels = [readable_name(str(value).strip()) for value in values]
    if "" in labels:
        raise DataError(f"{table.where(labels.index(''))}: the label is empty. Remove the line.")
    return labels, used


def labels_if_any(table: Table) -> tuple[tuple[str, ...] | None, list[str]]:
    """As `labels_of`; None where no column is one of labels, or it is empty throughout."""
    found = [name for name in LABEL_COLUMNS if name in table.columns]
    if all(value is None or value == "" for name in found for value in table.columns[name]):
        return None, found
    labels, used = labels_of(table)
    return tuple(labels), used


def new_table(path: Path) -> Table:
    """A table of new samples; raises `DataError` as `read_table`, and for a path that is none."""
    if not (is_folder_of_datasets(path) if path.is_dir() else path.suffix.lower() in SUFFIXES):
        raise DataError(f"{path} is no table ({', '.join(SUFFIXES)}), and this model was trained on one.")
    return read_table(path)


def ignored(table: Table, used: Sequence[str]) -> list[str]:
    """A note on the columns that are neither among these nor that of the split, where there are any."""
    left = [name or "(no name)" for name in table.columns if name not in {*used, SPLIT}]
    return [f"{table.path.name}: ignored columns: {', '.join(left)}."] if left else []


def samples_of(table: Table, x: Tensor, labels: tuple[str, ...] | None, notes: Sequence[str]) -> Samples:
    """The rows of a table as new samples, each called by its place in the file."""
    names = tuple(table.where(row).rpartition(", ")[2] for row in range(len(table.lines)))
    parts = tuple(parts_of(table)) if SPLIT in table.columns else None
    return Samples(x, names, labels, parts, (*table.notes, *notes))


def numbers_in(column: NDArray[Any]) -> tuple[NDArray[np.float64], int | None]:
    """A column as numbers, NaN where it has none, and the first row that holds something else."""
    if column.dtype != object:
        return column.astype(np.float64), None
    numbers = np.full(len(column), np.nan)
    for row, value in enumerate(column):
        if value is None or value == "":
            continue
        try:
            if not isinstance(value, str | bool | int | float) or (isinstance(value, str) and "_" in value):
                return numbers, row
            numbers[row] = float(value)
        except (ValueError, OverflowError):
            return numbers, row
    return numbers, None


def text_columns(table: Table) -> list[str]:
    """The columns that hold texts: named so, and not numbers throughout, be they written with commas."""
    found = [name for name in TEXT_COLUMNS if name in table.columns]
    return [name for name in found if numbers_in(_with_points(table.columns[name]))[1] is not None]


def _with_points(column: NDArray[Any]) -> NDArray[Any]:
    if column.dtype != object:
        return column
    return objects([value.replace(",", ".") if isinstance(value, str) else value for value in column])


def _shown(value: Any) -> str:
    if isinstance(value, float | np.floating):
        return f"{value}, which is no number"
    kinds = {dict: "an object", list: "a list", np.ndarray: "a list", tuple: "a list", bytes: "bytes"}
    return f"{kinds.get(type(value), type(value).__name__)} ({str(value)[:40]})"
