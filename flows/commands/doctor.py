"""What this host can do: the packages, devices, services and folders that a conversion, or a GPU runner, needs."""

from __future__ import annotations

import http.client
import os
import shutil
import subprocess
import urllib.request
import uuid
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

import click

from flows.commands.command import Document, command_of
from flows.console import Reporter
from flows.session import Session
from tasks.backends import CPU, gpu, trt, trt_rtx
from tasks.errors import EnginegateError, ExitCode, InputError, StageError
from tasks.registry.conditions import try_conditions
from tasks.registry.moves import ChannelAddress, ChannelName
from tasks.specs import TARGET, TARGETS
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
    needed: bool = field(default=True, kw_only=True)
    detail: str


@click.command()
@click.option("--target", default="cpu", show_default=True, metavar="TARGET", help="What this host should make.")
@command_of
def doctor(session: Session, target: str) -> tuple[Document, int]:
    """Say what this host can do, and what it lacks; with a GPU's --target, whether it is a runner of that target."""
    checks = examine_runner(session.settings, target)
    rows = [["✓" if check.ok else "✕" if check.needed else "-", check.name, check.detail] for check in checks]
    session.reporter.table(["", "", ""], rows)
    return as_json(checks), 0 if healthy(checks) else ExitCode.UNEXPECTED


def examine(settings: Settings) -> list[Check]:
    """Look at this host; nothing is left behind but, in S3, the object that conditional writes are tried on."""
    return [
        _package("ONNX Runtime", "onnxruntime", without="target cpu cannot be built; pip install onnxruntime"),
        _package("torch", "torch", without="no export and no reference; pip install '.[export]'"),
        _package(
            "ModelOpt", "nvidia-modelopt", needed=False, without="FP16 by ONNX Runtime's converter, INT8 without max"
        ),
        _package(
            "TensorRT", "tensorrt", needed=False, without="no GPU engines; pip install '.[tensorrt]' on a GPU runner"
        ),
        _package(
            "TensorRT-RTX",
            trt_rtx.DISTRIBUTION,
            needed=False,
            without="nothing says before a GPU is taken whether TensorRT takes a graph; pip install '.[rtx]'",
        ),
        _gpu(),
        _mlflow(settings),
        _prefect(),
        _folder("artifact store", settings.store_path),
        _folder("state", settings.state_path),
        _registry(settings),
        _disk(settings.home.resolve()),
    ]


def examine_runner(settings: Settings, target: str) -> list[Check]:
    """Look at this host as a runner of a GPU target, which needs no torch; of `cpu`, as `examine` does.

    Raises:
        InputError: there is no such target.
    """
    if not TARGET.fullmatch(target):
        raise InputError(
            f"--target {target}: is no target; choose from {', '.join(TARGETS)}, or a MIG slice like a100-mig-1g.5gb"
        )
    if target == CPU:
        return examine(settings)
    remedy = "pip install '.[tensorrt]'"
    return [
        _gpu_of(target),
        _tensorrt(),
        *(_package(package, package, without=remedy) for package in ("cuda-bindings", "nvidia-ml-py", "polygraphy")),
        _package("torch", "torch", needed=False, without="no PyTorch is timed beside the engines"),
        _prefect(),
        _pool(target),
        _folder("artifact store", settings.store_path),
        _disk(settings.home.resolve()),
    ]


def as_json(checks: list[Check]) -> dict[str, object]:
    """The report as a JSON document."""
    return {"ok": healthy(checks), "checks": [asdict(check) for check in checks]}


def healthy(checks: list[Check]) -> bool:
    """Whether this host has all that is needed."""
    return all(check.ok for check in checks if check.needed)


def _package(name: str, package: str, *, needed: bool = True, without: str) -> Check:
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


def _gpu_of(target: str) -> Check:
    try:
        device = gpu.find_gpu()
    except StageError as error:
        return Check("GPU", ok=False, detail=str(error))
    found = f"{device.name} (SM {device.compute_capability}, driver {device.driver})"
    if device.target == target:
        return Check("GPU", ok=True, detail=f"{found} is target {target}")
    is_called = "no target" if device.target is None else f"target {device.target}"
    return Check("GPU", ok=False, detail=f"{found} is {is_called}, not {target}")


