"""Talks to a Triton server over HTTP: its repository API, and inference with NumPy arrays.

By the standard library: `tritonclient[http]` would bring gevent and its C extensions to every serving host, for five
requests whose protocol is published (KServe's, version 2, with Triton's binary tensors and repository extension).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

import numpy as np

from tasks.errors import InputError, StageError
from tasks.serving.triton_types import DTYPES, datatype_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    Arrays = Mapping[str, np.ndarray[Any, Any]]

READY = "READY"
HEADER_LENGTH = "Inference-Header-Content-Length"
# Loading an engine of some GB takes that long at worst; a server that is gone says so at once.
LOAD_LIMIT_S = 600.0


class UnreachableError(StageError):
    """The server is gone, or did not answer in time."""


class TritonError(StageError):
    """The server is there and says no; `reason` is what it said."""

    def __init__(self, message: str, reason: str = "") -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True)
class ModelState:
    """A model in the repository's index: `state` is READY where it is served, else empty, LOADING or UNAVAILABLE."""

    name: str
    version: str
    state: str
    reason: str


class TritonApi:
    """A Triton server at an address like `http://127.0.0.1:8000`; a request makes a connection of its own.

    Every method raises UnreachableError where the server does not answer, and TritonError where it refuses.
    """

    def __init__(self, url: str, limit_s: float = LOAD_LIMIT_S) -> None:
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.hostname or parts.query or parts.fragment:
            raise InputError(f"{url!r} is not the address of a server; give one like http://127.0.0.1:8000")
        self.url, self._parts, self._limit_s = url.rstrip("/"), parts, limit_s

    def version(self) -> str:
        """The server's version, as `2.51.0`."""
        return str(self._json("GET", "/v2").get("version", ""))

    def is_live(self) -> bool:
        """Whether the server takes requests; it calls itself ready only while no model failed or was unloaded."""
        status, _, _ = self._request("GET", "/v2/health/live")
        return status == 200  # noqa: PLR2004 - HTTP's "OK"

    def answers(self) -> bool:
        """Whether there is a server at all."""
        try:
            self._request("GET", "/v2/health/live")
        except UnreachableError:
            return False
        return True

    def is_ready(self, model: str) -> bool:
        """Whether a model is served."""
        status, _, _ = self._request("GET", f"/v2/models/{quote(model)}/ready")
        return status == 200  # noqa: PLR2004 - the same

    def index(self) -> tuple[ModelState, ...]:
        """The models of the server's repository, loaded or not."""
        _, content = self._checked("POST", "/v2/repository/index", b"{}", "list its models")
        return tuple(
            ModelState(*(str(each.get(key, "")) for key in ("name", "version", "state", "reason")))
            for each in json.loads(content)
        )

    def load(self, model: str) -> None:
        """Load a model, or load it again as it lies in the repository now; returns when it is served."""
        self._checked("POST", f"/v2/repository/models/{quote(model)}/load", b"{}", f"load {model}")

    def unload(self, model: str) -> None:
        """Take a model out; requests that it has already are answered first."""
        self._checked("POST", f"/v2/repository/models/{quote(model)}/unload", b"{}", f"unload {model}")

    def infer(self, model: str, feeds: Arrays) -> dict[str, np.ndarray[Any, Any]]:
        """All outputs of a model by name, for inputs of its shapes and dtypes."""
        arrays = {name: np.ascontiguousarray(array) for name, array in feeds.items()}
        header = json.dumps(
            {
                "inputs": [
                    {
                        "name": name,
                        "shape": list(feeds[name].shape),
                        "datatype": datatype_of(array.dtype.name, f"input {name}"),
                        "parameters": {"binary_data_size": array.nbytes},
                    }
                    for name, array in arrays.items()
                ],
                "parameters": {"binary_data_output": True},
            }
        ).encode()
        body = b"".join([header, *(array.tobytes() for array in arrays.values())])
        length, content = self._checked(
            "POST", f"/v2/models/{quote(model)}/infer", body, f"run {model}", {HEADER_LENGTH: str(len(header))}
        )
        try:
            return _outputs_of(content, length)
        except (ValueError, KeyError) as error:
            raise StageError(
                f"{self.url} answered {model} with outputs that do not hold what they say ({error}); where its models"
                " run in Python, see that NumPy there is one that this Triton takes: 2.51 and before want one below 2"
            ) from None

    def _json(self, method: str, path: str) -> dict[str, Any]:
        _, content = self._checked(method, path, None, f"answer {path}")
        found: dict[str, Any] = json.loads(content)
        return found

    def _checked(
        self, method: str, path: str, body: bytes | None, what: str, headers: Mapping[str, str] | None = None
    ) -> tuple[int, bytes]:
        """The length of the JSON in the answer, and the answer."""
        status, length, content = self._request(method, path, body, headers)
        if status != 200:  # noqa: PLR2004 - HTTP's "OK"
            reason = _reason_of(content) or f"HTTP status {status}"
            raise TritonError(f"the server at {self.url} did not {what}: {reason}", reason)
        return length, content

    def _request(
        self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> tuple[int, int, bytes]:
        kind = HTTPSConnection if self._parts.scheme == "https" else HTTPConnection
        connection = kind(self._parts.hostname or "", self._parts.port, timeout=self._limit_s)
        try:
            connection.request(method, self._parts.path.rstrip("/") + path, body, dict(headers or {}))
            answer = connection.getresponse()
            content = answer.read()
        except (OSError, HTTPException) as error:
            raise UnreachableError(
                f"no server answers at {self.url} ({type(error).__name__}: {error}); start it, or correct --server"
            ) from None
        finally:
            connection.close()
        return answer.status, _json_length(answer, content), content


def _json_length(answer: HTTPResponse, content: bytes) -> int:
    return int(answer.headers.get(HEADER_LENGTH) or len(content))


def _reason_of(content: bytes) -> str:
    try:
        return str(json.loads(content)["error"])
    except (ValueError, KeyError, TypeError):
        return content[:200].decode(errors="replace")


def _outputs_of(content: bytes, length: int) -> dict[str, np.ndarray[Any, Any]]:
    """The arrays in an answer: binary ones follow the JSON in its order."""
    outputs, start = {}, length
    for tensor in json.loads(content[:length]).get("outputs", []):
        dtype, shape = DTYPES[tensor["datatype"]], tuple(tensor["shape"])
        size = tensor.get("parameters", {}).get("binary_data_size")
        if size is None:
            outputs[tensor["name"]] = np.array(tensor["data"], dtype).reshape(shape)
            continue
        outputs[tensor["name"]] = np.frombuffer(content[start : start + size], dtype).reshape(shape).copy()
        start += size
    return outputs
