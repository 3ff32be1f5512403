"""A language stream as small as it gets: two texts in files, and a backbone of one layer."""

from pathlib import Path
from typing import Any

from clarena_native.backbones.transformers import TextTransformer
from clarena_text.language import OwnTexts
from tiny import Walk, walk

from clarena import Benchmark
from clarena.contract.strategy import Strategy

TEXTS = {"ab.txt": "abab" * 50, "xyz.txt": "xyz " * 50}
"""Text by file; each ends with a tenth that is held out."""

SMALL = {"context": 8, "order": "natural"}
WIDTH = {"width": 8, "depth": 1, "heads": 2}


def write(folder: Path) -> str:
    """Write the texts; return the name of their benchmark."""
    for name, text in TEXTS.items():
        (folder / name).write_text(text)
    return f"language:{','.join(str(folder / name) for name in TEXTS)}"


def own(folder: Path, **options: Any) -> Benchmark:
    """The benchmark of the texts, written to the folder."""
    return OwnTexts.of(write(folder).removeprefix("language:"))(**(SMALL | options))


def language_walk(strategy: type[Strategy] | Strategy, folder: Path, **protocol: Any) -> Walk:
    """A strategy set up on the tiny language stream."""
    argument = write(folder).removeprefix("language:")
    return walk(
        strategy,
        "domain",
        backbone=TextTransformer,
        options=WIDTH,
        benchmark=OwnTexts.of(argument),
        benchmark_options=SMALL,
        **protocol,
    )
