"""A row's archive: one zip with all its runs, the same bytes for the same runs, which `unzip` and numpy open too.

track.json         of all its runs
records.jsonl      a line for each run, by seed: its record without what follows from the arrays, and its SHA-256
answers.npy        for each run after the other [N, 3 + T]: of each test sample its experience, its label, and what was
                   predicted after 0, 1, … T experiences; what is alike stands side by side
log_probability.npy, text_bytes.npy    [T+1, N] and [N] of each run, of language models
NAME.npy           of each other array of a target whose answers are no classes, runs one after the other

Parts are compressed by bzip2: these arrays take 35 % of what zlib makes of each run by itself, and its
output, unlike zlib's, is the same everywhere. What may not be given back bit for bit is kept as it is.
"""

import hashlib
import io
import json
import math
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic_core import to_json

from clarena.errors import StoreError
from clarena.record import metrics
from clarena.record.predictions import EXPERIENCE, FIRST, Predictions, kind_of, npz
from clarena.record.reader import MOST_BYTES, record_of
from clarena.record.record import Record
from clarena.record.scorings import class_fields

TRACK, RECORDS = "track.json", "records.jsonl"
ANSWERS = "answers"
DERIVED = ("accuracy_matrix", "class_report", "confusion_matrix")
"""Fields of a record that are single divisions of counts, or counts: the same bits from the arrays on every machine."""
EPOCH = (1980, 1, 1, 0, 0, 0)
"""The time of every part: the earliest that a zip can say."""


@dataclass(frozen=True)
class Run:
    """One run, as it lies in a store: its record as parsed JSON, and its predictions where it has any."""

    content: Mapping[str, Any]
    predictions: Predictions | None

    @property
    def seed(self) -> int:
        """Its seed."""
        return int(self.content["cell"]["seed"])


