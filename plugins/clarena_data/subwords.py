"""The tokenizers of pre-trained models, whose subwords texts may be given as."""

from importlib import import_module
from pathlib import Path
from typing import Any

from clarena import DataError, PluginError

PACKAGED = {"minilm": "clarena_weights.sentences", "smollm2": "clarena_weights.smollm2_tokenizer"}
"""The tokenizers that the extra `weights` brings, those of the backbones of these names, and which module has each."""


def source_files(tokenizer: str | None) -> list[Path]:
    """The folder of a tokenizer, where that is one; a packaged one is checked when it is loaded."""
    if tokenizer is None or tokenizer in PACKAGED:
        return []
    return [Path(tokenizer)] * Path(tokenizer).is_dir()


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
    if tokenizer in PACKAGED:
        return packaged(tokenizer)
    try:
        return AutoTokenizer.from_pretrained(tokenizer)
    except (OSError, ValueError, KeyError) as error:
        first = str(error).strip().partition("\n")[0]
        raise DataError(
            f"The tokenizer {tokenizer} cannot be loaded: {first} Give a folder that holds one, or run once online."
        ) from error


def packaged(tokenizer: str) -> Any:
    """The packaged tokenizer of this name; raises `PluginError` where the package is not installed."""
    try:
        return import_module(PACKAGED[tokenizer]).tokenizer()
    except ModuleNotFoundError as error:
        raise PluginError(
            f"The tokenizer {tokenizer} needs the package {error.name!r}, which is not installed. "
            "Run: pip install 'clarena-bench[weights]'"
        ) from error
