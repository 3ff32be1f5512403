"""Text and its encoding: tables of text and label, and tokens without a vocabulary that looks ahead."""

import csv
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from clarena import Benchmark, Data, DataError

from .images import held_out_rows

WORD = re.compile(r"\w+|[^\w\s]")
"""A word, or a mark of punctuation."""

TEXT_COLUMNS = ("text", "sentence", "utterance", "review", "x")
LABEL_COLUMNS = ("label", "class", "category", "intent", "y")

Row = tuple[str, str, str]
"""Text, label, and `train`, `test` or nothing."""


class Words(Benchmark):
    """Model inputs from hashed words: counts of words for backbones that take numbers, or their sequence."""

    def __init__(
        self,
        *,
        words: Annotated[
            int, Field(ge=2, description="Numbers that words are hashed to; no word is known in advance.")
        ] = 4096,
        length: Annotated[int, Field(ge=1, description="Words kept of each text; the rest is cut off.")] = 64,
        encode: Annotated[
            Literal["bag", "tokens"],
            Field(
                description="Give the model how often each word occurs (scaled to length 1), or the words in their "
                "order, as numbers with 0 for none, for backbones that take those."
            ),
        ] = "bag",
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.words = words
        self.length = length
        self.encode = encode
        self.vocabulary = words + 1 if encode == "tokens" else None  # 0 is none

    def inputs(self, x: Tensor) -> Tensor:
        """Bags float32 [n, words], or tokens int64 [n, length]; x is tokens, int32 [n, length]."""
        tokens = x.long()
        if self.encode == "tokens":
            return tokens
        bags = torch.zeros(len(x), self.words + 1, device=x.device)
        bags.scatter_add_(1, tokens, torch.ones_like(tokens, dtype=torch.float32))
        return torch.nn.functional.normalize(bags[:, 1:], dim=1)


def tokenise(texts: Sequence[str], words: int, length: int) -> Tensor:
    """The words of each text as numbers from 1 to `words`, int32 [n, length]; 0 where a text has ended.

    Words are hashed (MurmurHash3), so nothing has to be learned from experiences that are yet to come.

    Source: Weinberger et al. 2009, Feature hashing for large scale multitask learning.
    """
    from sklearn.utils import murmurhash3_32

    number: dict[str, int] = {}
    tokens = np.zeros((len(texts), length), dtype=np.int32)
    for row, text in enumerate(texts):
        for column, match in enumerate(WORD.finditer(text.lower())):
            if column == length:
                break
            word = match.group()
            if word not in number:
                number[word] = murmurhash3_32(word, positive=True) % words + 1
            tokens[row, column] = number[word]
    return torch.from_numpy(tokens)


def encode(rows: Sequence[Row], words: int, length: int, test_share: float, what: str) -> Data:
    """Arrays of texts; where no row says that it is for testing, a share of each class is held out.

    Raises:
        DataError: for fewer than two classes, a class that is tested and never trained, or one too small to divide.
    """
    names = sorted({label for _, label, _ in rows})
    if len(names) < 2:
        raise DataError(f"{what} must have two classes or more; it has {', '.join(names) or 'none'}.")
    label = {name: number for number, name in enumerate(names)}
    y = np.array([label[name] for _, name, _ in rows])
    testing = np.array([part == "test" for *_, part in rows])
    if not testing.any():
        for number in range(len(names)):
            mine = np.flatnonzero(y == number)
            testing[mine] = held_out_rows(len(mine), test_share)
    for number, name in enumerate(names):
        if not (~testing[y == number]).any():
            raise DataError(f"{what} has no training sample of the class {name!r}.")
    if not testing.any():
        raise DataError(f"{what} is too small to hold out a share of {test_share} for testing.")
    tokens = tokenise([text for text, *_ in rows], words, length)
    labels, out = torch.from_numpy(y), torch.from_numpy(testing)
    return Data(tokens[~out], labels[~out], tokens[out], labels[out], tuple(names))


def read_table(path: Path) -> list[Row]:
    """The rows of a CSV, TSV or JSONL file with a column of texts and one of labels, and perhaps one named `split`.

    Raises:
        DataError: for a wrong encoding, a line that cannot be parsed, an empty text, or columns that are not found.
    """
    try:
        content = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read as UTF-8 text: {error}. Save it as UTF-8.") from error
    lines = _json_lines(path, content) if path.suffix.lower() == ".jsonl" else _delimited(path, content)
    rows = []
    for number, line in lines:
        text = _column(path, number, line, TEXT_COLUMNS)
        label = _column(path, number, line, LABEL_COLUMNS)
        if not text.strip() or not label.strip():
            raise DataError(
                f"{path}, line {number}: the {'label' if text.strip() else 'text'} is empty. Remove the line."
            )
        part = str(line.get("split") or "").strip().lower()
        rows.append((text, label.strip(), part))
    return rows


def _json_lines(path: Path, content: str) -> list[tuple[int, dict[str, Any]]]:
    rows = []
    for number, line in enumerate(content.splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise DataError(f"{path}, line {number} is not JSON: {error}.") from error
        if not isinstance(row, dict):
            raise DataError(f"{path}, line {number} must be an object with a text and a label, not {line[:40]!r}.")
        rows.append((number, row))
    return rows


def _delimited(path: Path, content: str) -> list[tuple[int, dict[str, Any]]]:
    reader = csv.DictReader(
        content.splitlines(keepends=True), delimiter="\t" if path.suffix == ".tsv" else ",", strict=True
    )
    rows = []
    try:
        for row in reader:
            if None in row or None in row.values():
                raise DataError(f"{path}, line {reader.line_num} has not as many fields as the first line.")
            rows.append((reader.line_num, {key.strip().lower(): value for key, value in row.items()}))
    except csv.Error as error:
        raise DataError(f"{path}, line {reader.line_num} cannot be parsed: {error}.") from error
    return rows


def _column(path: Path, number: int, line: dict[str, Any], names: tuple[str, ...]) -> str:
    for name in names:
        if line.get(name) is not None:
            return str(line[name])
    raise DataError(f"{path}, line {number} has no column {' or '.join(names)}; it has: {', '.join(line)}.")
