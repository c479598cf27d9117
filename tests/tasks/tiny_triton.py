"""Models in Python for a real Triton: x, four floats, gives y, which is x and a number more."""

from __future__ import annotations

import json
import urllib.request
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

CONFIG = """
backend: "python"
max_batch_size: 0
input [{ name: "x", data_type: TYPE_FP32, dims: [-1] }]
output [{ name: "y", data_type: TYPE_FP32, dims: [-1] }]
instance_group [{ count: 1, kind: KIND_CPU }]
"""
ADDS = """
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        x = [pb_utils.get_input_tensor_by_name(request, "x").as_numpy() for request in requests]
        return [pb_utils.InferenceResponse([pb_utils.Tensor("y", each + 1)]) for each in x]
"""
FAILS_TO_LOAD = """
class TritonPythonModel:
    def initialize(self, args):
        raise RuntimeError("the plan is of another TensorRT")
"""
IMPORTS_RUNNER = ADDS.replace(
    "class", "from pathlib import Path\nfrom tasks.backends import backend_of\nbackend_of('onnxruntime')\n\nclass"
)


def write_model(repository: Path, name: str = "adder", source: str = ADDS) -> Path:
    """Write a model; return the repository."""
    folder = repository / name / "1"
    folder.mkdir(parents=True)
    (folder / "model.py").write_text(source)
    (folder.parent / "config.pbtxt").write_text(CONFIG)
    return repository


def ask(url: str, body: dict[str, Any] | None = None) -> str:
    """What the server answers to GET, or to POST of a document."""
    data = None if body is None else json.dumps(body).encode()
    with urllib.request.urlopen(url, data, timeout=30) as answer:  # noqa: S310 - a server's on loopback
        return str(answer.read().decode())


def infer(url: str, values: list[float], name: str = "adder") -> list[float]:
    """The model's y for an x."""
    x = {"name": "x", "datatype": "FP32", "shape": [len(values)], "data": values}
    return list(json.loads(ask(f"{url}/v2/models/{name}/infer", {"inputs": [x]}))["outputs"][0]["data"])
