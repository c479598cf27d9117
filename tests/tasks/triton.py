"""A real Triton server for tests, where one is installed; and the smallest router that answers by a route."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tasks.errors import StageError
from tasks.serving.triton_api import TritonApi

if TYPE_CHECKING:
    from collections.abc import Iterator

REPOSITORY = Path(__file__).resolve().parents[2]
# Read before tests are sealed off from settings. A folder with bin/tritonserver, backends/ and python/ (a prefix).
INSTALL = Path(os.environ.get("ENGINEGATE_TRITON") or REPOSITORY / ".triton")
START_S = 60

ROUTER = b"""
import json, os
import numpy as np
import triton_python_backend_utils as pb

class TritonPythonModel:
    def initialize(self, args):
        self.route = os.path.join(args["model_repository"], "route.json")

    def execute(self, requests):
        return [self.answer(request) for request in requests]

    def answer(self, request):
        for _ in range(2):
            with open(self.route) as stream:
                route = json.load(stream)
            inputs = [pb.get_input_tensor_by_name(request, name) for name in route["inputs"]]
            asked = pb.InferenceRequest(model_name=route["plans"][0]["model"], inputs=inputs,
                                        requested_output_names=list(route["outputs"]))
            answer = asked.exec()
            if not answer.has_error():
                return pb.InferenceResponse(answer.output_tensors())
        return pb.InferenceResponse(error=answer.error())
"""


def needs_triton() -> pytest.MarkDecorator:
    """Skips a test where no server is installed."""
    return pytest.mark.skipif(
        not (INSTALL / "bin" / "tritonserver").exists(),
        reason=f"no Triton server in {INSTALL}: run make triton, or set ENGINEGATE_TRITON",
    )


def free_ports(count: int) -> list[int]:
    """Ports of loopback that nobody listens on now."""
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


@contextmanager
def running_server(repository: Path, *models: str) -> Iterator[TritonApi]:
    """A server on a repository, with these models loaded from the start."""
    http, grpc, metrics = free_ports(3)
    python = INSTALL / "python"
    environment = {
        "PATH": f"{python / 'bin'}:/usr/bin:/bin",
        "LD_LIBRARY_PATH": str((python / "bin" / "python3").resolve().parents[1] / "lib"),
        "HOME": str(repository.parent),
    }
    command = [
        *(str(INSTALL / "bin" / "tritonserver"), "--model-repository", str(repository)),
        *("--backend-directory", str(INSTALL / "backends"), "--model-control-mode=explicit", "--exit-timeout-secs=5"),
        *("--http-address=127.0.0.1", f"--http-port={http}", f"--grpc-port={grpc}", f"--metrics-port={metrics}"),
        *(f"--load-model={model}" for model in models),
    ]
    repository.mkdir(exist_ok=True)
    log = repository.parent / f"triton-{http}.log"
    with log.open("wb") as stream:
        server = subprocess.Popen(command, env=environment, stdout=stream, stderr=stream)
    api = TritonApi(f"http://127.0.0.1:{http}")
    try:
        _wait_until_ready(api, server, log)
        yield api
    finally:
        server.terminate()
        server.wait(START_S)


def _wait_until_ready(api: TritonApi, server: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + START_S
    while time.monotonic() < end and server.poll() is None:
        try:
            if api.is_live():
                return
        except StageError:
            pass
        time.sleep(0.1)
    raise AssertionError(log.read_text()[-3000:])
