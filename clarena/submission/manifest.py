"""What a bundle says of itself: whose it is, what runs, and which numbers are claimed for it."""

import json
from typing import Annotated, Any, Literal

from pydantic import Field, JsonValue, ValidationError

from clarena.errors import ClarenaError
from clarena.protocol.frozen import FrozenModel
from clarena.protocol.protocol import Track
from clarena.record.record import Cell, Number, StrategyInfo

SCHEMA_VERSION = 1

Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Line = Annotated[
    str, Field(min_length=1, max_length=500, pattern=r"^[^\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]+$")
]
"""Text on one line, without control characters and without marks that turn the direction of writing."""
Name = Annotated[str, Field(max_length=64, pattern=r"^[a-z0-9][a-z0-9+._-]*$")]
Path = Annotated[str, Field(max_length=300, pattern=r"^(source|records)(/[A-Za-z0-9_+-][A-Za-z0-9_+.-]{0,199})+$")]
"""Relative, of plain characters; no component begins with a dot, so none leads out."""


class BundleError(ClarenaError):
    """A bundle cannot be believed: it is damaged, altered, or claims what it does not hold."""


class ClaimedRun(FrozenModel):
    """One seed's numbers; the record with this cell id must bear them out."""

    seed: Annotated[int, Field(ge=0)]
    cell: Digest
    metrics: dict[str, Number]


class Claim(FrozenModel):
    """A row of one track."""

    track: Track
    learning_rate: Annotated[float, Field(gt=0)]
    runs: Annotated[list[ClaimedRun], Field(min_length=1)]

    @property
    def seeds(self) -> list[int]:
        """The claimed seeds, in the order given."""
        return [run.seed for run in self.runs]


class Manifest(FrozenModel):
    """The first part of a bundle.

    Attributes:
        name: of the submission; the strategy's, unless its authors chose another.
        paper: an https link, or a citation.
        licence: of the source, as its SPDX identifier.
        entry: what is loaded: the file in `source/`, or the name of the package there.
        strategy: its name; source_hash, identity, hyperparameters: as in its records.
        chosen: how the hyper-parameters were chosen: `default`, `by hand`, `paper`, `tuned (50 trials)`.
        claims: one for each track.
        parts: SHA-256 of every other file in the bundle, by its path.
        clarena: the version that wrote it.
    """

    schema_version: Literal[1] = 1
    name: Name
    authors: Annotated[list[Line], Field(min_length=1, max_length=100)]
    paper: Line | Literal[""] = ""
    licence: Line
    entry: Annotated[str, Field(pattern=r"^[A-Za-z_]\w*(\.\w+)*$", max_length=100)]
    strategy: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9+./_-]*$", max_length=200)]
    source_hash: Digest
    identity: Digest | Literal[""] = ""
    hyperparameters: dict[str, JsonValue]
    chosen: Line
    claims: Annotated[list[Claim], Field(min_length=1)]
    parts: dict[Path, Digest]
    clarena: Line

    def cell(self, claim: Claim, seed: int) -> Cell:
        """The cell of a claimed row under this seed: its `row` and `id` are those that its record must have."""
        info = StrategyInfo(
            name=self.strategy,
            plugin=f"submission {self.name}",
            source_hash=self.source_hash,
            identity=self.identity,
            hyperparameters=self.hyperparameters,
            learning_rate=claim.learning_rate,
            chosen=self.chosen,
        )
        return Cell(track=claim.track, strategy=info, seed=seed)

    def row(self, claim: Claim) -> str:
        """The identity of a claimed row."""
        return self.cell(claim, 0).row


def read_json(content: bytes | str, model: type[FrozenModel], what: str, version: int = SCHEMA_VERSION) -> Any:
    """Validate JSON that others wrote; raises `BundleError` with what is wrong, and for a newer schema says so."""
    try:
        data = json.loads(content)
        written = data.get("schema_version") if isinstance(data, dict) else None
        if isinstance(written, int) and written > version:
            raise BundleError(f"The {what} has schema {written}; this CLArena reads up to {version}. Upgrade it.")
        return model.model_validate_json(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the whole"
        raise BundleError(f"The {what} is not valid ({where}: {first['msg']}).") from error
    except (ValueError, RecursionError) as error:
        raise BundleError(f"The {what} is not JSON that can be read: {error}.") from error
