"""The table of runtimes: what runs engines, a row each. docs/backends.md says how to add one."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Runtime:
    """A row: the `module:class` in `tasks.backends` that builds and runs engines, and a pattern of its targets.

    `typed` says whether a release of it takes types as they are in the graph: INT8 is converted for that as well.
    """

    backend: str
    targets: str
    typed: bool = False

    def takes(self, target: str) -> bool:
        """Whether engines for a target can be built for this runtime."""
        return re.fullmatch(self.targets, target) is not None


# A target's engines are for the first runtime that takes it, unless another is named. The order is a part of the names
# of engines: a new row goes below those that take its targets.
RUNTIMES = {
    "onnxruntime": Runtime("ort:OnnxRuntimeBackend", "cpu"),
    "tensorrt": Runtime("trt:TensorRtBackend", "(?!cpu$).*", typed=True),
}


def default_runtime(target: str) -> str:
    """The first runtime that takes a target, which no name of an engine spells out."""
    return next(name for name, runtime in RUNTIMES.items() if runtime.takes(target))
