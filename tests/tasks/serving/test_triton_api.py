"""The API against a stand-in that speaks Triton's protocol; test_triton_server.py has a real one."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pytest

from tasks.errors import InputError, StageError
from tasks.serving.triton_api import TritonApi, TritonError

if TYPE_CHECKING:
    from collections.abc import Iterator


class StandIn(BaseHTTPRequestHandler):
    """Doubles whatever it is given, and knows the model `doubler` alone."""

    asked: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        self.asked.append(self.path)
        self._answer(200 if "doubler" in self.path or self.path.endswith("live") else 400, b"")

    def do_POST(self) -> None:
        self.asked.append(self.path)
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path.endswith("index"):
            self._answer(200, b'[{"name": "doubler", "version": "1", "state": "READY"}, {"name": "other"}]')
        elif "doubler" not in self.path:
            self._answer(400, b'{"error": "unknown model"}')
        elif self.path.endswith("infer"):
            self._infer(body, int(self.headers["Inference-Header-Content-Length"]))
        else:
            self._answer(200, b"")

    def _infer(self, body: bytes, length: int) -> None:
        start, outputs, contents = length, [], []
        for tensor in json.loads(body[:length])["inputs"]:
            size = tensor["parameters"]["binary_data_size"]
            array = np.frombuffer(
                body[start : start + size], {"FP32": np.float32, "INT64": np.int64}[tensor["datatype"]]
            )
            # As the Python backend of Triton 2.51 answers under NumPy 2: shapes are right, and bytes are missing.
            contents.append(b"" if "empty" in self.path else (2 * array).tobytes())
            tensor["parameters"]["binary_data_size"] = len(contents[-1])
            outputs.append(tensor)
            start += size
        outputs.append({"name": "said", "datatype": "BOOL", "shape": [2], "data": [True, False]})
        header = json.dumps({"outputs": outputs}).encode()
        self._answer(200, header + b"".join(contents), {"Inference-Header-Content-Length": str(len(header))})

    def _answer(self, status: int, content: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@pytest.fixture
def api() -> Iterator[TritonApi]:
    """A client of the stand-in."""
    StandIn.asked.clear()
    with HTTPServer(("127.0.0.1", 0), StandIn) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield TritonApi(f"http://127.0.0.1:{server.server_port}/")
        server.shutdown()


def test_arrays_go_and_come_as_they_are(api: TritonApi) -> None:
    feeds = {"x": np.arange(6, dtype=np.float32).reshape(2, 3).T, "ids": np.array([[7]], np.int64)}
    found = api.infer("doubler", feeds)
    np.testing.assert_array_equal(found["x"], 2 * feeds["x"])
    assert (found["ids"].dtype, found["ids"].tolist(), found["said"].tolist()) == (np.int64, [[14]], [True, False])


def test_outputs_that_are_not_there_are_told_with_their_likely_cause(api: TritonApi) -> None:
    with pytest.raises(StageError, match=r"cannot reshape array of size 0.* one below 2"):
        api.infer("doubler-empty", {"x": np.ones((2, 3), np.float32)})


def test_models_are_loaded_unloaded_and_listed(api: TritonApi) -> None:
    api.load("doubler")
    api.unload("doubler")
    assert StandIn.asked == [f"/v2/repository/models/doubler/{what}load" for what in ("", "un")]
    assert [(state.name, state.state) for state in api.index()] == [("doubler", "READY"), ("other", "")]
    assert (api.is_live(), api.is_ready("doubler"), api.is_ready("other")) == (True, True, False)


def test_what_the_server_says_is_in_the_error(api: TritonApi) -> None:
    with pytest.raises(TritonError, match=r"the server at http://127.0.0.1:\d+ did not load other: unknown model"):
        api.load("other")


def test_a_server_that_is_gone_is_told_with_its_address() -> None:
    with pytest.raises(StageError, match=r"no server answers at http://127.0.0.1:9 .*correct --server"):
        TritonApi("http://127.0.0.1:9").is_live()


@pytest.mark.parametrize("url", ["127.0.0.1:8000", "ftp://host", "http://", "grpc://host:8001"])
def test_an_address_that_is_none_is_bad_input(url: str) -> None:
    with pytest.raises(InputError, match="not the address of a server"):
        TritonApi(url)
