"""An engine run by this project's own runner, where the server has no backend for it: `1/model.py` of its model.

Its parameters are `runtime` (as `onnxruntime`) and `plan`, the folder of the engine. The router has batched and padded.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import triton_python_backend_utils as pb_utils

if TYPE_CHECKING:
    from collections.abc import Sequence


class TritonPythonModel:
    """What Triton's Python backend loads."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the engine; its digest was checked before it was put in place."""
        config = json.loads(args["model_config"])
        runtime, plan = (config["parameters"][name]["string_value"] for name in ("runtime", "plan"))
        self._inputs = [one["name"] for one in config["input"]]
        self._outputs = [one["name"] for one in config["output"]]
        try:
            from tasks.backends import backend_of  # noqa: PLC0415 - the error below says what is to be done
            from tasks.errors import EnginegateError  # noqa: PLC0415 - the same

            self._engine = backend_of(runtime).load(Path(plan))
        except ImportError as error:
            raise pb_utils.TritonModelException(
                f"the server's Python cannot import Enginegate's runner of {runtime} ({error}); install Enginegate"
                f" and {runtime} there, or name their folders in PYTHONPATH"
            ) from None
        except EnginegateError as error:
            raise pb_utils.TritonModelException(f"{plan}: {error}") from None

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Run each request, which is a whole batch."""
        return [self._run(request) for request in requests]

    def _run(self, request: Any) -> Any:
        feeds = {name: pb_utils.get_input_tensor_by_name(request, name).as_numpy() for name in self._inputs}
        try:
            outputs = self._engine.run(feeds)
        except Exception as error:  # noqa: BLE001 - runtimes' errors share no other base class; the next request is asked
            return pb_utils.InferenceResponse(output_tensors=[], error=pb_utils.TritonError(str(error)))
        tensors = [pb_utils.Tensor(name, outputs[name]) for name in self._outputs]
        return pb_utils.InferenceResponse(output_tensors=tensors)
