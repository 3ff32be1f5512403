"""Omniglot from its two archives: 1,623 characters of 50 alphabets, each by 20 drawers; every fifth one is tested on.

Torchvision opens the unpacked files in the order of the file system; here classes and drawers are in that of their
names, so that a class order means the same on every machine.
"""

import zipfile
from contextlib import ExitStack
from pathlib import Path, PurePosixPath
from typing import Any

from clarena import fetch, held_out_rows

from .decoded import HELD_OUT, Chained, Zipped, write_data


def write_omniglot(source: Any, folder: Path, size: int | None) -> None:
    """Decode both archives into `folder`, see `store`; black ink on white, 105×105 unless `size` is given.

    Args:
        source: torchvision's class, which knows where the archives are published and their MD5.

    Raises:
        DataError: when an archive is damaged, or absent and not to be had.
    """
    parts: dict[bool, list[Zipped]] = {False: [], True: []}
    names: list[str] = []
    with ExitStack() as stack:
        for stem, md5 in sorted(source.zips_md5.items()):
            url = f"{source.download_url_prefix}/{stem}.zip"
            archive = stack.enter_context(zipfile.ZipFile(fetch(f"{source.folder}/{stem}.zip", url, md5)))
            drawings: dict[PurePosixPath, list[str]] = {}
            for name in sorted(archive.namelist()):
                if name.endswith(".png"):
                    drawings.setdefault(PurePosixPath(name).parent, []).append(name)
            members: dict[bool, list[tuple[str, int]]] = {False: [], True: []}
            for character, files in drawings.items():
                for file, tested in zip(files, held_out_rows(len(files), HELD_OUT)):
                    members[bool(tested)].append((file, len(names)))
                names.append("/".join(character.parts[1:]))
            for tested, some in members.items():
                parts[tested].append(Zipped(archive, some))
        write_data(folder, Chained(parts[False]), Chained(parts[True]), names, "L", size)
