"""What this host can do: the packages, devices, services and folders that a conversion needs."""

from __future__ import annotations

import http.client
import os
import shutil
import subprocess
import urllib.request
import uuid
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.tracking.connection import without_credentials

if TYPE_CHECKING:
    from flows.settings import Settings

MINIMUM_FREE_GB = 5.0
TIMEOUT_S = 3.0


@dataclass(frozen=True)
class Check:
    """One line of the doctor's report. Where `needed` and not `ok`, this host cannot convert."""

    name: str
    ok: bool
    needed: bool
    detail: str


def examine(settings: Settings) -> list[Check]:
    """Look at this host; nothing is left behind."""
    return [
        _package(
            "ONNX Runtime", "onnxruntime", needed=True, without="target cpu cannot be built; pip install onnxruntime"
        ),
        _package("torch", "torch", needed=True, without="no export and no reference; pip install '.[export]'"),
        _package(
            "ModelOpt", "nvidia-modelopt", needed=False, without="FP16 by ONNX Runtime's converter, INT8 without max"
        ),
        _package(
            "TensorRT", "tensorrt", needed=False, without="no GPU engines; pip install '.[tensorrt]' on a GPU runner"
        ),
        _gpu(),
        _mlflow(settings),
        _prefect(),
        _folder("artifact store", settings.store_path),
        _folder("registry", settings.registry_path),
        _disk(settings.home.resolve()),
    ]


def as_json(checks: list[Check]) -> dict[str, object]:
    """The report as a JSON document."""
    return {"ok": healthy(checks), "checks": [asdict(check) for check in checks]}


def healthy(checks: list[Check]) -> bool:
    """Whether this host can convert for target `cpu`."""
    return all(check.ok for check in checks if check.needed)


def _package(name: str, package: str, *, needed: bool, without: str) -> Check:
    try:
        return Check(name, ok=True, needed=needed, detail=metadata.version(package))
    except metadata.PackageNotFoundError:
        return Check(name, ok=False, needed=needed, detail=f"not installed: {without}")


def _gpu() -> Check:
    query = ["nvidia-smi", "--query-gpu=name,compute_cap,driver_version,memory.total", "--format=csv,noheader"]
    try:
        found = subprocess.run(query, capture_output=True, text=True, check=True, timeout=20).stdout.strip()
    except (FileNotFoundError, subprocess.SubprocessError):
        return Check("GPU", ok=False, needed=False, detail="no NVIDIA GPU found (nvidia-smi does not answer)")
    return Check("GPU", ok=True, needed=False, detail="; ".join(found.splitlines()))


def _mlflow(settings: Settings) -> Check:
    uri = settings.tracking_uri
    if uri.startswith(("http://", "https://")):
        return _answers("MLflow", f"{uri.rstrip('/')}/health", shown=without_credentials(uri))
    if uri.startswith("sqlite:///"):
        return _folder("MLflow", Path(uri.removeprefix("sqlite:///")).parent, shown="SQLite in the home folder")
    return Check("MLflow", ok=True, needed=True, detail=without_credentials(uri))


def _prefect() -> Check:
    url = os.environ.get("PREFECT_API_URL")
    if url:
        return _answers("Prefect", f"{url.rstrip('/')}/health", shown=without_credentials(url))
    return Check("Prefect", ok=True, needed=True, detail="a temporary server for each run (PREFECT_API_URL is not set)")


def _answers(name: str, url: str, *, shown: str) -> Check:
    try:
        # The caller saw to http or https.
        with urllib.request.urlopen(url, timeout=TIMEOUT_S):  # noqa: S310
            return Check(name, ok=True, needed=True, detail=f"{shown} answers")
    except (OSError, ValueError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        return Check(
            name, ok=False, needed=True, detail=f"{shown} does not answer ({reason}); start it or correct its address"
        )


def _folder(name: str, folder: Path, *, shown: str | None = None) -> Check:
    try:
        probe = _nearest_existing(folder) / f".enginegate-{uuid.uuid4().hex}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        return Check(
            name, ok=False, needed=True, detail=f"{folder} cannot be written ({error.strerror}); choose another"
        )
    state = "" if folder.exists() else ", made on first use"
    return Check(name, ok=True, needed=True, detail=f"{shown or folder}{state}")


def _nearest_existing(folder: Path) -> Path:
    return next(path for path in (folder, *folder.parents) if path.exists())


def _disk(folder: Path) -> Check:
    try:
        free_gb = shutil.disk_usage(_nearest_existing(folder)).free / 1e9
    except OSError as error:
        return Check("disk", ok=False, needed=True, detail=f"{folder} cannot be read ({error.strerror})")
    enough = free_gb >= MINIMUM_FREE_GB
    remedy = "" if enough else f"; a conversion wants {MINIMUM_FREE_GB:g} GB, so free some or move ENGINEGATE_HOME"
    return Check("disk", ok=enough, needed=True, detail=f"{free_gb:.1f} GB free{remedy}")