def _tensorrt() -> Check:
    try:
        return Check("TensorRT", ok=True, detail=str(trt.import_tensorrt().__version__))
    except StageError as error:
        return Check("TensorRT", ok=False, detail=str(error))


def _pool(target: str) -> Check:
    """Whether conversions elsewhere could send work here. Without a Prefect API this host still converts by itself."""
    from flows.prefect_api import require_configured_api  # noqa: PLC0415 - Prefect takes seconds to import

    try:
        if not require_configured_api():
            detail = "none without PREFECT_API_URL: only conversions that are started on this host can use its GPU"
            return Check("pool", ok=False, needed=False, detail=detail)

        from prefect.client.orchestration import get_client  # noqa: PLC0415 - as above

        from flows.runners.pools import pool_of, read_pool, require_pool  # noqa: PLC0415 - as above

        pool = pool_of(target)
        with get_client(sync_client=True) as client:
            require_pool(client, pool)
            online = read_pool(client, pool).online
    except EnginegateError as error:
        return Check("pool", ok=False, detail=str(error))
    start = "" if online else f"; start one: prefect worker start --pool {pool} --limit 1"
    return Check("pool", ok=True, detail=f"{pool}, workers online: {online}{start}")


def _mlflow(settings: Settings) -> Check:
    uri = settings.tracking_uri
    if uri.startswith(("http://", "https://")):
        return _answers("MLflow", f"{uri.rstrip('/')}/health", shown=without_credentials(uri))
    if uri.startswith("sqlite:///"):
        return _folder("MLflow", Path(uri.removeprefix("sqlite:///")).parent, shown="SQLite in the home folder")
    return Check("MLflow", ok=True, detail=without_credentials(uri))


def _prefect() -> Check:
    url = os.environ.get("PREFECT_API_URL")
    if url:
        return _answers("Prefect", f"{url.rstrip('/')}/health", shown=without_credentials(url))
    return Check("Prefect", ok=True, detail="a temporary server for each run (PREFECT_API_URL is not set)")


def _answers(name: str, url: str, *, shown: str) -> Check:
    try:
        # The caller saw to http or https.
        with urllib.request.urlopen(url, timeout=TIMEOUT_S):  # noqa: S310
            return Check(name, ok=True, detail=f"{shown} answers")
    except (OSError, ValueError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        return Check(name, ok=False, detail=f"{shown} does not answer ({reason}); start it or correct its address")


def _folder(name: str, folder: Path, *, shown: str | None = None) -> Check:
    try:
        probe = _nearest_existing(folder) / f".enginegate-{uuid.uuid4().hex}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        return Check(name, ok=False, detail=f"{folder} cannot be written ({error.strerror}); choose another")
    state = "" if folder.exists() else ", made on first use"
    return Check(name, ok=True, detail=f"{shown or folder}{state}")


def _nearest_existing(folder: Path) -> Path:
    return next(path for path in (folder, *folder.parents) if path.exists())


def _registry(settings: Settings) -> Check:
    """A folder is tried; in S3 a channel that nobody has is read, which tells of bucket, rights and keys.

    And it is tried whether the server honours conditional writes, by whoever may write there.
    """
    address = settings.registry_address
    try:
        registry = Session(settings, Reporter()).open_registry()
        if not address.startswith("s3://"):
            return _folder("registry", Path(address))
        registry.channels.read(ChannelAddress("doctor", CPU, ChannelName.CANDIDATE))
        tried = try_conditions(registry.objects)
    except OSError as error:
        detail = f"{address} cannot be written ({error.strerror}); choose another"
        return Check("registry", ok=False, detail=detail)
    except EnginegateError as error:
        return Check("registry", ok=False, detail=str(error))
    found = "honours conditional writes" if tried else "to read only: these credentials may not write there"
    return Check("registry", ok=True, detail=f"{address}, {found}")


def _disk(folder: Path) -> Check:
    try:
        free_gb = shutil.disk_usage(_nearest_existing(folder)).free / 1e9
    except OSError as error:
        return Check("disk", ok=False, detail=f"{folder} cannot be read ({error.strerror})")
    enough = free_gb >= MINIMUM_FREE_GB
    remedy = "" if enough else f"; a conversion wants {MINIMUM_FREE_GB:g} GB, so free some or move ENGINEGATE_HOME"
    return Check("disk", ok=enough, detail=f"{free_gb:.1f} GB free{remedy}")
