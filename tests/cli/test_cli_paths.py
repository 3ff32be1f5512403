"""Paths as people and machines give them: no home directory, `.`, and longer than a file system allows."""

import pytest
from cli_command import clarena

from clarena import UsageError, data_root, user_path

LONG = "x" * 3000


@pytest.fixture
def no_home(monkeypatch):
    """A container under a random user: no HOME, no entry in passwd."""
    import pwd

    def unknown(uid):
        raise KeyError(uid)

    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.delenv("CLARENA_DATA", raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)


@pytest.mark.usefixtures("no_home")
@pytest.mark.parametrize(
    "command",
    [
        ("season", "new", "autumn", "--file", "season.toml"),
        ("evaluate", "finetune", "--benchmark", "split:~/mine.npz", "--dry-run"),
        ("evaluate", "finetune", "--benchmark", "split-mnist", "--dry-run"),
        ("list", "--plugin", "~/mine.py"),
        ("check", "~/mine.py"),
        ("submit", "~/mine.py", "--track", "split-digits/class"),
    ],
    ids=" ".join,
)
def test_without_a_home_directory_one_message_says_so(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    outcome = clarena(*command)
    assert outcome.code == 2
    assert "begins in a home directory, and none is known here. Set HOME" in outcome.err
    assert "is faulty" not in outcome.err
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("no_home")
def test_doctor_works_without_a_home_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    outcome = clarena("doctor", "--no-plugins")
    assert outcome.code == 0, outcome.out
    assert "none is known here" in outcome.out
    with pytest.raises(UsageError, match="CLARENA_DATA"):
        data_root()
    monkeypatch.setenv("CLARENA_DATA", str(tmp_path))
    assert data_root() == tmp_path


@pytest.mark.parametrize(
    "command",
    [
        ("results", "--store", LONG),
        ("check", f"{LONG}.py"),
        ("submit", f"{LONG}.py", "--track", "split-digits/class"),
        ("verify", LONG),
        ("list", "--plugin", f"{LONG}.py"),
        ("list", "--plugins-dir", LONG),
        ("evaluate", "finetune", "--benchmark", f"split:{LONG}.npz", "--dry-run"),
        ("evaluate", "finetune", "--store", LONG, "--protocol", "smoke", "--limit", "16", "--seeds", "1"),
        ("season", "check", "--file", LONG),
        ("leaderboard", "build", "--store", LONG),
        ("compare", "a", "b", "--store", LONG),
        ("new", "mine", "--dir", LONG),
        ("sync", "--store", LONG),
        ("reproduce", f"{LONG}.toml"),
    ],
    ids=lambda command: " ".join(command)[:30],
)
def test_a_path_that_is_too_long_is_an_error_in_words(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    outcome = clarena(*command)
    assert outcome.code in (1, 2)
    assert "Traceback" not in outcome.err
    assert "Error: " in outcome.err or "There is no" in outcome.err


def test_submit_of_this_folder_is_answered(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder in (".", "/"):
        outcome = clarena("submit", folder, "--track", "split-digits/class")
        assert outcome.code == 2
        assert "is no plugin" in outcome.err
    assert user_path(".") == tmp_path


def test_season_check_looks_at_the_secret_while_it_is_open(tmp_path):
    file, kept, other = tmp_path / "season.toml", tmp_path / "secret", tmp_path / "other"
    assert clarena("season", "new", "autumn", "--file", file, "--secret", kept).code == 0
    other.write_text("not it\n")
    assert "is open since" in clarena("season", "check", "--file", file).out
    assert "is the one it committed to" in clarena("season", "check", "--file", file, "--secret", kept).out
    outcome = clarena("season", "check", "--file", file, "--secret", other)
    assert outcome.code == 2
    assert "is not the one that the season committed to" in outcome.err
    assert clarena("season", "reveal", "--file", file, "--secret", kept).code == 0
    assert clarena("season", "check", "--file", file, "--secret", other).code == 2
    assert clarena("season", "check", "--file", file, "--secret", kept).code == 0
