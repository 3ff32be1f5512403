"""Texts as hashed words, or as the subwords of a model's own tokenizer."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any

import torch
from clarena_data.texts import Words
from pydantic import Field
from torch import Tensor

from clarena import DataError, PluginError, UsageError


class Subwords(Words):
    """Model inputs from hashed words, or from the subwords of a tokenizer of Hugging Face transformers."""

    def __init__(
        self,
        *,
        tokenizer: Annotated[
            str | None,
            Field(
                description="Folder or name of a tokenizer of Hugging Face transformers, whose subwords are taken in "
                "place of hashed words; none needs no such package. It asks for encode=tokens."
            ),
        ] = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.tokenizer = tokenizer
        self._subwords = None
        if tokenizer is not None:
            if self.encode != "tokens":
                raise UsageError(f"The tokenizer {tokenizer} gives tokens: add --set benchmark.encode=tokens.")
            self._subwords = loaded(tokenizer)
            self.vocabulary = len(self._subwords)

    def source_files(self) -> Iterable[Path]:
        """The folder of the tokenizer, where that is one."""
        return [] if self.tokenizer is None else [Path(self.tokenizer)] * Path(self.tokenizer).is_dir()

    def tokens(self, texts: Sequence[str]) -> Tensor:
        """The tokens of each text, int32 [n, length]; 0 where it has ended, whatever 0 is to the tokenizer."""
        if self._subwords is None:
            return super().tokens(texts)
        found = self._subwords(list(texts), truncation=True, max_length=self.length)["input_ids"]
        tokens = torch.zeros(len(texts), self.length, dtype=torch.int32)
        for row, ids in zip(tokens, found):
            row[: len(ids)] = torch.tensor(ids, dtype=torch.int32)
        return tokens


def loaded(tokenizer: str) -> Any:
    """The tokenizer of this name or in this folder.

    Raises:
        PluginError: when transformers is not installed.
        DataError: when there is no such tokenizer, or it cannot be had.
    """
    try:
        from transformers import AutoTokenizer
    except ModuleNotFoundError as error:
        raise PluginError(
            f"The tokenizer {tokenizer} needs the package 'transformers', which is not installed. "
            "Run: pip install 'clarena-bench[transformers]'"
        ) from error
    try:
        return AutoTokenizer.from_pretrained(tokenizer)
    except (OSError, ValueError, KeyError) as error:
        first = str(error).strip().partition("\n")[0]
        raise DataError(
            f"The tokenizer {tokenizer} cannot be loaded: {first} Give a folder that holds one, or run once online."
        ) from error
