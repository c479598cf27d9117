"""From an address of MLflow to a version and its files: `models:/name@alias`, `models:/name/3`, `runs:/run/path`."""

from __future__ import annotations

import atexit
import functools
import os
import re
import shutil
import tempfile
from pathlib import Path
from typing import NamedTuple

from tasks.errors import InputError

TRACKING = "MLFLOW_TRACKING_URI"
BY_ALIAS = re.compile(r"models:/(?P<name>[^/@]+)@(?P<alias>[^/@]+)")
BY_VERSION = re.compile(r"models:/(?P<name>[^/@]+)/(?P<version>[0-9]+)")


class Resolved(NamedTuple):
    """A model's folder on this host, and the version that its address is of, where that is registered."""

    folder: Path
    version: str | None


def resolve(address: str, field: str) -> Resolved:
    """The version that an address is of now, downloaded once a process.

    Raises:
        InputError: no server is named, it does not answer, or has no such model.
    """
    server = os.environ.get(TRACKING)
    if not server:
        raise InputError(f"{field}: {address} is an address, and {TRACKING} names no server; set it")
    try:
        version = _version(address, server)
        fixed = address if version is None else f"models:/{_name(address)}/{version}"
        return Resolved(_download(fixed, server), version)
    except Exception as error:  # noqa: BLE001 - MLflow and its HTTP clients raise many classes
        first = next(iter(str(error).splitlines()), type(error).__name__)
        raise InputError(
            f"{field}: {address}: MLflow does not give it: {first}; correct the name, version or alias, or {TRACKING}"
        ) from None


def _name(address: str) -> str:
    return address.removeprefix("models:/").partition("@")[0].partition("/")[0]


def _version(address: str, server: str) -> str | None:
    from mlflow import MlflowClient  # noqa: PLC0415 - takes seconds

    by_alias, by_version = BY_ALIAS.fullmatch(address), BY_VERSION.fullmatch(address)
    if by_alias is not None:
        found = MlflowClient(tracking_uri=server).get_model_version_by_alias(by_alias["name"], by_alias["alias"])
        return str(found.version)
    return None if by_version is None else by_version["version"]


@functools.cache
def _download(address: str, server: str) -> Path:
    from mlflow.artifacts import download_artifacts  # noqa: PLC0415 - takes seconds

    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    folder = tempfile.mkdtemp(prefix="enginegate-mlflow-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(download_artifacts(artifact_uri=address, dst_path=folder, tracking_uri=server)).resolve()
