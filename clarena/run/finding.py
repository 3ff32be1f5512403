"""Which run of a store is meant: by a record, its folder, the beginning of a cell's id, or a strategy and a seed."""

import json
import re
from pathlib import Path

from clarena.errors import UsageError, unknown_name
from clarena.record.record import Record
from clarena.record.store import MODEL, RECORD, Place, Store, believed, read_folder, sanitised

_ADDRESS = re.compile(r"(?P<track>[0-9a-f]+)/(?P<strategy>.+)-seed(?P<seed>\d+)-(?P<cell>[0-9a-f]+)")
_LEAST_OF_AN_ID = 4
MOST_NAMED = 6


def find_run(run: str | Path | Record, store: Store) -> tuple[Record, Path]:
    """The record that is meant, and the folder with its files.

    Args:
        run: see `clarena.load_model`.

    Raises:
        UsageError: where nothing, or more than one run, is meant.
        StoreError: where the record cannot be read or believed.
    """
    if isinstance(run, Record):
        return run, store.folder(run.cell)
    if (Path(run) / RECORD).exists():
        return believed(Path(run) / RECORD, read_folder(Path(run))), Path(run)
    if not store.path.is_dir():
        raise UsageError(f"There is no store at {store.path}. Name one, or a record's folder.")
    places = [place for place in store.places()[0] if _ADDRESS.fullmatch(place.address)]
    found = [place for place in places if _is_meant(str(run), place)]
    if len(found) > 1:  # what goes on from another run has its id said when it is made
        found = [place for place in found if not _goes_on(place, store)] or found
    if len(found) > 1:  # those without a model are hardly meant
        found = [place for place in found if (store.path / place.address / MODEL).exists()] or found
    if len(found) > 1:
        named = "\n".join(f"  {_facts(place)['cell']}  {place.address}" for place in found[:MOST_NAMED])
        more = f"\n  … and {len(found) - MOST_NAMED} more" if len(found) > MOST_NAMED else ""
        raise UsageError(f"{run} may be any of {len(found)} runs of {store.path}. Give the cell's id:\n{named}{more}")
    if not found:
        known = {f"{_facts(place)['strategy']}:{_facts(place)['seed']}" for place in places}
        see = f"clarena results --records --store {store.path}"
        raise unknown_name(f"run in {store.path}", str(run), known, see=see)
    return believed(found[0].path, found[0].read()), store.path / found[0].address


def _is_meant(run: str, place: Place) -> bool:
    facts = _facts(place)
    if len(run) >= _LEAST_OF_AN_ID and facts["cell"].startswith(run[: len(facts["cell"])]):
        return True
    strategy, colon, seed = run.rpartition(":")
    if colon and seed.isdecimal():
        return facts["strategy"] == sanitised(strategy) and int(facts["seed"]) == int(seed)
    return facts["strategy"] == sanitised(run)


def _goes_on(place: Place, store: Store) -> bool:
    """Whether its track goes on from another run; nobody is stopped by a file that cannot be read."""
    try:
        track = json.loads((store.path / place.address).with_name("track.json").read_bytes())
        return track.get("continues") is not None
    except (OSError, ValueError, AttributeError):
        return False


def _facts(place: Place) -> dict[str, str]:
    match = _ADDRESS.fullmatch(place.address)
    assert match is not None
    return match.groupdict()
