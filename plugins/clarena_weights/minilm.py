"""All-MiniLM-L6-v2, an encoder of sentences, from the files of a package."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from clarena_transformers import hub
from clarena_transformers.backbones import HubModel
from clarena_vision import weights as files

from clarena import SeenData, UsageError

from . import sentences
from .packaged import tensors_sha256

LONGEST = 256
"""Tokens that it was tuned to see at most (`max_seq_length` of the package)."""

SUBWORDS = 30_522
"""Its vocabulary."""

SEEN = (
    ("Reddit",), ("S2ORC",), ("WikiAnswers",), ("PAQ",), ("Stack Exchange",), ("MS MARCO",), ("GOOAQ",),
    ("Yahoo Answers", "yahoo"),
)  # fmt: skip
"""Data that it was tuned on, each with the names under which a benchmark may have it; its model card lists more."""


class MiniLM(HubModel):
    """All-MiniLM-L6-v2, pre-trained on pairs of sentences, by weights that install as a package.

    Its 384 features are the mean over the tokens of a text after the last of six layers, not scaled to length 1. Texts
    must be in its own subwords: `--set benchmark.encode=tokens --set benchmark.tokenizer=minilm`. Its weights are
    identified by the SHA-256 of their tensors.

    Source: Wang et al. 2020, MiniLM: Deep self-attention distillation; Reimers & Gurevych 2019, Sentence-BERT. The
    weights are Apache-2.0, their package MIT.
    """

    name = "minilm"
    trained_on = (
        "1.17 billion pairs of texts: Reddit, S2ORC, WikiAnswers, PAQ, Stack Exchange, MS MARCO, GOOAQ, Yahoo Answers "
        "(which five-texts is partly made of) and others that its model card lists; before that, the English texts of "
        "its pre-training"
    )

    @classmethod
    def seen_data(cls) -> list[SeenData]:
        """The pairs it was tuned on, by their names; they have no classes."""
        return [SeenData(names) for names in SEEN]

    @classmethod
    def folder(cls) -> Path:
        """The package's folder; raises `UsageError` where it is missing or altered."""
        return sentences.folder()

    @classmethod
    def fingerprint(cls, options: Mapping[str, Any]) -> str | None:
        """SHA-256 of the package's tensors or, where they are random, of its configuration."""
        if options["weights"] == "none":
            return super().fingerprint(options)
        return tensors_sha256(files.read(cls.folder() / hub.WEIGHTS, cls.name))

    def build(self, vocabulary: int, length: int) -> Any:
        """The network of the package's files; raises `UsageError` for texts that are too long or not its own tokens."""
        if length > LONGEST:
            raise UsageError(
                f"{self.name} was made for texts of up to {LONGEST} tokens, but texts have {length}. Cut them: "
                f"--set benchmark.length={LONGEST}, where the benchmark has it."
            )
        if self.weights == "default" and vocabulary != SUBWORDS:
            raise UsageError(
                f"{self.name} knows {SUBWORDS} subwords, the benchmark has {vocabulary} tokens. Have texts in its own: "
                "--set benchmark.encode=tokens --set benchmark.tokenizer=minilm"
            )
        return super().build(vocabulary, length)
