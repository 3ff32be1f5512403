"""The command line where something is amiss around it: no working directory, a signal while it starts, few files."""

import os
import subprocess
import sys

import pytest
from cli_command import clarena

from clarena import UsageError, evaluate
from clarena.cli import app


@pytest.fixture
def nowhere(tmp_path):
    """A working directory that was removed."""
    before = os.getcwd()
    (tmp_path / "gone").mkdir()
    os.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    yield tmp_path
    os.chdir(before)


@pytest.mark.parametrize("arguments", [["list"], ["doctor"], ["results"], ["evaluate", "finetune"]])
def test_a_working_directory_that_was_removed_is_said(nowhere, arguments):
    told = clarena(*arguments)
    assert told.code == 2
    assert "The working directory no longer exists." in told.err


def test_from_python_as_well(nowhere):
    with pytest.raises(UsageError, match="The working directory no longer exists"):
        evaluate("finetune", protocol="smoke", track=False, store=nowhere / "store")


def test_ctrl_c_while_commands_are_imported_is_no_traceback(tmp_path):
    script = (
        "import sys\n"
        "class Interrupting:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name == 'clarena.cli.commands': raise KeyboardInterrupt\n"
        "sys.meta_path.insert(0, Interrupting())\n"
        "from clarena.cli import main\n"
        "main()\n"
    )
    told = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (told.returncode, told.stderr.strip()) == (130, "Error: Stopped.")


def test_too_few_open_files_is_said_with_what_to_do(monkeypatch):
    def short_of_files(*_, **__):
        raise OSError(24, "Too many open files", "some file")

    monkeypatch.setattr(type(app), "__call__", short_of_files)
    told = clarena("list")
    assert (told.code, told.err.strip()) == (1, "Error: Too many open files. Allow more: ulimit -n 1024")
