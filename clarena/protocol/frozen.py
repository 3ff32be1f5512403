"""Data that cannot change, and of a track what it is made of: named parts, and the run it goes on from."""

from typing import Any

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


class NamedPart(FrozenModel):
    """A benchmark or a backbone as a track names it.

    Attributes:
        name: its (qualified, where needed) name.
        options: every option, defaults included; of a backbone also `frozen`, where its features are computed once.
        revision: of its rules, as its author declares it.
        fingerprint: SHA-256 of the source data, for a benchmark; of the weights it starts from, for a backbone.
        identity: SHA-256 over what its code does, unless it is built in: then `revision` stands for it.
    """

    name: str
    options: dict[str, Any] = {}
    revision: int = 1
    fingerprint: str | None = None
    identity: str | None = None
