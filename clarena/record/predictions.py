"""What is kept of a run's answers, beside the truth, so that anyone can compute its scores again."""

import hashlib
import io
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

Arrays = Mapping[str, NDArray[Any]]

MOST_UNFOLDED = 2**28
"""Bytes of the arrays of one run: what claims to hold more was not written here."""

PLAIN_ANSWERS, PLAIN_TRUTH = ("predicted", "log_probability"), ("labels", "text_bytes")
"""Arrays that array files call by their names alone, as they did when there were no others."""
ANSWERS, TRUTH, EXPERIENCE = "answers/", "truth/", "experience"
FIRST = ("predicted", "labels", EXPERIENCE, "log_probability", "text_bytes")
"""The order of the plain ones; the others follow by name."""


@dataclass(frozen=True, eq=False)
class Predictions:
    """The answers to all test samples after each experience, with the truth.

    Attributes:
        answers: by name, [T + 1, N, …]; row 0 is before learning. Whole numbers, 0 or more, or fractions; -1 or NaN
            where nothing was asked.
        truth: by name, [N, …].
        experience: int [N], 0-based: the one that each sample belongs to.

    Whole numbers are int64 and fractions are float32, whatever they come as. What the names are, and how many an N is,
    is for the target to say: see `clarena.record.scoring`. Where every token of a sequence has a label, N counts
    tokens.
    """

    answers: Arrays = field(repr=False)
    truth: Arrays = field(repr=False)
    experience: NDArray[np.int64] = field(repr=False)

    def __post_init__(self) -> None:
        for name in ("answers", "truth"):
            object.__setattr__(self, name, {key: _plainly(value) for key, value in getattr(self, name).items()})
        object.__setattr__(self, EXPERIENCE, _plainly(self.experience))

    @classmethod
    def of_classes(
        cls,
        predicted: ArrayLike,
        labels: ArrayLike,
        experience: ArrayLike,
        log_probability: ArrayLike | None = None,
        text_bytes: ArrayLike | None = None,
    ) -> Self:
        """Those of a run whose answers are classes.

        Args:
            predicted: int [T + 1, N] the class predicted for each label; -1 where none was.
            labels: int [N] as numbered in the stream.
            experience: int [N].
            log_probability: float32 [T + 1, N] ln of the probability given to each label, and
            text_bytes: int [N] how many bytes of text each label stands for: where classes are tokens of text.
        """
        answers, truth = {"predicted": np.asarray(predicted)}, {"labels": np.asarray(labels)}
        if log_probability is not None:
            answers["log_probability"] = np.asarray(log_probability)
        if text_bytes is not None:
            truth["text_bytes"] = np.asarray(text_bytes)
        return cls(answers, truth, np.asarray(experience))

    @classmethod
    def of_arrays(cls, arrays: Arrays) -> Self:
        """Those that were kept as these arrays, by the names of `arrays`; KeyError where there is no experience."""
        rest = {name: array for name, array in arrays.items() if name != EXPERIENCE}
        answers = {n.removeprefix(ANSWERS): a for n, a in rest.items() if n.startswith(ANSWERS) or n in PLAIN_ANSWERS}
        truth = {n.removeprefix(TRUTH): a for n, a in rest.items() if n.startswith(TRUTH) or n in PLAIN_TRUTH}
        if len(answers) + len(truth) < len(rest) or not answers or not truth:
            raise ValueError(f"these are no answers with the truth: {', '.join(map(repr, arrays))}")
        return cls(answers, truth, arrays[EXPERIENCE])

    def __repr__(self) -> str:
        return f"Predictions({self.experience.size} test samples of {self.experiences} experiences)"

    @property
    def experiences(self) -> int:
        """T."""
        return max((len(array) for array in self.answers.values()), default=1) - 1

    @property
    def arrays(self) -> dict[str, NDArray[Any]]:
        """All of them by the names that files call them by, always in the same order."""
        named = {name if name in PLAIN_ANSWERS else ANSWERS + name: a for name, a in self.answers.items()}
        named |= {name if name in PLAIN_TRUTH else TRUTH + name: a for name, a in self.truth.items()}
        named[EXPERIENCE] = self.experience
        return {name: named[name] for name in (*FIRST, *sorted(named.keys() - set(FIRST))) if name in named}

    @property
    def digest(self) -> str:
        """SHA-256 over the arrays themselves, which no compression takes part in: the same on every machine."""
        told = hashlib.sha256()
        for name, array in self.arrays.items():
            kind = "<f4" if array.dtype.kind == "f" else "<i4" if name in FIRST else "<i8"
            told.update(f"{name} {array.shape} {kind}\n".encode())
            told.update(np.ascontiguousarray(array, dtype=kind).tobytes())
        return told.hexdigest()

    # ---- Of classes ----

    @property
    def predicted(self) -> NDArray[np.int64]:
        """The class predicted for each label, int [T + 1, N]; KeyError where answers are no classes."""
        return self.answers["predicted"]

    @property
    def labels(self) -> NDArray[np.int64]:
        """The true classes, int [N]; KeyError where the truth is none."""
        return self.truth["labels"]

    @property
    def log_probability(self) -> NDArray[np.float32] | None:
        """ln of the probability given to each label, float32 [T + 1, N]; None where that is not kept."""
        return self.answers.get("log_probability")

    @property
    def text_bytes(self) -> NDArray[np.int64] | None:
        """How many bytes of text each label stands for, int [N]; None where classes are not tokens of text."""
        return self.truth.get("text_bytes")


