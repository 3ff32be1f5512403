"""The ledger of a folder of archives: a line for each that was entered, which carries the hash of the one before.

`{"number": 3, "archive": "split-digits-…/ewc-….zip", "sha256": "…", "previous": "…"}`; of an archive the last line
counts. The chain proves that no line changed before the last one, whose hash anyone can note elsewhere.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

from clarena.errors import StoreError
from clarena.record.writing import json_lines

LEDGER = "ledger.jsonl"
BEGINNING = "0" * 64
"""What the first line carries in place of a hash."""


def entered(root: Path) -> tuple[dict[str, str], list[str]]:
    """The SHA-256 of every archive that a folder's ledger lists, by path, and what is wrong with the ledger.

    Raises:
        StoreError: it cannot be read.
    """
    found: dict[str, str] = {}
    problems: list[str] = []
    previous = BEGINNING
    for number, line in enumerate(lines(root), 1):
        try:
            entry: Any = json.loads(line)
            name, sha256 = str(entry["archive"]), str(entry["sha256"])
            if (entry["number"], entry["previous"]) != (number, previous):
                problems.append(f"Line {number} of {root / LEDGER} does not follow the line before: one was altered.")
        except (ValueError, TypeError, LookupError, RecursionError):
            problems.append(f"Line {number} of {root / LEDGER} is no entry: it was altered. Take a whole copy.")
        else:
            found[name] = sha256
        previous = _sha256(line)
    return found, problems


def lines(root: Path) -> list[str]:
    """The lines of a folder's ledger, none where there is none; raises `StoreError` where it cannot be read."""
    try:
        return json_lines(root / LEDGER)
    except FileNotFoundError:
        return []
    except (OSError, UnicodeDecodeError) as error:
        raise StoreError(f"The ledger {root / LEDGER} cannot be read: {error}. Take a whole copy.") from error


def with_entry(before: list[str], archive: str, sha256: str) -> list[str]:
    """The lines of a ledger with one more."""
    previous = _sha256(before[-1]) if before else BEGINNING
    entry = {"number": len(before) + 1, "archive": archive, "sha256": sha256, "previous": previous}
    return [*before, json.dumps(entry)]


def _sha256(line: str) -> str:
    return hashlib.sha256(line.encode()).hexdigest()
