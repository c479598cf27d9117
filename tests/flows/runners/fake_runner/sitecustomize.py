"""Makes a process believe that it runs on a GPU: the one that `gpu.json`, beside the copy of this file, describes.

Engines are built and run by ONNX Runtime, with no PyTorch beside them. While a file `hold` lies beside it, a build does
not end.
"""

from __future__ import annotations

import importlib
import json
import sys
import time
from pathlib import Path
from typing import Any

from tasks.process import start

# A child finds the product under this name, so that is where it must be another.
PRODUCT = f"{start.PRIVATE}." if start.__file__ in sys.orig_argv else ""
if PRODUCT:
    start.hide_product()
backends, gpu, torch_python = (
    importlib.import_module(f"{PRODUCT}tasks.{name}")
    for name in ("backends", "backends.gpu", "torch_side.torch_python")
)

HERE = Path(__file__).parent


def find_gpu() -> Any:
    """The GPU of gpu.json."""
    return gpu.Gpu(**json.loads((HERE / "gpu.json").read_text()))


def backend_of(_runtime: str) -> Any:
    """ONNX Runtime under the GPU's name."""
    ort = importlib.import_module(f"{PRODUCT}tasks.backends.ort")  # only a few processes need it

    class FakeBackend(ort.OnnxRuntimeBackend):  # type: ignore[misc,name-defined]  # found under either name
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
backends.backend_of = backend_of
