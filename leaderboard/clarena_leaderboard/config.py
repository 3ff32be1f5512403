"""What a maintainer may decide about a board; everything has a default, so that any store makes one."""

import tomllib
from pathlib import Path
from typing import Annotated

from pydantic import Field, ValidationError, field_validator

from clarena.errors import UsageError, unknown_name
from clarena.protocol.frozen import FrozenModel
from clarena.record.metrics import METRICS
from clarena.record.pooled import POOLED_METRICS

Seeds = Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)]


class TrackConfig(FrozenModel):
    """What is decided for one track.

    Attributes:
        seeds: those that a ranked row must have finished.
    """

    seeds: Seeds | None = None


class BoardConfig(FrozenModel):
    """Decisions about a board: `leaderboard/board.toml`.

    Attributes:
        title: what the board is called.
        seeds: those that a ranked row must have finished where its track says nothing else; a number is so many,
            from 0 on.
        sort_key: the metric that orders ranked rows, in its direction; None: the headline of each track.
        tracks: decisions for single tracks, by a beginning of the digest or by label.
        primary: tracks (likewise) that are shown first, in this order; where any are named, only these count across
            tracks.
    """

    title: str = "CLArena"
    seeds: Seeds | Annotated[int, Field(ge=1)] | None = None
    sort_key: str | None = None
    tracks: dict[str, TrackConfig] = {}
    primary: tuple[str, ...] = ()

    @field_validator("sort_key")
    @classmethod
    def _known(cls, name: str | None) -> str | None:
        known = [*METRICS, *POOLED_METRICS]
        if name is not None and name not in known:
            raise unknown_name("metric", name, known)
        return name

    def required(self, digest: str, label: str) -> tuple[int, ...] | None:
        """The seeds that are required of a track, or None where nothing was decided."""
        for key, track in self.tracks.items():
            if track.seeds and names(key, digest, label):
                return tuple(sorted(set(track.seeds)))
        if isinstance(self.seeds, int):
            return tuple(range(self.seeds))
        return tuple(sorted(set(self.seeds))) if self.seeds else None

    def place(self, digest: str, label: str) -> int:
        """Where a track is shown: its place among the primary ones, or after them."""
        places = (place for place, key in enumerate(self.primary) if names(key, digest, label))
        return next(places, len(self.primary))

    def is_primary(self, digest: str, label: str) -> bool:
        """Whether a track is one of the primary ones."""
        return self.place(digest, label) < len(self.primary)


def names(key: str, digest: str, label: str) -> bool:
    """Whether a person who writes `key` means this track: its label, or at least eight digits of its digest."""
    return key == label or (len(key) >= 8 and digest.startswith(key))


def read_config(path: Path) -> BoardConfig:
    """Read a board's TOML.

    Raises:
        UsageError: where it cannot be read, or says what no board knows.
    """
    try:
        return BoardConfig.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"The board's settings {path} cannot be read: {error}") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise UsageError(
            f"The board's settings {path} are not valid ({where}: {first['msg']}). "
            f"Known: {', '.join(BoardConfig.model_fields)}."
        ) from error