def npz(predictions: Predictions) -> bytes:
    """Compressed arrays in the smallest types that hold them; the same input and zlib give the same bytes."""
    arrays = predictions.arrays
    alike = [arrays[name] for name in ("labels", "predicted") if name in arrays]
    kinds: dict[str, Any] = dict.fromkeys(("predicted", "labels"), _smallest(alike))
    kinds |= {EXPERIENCE: np.int16, "text_bytes": np.int32}
    order = dict.fromkeys(("predicted", "labels", EXPERIENCE, *arrays))
    kept: dict[str, Any] = {
        name: arrays[name].astype(kinds.get(name) or kind_of([arrays[name]])) for name in order if name in arrays
    }
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **kept)
    return buffer.getvalue()


def unpacked(content: bytes) -> Predictions:
    """The predictions of an array file; raises whatever zip, zlib and numpy do for what is none."""
    with zipfile.ZipFile(io.BytesIO(content)) as parts:
        unfolded = sum(part.file_size for part in parts.infolist())
    if unfolded > MOST_UNFOLDED:
        raise ValueError(f"they unfold to {unfolded} bytes")
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        return Predictions.of_arrays({name: arrays[name] for name in arrays.files})


def kind_of(arrays: list[NDArray[Any]]) -> type[np.generic]:
    """What arrays of one kind are kept as: fractions as float32, whole numbers in the smallest type that holds them."""
    return np.float32 if arrays[0].dtype.kind == "f" else _smallest(arrays)


def smallest(highest: int) -> type[np.signedinteger[Any]]:
    """The smallest type that holds integers from -1 up to this one."""
    return np.int8 if highest < 2**7 else np.int16 if highest < 2**15 else np.int32 if highest < 2**31 else np.int64


def _smallest(arrays: list[NDArray[Any]]) -> type[np.signedinteger[Any]]:
    return smallest(max((int(array.max(initial=0)) for array in arrays), default=0))


def _plainly(values: ArrayLike) -> NDArray[Any]:
    """Whole numbers as int64, fractions as float32; raises ValueError for what is neither."""
    array = np.asarray(values)
    if array.dtype.kind not in "iufb":
        raise ValueError(f"answers and truth are numbers, not {array.dtype}")
    return array.astype(np.float32 if array.dtype.kind == "f" else np.int64, copy=False)
