"""SmolLM2-135M-Instruct, a decoder, from the file of a package."""

from collections.abc import Mapping
from functools import cache
from typing import Annotated, Any, Literal

import torch
from clarena_transformers.decoders import Decoder
from pydantic import Field

from clarena import UsageError

from . import smollm2_file, smollm2_tokenizer
from .packaged import tensors_sha256


class SmolLM2(Decoder):
    """SmolLM2-135M-Instruct, a language model, by weights that install as a package.

    Texts must be in its own subwords: `--set benchmark.tokenizer=smollm2`. Its weights, of four or five bits each in
    the file, are turned into float32, and identified by the SHA-256 of these tensors.

    Source: Allal et al. 2025, SmolLM2: When Smol goes big. Weights and package are Apache-2.0.
    """

    name = "smollm2"
    trained_on = (
        "2 trillion tokens: FineWeb-Edu, DCLM, The Stack and mathematics; then instructions (SmolTalk) and preferences "
        "(UltraFeedback). Pages of the web as these may hold texts of public benchmarks"
    )

    def __init__(
        self,
        input_shape: tuple[int, ...],
        vocabulary: int,
        per_token: bool = False,
        *,
        weights: Annotated[
            Literal["default", "none"], Field(description="Start from the package's weights, or from random ones.")
        ] = "default",
        **options: Any,
    ) -> None:
        self.weights = weights
        super().__init__(input_shape, vocabulary, per_token, **options)

    @classmethod
    def fingerprint(cls, options: Mapping[str, Any]) -> str | None:
        """SHA-256 of the package's tensors; raises `UsageError` where its file is missing or altered."""
        return None if options["weights"] == "none" else _identity(str(smollm2_file.place()))

    def build(self, vocabulary: int, length: int) -> Any:
        """Transformers' Llama with the tensors of the file; raises `UsageError` for tokens that are not its own."""
        from transformers import LlamaConfig, LlamaModel

        if vocabulary != smollm2_file.SUBWORDS:
            raise UsageError(
                f"{self.name} knows {smollm2_file.SUBWORDS} subwords, the benchmark has {vocabulary} tokens. Have "
                "texts in its own: --set benchmark.tokenizer=smollm2, and for classes --set benchmark.encode=tokens"
            )
        config = LlamaConfig(
            vocab_size=smollm2_file.SUBWORDS,
            hidden_size=smollm2_file.WIDTH,
            intermediate_size=smollm2_file.INNER,
            num_hidden_layers=smollm2_file.LAYERS,
            num_attention_heads=smollm2_file.HEADS,
            num_key_value_heads=smollm2_file.KEY_HEADS,
            max_position_embeddings=smollm2_file.PLACES,
            rms_norm_eps=1e-5,
            rope_theta=100_000.0,
            attention_dropout=self.dropout,
            use_cache=False,
            attn_implementation="sdpa",
        )
        if self.weights == "none":
            return LlamaModel(config)
        with torch.device("meta"):  # nothing is drawn that the file overwrites
            network = LlamaModel(config)
        network.rotary_emb = type(network.rotary_emb)(config)  # its angles are in no file
        network.load_state_dict(smollm2_file.tensors(), strict=True, assign=True)
        return network

    def encode_text(self, text: str) -> list[int]:
        """The tokens of a text by the package's own tokenizer."""
        return smollm2_tokenizer.bytes_and_merges().encode(text).ids  # type: ignore[no-any-return]


@cache
def _identity(file: str) -> str:
    """SHA-256 of the tensors in a file that was checked, once in a process: they are half a gigabyte."""
    return tensors_sha256(smollm2_file.tensors())
