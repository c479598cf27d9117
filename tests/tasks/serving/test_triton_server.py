"""A real Triton: what it is started with, how it fails, and that nothing of it stays."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

from tasks.errors import InputError, StageError
from tasks.serving import triton_server
from tasks.serving.triton_server import Ports, ServerInstall, TritonServer, choose_ports, find_server
from tests.tasks.tiny_triton import ADDS, FAILS_TO_LOAD, IMPORTS_RUNNER, ask, infer, write_model

if TYPE_CHECKING:
    from collections.abc import Iterator

LIMIT_S = 60


@pytest.fixture(scope="module")
def served(install: ServerInstall, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonServer]:
    repository = write_model(tmp_path_factory.mktemp("served"))
    write_model(repository, "runner", IMPORTS_RUNNER)
    write_model(repository, "other", ADDS)
    with TritonServer(install, repository, ["adder", "runner"]) as server:
        yield server


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    return write_model(tmp_path / "repository")


def regions() -> set[Path]:
    return set(Path("/dev/shm").glob(f"enginegate-triton-{os.getpid()}-*"))  # noqa: S108 - where the server has them


def those_of(pid: int) -> list[psutil.Process]:
    process = psutil.Process(pid)
    return [process, *process.children(recursive=True)]


def wait_for(processes: list[psutil.Process]) -> None:
    _, alive = psutil.wait_procs(processes, timeout=LIMIT_S)
    assert alive == []


def test_a_model_in_python_answers(served: TritonServer) -> None:
    assert infer(served.http, [1.0, 2.5]) == [2.0, 3.5]


def test_a_model_can_import_this_project_s_runner(served: TritonServer) -> None:
    assert infer(served.http, [1.0], "runner") == [2.0]


def test_only_the_models_that_were_named_are_loaded(served: TritonServer) -> None:
    assert "other" not in served.log.read_text()


def test_metrics_and_grpc_are_where_it_says(served: TritonServer) -> None:
    infer(served.http, [1.0])
    assert 'nv_inference_request_success{model="adder"' in ask(served.metrics)
    host, _, port = served.grpc.partition(":")
    with socket.create_connection((host, int(port)), timeout=LIMIT_S) as connection:
        connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00")
        assert connection.recv(9)[3] == 4, "a SETTINGS frame, which begins HTTP/2"


def test_its_log_lies_in_the_repository(served: TritonServer) -> None:
    assert served.log == served.repository / ".enginegate" / "triton.log"
    assert "successfully loaded 'adder'" in served.log.read_text()


def test_a_start_with_a_log_of_its_own_leaves_nothing_but_that(install: ServerInstall, repository: Path) -> None:
    log = repository.parent / "logs" / "server.log"
    before = regions()
    with TritonServer(install, repository, ["adder"], log=log) as server:
        started = those_of(server.pid)
        assert len(started) == 2, "the server, and the interpreter of its model"
        assert len(regions() - before) == 1
    wait_for(started)
    assert regions() == before
    assert log.exists()
    assert sorted(path.name for path in repository.iterdir()) == ["adder"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_server_that_gets_a_signal_leaves_nothing(
    install: ServerInstall, repository: Path, number: signal.Signals
) -> None:
    before = regions()
    with TritonServer(install, repository, ["adder"]) as server:
        started = those_of(server.pid)
        os.kill(server.pid, number)
        assert server.wait() == (0 if number is signal.SIGTERM else -number)
    wait_for(started)
    assert regions() == before


def test_a_model_that_cannot_be_loaded_ends_the_start_in_its_own_words(install: ServerInstall, tmp_path: Path) -> None:
    repository = write_model(tmp_path, "broken", FAILS_TO_LOAD)
    before = regions()
    with (
        pytest.raises(StageError, match="ended with exit code 1 before it was ready") as caught,
        TritonServer(install, repository, ["broken"]),
    ):
        pass
    assert "the plan is of another TensorRT" in str(caught.value)
    assert str(tmp_path / ".enginegate" / "triton.log") in str(caught.value)
    assert "Cuda" not in str(caught.value), "what it says at every start without a GPU"
    assert regions() == before


def test_a_server_that_is_never_ready_is_ended(install: ServerInstall, repository: Path) -> None:
    server = TritonServer(install, repository, ["adder"], start_limit_s=0)
    with pytest.raises(StageError, match="was not ready in 0 seconds"):
        server.__enter__()
    assert server.poll() is None
    assert not [each for each in psutil.Process().children(recursive=True) if str(repository) in each.cmdline()]


@pytest.fixture
def taken() -> Iterator[int]:
    with socket.socket() as listener:
        listener.bind((triton_server.LOOPBACK, 0))
        listener.listen()
        yield listener.getsockname()[1]


@pytest.mark.parametrize("which", ["http", "grpc", "metrics"])
def test_a_port_that_is_taken_is_refused_before_anything_starts(
    install: ServerInstall, repository: Path, taken: int, which: str
) -> None:
    server = TritonServer(install, repository, ["adder"], ports=Ports(**{which: taken}))
    with pytest.raises(InputError, match=f"--{which}-port: port {taken} of 127.0.0.1 cannot be had"):
        server.__enter__()
    assert not server.log.exists()


@pytest.mark.parametrize(
    ("ports", "why"), [(Ports(http=70000), "is no port"), (Ports(http=9, grpc=9), "is asked for twice")]
)
def test_ports_that_cannot_be_are_refused(repository: Path, ports: Ports, why: str) -> None:
    with pytest.raises(InputError, match=why):
        TritonServer(ServerInstall(repository, None), repository, ports=ports).__enter__()


@pytest.mark.hardship(only=True)
def test_a_free_port_that_is_taken_meanwhile_is_chosen_anew(
    install: ServerInstall, repository: Path, taken: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    choices = [choose_ports(triton_server.LOOPBACK, Ports(http=taken))]
    monkeypatch.setattr(
        triton_server, "choose_ports", lambda host, asked: choices.pop() if choices else choose_ports(host, asked)
    )
    with TritonServer(install, repository, ["adder"]) as server:
        assert infer(server.http, [0.0]) == [1.0]
        assert server.http != f"http://{triton_server.LOOPBACK}:{taken}"


def test_ports_that_were_asked_for_are_had(install: ServerInstall, tmp_path: Path) -> None:
    ports = choose_ports(triton_server.LOOPBACK, Ports())
    with TritonServer(install, tmp_path, ports=ports) as server:
        assert server.http == f"http://127.0.0.1:{ports.http}"
        assert '"name":"triton"' in ask(f"{server.http}/v2")


START = """
import os, sys, time
from pathlib import Path
from tasks.serving.triton_server import TritonServer, find_server
with TritonServer(find_server(), Path(sys.argv[1]), ["adder"]) as server:
    print(server.pid, flush=True)
    time.sleep(600)
