"""Data that cannot change; and what a track that goes on from another run says of that."""

from pydantic import BaseModel, ConfigDict


class FrozenModel(BaseModel):
    """Data that cannot change and knows no field but its own."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Continuation(FrozenModel):
    """What a track goes on from: a run whose model was kept, and data that arrived later.

    Attributes:
        cell: id of the parent's cell.
        record: SHA-256 of the parent's `record.json`.
        state: SHA-256 of the state that is gone on from.
        data: what the new data are called.
    """

    cell: str
    record: str
    state: str
    data: str
