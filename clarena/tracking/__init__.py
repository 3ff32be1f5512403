"""MLflow, where records are shared and browsed: only this package imports it, and only inside functions.

An experiment is a track, a parent run is a row, a child run is a cell. Every run carries all its tags, so
that none needs its parent to be understood. The store on disk is the truth and MLflow a copy of it: whatever
fails here loses nothing, and `sync` makes up for it.
"""

from clarena.tracking.outbox import BackgroundTracker, SyncReport, sync
from clarena.tracking.tracker import Outcome, Tracker, TrackingFailure
from clarena.tracking.uri import DEFAULT_URI, browse_hint, resolve_uri

__all__ = [
    "DEFAULT_URI",
    "BackgroundTracker",
    "Outcome",
    "SyncReport",
    "Tracker",
    "TrackingFailure",
    "browse_hint",
    "resolve_uri",
    "sync",
]
