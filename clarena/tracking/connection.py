"""A client of one MLflow, beside whatever MLflow the process uses otherwise."""

import os
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from clarena.errors import ClarenaWarning
from clarena.tracking.database import prepare
from clarena.tracking.uri import DATABASES, database_file

ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    # MLflow's own values wait for minutes on a server that is gone; to try again later is better.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
}
"""What MLflow is told before it is imported, unless the user said otherwise."""


def configure() -> None:
    """Tell MLflow what it must know before it is imported."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)


def import_mlflow() -> None:
    """Import MLflow as it is to be."""
    configure()
    with _a_home():
        import mlflow  # noqa: F401


@contextmanager
def _a_home() -> Iterator[None]:
    """MLflow asks for a home directory as it is imported; where none is known, the folder for scratch is one."""
    try:
        Path.home()
    except RuntimeError:
        os.environ["HOME"] = tempfile.gettempdir()
        try:
            yield
        finally:
            del os.environ["HOME"]
    else:
        yield


def connect(uri: str) -> Any:
    """A client; a database in a file is made where there is none, for which the caller holds its lock.

    Args:
        uri: as `resolve_uri` gives it.

    Raises:
        Exception: of any kind, where MLflow is out of reach.
    """
    import_mlflow()
    from mlflow import MlflowClient

    if database := database_file(uri):
        database.parent.mkdir(parents=True, exist_ok=True)
        if aside := prepare(database):
            warnings.warn(
                f"{database} was half-made and held nothing: it is now {aside.name}, and a new one was made. "
                "clarena sync fills it from a store.",
                ClarenaWarning,
                stacklevel=2,
            )
        client = MlflowClient(tracking_uri=uri)
        # MLflow keeps connections for as long as the process lives, also to a file that was replaced since.
        client._tracking_client.store.engine.dispose()
        return client
    if uri.startswith(DATABASES):
        from sqlalchemy import create_engine, inspect

        engine = create_engine(uri)  # MLflow would retry for two minutes what fails at once here
        inspect(engine).get_table_names()
        engine.dispose()
    return MlflowClient(tracking_uri=uri)
