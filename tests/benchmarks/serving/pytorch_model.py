"""The module of a model in PyTorch, as a model of Triton's Python backend: `1/model.py`; `pytorch.py` lays it out.

It stacks what Triton batched, and pads it to the next of the sizes where the form was compiled: `torch.compile` makes
CUDA graphs of fixed shapes. `path.json` beside it is where the imports are: this interpreter reads no PYTHONPATH.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

sys.path[:0] = json.loads(Path(__file__).with_name("path.json").read_text())  # before all that lies there

from typing import TYPE_CHECKING, Any  # noqa: E402

import numpy as np  # noqa: E402
import torch  # noqa: E402
import triton_python_backend_utils as pb_utils  # noqa: E402

from tasks.sources.interface import ModuleRequest  # noqa: E402
from tasks.timings import PytorchForm  # noqa: E402
from tasks.torch_side.torch_module import load_module  # noqa: E402
from tasks.torch_side.torch_timing import COMPILE_MODE  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Sequence

SIZES = (1, 2, 4, 8, 16, 32)
WARM_UP_CALLS = 4


class TritonPythonModel:
    """What Triton's Python backend loads."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the module and warm it up at every size."""
        folder = Path(args["model_repository"])
        config = json.loads(args["model_config"])
        request = ModuleRequest.model_validate_json((folder / "request.json").read_bytes())
        self._form = PytorchForm(config["parameters"]["form"]["string_value"])
        self._inputs, self._outputs = tuple(request.spec.inputs), tuple(request.spec.outputs)
        module = load_module(request)
        if self._form is not PytorchForm.EAGER_FP32:
            module = module.half()
        module = module.cuda()
        self._pads = self._form is PytorchForm.COMPILE_FP16
        self._module = torch.compile(module, mode=COMPILE_MODE, dynamic=False) if self._pads else module
        sizes = [size for size in SIZES if size <= max(1, config["max_batch_size"])]
        with np.load(folder / "feeds.npz") as file:
            rows = [file[name][:1] for name in self._inputs]
        for size in sizes:
            for _ in range(WARM_UP_CALLS):
                self._run([np.repeat(row, size, axis=0) for row in rows])

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Run what Triton batched in one call."""
        parts = [
            [pb_utils.get_input_tensor_by_name(request, name).as_numpy() for name in self._inputs]
            for request in requests
        ]
        counts = [len(part[0]) for part in parts]
        arrays = [np.concatenate(columns) for columns in zip(*parts, strict=True)]
        outputs = self._run(arrays)
        answers, first = [], 0
        for count in counts:
            tensors = [
                pb_utils.Tensor(name, np.ascontiguousarray(output[first : first + count]))
                for name, output in zip(self._outputs, outputs, strict=True)
            ]
            answers.append(pb_utils.InferenceResponse(output_tensors=tensors))
            first += count
        return answers

    def _run(self, arrays: list[np.ndarray[Any, Any]]) -> list[np.ndarray[Any, Any]]:
        count = len(arrays[0])
        if self._pads:
            size = next(size for size in SIZES if size >= count)
            arrays = [np.concatenate([array, np.repeat(array[-1:], size - count, axis=0)]) for array in arrays]
        tensors = [self._placed(torch.from_numpy(array)) for array in arrays]
        with torch.inference_mode():
            outputs = self._module(*tensors)
        return [output[:count].float().reshape(count, -1).cpu().numpy() for output in outputs]

    def _placed(self, tensor: torch.Tensor) -> torch.Tensor:
        if self._form is not PytorchForm.EAGER_FP32 and tensor.is_floating_point():
            tensor = tensor.half()
        return tensor.cuda(non_blocking=True)
