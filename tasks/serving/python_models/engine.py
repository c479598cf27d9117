"""Runs an engine with this project's own runner, as a model of Triton's Python backend; it takes whole batches.

Triton loads this file by its path, in a Python that can import this project and the engine's runtime.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import triton_python_backend_utils as pb_utils

from tasks.backends import backend_of


class TritonPythonModel:
    """A model by the interface of Triton's Python backend."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the engine that the parameters `runtime` and `plan` name."""
        config = json.loads(args["model_config"])
        parameters = {key: value["string_value"] for key, value in config["parameters"].items()}
        self._inputs = [each["name"] for each in config["input"]]
        self._engine = backend_of(parameters["runtime"]).load(Path(parameters["plan"]))

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer each request; one that fails gets its error, and the others their outputs."""
        return [self._answer(request) for request in requests]

    def _answer(self, request: Any) -> Any:
        try:
            feeds = {name: pb_utils.get_input_tensor_by_name(request, name).as_numpy() for name in self._inputs}
            outputs = self._engine.run(feeds)
        except Exception as error:  # noqa: BLE001 - whatever it is, the request is told and the next one is taken
            return pb_utils.InferenceResponse(error=pb_utils.TritonError(f"{type(error).__name__}: {error}"))
        wanted = request.requested_output_names()
        return pb_utils.InferenceResponse([pb_utils.Tensor(name, outputs[name]) for name in wanted])
