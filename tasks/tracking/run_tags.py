"""Writes tags on a run of MLflow's that is there already."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tasks.errors import StageError
from tasks.tracking.connection import explained_errors, open_client, sqlite_path, without_credentials

if TYPE_CHECKING:
    from collections.abc import Mapping


def tag_run(tracking_uri: str, run_id: str, tags: Mapping[str, str], doing: str) -> None:
    """Set tags on a run; those that it has under these names are replaced.

    Raises:
        StageError: there is no local MLflow yet, or MLflow cannot be reached, refuses or has no such run.
    """
    path = sqlite_path(tracking_uri)
    if path is not None and not path.exists():
        shown = without_credentials(tracking_uri)
        raise StageError(f"there is none at {shown} (set MLFLOW_TRACKING_URI to yours, if you have one)")
    with explained_errors(tracking_uri, doing):
        client = open_client(tracking_uri)
        for name, value in tags.items():
            client.set_tag(run_id, name, value)
