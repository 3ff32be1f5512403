"""What a text is made of for a language model: bytes, subwords learned of a text, or those of a given tokenizer."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from clarena_data.subwords import loaded
from numpy.typing import NDArray

from clarena import UsageError


class Tokens(NamedTuple):
    """A vocabulary: the name of each token, its length in bytes, and how a text becomes token numbers [n].

    `learned` is what was learned of it, from which it can be had again; empty for one that is fixed.
    """

    names: tuple[str, ...]
    sizes: tuple[int, ...]
    encode: Callable[[str], NDArray[np.int64]]
    learned: str = ""


def single_bytes() -> Tokens:
    """Every byte of UTF-8 is a token."""
    names = tuple(chr(byte) if 33 <= byte < 127 else f"0x{byte:02X}" for byte in range(256))
    return Tokens(names, (1,) * 256, lambda text: np.frombuffer(text.encode(), dtype=np.uint8).astype(np.int64))


def learned_subwords(text: str, size: int) -> Tokens:
    """At most `size` pieces of words, learned from a text; all bytes are among them, so any text can be written.

    Raises:
        UsageError: when the library is missing.

    Source: Sennrich et al. 2016 (byte-pair encoding), on bytes as in Radford et al. 2019 (GPT-2).
    """
    tokenizers = _tokenizers()
    pieces = tokenizers.pre_tokenizers.ByteLevel
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = pieces(add_prefix_space=False)
    trainer = tokenizers.trainers.BpeTrainer(vocab_size=size, initial_alphabet=pieces.alphabet(), show_progress=False)
    tokenizer.train_from_iterator([text], trainer)
    return known_subwords(tokenizer.to_str())


def known_subwords(learned: str) -> Tokens:
    """The pieces of words of a tokenizer as it was written down; raises `UsageError` when the library is missing."""
    tokenizer = _tokenizers().Tokenizer.from_str(learned)
    numbered = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    names = tuple(name for name, _ in numbered)
    # In a name, each byte is one character of the alphabet.
    sizes = tuple(map(len, names))

    def numbers(text: str) -> NDArray[np.int64]:
        return np.array(tokenizer.encode(text, add_special_tokens=False).ids, dtype=np.int64)

    return Tokens(names, sizes, numbers, learned)


def given_subwords(name: str) -> Tokens:
    """The subwords of the tokenizer of this name or in this folder, all of them, also those that no text has.

    Raises:
        PluginError, DataError: as `clarena_data.subwords.loaded`.
        UsageError: for one that does not work on bytes: then nobody knows how many bytes a subword stands for.
    """
    tokenizer = getattr(loaded(name), "backend_tokenizer", None)
    if tokenizer is None or '"ByteLevel"' not in tokenizer.to_str():
        raise UsageError(
            f"The subwords of the tokenizer {name} are no strings of bytes, so bits per byte cannot be told. Take one "
            "that works on bytes, as those of GPT-2, Llama 3 and smollm2 do."
        )
    return known_subwords(tokenizer.to_str())


def _tokenizers() -> Any:
    try:
        import tokenizers
    except ModuleNotFoundError as error:
        raise UsageError(
            "Subwords need tokenizers, which is not installed: pip install 'clarena-bench[text]'\n"
            "Bytes need nothing: --set benchmark.tokens=bytes."
        ) from error
    return tokenizers
