"""What was read before, so that the next build reads only what is new."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from clarena.protocol.protocol import Track
from clarena.record import (
    archive,
    catalogue,
    curves,
    likelihoods,
    metrics,
    pooled,
    predictions,
    reader,
    recomputation,
    record,
    scoring,
    scorings,
)
from clarena.record.record import StrategyInfo
from clarena.record.writing import write_atomic
from clarena_leaderboard import collect, contents
from clarena_leaderboard.collect import Found
from clarena_leaderboard.contents import Run

CODE = (
    *(collect, contents, archive, catalogue, curves, likelihoods, metrics, pooled, predictions, reader),
    *(recomputation, record, scoring, scorings),
)
"""The modules that turn a record into a run."""


class Cache:
    """A file that remembers runs by where they were found, as long as nothing has changed there.

    It is worth the time it saves and nothing more: one that is lost, damaged, or written by other code is made anew.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._before = self._read()
        self._now: dict[str, tuple[str, Found]] = {}

    def get(self, key: str, stamp: str) -> Found | None:
        """What was found there when its stamp was this one, or None."""
        known = self._before.get(key)
        if known is None or known[0] != stamp:
            return None
        self._now[key] = known
        return known[1]

    def put(self, key: str, stamp: str, found: Found) -> None:
        """Remember what was found; of a plugin's target nothing, whose code may be another the next time."""
        if found.run.target in scorings.BUILT_IN:
            self._now[key] = (stamp, found)

    def save(self, *, forget: bool) -> None:
        """Write it; raises `StoreError` where that fails. `forget` drops what nobody asked for since it was opened."""
        known = self._now if forget else self._before | self._now
        if self._path is None or known == self._before:
            return
        tracks = {found.run.track: found.track for _, found in known.values()}
        infos = {found.info.model_dump_json(): found.info for _, found in known.values()}
        numbers = {text: number for number, text in enumerate(infos)}
        content = {
            "code": _code(),
            "tracks": {digest: track.model_dump() for digest, track in tracks.items()},
            "infos": [info.model_dump() for info in infos.values()],
            "runs": {
                key: [stamp, numbers[found.info.model_dump_json()], asdict(found.run)]
                for key, (stamp, found) in known.items()
            },
        }
        write_atomic(self._path, json.dumps(content).encode())

    def _read(self) -> dict[str, tuple[str, Found]]:
        try:
            content = json.loads(self._path.read_bytes()) if self._path else {}
            if content.get("code") != _code():
                return {}
            tracks = {digest: Track.model_validate(track) for digest, track in content["tracks"].items()}
            infos = [StrategyInfo.model_validate(info) for info in content["infos"]]
            return {
                key: (stamp, Found(run := _run(fields), infos[number], tracks[run.track]))
                for key, (stamp, number, fields) in content["runs"].items()
            }
        except (OSError, ValueError, TypeError, LookupError, AttributeError):
            return {}


def _run(fields: Mapping[str, Any]) -> Run:
    return Run(**{**fields, "flaws": tuple(fields["flaws"])})


def _code() -> str:
    """A hash over what turns a record into a run: other code, other numbers."""
    files = [Path(str(module.__file__)) for module in CODE]
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()
