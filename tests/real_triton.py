"""A real Triton on a repository that a test wrote, and its protocol: JSON over one connection that is kept."""

from __future__ import annotations

import contextlib
import http.client
import json
import shutil
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from tasks.serving.python_models import ROUTER_FILES
from tasks.serving.triton_server import TritonServer, find_server

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

ANSWER_S = 180
ENGINE = """
import time
import numpy as np
import triton_python_backend_utils as pb_utils
class TritonPythonModel:
    def execute(self, requests):
        answers = []
        for request in requests:
            tokens = pb_utils.get_input_tensor_by_name(request, "tokens").as_numpy()
            score = tokens.sum(axis=1, dtype=np.float32) + np.float32({plus})
            {more}
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


def write_engine(repository: Path, name: str, plus: float = 0, more: str = "") -> None:
    """An engine whose score is the sum of a sample's tokens, and `plus`; `more` is a line that it runs before."""
    (repository / name / "1").mkdir(parents=True)
    (repository / name / "1" / "model.py").write_text(ENGINE.format(plus=plus, more=more))
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


def with_canary(
    route: Mapping[str, Any], folder: Path, plans: Mapping[str, tuple[int, int] | int], **changes: Any
) -> dict[str, Any]:
    """A route with a rollout whose canary has these plans, and whose evidence goes to `folder`."""
    canary = route_of(route["move"], plans)
    rollout = {
        "id": "0123456789ab",
        "step": 7,
        "weight": 0.0,
        "mirror": 0.0,
        "noise": 0.0,
        "key": "user",
        "slices": [],
        "folder": str(folder),
        "shard_s": 0.2,
        "timeout_ms": 1000.0,
        "keep_inputs": [],
        "canary": {
            "engine_id": "scorer-cpu-int8@000000000001",
            "manifest": f"sha256:{'0' * 64}",
            **{name: canary[name] for name in ("inputs", "outputs", "plans")},
        },
    }
    return {**route, "rollout": {**rollout, **changes}}


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
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=ANSWER_S)

    def ask(self, path: str, content: object = None) -> tuple[int, bytes]:
        self._connection.request(
            "GET" if content is None else "POST", path, json.dumps(content).encode() if content is not None else None
        )
        answer = self._connection.getresponse()
        return answer.status, answer.read()

    def score(
        self, model: str, tokens: Sequence[Sequence[int]], *, name: str = "", **parameters: object
    ) -> list[float]:
        """The scores of samples; `name` is the request's id.

        Raises:
            RuntimeError: the server's error.
        """
        shape, data = [len(tokens), len(tokens[0])], [token for row in tokens for token in row]
        tensor = {"name": "tokens", "datatype": "INT64", "shape": shape, "data": data}
        status, found = self.ask(
            f"/v2/models/{model}/infer", {"id": name, "inputs": [tensor], "parameters": parameters}
        )
        content = json.loads(found)
        if status != http.HTTPStatus.OK:
            raise RuntimeError(content["error"])
        values: list[float] = content["outputs"][0]["data"]
        return values


@contextlib.contextmanager
def served(repository: Path, models: Sequence[str], options: Sequence[str] = ()) -> Iterator[tuple[Client, Client]]:
    """Run the server of `make triton`: a client of its protocol, and one of its metrics."""
    with TritonServer(find_server(), repository, models, options=options) as server:
        ports = (urlsplit(url).port for url in (server.http, server.metrics))
        http_client, metrics = (Client(port) for port in ports if port is not None)
        yield http_client, metrics