def pack(parts: Mapping[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    """The one zip of these parts: sorted, without times or owners."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name in sorted(parts):
            info = zipfile.ZipInfo(name, EPOCH)
            info.create_system, info.external_attr = 3, 0o100644 << 16
            archive.writestr(info, parts[name], compression, 9)
    return buffer.getvalue()


def as_written(content: Mapping[str, Any]) -> bytes:
    """The bytes of a `record.json` of this content, as a store writes it."""
    return to_json(content, indent=1)


# ---- Writing ----


def archive_of(runs: Sequence[Run]) -> bytes:
    """The archive of a row's runs, whatever their order."""
    runs = sorted(runs, key=lambda run: (run.seed, str(run.content["cell_id"])))
    track = runs[0].content["cell"]["track"]
    known = [run.predictions for run in runs if run.predictions is not None]
    parts = {
        TRACK: to_json(track, indent=1),
        RECORDS: b"".join(to_json(_line(run, track)) + b"\n" for run in runs),
    }
    stored = [_stored(predictions) for predictions in known]
    for name in dict.fromkeys(name for each in stored for name in each):
        arrays = [each[name] for each in stored if name in each]
        parts[f"{name}.npy"] = _array(arrays, np.int32 if name == "text_bytes" else kind_of(arrays))
    return pack(parts, zipfile.ZIP_BZIP2)


def _line(run: Run, track: Any) -> dict[str, Any]:
    """A run as one line; `null` stands where the track or the arrays say it."""
    content = dict(run.content)
    if content["cell"]["track"] == track:
        content["cell"] = content["cell"] | {"track": None}
    line: dict[str, Any] = {"record": content, "sha256": hashlib.sha256(as_written(run.content)).hexdigest()}
    if (p := run.predictions) is not None:
        derived = _derived(p, run.content["output_names"])
        for name in DERIVED:
            if name in content and name in derived and _alike(content[name], derived[name]):
                content[name] = None
        line["arrays"] = _shape(p) | {"sha256": p.digest}
    return line


def _alike(one: Any, other: Any) -> bool:
    """Whether two values are written alike."""
    return as_written({"": one}) == as_written({"": other})


def _stored(predictions: Predictions) -> dict[str, NDArray[Any]]:
    """What is kept of predictions, by the names of array files: classes side by side, the rest as it is."""
    arrays = predictions.arrays
    if not _are_classes(predictions):
        return arrays
    beside = np.concatenate([arrays[EXPERIENCE][None], arrays["labels"][None], arrays["predicted"]]).T
    return {ANSWERS: beside} | {name: array for name, array in arrays.items() if name not in FIRST[:3]}


def _are_classes(predictions: Predictions) -> bool:
    return predictions.arrays.keys() <= {*FIRST} and {"predicted", "labels"} <= predictions.arrays.keys()


def _shape(predictions: Predictions) -> dict[str, Any]:
    """What a line says of the arrays, so that `_shapes` can be known."""
    if not _are_classes(predictions):
        return {"shapes": {name: array.shape for name, array in predictions.arrays.items()}}
    language = predictions.log_probability is not None
    return {"experiences": predictions.experiences, "samples": predictions.labels.size, "language": language}


def _shapes(told: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Of a line's arrays, the shape of each that is stored, by name; raises ValueError for what cannot be one."""
    if "shapes" in told:
        shapes = {str(name): tuple(map(int, shape)) for name, shape in told["shapes"].items()}
    else:
        n, t = int(told["samples"]), int(told["experiences"])
        likely = {"log_probability": (t + 1, n), "text_bytes": (n,)} if told["language"] else {}
        shapes = {ANSWERS: (n, t + 3), **likely}
        if t < 1:
            raise ValueError("its arrays have no size")
    if any(size < 0 for shape in shapes.values() for size in shape):
        raise ValueError("its arrays have no size")
    return shapes


def _derived(predictions: Predictions, names: list[str]) -> dict[str, Any]:
    """The fields `DERIVED`, as they stand in a record; none of what is no class."""
    if not _are_classes(predictions):
        return {}
    told = predictions.predicted, predictions.labels, predictions.experience
    matrix = metrics.accuracy_matrix(*told, predictions.experiences)
    derived: dict[str, Any] = {
        "accuracy_matrix": [[None if np.isnan(cell) else cell for cell in row] for row in matrix.tolist()],
        "class_report": {},
        "confusion_matrix": [],
    }
    return derived | (class_fields(predictions.labels, predictions.predicted[-1], names) if names else {})


def _array(parts: Sequence[NDArray[Any]], kind: type[np.generic]) -> bytes:
    """Arrays one after the other as one array file."""
    buffer = io.BytesIO()
    np.save(buffer, np.concatenate([part.astype(kind).ravel() for part in parts]), allow_pickle=False)
    return buffer.getvalue()


# ---- Reading ----


class Archive:
    """An archive of a folder; its records are read at once, arrays when they are asked for.

    Attributes:
        sha256: of the file.
        lines: of `RECORDS`, checked for form.
    """

    def __init__(self, path: Path) -> None:
        """Raises `StoreError` for what is no whole archive."""
        self.path = path
        with _told(path):
            size = path.stat().st_size
            if not path.is_file() or size > MOST_BYTES:
                raise ValueError(f"it is no file of at most {MOST_BYTES} bytes")
            self.sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
            self._track = json.loads(self.part(TRACK))
            self.lines = [json.loads(line) for line in self.part(RECORDS).splitlines()]
            for line in self.lines:
                cell = line["record"]["cell"]
                str.encode(cell["strategy"]["name"] + line["record"]["cell_id"] + line["sha256"])
                if cell["track"] is None:
                    cell["track"] = self._track
            self._starts = self._lay_out()

    def run(self, number: int) -> Run:
        """The run of a line; raises `StoreError` where the archive does not hold what was put into it."""
        line = self.lines[number]
        with _told(self.path):
            predictions = self._predictions(number) if "arrays" in line else None
            content = dict(line["record"])
            if predictions is not None:
                derived = _derived(predictions, content["output_names"])
                content |= {name: derived[name] for name in DERIVED if name in content and content[name] is None}
            if hashlib.sha256(as_written(content)).hexdigest() != line["sha256"]:
                raise ValueError(f"the record of line {number + 1} is not what was put into it")
            return Run(content, predictions)

    def record(self, number: int) -> tuple[Record, Run]:
        """The record of a line, checked like any other, and the run it is of; raises `StoreError`."""
        run = self.run(number)
        return record_of(run.content, f"Line {number + 1} of {RECORDS} in the archive {self.path}"), run

    def _lay_out(self) -> list[dict[str, int]]:
        """Where each array of each line begins in its file, by name."""
        starts, ends = [], dict[str, int]()
        for line in self.lines:
            starts.append(dict(ends))
            for name, shape in _shapes(line["arrays"]).items() if "arrays" in line else ():
                ends[name] = ends.get(name, 0) + math.prod(shape)
        return starts

    def _predictions(self, number: int) -> Predictions:
        told, starts = self.lines[number]["arrays"], self._starts[number]
        held: dict[str, Any] = {}
        for name, shape in _shapes(told).items():
            begin = starts.get(name, 0)
            held[name] = _arrays(self, f"{name}.npy")[begin : begin + math.prod(shape)].reshape(shape)
        if ANSWERS in held:
            columns = held.pop(ANSWERS).T.astype(np.int64, order="C")
            held |= {EXPERIENCE: columns[0], "labels": columns[1], "predicted": columns[2:]}
        predictions = Predictions.of_arrays(held)
        if predictions.digest != told["sha256"]:
            raise ValueError(f"the arrays of line {number + 1} are not what was put into it")
        return predictions

    def part(self, name: str) -> bytes:
        """The content of a part; raises whatever zip and bzip2 do."""
        with zipfile.ZipFile(self.path) as archive:
            if archive.getinfo(name).file_size > 4 * MOST_BYTES:
                raise ValueError(f"its {name} unfolds to {archive.getinfo(name).file_size} bytes")
            return archive.read(name)


@lru_cache(maxsize=8)
def _arrays(archive: Archive, name: str) -> NDArray[Any]:
    """An array file of an archive, kept while its runs are read one by one."""
    array: NDArray[Any] = np.load(io.BytesIO(archive.part(name)), allow_pickle=False)
    return array


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """Whatever zip, bzip2, JSON and numpy raise becomes one message that names the archive."""
    try:
        yield
    except StoreError:
        raise
    except Exception as error:
        said = (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
        raise StoreError(
            f"The archive {path} is truncated or was altered ({said}). Take a whole copy of it, or make it anew from "
            "the store that its runs are in: clarena store pack."
        ) from error


def bytes_of_predictions(run: Run) -> bytes | None:
    """The array file of a run as its record names it; None where there is none, or zlib is another here than there."""
    if run.predictions is None:
        return None
    content = npz(run.predictions)
    return content if hashlib.sha256(content).hexdigest() == run.content["predictions"] else None


def archives(root: Path) -> Iterator[Path]:
    """The archives of a folder, in order."""
    yield from sorted(root.glob("*/*.zip"))
