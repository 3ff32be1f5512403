"""A plugin's source as files: gathered from its author's folder, and loaded again from wherever it was unpacked."""

import configparser
import re
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from clarena.errors import UsageError
from clarena.plugins.host import PluginSources
from clarena.plugins.identity import closure

MOST_FILE_BYTES = 2**20
"""Of one source file: more than a reviewer reads, and less than weights or a data set need."""


@dataclass(frozen=True)
class GatheredSource:
    """What is loaded (a file `mymethod.py`, or the name of a package), and all files by path."""

    entry: str
    files: dict[str, bytes]


def gather(target: Path) -> GatheredSource:
    """The source of a one-file plugin with the helpers beside it, of a package's folder, or of a pure wheel.

    Raises:
        UsageError: for anything else, names that are not plain, and files too large to be source.
    """
    if target.suffix == ".whl":
        source = _wheel(target)
    elif (target / "__init__.py").is_file():
        paths = [path for path in sorted(target.rglob("*")) if path.is_file() and "__pycache__" not in path.parts]
        name = target.resolve().name
        source = GatheredSource(
            name, {f"{name}/{path.relative_to(target).as_posix()}": path.read_bytes() for path in paths}
        )
    elif target.suffix == ".py" and target.is_file():
        # The files that the strategy's source hash covers.
        try:
            paths = sorted(closure(target.absolute(), target.stem))
        except SyntaxError as error:
            raise UsageError(f"{target} is no Python: {error.msg} (at line {error.lineno}).") from error
        source = GatheredSource(target.name, {path.name: path.read_bytes() for path in paths})
    else:
        raise UsageError(
            f"{target} is no plugin. Submit a file mymethod.py, a package's folder (with its __init__.py), or a wheel."
        )
    for name, content in source.files.items():
        if not all(re.fullmatch(r"[A-Za-z0-9_+-][A-Za-z0-9_+.-]*", part) for part in PurePosixPath(name).parts):
            raise UsageError(f"{name} cannot be submitted: use letters, digits and _+.- in names of files.")
        if len(content) > MOST_FILE_BYTES:
            raise UsageError(
                f"{name} has {len(content)} bytes; {MOST_FILE_BYTES} are the limit of a source file. "
                "Weights and data are no part of a submission: a strategy learns from the stream alone."
            )
    return source


@contextmanager
def importable(folder: Path) -> Iterator[None]:
    """Modules in this folder can be imported inside."""
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))


def plugin_sources(folder: Path, entry: str) -> PluginSources:
    """Where a host finds the plugin that was unpacked into a folder, itself `importable`, and no other stranger's."""
    if entry.endswith(".py"):
        return PluginSources(files=[folder / entry], third_party=False)
    return PluginSources(modules=[entry], third_party=False)


def _wheel(target: Path) -> GatheredSource:
    """The files of a wheel of pure Python; its entry point in the group `clarena` is what is loaded."""
    try:
        with zipfile.ZipFile(target) as archive:
            infos = [info for info in archive.infolist() if not info.is_dir() and not info.filename.endswith("/RECORD")]
            if any(info.file_size > MOST_FILE_BYTES for info in infos):
                raise UsageError(f"{target} holds a file of more than {MOST_FILE_BYTES} bytes: that is no source.")
            files = {info.filename: archive.read(info) for info in infos}
    except (OSError, zipfile.BadZipFile) as error:
        raise UsageError(f"{target} is not a wheel that can be read: {error}.") from error
    points = configparser.ConfigParser()
    for name, content in files.items():
        if name.endswith(".dist-info/entry_points.txt"):
            points.read_string(content.decode())
    entries = list(points["clarena"].values()) if points.has_section("clarena") else []
    if len(entries) != 1:
        raise UsageError(f"{target} has {len(entries)} entry points in the group clarena; a submission has one.")
    return GatheredSource(entries[0].partition(":")[0].strip(), files)
