from __future__ import annotations

import json
import shutil
import socketserver
import threading
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from flows.commands import doctor
from flows.commands.doctor import Check, as_json, examine, examine_runner, healthy, without_credentials
from flows.settings import Settings, read_settings
from tasks.backends import gpu, trt
from tasks.errors import InputError, StageError
from tests.s3_servers import Faults, serve_faulty
from tests.tasks.conftest import moto, place_at

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["moto"]  # a fixture

NAMES = [
    "ONNX Runtime",
    "torch",
    "ModelOpt",
    "TensorRT",
    "TensorRT-RTX",
    "GPU",
    "MLflow",
    "Prefect",
    "artifact store",
    "state",
    "registry",
    "disk",
]
ANSWERS = {
    "healthy": b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
    "broken": b"HTTP/1.0 500 No\r\nContent-Length: 0\r\n\r\n",
    "garbage": b"SSH-2.0-OpenSSH\r\n\r\n",
    "silent": b"",
}


@pytest.fixture(autouse=True)
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only folder that programs are looked for in: no GPU of this machine is ever asked."""
    folder = tmp_path / "tools"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    return folder


@pytest.fixture(params=ANSWERS)
def server(request: pytest.FixtureRequest) -> Iterator[tuple[str, str]]:
    """How it answers, and its address."""

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.recv(1000)
            self.request.sendall(ANSWERS[request.param])

    with socketserver.TCPServer(("127.0.0.1", 0), Handler) as serving:
        thread = threading.Thread(target=serving.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield request.param, f"http://ann:secret@127.0.0.1:{serving.server_address[1]}"
        serving.shutdown()
        thread.join()


def checks() -> dict[str, Check]:
    return {check.name: check for check in examine(read_settings())}


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.name != "tools")


def test_every_part_is_looked_at_and_nothing_is_left_behind(tmp_path: Path) -> None:
    found = checks()
    assert list(found) == NAMES
    assert found["ONNX Runtime"].detail == metadata.version("onnxruntime")
    assert "temporary server" in found["Prefect"].detail
    assert "made on first use" in found["artifact store"].detail
    assert found["MLflow"].ok
    assert files(tmp_path) == []


def test_the_report_is_json_and_a_need_that_is_not_met_makes_it_ill(monkeypatch: pytest.MonkeyPatch) -> None:
    found = examine(read_settings())
    document = json.loads(json.dumps(as_json(found)))
    assert document["ok"] == healthy(found)
    assert [check["name"] for check in document["checks"]] == NAMES
    assert healthy([Check("a", ok=False, needed=False, detail=""), Check("b", ok=True, needed=True, detail="")])
    assert not healthy([Check("a", ok=False, needed=True, detail="")])
    monkeypatch.setattr(doctor, "MINIMUM_FREE_GB", 1e9)
    assert not healthy(examine(read_settings()))


def test_a_package_that_is_missing_says_what_that_costs(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", missing)
    found = checks()
    assert (found["torch"].ok, found["torch"].needed) == (False, True)
    assert found["torch"].detail == "not installed: no export and no reference; pip install '.[export]'"
    assert (found["TensorRT"].ok, found["TensorRT"].needed) == (False, False)


def test_gpus_are_listed_and_their_absence_or_a_broken_driver_is_no_fault(tools: Path) -> None:
    assert (checks()["GPU"].ok, checks()["GPU"].needed) == (False, False)
    (tools / "nvidia-smi").write_text(
        "#!/bin/sh\necho 'NVIDIA L4, 8.9, 550.1, 23034 MiB'\necho 'NVIDIA T4, 7.5, 550.1'\n"
    )
    (tools / "nvidia-smi").chmod(0o755)
    assert checks()["GPU"].detail == "NVIDIA L4, 8.9, 550.1, 23034 MiB; NVIDIA T4, 7.5, 550.1"
    (tools / "nvidia-smi").write_text("#!/bin/sh\nexit 9\n")
    assert not checks()["GPU"].ok


@pytest.mark.parametrize(("variable", "name"), [("MLFLOW_TRACKING_URI", "MLflow"), ("PREFECT_API_URL", "Prefect")])
def test_a_server_is_healthy_only_if_it_says_so_and_no_password_is_shown(
    monkeypatch: pytest.MonkeyPatch, server: tuple[str, str], variable: str, name: str
) -> None:
    kind, url = server
    monkeypatch.setenv(variable, f"{url.replace('ann:secret@', '')}/")
    found = checks()[name]
    assert found.ok == (kind == "healthy")
    assert ("answers" if kind == "healthy" else "does not answer") in found.detail
    monkeypatch.setenv(variable, url)
    assert "secret" not in checks()[name].detail


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:9", "http://127.0.0.1:port", "http://[::1", "http://127.0.0.1:99999"]
)
def test_an_address_that_leads_nowhere_is_reported(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", url)
    monkeypatch.setenv("PREFECT_API_URL", url)
    found = checks()
    for name in ("MLflow", "Prefect"):
        assert not found[name].ok
        assert "start it or correct its address" in found[name].detail


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("postgresql://ann:secret@db.example:5432/mlflow?password=x", "postgresql://db.example:5432/mlflow"),
        ("http://ann:p@ss@[::1]:5000/a#token", "http://[::1]:5000/a"),
        ("http://host:port/a", "http://host:port/a"),
        ("mlruns", "mlruns"),
        ("databricks", "databricks"),
    ],
)
def test_an_address_is_shown_without_what_is_secret_in_it(uri: str, shown: str) -> None:
    assert without_credentials(uri) == shown


def test_a_folder_that_cannot_be_written_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("x")
    found = {
        check.name: check for check in examine(Settings(store=tmp_path / "file", registry=str(tmp_path / "file" / "r")))
    }
    for name in ("artifact store", "registry"):
        assert not found[name].ok
        assert "cannot be written" in found[name].detail

    def forbid(_self: Path) -> bool:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "exists", forbid)
    found = checks()
    assert "cannot be written (Permission denied); choose another" in found["registry"].detail
    assert "Permission denied" in found["disk"].detail


def test_a_full_disk_is_reported_with_what_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: SimpleNamespace(free=4_900_000_000))
    found = checks()["disk"]
    assert not found.ok
    assert found.detail == "4.9 GB free; a conversion wants 5 GB, so free some or move ENGINEGATE_HOME"


RUNNER_NEEDS = ["GPU", "TensorRT", "cuda-bindings", "nvidia-ml-py", "polygraphy", "Prefect", "artifact store", "disk"]


@pytest.fixture
def runner(monkeypatch: pytest.MonkeyPatch) -> None:
    """A host with an A10G and all that goes with it, but torch."""
    found = gpu.Gpu("NVIDIA A10G", "8.6", "580.1", "13.0", None, "GPU-1")

    def version(name: str) -> str:
        if name == "torch":
            raise metadata.PackageNotFoundError(name)
        return "1.0"

    monkeypatch.setattr(gpu, "find_gpu", lambda: found)
    monkeypatch.setattr(trt, "import_tensorrt", lambda: SimpleNamespace(__version__="10.13.0"))
    monkeypatch.setattr(metadata, "version", version)


@pytest.mark.usefixtures("runner")
def test_a_gpu_runner_needs_no_torch_and_is_healthy_for_its_own_target_alone() -> None:
    found = examine_runner(read_settings(), "a10g")
    assert [check.name for check in found if check.needed] == RUNNER_NEEDS
    assert healthy(found)
    assert found[0].detail == "NVIDIA A10G (SM 8.6, driver 580.1) is target a10g"
    other = examine_runner(read_settings(), "t4")
    assert not healthy(other)
    assert other[0].detail == "NVIDIA A10G (SM 8.6, driver 580.1) is target a10g, not t4"


def test_a_host_without_gpu_or_tensorrt_is_no_runner_and_says_what_it_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise StageError("there is none; get one")

    monkeypatch.setattr(gpu, "find_gpu", fail)
    monkeypatch.setattr(trt, "import_tensorrt", fail)
    found = {check.name: check for check in examine_runner(read_settings(), "a10g")}
    for name in ("GPU", "TensorRT"):
        assert (found[name].ok, found[name].needed, found[name].detail) == (False, True, "there is none; get one")


@pytest.mark.usefixtures("runner")
def test_without_a_prefect_api_a_gpu_serves_the_conversions_of_its_own_host() -> None:
    pool = next(check for check in examine_runner(read_settings(), "a10g") if check.name == "pool")
    assert (pool.ok, pool.needed) == (False, False)
    assert pool.detail.endswith(": only conversions that are started on this host can use its GPU")


@pytest.mark.usefixtures("runner")
def test_a_prefect_api_that_does_not_answer_makes_a_runner_ill(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    found = {check.name: check for check in examine_runner(read_settings(), "a10g")}
    assert not found["pool"].ok
    assert "does not answer" in found["pool"].detail
    assert not healthy(list(found.values()))


def test_for_the_cpu_a_runner_is_what_converts_and_a_target_that_is_none_is_refused() -> None:
    assert [check.name for check in examine_runner(read_settings(), "cpu")] == NAMES
    with pytest.raises(InputError, match="--target b200: is no target; choose from cpu, t4"):
        examine_runner(read_settings(), "b200")


@pytest.mark.parametrize("condition", [None, "if_match", "if_none_match"])
def test_a_registry_s_server_is_tried_for_conditional_writes(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, condition: str | None
) -> None:
    place = place_at("moto", request, tmp_path)
    faults = Faults(0 if condition is None else 1, kinds=(f"no_{condition}",))
    with serve_faulty(place.endpoint, faults) as endpoint:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", endpoint)
        (check,) = (one for one in examine(Settings(registry=place.open().address)) if one.name == "registry")
    assert check.ok == (condition is None)
    words = "honours conditional writes" if check.ok else "ignores If-"
    assert words in check.detail
