"""The references of a track that starts from weights: which are there, which are missing, what falls below the line.

A method on a pre-trained backbone that does not beat the nearest class mean of its features is worth less than one pass
without any training.
"""

import json
import shlex
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from clarena.protocol.protocol import Track

LINE = "ncm"
"""The reference below which a row is marked."""

CHEAP = {LINE: "nearest class mean", "ridge": "ridge regression on frozen features"}
"""References of one pass over the data, which `clarena evaluate` adds by itself to a track that starts from weights."""

BELOW = "below nearest class mean"


def expected(track: Track) -> dict[str, str]:
    """The references that a table of this track should have, and what each is; none where it starts from no weights.

    Joint training is the joint linear probe where features are frozen, and joint fine-tuning where they learn.
    """
    if not track.pretrained:
        return {}
    return CHEAP | {"joint": "the joint linear probe" if track.frozen else "joint fine-tuning"}


def missing(track: Track, finished: Collection[str]) -> str:
    """In words, which references have no finished run, and how they are added; empty where none is missing."""
    lacking = {name: what for name, what in expected(track).items() if name not in finished}
    named = ", ".join(f"{name} ({what})" for name, what in lacking.items())
    lines = [f"Missing references: {named}. Add them: {command(track, list(lacking))}"] if lacking else []
    return "\n".join([*lines, probe(track)] if probe(track) else lines)


def probe(track: Track) -> str:
    """Where the joint linear probe is, if this track is not the one that has it."""
    if track.pretrained and not track.frozen:
        return "The joint linear probe is joint on the track of its frozen features: --set backbone.frozen=true"
    return ""


def below(values: Mapping[int, float], line: Mapping[int, float]) -> bool:
    """Whether the mean of a row is below that of the line: over the seeds that both have, else over those of each."""
    shared = values.keys() & line.keys()
    row, other = ([each[seed] for seed in shared] or list(each.values()) for each in (values, line))
    return bool(row and other) and round(sum(row) / len(row), 12) < round(sum(other) / len(other), 12)


def command(track: Track, strategies: Sequence[str]) -> str:
    """`clarena evaluate` of these strategies on a track, with all that was set there but the protocol's defaults."""
    words = ["clarena", "evaluate", *strategies, "--benchmark", track.benchmark.name, "--scenario", track.scenario]
    words += ["--backbone", track.backbone.name]
    owners: dict[str, Mapping[str, Any]] = {
        "benchmark": track.benchmark.options,
        "stream": track.stream.model_dump(exclude_defaults=True),
        "backbone": track.backbone.options,
        "protocol": track.protocol.model_dump(mode="json", exclude_defaults=True, exclude={"revision", "tested_on"}),
    }
    for owner, values in owners.items():
        for name, value in values.items():
            words += ["--set", f"{owner}.{name}={_text(value)}"]
    return shlex.join(words)


def _text(value: Any) -> str:
    """A value as `--set` reads it."""
    if value is None:
        return "none"
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))