"""


@pytest.mark.hardship(only=True)
def test_a_process_that_is_killed_takes_its_server_with_it(install: ServerInstall, repository: Path) -> None:
    assert install
    process = subprocess.Popen(
        [sys.executable, "-c", START, str(repository)],
        stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(triton_server.PROJECT)},
    )  # fmt: skip
    assert process.stdout is not None
    started = those_of(int(process.stdout.readline()))
    process.kill()
    process.communicate()
    wait_for(started)


@pytest.mark.hardship(only=True)
def test_ten_starts_and_kills_leave_nothing(install: ServerInstall, repository: Path) -> None:
    before = regions()
    for turn in range(10):
        with TritonServer(install, repository, ["adder"]) as server:
            started = those_of(server.pid)
            time.sleep(turn / 100)
            os.kill(server.pid, signal.SIGKILL)
        wait_for(started)
    assert regions() == before


def test_without_a_server_the_remedy_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton_server, "BUILT", tmp_path / ".triton")
    with pytest.raises(InputError, match=r"has no bin/tritonserver and no backends.*run `make triton`"):
        find_server()
    with pytest.raises(InputError, match="ENGINEGATE_TRITON names a folder with bin/tritonserver"):
        find_server(tmp_path)


def write_install(folder: Path) -> Path:
    (folder / "bin").mkdir(parents=True)
    (folder / "bin" / "tritonserver").touch()
    (folder / "backends" / "tensorrt").mkdir(parents=True)
    (folder / "backends" / "tensorrt" / "libtriton_tensorrt.so").touch()
    return folder


def test_a_server_of_nvidia_s_image_keeps_its_environment(tmp_path: Path) -> None:
    found = find_server(write_install(tmp_path / "opt"))
    assert (found.python, found.has_backend("tensorrt"), found.has_backend("python")) == (None, True, False)
    assert found.environment({"LD_LIBRARY_PATH": "/usr/local/cuda/lib64", "A": "b"}) == {
        "LD_LIBRARY_PATH": "/usr/local/cuda/lib64",
        "A": "b",
    }


def test_the_models_python_has_its_own_libraries_alone(install: ServerInstall) -> None:
    assert install.python is not None
    found = install.environment({"PATH": "/usr/bin", "LD_LIBRARY_PATH": "/wheel/nvidia_pytriton.libs", "A": "b"})
    assert found["PATH"] == f"{install.python}/bin:/usr/bin"
    assert ":" not in found["LD_LIBRARY_PATH"]
    assert "pytriton" not in found["LD_LIBRARY_PATH"]
    assert found["A"] == "b"
