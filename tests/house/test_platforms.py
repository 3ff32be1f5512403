"""What exists on Unix alone is imported where it is used: on Windows every module can be imported."""

import subprocess
import sys

from test_architecture import ROOT

UNIX = ("fcntl", "grp", "posix", "pty", "pwd", "resource", "syslog", "termios", "tty")
IMPORT_ALL = """
import builtins, importlib, pkgutil

OURS = ("clarena", "clarena_native", "clarena_data", "clarena_leaderboard")
imported = builtins.__import__

def without_unix(name, globals=None, locals=None, fromlist=(), level=0):
    asks = (globals or {{}}).get("__name__", "")
    if level == 0 and name.partition(".")[0] in {unix} and asks.partition(".")[0].startswith("clarena"):
        raise ImportError(f"{{asks}} imports {{name}}, which is not everywhere")
    return imported(name, globals, locals, fromlist, level)

builtins.__import__ = without_unix
count = 0
for package in map(importlib.import_module, OURS):
    for found in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        importlib.import_module(found.name)
        count += 1
from clarena.run import environment
import torch
print(count, environment.peak_memory(torch.device("cpu")) >= 0)
"""


def test_every_module_is_imported_without_what_unix_alone_has():
    script = IMPORT_ALL.format(unix=UNIX)
    told = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stderr
    count, measured = told.stdout.split()
    assert int(count) > 100
    assert measured == "True"


def test_platforms_are_declared():
    text = (ROOT / "pyproject.toml").read_text()
    assert "Operating System :: POSIX :: Linux" in text
    assert "Operating System :: MacOS" in text
