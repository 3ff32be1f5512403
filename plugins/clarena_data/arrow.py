"""Tables that pyarrow reads: Parquet, Arrow and Feather files, and folders that Hugging Face's `save_to_disk` made."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from clarena import DataError, PluginError

from .tables import PARQUET, SPLIT, TEST, TRAIN, Table, named_once, objects


def read_file(path: Path) -> Table:
    """A Parquet, Arrow or Feather file.

    Raises:
        DataError: when it is damaged.
    """
    return _table(path, [_opened(path)], {})


def read_datasets(folder: Path) -> Table:
    """What `Dataset.save_to_disk` or `DatasetDict.save_to_disk` of Hugging Face wrote, without their library.

    Of several parts those named train and test are read; numbers of classes get the names that the folder has for them.

    Raises:
        DataError: when files are missing or damaged, or rows were selected without being written (`flatten_indices`).
    """
    if not (folder / "dataset_dict.json").is_file():
        return _table(folder, *_part(folder))
    names = _json(folder / "dataset_dict.json", "splits")
    known = [name for name in names if str(name).lower() in TRAIN + TEST]
    if not any(str(name).lower() in TRAIN for name in known):
        raise DataError(f"{folder} has no part train; it has: {', '.join(map(str, names)) or 'none'}.")
    parts = [_part(folder / name) for name in known]
    tables = [_table(folder, *part) for part in parts]
    if any(list(table.columns) != list(tables[0].columns) for table in tables):
        raise DataError(f"The parts {', '.join(known)} of {folder} differ in their columns. They must be alike.")
    columns = {name: np.concatenate([table.columns[name] for table in tables]) for name in tables[0].columns}
    columns[SPLIT] = objects([name for name, table in zip(known, tables) for _ in table.lines])
    left = [str(name) for name in names if name not in known]
    notes = [f"{folder.name}: the parts {', '.join(left)} are left out."] if left else []
    notes += [note for table in tables for note in table.notes]
    return Table(folder, columns, np.concatenate([table.lines for table in tables]), tuple(dict.fromkeys(notes)))


def _part(folder: Path) -> tuple[list[Any], dict[str, list[str]]]:
    """The Arrow tables of a data set, and the names of the classes of each column that has numbers for them."""
    state = folder / "state.json"
    if _json(state, "_indices_data_files", optional=True):
        raise DataError(f"{folder} holds a selection of rows. Save it again after flatten_indices().")
    files = [folder / entry["filename"] for entry in _json(state, "_data_files")]
    features = _json(folder / "dataset_info.json", "features", optional=True) or {}
    names = {
        column: feature["names"]
        for column, feature in features.items()
        if isinstance(feature, dict) and feature.get("_type") == "ClassLabel"
    }
    return [_opened(file) for file in files], names


def _json(path: Path, key: str, optional: bool = False) -> Any:
    try:
        content = json.loads(path.read_bytes())
        return content.get(key) if optional else content[key]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        message = f"{path} is damaged or missing: {type(error).__name__}: {error}. Save the data set again."
        raise DataError(message) from error


def _opened(path: Path) -> Any:
    """The Arrow table in a file."""
    try:
        import pyarrow as pa
        from pyarrow import feather, ipc, parquet
    except ModuleNotFoundError as error:
        message = f"{path} needs the package 'pyarrow', which is not installed. Run: pip install pyarrow"
        raise PluginError(message) from error
    try:
        if path.suffix.lower() in PARQUET:
            return parquet.ParquetFile(path).read()
        with pa.memory_map(str(path)) as source:
            if source.size() >= 6 and source.read(6) == b"ARROW1":
                source.seek(0)
                return ipc.open_file(source).read_all()
            source.seek(0)
            if source.size() >= 4 and source.read(4) == b"FEA1":
                return feather.read_table(path)
            source.seek(0)
            return ipc.open_stream(source).read_all()
    except (OSError, ValueError, EOFError, pa.ArrowException) as error:
        first = str(error).partition("\n")[0]
        raise DataError(f"{path} cannot be read as a table: {first} Write it again.") from error


def _table(path: Path, tables: Sequence[Any], class_names: dict[str, list[str]]) -> Table:
    import pyarrow as pa

    if not tables:
        raise DataError(f"{path} holds no file of data. Save the data set again.")
    try:
        whole = pa.concat_tables(tables)
    except pa.ArrowException as error:
        raise DataError(f"The files of {path} do not belong together: {error}. Save the data set again.") from error
    columns = {}
    for name, given in zip(named_once(path, whole.column_names), whole.column_names):
        column, names = whole.column(given), class_names.get(given)
        if pa.types.is_dictionary(column.type):
            column = column.cast(column.type.value_type)
        numeric = pa.types.is_integer(column.type) or pa.types.is_floating(column.type)
        if names is None and numeric and not column.null_count:
            columns[name] = column.to_numpy()
            continue
        values = column.to_pylist()
        if names is not None:
            values = [_class(value, names, path) for value in values]
        columns[name] = objects(values)
    return Table(path, columns, np.arange(1, whole.num_rows + 1))


def _class(value: Any, names: list[str], path: Path) -> str | None:
    if value is None or value == -1:  # what Hugging Face writes for a label that is not known
        return None
    if not isinstance(value, int) or not 0 <= value < len(names):
        raise DataError(f"{path} has the label {value}, and names for 0 … {len(names) - 1}. Save the data set again.")
    return names[value]
