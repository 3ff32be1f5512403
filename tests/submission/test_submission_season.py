"""Seasons: seeds nobody could know, from a secret that was committed to and cannot be changed afterwards."""

import hashlib
import stat

import pytest
from cli_command import clarena

from clarena.errors import UsageError
from clarena.record.record import FIRST_TUNING_SEED
from clarena.submission.season import Season, derived_seeds, new_season, read_season, reveal, secret_of

SECRET = "a secret"
SEASON = Season(name="s1", commitment=hashlib.sha256(SECRET.encode()).hexdigest(), opened="2026-01-01")


def hmac_by_definition(key: bytes, message: bytes) -> bytes:
    """RFC 2104: H((K xor opad) || H((K xor ipad) || message)), blocks of 64 bytes for SHA-256."""
    padded = key.ljust(64, b"\0")
    inner = hashlib.sha256(bytes(b ^ 0x36 for b in padded) + message).digest()
    return hashlib.sha256(bytes(b ^ 0x5C for b in padded) + inner).digest()


def test_seeds_are_the_first_four_bytes_of_the_hmac():
    macs = [hmac_by_definition(SECRET.encode(), f"track|s1|{k}".encode()) for k in range(3)]
    expected = [((m[0] * 256 + m[1]) * 256 + m[2]) * 256 + m[3] for m in macs]
    assert derived_seeds(SEASON, SECRET, "track", 3) == expected
    assert max(derived_seeds(SEASON, SECRET, "track", 200)) < FIRST_TUNING_SEED


def test_each_track_season_and_secret_has_its_own_and_a_longer_list_begins_with_the_shorter():
    seeds = derived_seeds(SEASON, SECRET, "track", 50)
    assert len(set(seeds)) == 50
    assert derived_seeds(SEASON, SECRET, "track", 5) == seeds[:5]
    for other in (
        derived_seeds(SEASON, SECRET, "other", 50),
        derived_seeds(SEASON.model_copy(update={"name": "s2"}), SECRET, "track", 50),
        derived_seeds(SEASON, "another", "track", 50),
    ):
        assert not set(other) & set(seeds)


def test_a_season_from_its_opening_to_its_end(tmp_path):
    public, file = tmp_path / "season.toml", tmp_path / "keys" / "s.secret"
    opened = new_season("2026-autumn", 7, public, file)
    secret = file.read_text().strip()
    assert opened.commitment == hashlib.sha256(secret.encode()).hexdigest()
    assert len(secret) == 64
    assert secret not in public.read_text()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert read_season(public) == opened
    assert secret_of(opened, file) == secret
    for again in (lambda: new_season("b", 7, public, tmp_path / "x"), lambda: new_season("b", 7, tmp_path / "y", file)):
        with pytest.raises(UsageError, match="exists already"):
            again()
    assert file.read_text().strip() == secret
    ended = reveal(public, file)
    assert read_season(public) == ended
    assert ended.ended is not None
    assert secret_of(ended, tmp_path / "nowhere") == secret
    with pytest.raises(UsageError, match="ended on"):
        reveal(public, file)


def test_no_other_secret_passes_for_the_one_committed_to(tmp_path):
    public, file = tmp_path / "season.toml", tmp_path / "secret"
    new_season("s", 3, public, file)
    file.write_text("0" * 64)
    with pytest.raises(UsageError, match="not the one that the season committed to"):
        secret_of(read_season(public), file)
    with pytest.raises(UsageError, match="not the one"):
        reveal(public, file)
    public.write_text(public.read_text() + 'secret = "1234"\n')
    with pytest.raises(UsageError, match="not the one that the season committed to"):
        read_season(public)


@pytest.mark.parametrize("text", ["name = 3", "name", "\xff", 'name = "a"\ncommitment = "b"\nopened = 2026-01-01'])
def test_a_file_that_is_no_season_is_said_to_be_none(tmp_path, text):
    (tmp_path / "s.toml").write_bytes(text.encode("latin-1"))
    with pytest.raises(UsageError, match="season"):
        read_season(tmp_path / "s.toml")
    with pytest.raises(UsageError, match="There is no season"):
        read_season(tmp_path / "nowhere.toml")


def test_the_command(tmp_path):
    options = ("--file", tmp_path / "s.toml", "--secret", tmp_path / "secret")
    assert clarena("season", "new", *options).code == 2
    assert clarena("season", "check", *options).code == 2
    opened = clarena("season", "new", "2026-a", "--seeds", 4, *options)
    assert opened.code == 0, opened.err
    assert read_season(tmp_path / "s.toml").seeds == 4
    assert read_season(tmp_path / "s.toml").commitment in opened.out
    assert "is open since" in clarena("season", "check", *options).out
    assert (tmp_path / "secret").read_text().strip() not in opened.out
    assert clarena("season", "reveal", *options).code == 0
    assert "its secret is the one it committed to" in clarena("season", "check", *options).out
