"""Makes a process believe that it runs on a GPU: the one that `gpu.json`, beside the copy of this file, describes.

Engines are built and run by ONNX Runtime, with no PyTorch beside them. While a file `hold` lies beside it, a build does
not end.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks import backends
from tasks.backends import gpu
from tasks.torch_side import torch_python

if TYPE_CHECKING:
    from tasks.backends.interface import Backend

HERE = Path(__file__).parent


def find_gpu() -> gpu.Gpu:
    """The GPU of gpu.json."""
    return gpu.Gpu(**json.loads((HERE / "gpu.json").read_text()))


def backend_for(_target: str) -> Backend:
    """ONNX Runtime under the GPU's name."""
    from tasks.backends.ort import OnnxRuntimeBackend  # noqa: PLC0415 - only a few processes need it

    class FakeBackend(OnnxRuntimeBackend):
        def identity(self) -> Any:
            found = find_gpu()
            change = {"device": found.name, "compute_capability": found.compute_capability}
            return super().identity().model_copy(update=change)

        def build(self, job: Any, progress: Any) -> tuple[str, ...]:
            (HERE / "building").touch()
            while (HERE / "hold").exists():
                time.sleep(0.05)
            return super().build(job, progress)

    return FakeBackend()


gpu.find_gpu = find_gpu
torch_python.torch_versions = lambda _python: None  # the torch of this host sees no GPU
backends.backend_for = backend_for
