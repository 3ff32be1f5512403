"""The tokenizer in the file of the packaged SmolLM2: pairs of bytes, as GPT-2's, with digits apart."""

from functools import cache
from typing import Any

from .smollm2_file import vocabulary


@cache
def bytes_and_merges() -> Any:
    """The tokenizer as the library `tokenizers` has it; to it the marks of chats are text like other text."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    words, merges = vocabulary()
    made = Tokenizer(models.BPE(vocab=words, merges=merges))
    digits, pieces = pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.pre_tokenizer = pre_tokenizers.Sequence([digits, pieces])
    made.decoder = decoders.ByteLevel()
    return made


def tokenizer() -> Any:
    """The same, as transformers has them."""
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(tokenizer_object=bytes_and_merges())
