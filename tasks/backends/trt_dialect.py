"""Where TensorRT 8.6 and TensorRT 10.12 to 11 differ. Chosen by what the installed module offers; nothing else asks.

From 10.12 on a network is strongly typed: precision lies in the graph, by a flag on 10 and always on 11. TensorRT 8.6
knows no such thing: it takes opset 17 at most, an explicit-batch flag, and a flag for each precision it may use.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tasks.backends import trt_rtx
from tasks.errors import StageError
from tasks.specs import Precision

if TYPE_CHECKING:
    from collections.abc import Mapping

OLDEST_TYPED = (10, 12)
NEWEST = 11
UNTYPED = (8, 6)
UNTYPED_OPSET = 17


@dataclass(frozen=True)
class Dialect:
    """What to tell this TensorRT. `newest_opset` is None where the parser itself says what it cannot take.

    `builder_flags` are the names of BuilderFlag members that a precision needs; one without an entry cannot be built.
    `edits_timings` is whether tactics are chosen by what stands in the timing cache; where they are not, an algorithm
    selector chooses. `compatibility` is the HardwareCompatibilityLevel of a plan for all GPUs of one compute
    capability; the only one that 8.6 has promises more than that.
    """

    network_flags: int
    builder_flags: Mapping[Precision, tuple[str, ...]]
    newest_opset: int | None
    edits_timings: bool = True
    compatibility: str = "SAME_COMPUTE_CAPABILITY"

    @property
    def takes_types(self) -> bool:
        """Whether precision lies in the graph alone."""
        return not any(self.builder_flags.values())


def dialect_of(trt: Any) -> Dialect:
    """The dialect of a TensorRT module.

    Raises:
        StageError: it is a version that Enginegate does not support.
    """
    flags = trt.NetworkDefinitionCreationFlag
    version = trt_rtx.API if trt_rtx.is_rtx(trt) else _version(trt.__version__)
    if version == UNTYPED:
        fp16 = ("FP16",)
        return Dialect(
            network_flags=1 << int(flags.EXPLICIT_BATCH),
            builder_flags={Precision.FP32: (), Precision.FP16: fp16, Precision.INT8: (*fp16, "INT8")},
            newest_opset=UNTYPED_OPSET,
            edits_timings=False,
            compatibility="AMPERE_PLUS",
        )
    if version < OLDEST_TYPED or version[0] > NEWEST:
        raise StageError(
            f"TensorRT {trt.__version__} is not supported; install 8.6, or 10.12 to 11.x: pip install '.[tensorrt]'"
        )
    typed = getattr(flags, "STRONGLY_TYPED", None)
    return Dialect(
        network_flags=0 if typed is None else 1 << int(typed),
        builder_flags=dict.fromkeys(Precision, ()),
        newest_opset=None,
    )


def _version(text: str) -> tuple[int, int]:
    major, minor = text.split(".")[:2]
    return int(major), int(minor)
