"""Seeds that no author could know: derived from a secret that was committed to beforehand, revealed when all is over.

A season's file is public. It names the season and the SHA-256 of its secret; once that is revealed, anyone derives
the same seeds and can run everything again.
"""

import hashlib
import hmac
import secrets
import tomllib
from datetime import date
from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, ValidationError, model_validator

from clarena.errors import UsageError
from clarena.protocol.frozen import FrozenModel
from clarena.record.record import FIRST_TUNING_SEED
from clarena.record.writing import write_atomic
from clarena.submission.manifest import Digest, Name


class Season(FrozenModel):
    """One round of verification.

    Attributes:
        name: of the season.
        commitment: SHA-256 of the secret.
        seeds: how many hidden seeds a verified row has on each track.
        opened, ended: when the commitment was published, and the secret.
        secret: once it is revealed.
    """

    name: Name
    commitment: Digest
    seeds: Annotated[int, Field(ge=1, le=1000)] = 10
    opened: date
    ended: date | None = None
    secret: str | None = None

    @model_validator(mode="after")
    def _kept_its_word(self) -> Self:
        if self.secret is not None:
            self.check(self.secret)
        return self

    def check(self, secret: str) -> None:
        """Raise `ValueError` for a secret other than the one committed to."""
        if _commitment(secret) != self.commitment:
            raise ValueError("the secret is not the one that the season committed to")


def derived_seeds(season: Season, secret: str, track: str, count: int) -> list[int]:
    """The first hidden seeds of a track (its digest): the same for every row of its table and for its references.

    seed_k = the first four bytes, big-endian, of HMAC-SHA256(secret, "track|season|k"), k = 0, 1, …; a seed that
    came up before is passed over. Four bytes: the seeds of ranked runs end where those of tuning runs begin.
    """
    assert FIRST_TUNING_SEED == 2**32
    found: dict[int, None] = {}
    k = 0
    while len(found) < count:
        mac = hmac.digest(secret.encode(), f"{track}|{season.name}|{k}".encode(), "sha256")
        found[int.from_bytes(mac[:4])] = None
        k += 1
    return list(found)


def read_season(path: Path) -> Season:
    """Read a season's file; raises `UsageError` where it is not valid."""
    try:
        return Season.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise UsageError(
            f"There is no season at {path}: {error.strerror}. Make one: clarena season new NAME"
        ) from error
    except ValidationError as error:
        first = error.errors()[0]
        raise UsageError(
            f"The season {path} is not valid: {'.'.join(map(str, first['loc']))} {first['msg']}."
        ) from error
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"The season {path} cannot be read: {error}.") from error


def secret_of(season: Season, file: Path) -> str:
    """The secret: as revealed, or from the maintainer's file; raises `UsageError` without it, or for another one."""
    if season.secret is not None:
        return season.secret
    try:
        secret = file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            f"The season {season.name} is open, and its secret cannot be read from {file}: {error}. "
            "Name the file with --secret, or verify without --season: hidden seeds are then left out."
        ) from error
    try:
        season.check(secret)
    except ValueError as error:
        raise UsageError(f"{file}: {error}.") from error
    return secret


def new_season(name: str, seeds: int, path: Path, file: Path) -> Season:
    """Draw a secret, keep it in `file`, and write the season to `path`; nothing that exists is overwritten."""
    for present in (path, file):
        if present.exists():
            raise UsageError(f"{present} exists already. Name another file, or move it away.")
    secret = secrets.token_hex(32)
    try:
        season = Season(name=name, commitment=_commitment(secret), seeds=seeds, opened=date.today())
    except ValidationError as error:
        first = error.errors()[0]
        raise UsageError(f"A season cannot be so: {'.'.join(map(str, first['loc']))} {first['msg']}.") from error
    file.parent.mkdir(parents=True, exist_ok=True)
    file.touch(mode=0o600)
    file.write_text(f"{secret}\n", encoding="utf-8")
    write_atomic(path, _text(season).encode())
    return season


def reveal(path: Path, file: Path) -> Season:
    """End a season: write its secret into its file."""
    season = read_season(path)
    if season.secret is not None:
        raise UsageError(f"The season {season.name} ended on {season.ended}: its secret is in {path}.")
    secret = secret_of(season, file)
    season = season.model_copy(update={"secret": secret, "ended": date.today()})
    write_atomic(path, _text(season).encode())
    return season


def _commitment(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def _text(season: Season) -> str:
    """TOML; names and digests need no escapes."""
    lines = [f'name = "{season.name}"', f'commitment = "{season.commitment}"  # SHA-256 of the secret']
    lines += [f"seeds = {season.seeds}", f"opened = {season.opened}"]
    if season.secret is not None:
        lines += [f"ended = {season.ended}", f'secret = "{season.secret}"']
    return "\n".join(lines) + "\n"
