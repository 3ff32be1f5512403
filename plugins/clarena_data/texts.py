"""Text and its encoding: tables of text and label, and tokens without a vocabulary that looks ahead."""

import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from clarena import Benchmark, Data, DataError, RowForm, Samples, UsageError, held_out_rows, require_memory

from . import subwords
from .tables import (
    TEXT_COLUMNS,
    Table,
    coalesced,
    ignored,
    labels_if_any,
    labels_of,
    new_table,
    parts_of,
    samples_of,
    text_columns,
    utf8,
)

WORD = re.compile(r"\w+|[^\w\s]")
"""A word, or a mark of punctuation."""

Row = tuple[str, str, str]
"""Text, label, and `train`, `test` or nothing."""


class Words(Benchmark):
    """Model inputs from texts: counts of hashed words, their sequence, or the subwords of a model's own tokenizer."""

    def __init__(
        self,
        *,
        words: Annotated[
            int, Field(ge=2, lt=2**31, description="Numbers that words are hashed to; no word is known in advance.")
        ] = 4096,
        length: Annotated[int, Field(ge=1, description="Words kept of each text; the rest is cut off.")] = 64,
        encode: Annotated[
            Literal["bag", "tokens"],
            Field(
                description="Give the model how often each word occurs (scaled to length 1), or the words in their "
                "order, as numbers with 0 for none, for backbones that take those."
            ),
        ] = "bag",
        tokenizer: Annotated[
            str | None,
            Field(
                description="Folder or name of a tokenizer of Hugging Face transformers, whose subwords are taken in "
                "place of hashed words, or minilm or smollm2 for those in the extra weights; none needs no such "
                "package. It asks for encode=tokens."
            ),
        ] = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.words = words
        self.length = length
        self.encode = encode
        self.vocabulary = words + 1 if encode == "tokens" else None  # 0 is none
        self.tokenizer = tokenizer
        self._subwords = None
        if tokenizer is not None:
            if encode != "tokens":
                raise UsageError(f"The tokenizer {tokenizer} gives tokens: add --set benchmark.encode=tokens.")
            self._subwords = subwords.loaded(tokenizer)
            self.vocabulary = len(self._subwords)

    def source_files(self) -> Iterable[Path]:
        """Those of the data, and the folder of the tokenizer, where that is one."""
        return [*super().source_files(), *subwords.source_files(self.tokenizer)]

    def inputs(self, x: Tensor) -> Tensor:
        """Bags float32 [n, words], or tokens int64 [n, length]; x is tokens, int32 [n, length]."""
        tokens = x.long()
        if self.encode == "tokens":
            return tokens
        bags = torch.zeros(len(x), self.words + 1, device=x.device)
        bags.scatter_add_(1, tokens, torch.ones_like(tokens, dtype=torch.float32))
        return torch.nn.functional.normalize(bags[:, 1:], dim=1)

    def tokens(self, texts: Sequence[str]) -> Tensor:
        """The words or subwords of each text, int32 [n, length]; 0 where it has ended, whatever 0 is to a tokenizer."""
        if self._subwords is None:
            return tokenise(texts, self.words, self.length)
        found = self._subwords(list(texts), truncation=True, max_length=self.length)["input_ids"]
        tokens = torch.zeros(len(texts), self.length, dtype=torch.int32)
        for row, ids in zip(tokens, found):
            row[: len(ids)] = torch.tensor(ids, dtype=torch.int32)
        return tokens

    def read_new(self, path: Path, form: RowForm) -> Samples:
        """New texts of a table, with labels or without; or of a `.txt`, one in each line."""
        if path.suffix.lower() == ".txt":
            lines = text_lines(path)
            names = tuple(f"line {number}" for number in lines)
            return Samples(form.rows(self.tokens(list(lines.values()))), names)
        table = new_table(path)
        texts, taken = new_texts(table)
        labels, used = labels_if_any(table)
        return samples_of(table, form.rows(self.tokens(texts)), labels, ignored(table, [*taken, *used]))


def text_lines(path: Path) -> dict[int, str]:
    """The lines of a file that hold anything, by number from 1; raises `DataError` where none does."""
    found = {number: line for number, line in enumerate(utf8(path).splitlines(), 1) if line.strip()}
    if not found:
        raise DataError(f"{path} is empty. Give it a text in each line.")
    return found


def tokenise(texts: Sequence[str], words: int, length: int) -> Tensor:
    """The words of each text as numbers from 1 to `words`, int32 [n, length]; 0 where a text has ended.

    Words are hashed (MurmurHash3), so nothing has to be learned from experiences that are yet to come.

    Source: Weinberger et al. 2009, Feature hashing for large scale multitask learning.
    """
    from sklearn.utils import murmurhash3_32

    number: dict[str, int] = {}
    require_memory(4 * len(texts) * length, f"{len(texts)} texts of {length} words", "benchmark.length=64")
    tokens = np.zeros((len(texts), length), dtype=np.int32)
    for row, text in enumerate(texts):
        for column, match in enumerate(WORD.finditer(text.lower())):
            if column == length:
                break
            word = match.group()
            if word not in number:
                # As UTF-8, also for halves of surrogate pairs, which JSON may hold and UTF-8 proper does not.
                number[word] = murmurhash3_32(word.encode(errors="surrogatepass"), positive=True) % words + 1
            tokens[row, column] = number[word]
    return torch.from_numpy(tokens)


def encode(
    rows: Sequence[Row],
    tokens: Callable[[Sequence[str]], Tensor],
    test_share: float,
    what: str,
    notes: Sequence[str] = (),
) -> Data:
    """Arrays of texts; where no row says that it is for testing, a share of each class is held out.

    Args:
        tokens: of texts, int32 [n, length], as `Words.tokens` gives them.

    Raises:
        DataError: as `dealt`.
    """
    texts, labels, parts = (list(column) for column in zip(*rows)) if rows else ([], [], [])
    names = sorted(set(labels))
    y, out = dealt(labels, parts, names, test_share, what)
    x = tokens(texts)
    return Data(x[~out], y[~out], x[out], y[out], tuple(names), notes=tuple(notes))


def dealt(
    labels: Sequence[str], parts: Sequence[str], names: Sequence[str], test_share: float, what: str
) -> tuple[Tensor, Tensor]:
    """The number of each label, int64 [n], and which rows are for testing, bool [n]; see `encode`.

    Args:
        parts: `test` for a row that is; where there is none, a share of each class is held out.
        names: of the classes, in the order of their numbers.
        what: what messages call the data.

    Raises:
        DataError: for fewer than two classes, a class that is tested and never trained, labels that are all different,
            or too few rows to divide.
    """
    if len(names) < 2:
        raise DataError(f"{what} must have two classes or more; it has {', '.join(names) or 'none'}.")
    label = {name: number for number, name in enumerate(names)}
    y = np.array([label[name] for name in labels])
    testing = np.array([part == "test" for part in parts])
    told = bool(testing.any())
    if not told:
        require_repeated(len(names), len(labels), what)
        for number in range(len(names)):
            mine = np.flatnonzero(y == number)
            testing[mine] = held_out_rows(len(mine), test_share)
    for number, name in enumerate(names):
        if not (~testing[y == number]).any():
            raise DataError(
                f"{what} has no training sample of the class {name!r}. Give it one, or take the class out of the test "
                "rows."
                if told
                else f"{what} has no training sample of the class {name!r} left: set a smaller benchmark.test_share."
            )
    if not testing.any():
        raise DataError(f"{what} is too small to hold out a share of {test_share} for testing.")
    return torch.from_numpy(y), torch.from_numpy(testing)


def require_repeated(classes: int, samples: int, what: str) -> None:
    """Raise `DataError` where every label is different: no such labels are classes."""
    if classes == samples:
        raise DataError(
            f"{what} has {samples} samples and as many different labels, so there is nothing to learn of any class. "
            "Labels must be classes, each with several samples; numbers to be predicted (regression) are none."
        )


def text_rows(table: Table) -> tuple[list[Row], list[str]]:
    """Text, label and part of each row, and what is to be said of the table.

    Raises:
        DataError: for an empty text or label, or columns that are not found.
    """
    texts, taken = new_texts(table)
    labels, used = labels_of(table)
    return list(zip(texts, labels, parts_of(table))), [*table.notes, *ignored(table, [*taken, *used])]


def new_texts(table: Table) -> tuple[list[str], list[str]]:
    """The text of each row, and the columns they are from; raises `DataError` for an empty one."""
    texts, taken = coalesced(table, text_columns(table) or TEXT_COLUMNS, "text")
    for row, text in enumerate(texts):
        if not str(text).strip():
            raise DataError(f"{table.where(row)}: the text is empty. Remove the line.")
    return list(map(str, texts)), taken
