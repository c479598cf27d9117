"""The table of runtimes: what runs engines, a row each. docs/backends.md says how to add one."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Runtime:
    """A row: the `module:class` in `tasks.backends` that builds and runs engines, and a pattern of its targets.

    `typed` says whether a release of it takes types as they are in the graph: INT8 is converted for that as well.
    `witness` is the runtime that is asked about the same graph where an engine of this one is wrong: it times kernels
    to choose them, so that one build may be wrong where the next is right.
    """

    backend: str
    targets: str
    typed: bool = False
    witness: str | None = None

    def takes(self, target: str) -> bool:
        """Whether engines for a target can be built for this runtime."""
        return re.fullmatch(self.targets, target) is not None


# A target's engines are for the first runtime that takes it, unless another is named. The order is a part of the names
# of engines: a new row goes below those that take its targets.
RUNTIMES = {
    "onnxruntime": Runtime("ort:OnnxRuntimeBackend", "cpu"),
    "tensorrt": Runtime("trt:TensorRtBackend", "(?!cpu$).*", typed=True, witness="onnxruntime"),
}


def default_runtime(target: str) -> str:
    """The first runtime that takes a target, which no name of an engine spells out."""
    return next(name for name, runtime in RUNTIMES.items() if runtime.takes(target))
