"""A bundle: one zip file, the same bytes for the same parts, and read without trusting a byte of it.

manifest.json
source/…      the plugin: one file with its helpers, or a package
records/…     a store (see `clarena.record.store`): records and predictions

Files are stored, not compressed: what matters is compressed inside already, no zlib takes part in the bytes, and a
zip bomb has nothing to unfold.
"""

import hashlib
import io
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from clarena.errors import UsageError
from clarena.record.archive import pack
from clarena.submission.manifest import BundleError, Manifest, read_json

MANIFEST, SOURCE, RECORDS = "manifest.json", "source", "records"
MOST_BYTES = 2**30
MOST_PARTS = 10_000


@dataclass(frozen=True)
class Bundle:
    """A bundle whose parts are what its manifest says they are.

    Attributes:
        digest: SHA-256 of the whole file.
        parts: content by path, the manifest's own included.
    """

    digest: str
    manifest: Manifest
    parts: Mapping[str, bytes]

    def unpack(self, folder: Path) -> None:
        """Write all parts below a folder."""
        write_files(folder, self.parts)


def read_bundle(path: Path) -> Bundle:
    """Read a bundle.

    Raises:
        UsageError: there is no such file.
        BundleError: it is not exactly what `pack` makes of its parts, or a part is not what the manifest says.
    """
    try:
        size = path.stat().st_size
        content = path.read_bytes() if size <= MOST_BYTES else b""
    except OSError as error:
        raise UsageError(f"The bundle {path} cannot be read: {error.strerror}.") from error
    if size > MOST_BYTES:
        raise BundleError(f"The bundle has {size} bytes; {MOST_BYTES} are the limit.")
    parts = _parts(content)
    if MANIFEST not in parts:
        raise BundleError(f"The bundle has no {MANIFEST}. Make it with: clarena submit")
    manifest: Manifest = read_json(parts[MANIFEST], Manifest, "manifest")
    for name in sorted(manifest.parts.keys() | (parts.keys() - {MANIFEST})):
        if name not in parts:
            raise BundleError(f"{name} is missing: the manifest lists it.")
        if name not in manifest.parts:
            raise BundleError(f"{name} is not listed in the manifest.")
        if sha256(parts[name]) != manifest.parts[name]:
            raise BundleError(f"{name} was altered: its SHA-256 is not the one in the manifest.")
    return Bundle(sha256(content), manifest, parts)


def write_files(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write files below a folder, for the time being: nothing waits for the disk."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def sha256(content: bytes) -> str:
    """SHA-256 in hexadecimal."""
    return hashlib.sha256(content).hexdigest()


def _parts(content: bytes) -> dict[str, bytes]:
    """The parts of a zip; whatever is odd about it is an error, so nothing needs to be worked around later."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            infos = archive.infolist()
            _check_index(infos)
            parts = {info.filename: archive.read(info) for info in infos}
    except (zipfile.BadZipFile, EOFError, OSError, ValueError, RuntimeError, NotImplementedError) as error:
        raise BundleError(
            f"The bundle is not a whole zip file: {error}. It may be truncated: ask for it again."
        ) from error
    if pack(parts) != content:
        raise BundleError("The bundle was packed by something else than clarena submit: it holds more than its parts.")
    return parts


def _check_index(infos: list[zipfile.ZipInfo]) -> None:
    """Refuse, before a byte is unpacked, what could do harm or has no place in a bundle."""
    if len(infos) > MOST_PARTS:
        raise BundleError(f"The bundle has {len(infos)} parts; {MOST_PARTS} are the limit.")
    if sum(info.file_size for info in infos) > MOST_BYTES:
        raise BundleError(f"The parts of the bundle claim more than {MOST_BYTES} bytes: a zip bomb.")
    seen = set()
    for info in infos:
        name = info.filename
        if name.startswith("/") or "\\" in name or ":" in name or {"..", ".", ""} & set(name.split("/")):
            raise BundleError(f"The bundle has a part at {name!r}, a path that leads out of it or to a folder.")
        if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size:
            raise BundleError(f"{name} is compressed; parts of a bundle are stored, so that none can be a zip bomb.")
        if info.external_attr >> 16 != 0o100644:
            raise BundleError(f"{name} is not a plain file.")
        if name in seen:
            raise BundleError(f"{name} is in the bundle twice.")
        seen.add(name)
    for name in seen:
        if {parent.as_posix() for parent in PurePosixPath(name).parents} & seen:
            raise BundleError(f"{name} lies in a part of the bundle that is a file.")
