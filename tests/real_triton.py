"""A real Triton on a repository that a test wrote, and its protocol: JSON over one connection that is kept."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import socket
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tasks.serving.python_models import ROUTER_FILES

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

ROOT = Path(__file__).resolve().parents[1]
# The tests' own settings hide what was in the environment: it is looked at when this is imported.
INSTALL = Path(os.environ.get("ENGINEGATE_TRITON") or ROOT / ".triton").resolve()
MISSING = f"no Triton in {INSTALL}: run `make triton`, or name another folder in ENGINEGATE_TRITON"
READY_S = 180
TYPES = {"FP32": np.float32, "INT64": np.int64}
ENGINE = """
import numpy as np
import triton_python_backend_utils as pb_utils
class TritonPythonModel:
    def execute(self, requests):
        answers = []
        for request in requests:
            tokens = pb_utils.get_input_tensor_by_name(request, "tokens").as_numpy()
            score = tokens.sum(axis=1, dtype=np.float32) + np.float32({plus})
            answers.append(pb_utils.InferenceResponse([pb_utils.Tensor("score", score)]))
        return answers
"""
CONFIG = """
name: "{name}"
backend: "python"
max_batch_size: {batch}
input [{{name: "tokens" data_type: TYPE_INT64 dims: [{dims}]}}]
output [{{name: "score" data_type: TYPE_FP32 dims: [{out}]}}]
instance_group [{{count: {count} kind: KIND_CPU}}]
{more}
"""


def is_there() -> bool:
    return (INSTALL / "bin" / "tritonserver").exists()


def write_engine(repository: Path, name: str, plus: float = 0) -> None:
    """An engine whose score is the sum of a sample's tokens, and `plus`."""
    (repository / name / "1").mkdir(parents=True)
    (repository / name / "1" / "model.py").write_text(ENGINE.format(plus=plus))
    config = CONFIG.format(name=name, batch=0, dims="-1, -1", out="-1", count=1, more="")
    # A vector of scores without a batch axis of Triton's own, as engine models have it.
    (repository / name / "config.pbtxt").write_text(config)


def route_of(move: int, plans: Mapping[str, tuple[int, int] | int], sampling: object = None) -> dict[str, Any]:
    """A route; `plans` has for each model the range of its sequence, or the one extent that it takes."""
    ranges = {name: (one, one) if isinstance(one, int) else one for name, one in plans.items()}
    return {
        "schema_version": 1,
        "model": "scorer",
        "move": move,
        "batch": "batch",
        "inputs": {"tokens": {"dtype": "int64", "shape": ["batch", "sequence"], "pad": 0}},
        "outputs": {"score": {"dtype": "float32", "axes": ["batch"]}},
        "plans": [
            {"model": name, "dims": {"batch": {"min": 1, "max": 8}, "sequence": {"min": low, "max": high}}}
            for name, (low, high) in ranges.items()
        ],
        "sampling": sampling,
    }


def write_router(repository: Path, route: Mapping[str, Any], *, count: int = 1, more: str = "") -> None:
    folder = repository / "scorer"
    (folder / "1").mkdir(parents=True)
    for name, file in ROUTER_FILES.items():
        shutil.copy(file, folder / "1" / name)
    config = CONFIG.format(name="scorer", batch=8, dims="-1", out="", count=count, more=more)
    (folder / "config.pbtxt").write_text(config.replace("dims: []", "dims: [1] reshape: {shape: []}"))
    write_route(folder, route)


def write_route(folder: Path, route: Mapping[str, Any]) -> None:
    """Replace the route as a switch does."""
    (folder / ".route.json").write_text(json.dumps(route))
    (folder / ".route.json").replace(folder / "route.json")


class Client:
    """A connection to the server."""

    def __init__(self, port: int) -> None:
        self.port = port
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=READY_S)

    def ask(self, path: str, content: object = None) -> tuple[int, bytes]:
        self._connection.request(
            "GET" if content is None else "POST", path, json.dumps(content).encode() if content is not None else None
        )
        answer = self._connection.getresponse()
        return answer.status, answer.read()

    def score(self, model: str, tokens: Sequence[Sequence[int]], **parameters: object) -> list[float]:
        """The scores of samples.

        Raises:
            RuntimeError: the server's error.
        """
        shape, data = [len(tokens), len(tokens[0])], [token for row in tokens for token in row]
        tensor = {"name": "tokens", "datatype": "INT64", "shape": shape, "data": data}
        status, found = self.ask(f"/v2/models/{model}/infer", {"inputs": [tensor], "parameters": parameters})
        content = json.loads(found)
        if status != http.HTTPStatus.OK:
            raise RuntimeError(content["error"])
        values: list[float] = content["outputs"][0]["data"]
        return values


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


@contextlib.contextmanager
def served(repository: Path, models: Sequence[str]) -> Iterator[tuple[Client, Client]]:
    """Run the server: a client of its protocol, and one of its metrics.

    Raises:
        RuntimeError: it did not start, with its log.
    """
    python = (INSTALL / "python").resolve()
    question = "import sysconfig; print(sysconfig.get_config_var('LIBDIR'))"
    library = subprocess.run([python / "bin" / "python", "-c", question], capture_output=True, text=True, check=True)
    environment = os.environ | {
        "PATH": f"{python / 'bin'}:{os.environ['PATH']}",
        "LD_LIBRARY_PATH": library.stdout.strip(),
    }
    http_port, grpc_port, metrics_port = free_ports(3)
    command = [
        str((INSTALL / "bin" / "tritonserver").resolve()),
        f"--model-repository={repository}",
        f"--backend-directory={(INSTALL / 'backends').resolve()}",
        "--model-control-mode=explicit",
        *(f"--load-model={model}" for model in models),
        *(f"--http-port={http_port}", f"--grpc-port={grpc_port}", f"--metrics-port={metrics_port}"),
        *("--http-address=127.0.0.1", "--grpc-address=127.0.0.1", "--exit-timeout-secs=10"),
    ]
    log = repository.parent / "triton.log"
    with log.open("wb") as file, subprocess.Popen(command, env=environment, stdout=file, stderr=file) as process:
        try:
            _wait(process, http_port, log)
            yield Client(http_port), Client(metrics_port)
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()


def _wait(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    until = time.monotonic() + READY_S
    while time.monotonic() < until and process.poll() is None:
        with contextlib.suppress(OSError, http.client.HTTPException):
            if Client(port).ask("/v2/health/ready")[0] == http.HTTPStatus.OK:
                return
        time.sleep(0.1)
    lines = log.read_text(errors="replace").splitlines()
    raise RuntimeError("Triton did not start:\n" + "\n".join(line for line in lines if line[:1] not in "|+IW"))
