"""Opens MLflow quietly: no telemetry, no prints, a SQLite store that appears whole, errors that name the address."""

from __future__ import annotations

import logging
import os
import re
import sqlite3
import tempfile
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit, urlunsplit

from filelock import FileLock

from tasks.errors import EnginegateError, StageError

if TYPE_CHECKING:
    from collections.abc import Iterator

_SQLITE = "sqlite:///"
_MEMORY_FOLDER = Path("/dev/shm")  # noqa: S108 - only a private folder is made in it
_QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # it would stand in the middle of `--json`
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_LOGGING_LEVEL": "ERROR",
    # MLflow's own 7 retries keep a wrong address waiting for four minutes.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
}


def sqlite_path(tracking_uri: str) -> Path | None:
    """The file of a local SQLite address, or None for any other address (a server, another database, memory)."""
    path = tracking_uri.removeprefix(_SQLITE).partition("?")[0]
    return Path(path) if tracking_uri.startswith(_SQLITE) and path not in {"", ":memory:"} else None


def without_credentials(uri: str) -> str:
    """The address without user, password and query, fit for messages.

    >>> without_credentials("postgresql://ann:secret@db.example:5432/mlflow?sslpassword=x")
    'postgresql://db.example:5432/mlflow'
    """
    if uri.startswith("sqlite:"):
        return uri.partition("?")[0]
    try:
        parts = urlsplit(uri)
    except ValueError:
        return "an address that is none"
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def open_client(tracking_uri: str) -> Any:
    """An `mlflow.MlflowClient` that neither prints nor reports usage; a missing SQLite store is made first.

    Sets MLflow's variables in this process's environment, where they are not set already: MLflow reads them there.
    """
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    from mlflow.tracking import MlflowClient  # noqa: PLC0415 - 2 s, which `enginegate --help` must not pay

    for name in ("mlflow", "alembic", "urllib3.connectionpool"):
        logging.getLogger(name).setLevel(logging.ERROR)
    path = sqlite_path(tracking_uri)
    if path is not None and not path.exists():
        _create_sqlite_store(path)
    return MlflowClient(tracking_uri=tracking_uri)


def _create_sqlite_store(path: Path) -> None:
    """Make the tables elsewhere and move them into place.

    MLflow's migrations, killed midway, leave a database that it refuses ever after; two processes making one database
    break each other; and hundreds of small commits take seconds on a disk (6.4 s against 0.8 s in memory, measured).
    """
    from mlflow.tracking import MlflowClient  # noqa: PLC0415 - as above

    path.parent.mkdir(parents=True, exist_ok=True)
    memory = _MEMORY_FOLDER if os.access(_MEMORY_FOLDER, os.W_OK) else None
    with FileLock(f"{path}.lock"), tempfile.TemporaryDirectory(dir=memory) as folder:
        if path.exists():
            return
        made, new = Path(folder, "mlflow.db"), Path(f"{path}.new")
        MlflowClient(tracking_uri=f"{_SQLITE}{made}")
        new.unlink(missing_ok=True)
        with closing(sqlite3.connect(made)) as source, closing(sqlite3.connect(new)) as target:
            source.backup(target)
        new.replace(path)


@contextmanager
def explained_errors(tracking_uri: str, doing: str) -> Iterator[None]:
    """Turn whatever MLflow, its database or its artifact store raises into a StageError with a remedy."""
    try:
        yield
    except EnginegateError:
        raise
    except Exception as error:
        shown = without_credentials(tracking_uri)
        reason = str(error).replace(tracking_uri, shown)
        password = None if tracking_uri.startswith("sqlite:") else urlsplit(tracking_uri).password
        if password:
            reason = reason.replace(password, "***")
        reason = re.sub(r"\?[^\s'\"]*=[^\s'\"]*", "", reason)  # a token may stand in a query
        raise StageError(
            f"MLflow at {shown}: {doing} failed: {reason.strip() or type(error).__name__}\n"
            "(1) check that the address is right and answers (`enginegate doctor`); (2) set MLFLOW_TRACKING_URI to"
            " another, or unset it for the local store; then run the same command again: finished stages are kept"
        ) from error
