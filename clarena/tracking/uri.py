"""Where MLflow is: the tracking URI that was asked for, made unambiguous, and safe to show."""

import os
import re
import shlex
from pathlib import Path
from urllib.parse import unquote

from clarena.errors import UsageError

DEFAULT_URI = "sqlite:///mlflow.db"
"""A file in the working directory."""

DATABASES = ("sqlite", "postgresql", "mysql", "mssql")
"""What MLflow opens itself, with no server between."""


def resolve_uri(option: str | None = None) -> str:
    """The tracking URI to use: the option, else MLFLOW_TRACKING_URI, else `DEFAULT_URI`; with absolute paths.

    Raises:
        UsageError: for a directory, in which MLflow no longer keeps runs.
    """
    uri = option or os.environ.get("MLFLOW_TRACKING_URI") or DEFAULT_URI
    if database := database_file(uri):
        path = Path(os.path.abspath(database)).as_posix().replace("%", "%25").replace("?", "%3F")
        return "".join(["sqlite:///", path, *uri.partition("?")[1:]])
    scheme, colon, _ = uri.partition(":")
    if uri != "databricks" and (not colon or scheme in ("file", "sqlite") or len(scheme) == 1):
        raise UsageError(
            f"MLflow cannot keep runs at {uri!r}. Give a database file (sqlite:///mlflow.db) or a server "
            "(http://host:5000), with --tracking-uri or in MLFLOW_TRACKING_URI."
        )
    return uri


def browse_hint(uri: str) -> str:
    """How to look at what was logged: a command to run, or the server's address."""
    shown = public(uri)
    return f"mlflow ui --backend-store-uri {shlex.quote(shown)}" if uri.startswith(DATABASES) else shown


def database_file(uri: str) -> Path | None:
    """The file of an SQLite URI; None for any other."""
    path = uri.removeprefix("sqlite:///").partition("?")[0]
    return Path(unquote(path)) if uri.startswith("sqlite:///") and path else None


def public(text: str) -> str:
    """A URI, or a text with one in it, without user names and passwords."""
    return re.sub(r"://[^/@\s]*@", "://", text)
