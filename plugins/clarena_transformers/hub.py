"""Models in the files of Hugging Face: in a folder, in the cache of the hub, or downloaded from it once."""

import hashlib
from pathlib import Path

from clarena import UsageError, user_path

CONFIGURATION = "config.json"
WEIGHTS = "model.safetensors"

TIMEOUT = 10
"""Seconds without an answer after which the hub is given up."""


def model_folder(name_or_path: str, option: str) -> Path:
    """The folder with a model's configuration (and weights), given its path or its name on the hub.

    Raises:
        UsageError: when there is no such folder, or the model cannot be had.
    """
    path = user_path(name_or_path)
    if path.is_dir():
        if not (path / CONFIGURATION).is_file():
            raise UsageError(f"{option}: the folder {path} has no {CONFIGURATION}. Save a model to it first.")
        return path
    if path.exists() or name_or_path.startswith((".", "/", "~")) or name_or_path.count("/") > 1:
        raise UsageError(f"{option}: there is no folder at {path}. Give one with a {CONFIGURATION} and {WEIGHTS}.")
    return snapshot(name_or_path, [CONFIGURATION, WEIGHTS], option)


def snapshot(repository: str, files: list[str], option: str) -> Path:
    """The folder with these files of a repository on the hub.

    Raises:
        UsageError: when they are not in the cache and cannot be downloaded.
    """
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.utils import disable_progress_bars

    disable_progress_bars()
    reason: Exception | str = ""
    for only_cached in (True, False):
        try:
            if not only_cached:
                HfApi().model_info(repository, timeout=TIMEOUT)  # a download would wait for ever for a silent hub
            folder = Path(
                snapshot_download(repository, allow_patterns=files, local_files_only=only_cached, etag_timeout=TIMEOUT)
            )
        except Exception as error:  # the hub's own, and those of what it speaks through, which changes
            reason = error
            continue
        absent = [name for name in files if not (folder / name).is_file()]
        if not absent:
            return folder
        reason = f"it has no {' and no '.join(absent)}"
    raise UsageError(
        f"{option}: the model {repository} is neither in the cache of the Hugging Face hub nor to be had from it "
        f"({' '.join(str(reason).split())[:160]}).\nRun once online, or bring its files and name their path."
    )


def fingerprint(folder: Path, with_weights: bool) -> str:
    """SHA-256 over the names and the SHA-256 of the configuration and, if wanted, the files of weights."""
    files = [folder / CONFIGURATION]
    if with_weights:
        files += sorted(folder.glob("*.safetensors")) or sorted(folder.glob("*.bin"))
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as content:
            digest.update(f"{file.name} {hashlib.file_digest(content, 'sha256').hexdigest()}\n".encode())
    return digest.hexdigest()
