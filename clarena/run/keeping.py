"""Keeping the model of a run that is finished: it is run again, and its record stays as it is."""

import tempfile
from collections.abc import Callable

from clarena.errors import ClarenaError, StoreError
from clarena.record.record import Record
from clarena.record.store import MODEL, Store
from clarena.record.writing import write_atomic


def lacks_model(store: Store, record: Record) -> bool:
    """Whether a run has come to its end without its model having been kept."""
    return record.status == "finished" and not (store.folder(record.cell) / MODEL).exists()


def keep_beside(store: Store, record: Record, run_in: Callable[[Store], Record]) -> Record:
    """Run a cell again, and keep its model beside the record that is there, where all predictions are the same.

    Args:
        run_in: runs the cell in a store of its own, its model kept.

    Returns:
        the record that is there, unchanged.

    Raises:
        StoreError: where the predictions differ: a model that answers otherwise than the record says is not its model.
        ClarenaError: where the run does not finish.
    """
    what = f"{record.cell.label} was run again to keep its model"
    with tempfile.TemporaryDirectory(prefix="clarena-") as scratch:
        place = Store(scratch)
        again = run_in(place)
        if again.status != "finished":
            raise ClarenaError(f"{what}, and did not finish ({again.outcome}). The record stays; no model was kept.")
        if place.predictions(again).digest != store.predictions(record).digest:
            raise StoreError(
                f"{what}, and predicts otherwise than its record, which stays; no model was kept. Another machine, "
                "device or version of a library may be the reason: evaluate it into another --store, with its model."
            )
        write_atomic(store.folder(record.cell) / MODEL, (place.folder(again.cell) / MODEL).read_bytes())
    return record
