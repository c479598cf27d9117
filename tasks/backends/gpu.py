"""Which GPU this process would use, from NVML: no CUDA context is made, so it costs no device memory."""

from __future__ import annotations

import os
import re
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tasks.errors import StageError
from tasks.specs import TARGET, TARGETS

if TYPE_CHECKING:
    from collections.abc import Iterator

_WORDS = re.compile(r"[A-Za-z0-9.]+")
# `1g.5gb`; `1g.5gb+me` has the media engines too; `1c.3g.20gb` is a part of a slice, and no target.
_MIG_PROFILE = re.compile(r"MIG ((?:[0-9]c\.)?[0-9]g\.[0-9]+gb)", re.IGNORECASE)
# Gigabytes and series end a vGPU's name: `GRID T4-8Q`, `NVIDIA A16-1B4`, `NVIDIA A100-1-10CME`. It shares its GPU.
_VGPU = re.compile(r"-[0-9]+[ABCQ](?:[0-9]|ME)?\b")


@dataclass(frozen=True)
class Gpu:
    """A GPU, or a MIG slice of one. `compute_capability` reads like `8.6`, `cuda` like `13.0`, `mig` like `1g.5gb`.

    `cuda` is the newest CUDA that the driver takes, `uuid` names this very device.
    """

    name: str
    compute_capability: str
    driver: str
    cuda: str
    mig: str | None
    uuid: str

    @property
    def target(self) -> str | None:
        """The target that this GPU is, or None where it is none of ours."""
        return target_of(self.name, self.mig)


def target_of(name: str, mig: str | None) -> str | None:
    """The target of a GPU by the name that NVIDIA gives it: `NVIDIA A100-SXM4-40GB` is `a100`, a vGPU is none."""
    if _VGPU.search(name):
        return None
    words = {word.lower() for word in _WORDS.findall(_MIG_PROFILE.sub("", name))}
    found = next((target for target in TARGETS if target != "cpu" and target in words), None)
    if found is None or mig is None:
        return found
    sliced = f"{found}-mig-{mig.lower()}"
    return sliced if TARGET.fullmatch(sliced) else None


def find_gpu() -> Gpu:
    """The GPU that CUDA takes first: that which CUDA_VISIBLE_DEVICES names first, or else number 0.

    Raises:
        StageError: there is none, or nothing to ask with.
    """
    try:
        import pynvml  # noqa: PLC0415 - only GPU runners have it
    except ModuleNotFoundError:
        raise StageError("nvidia-ml-py is not installed here; pip install '.[tensorrt]' brings it") from None
    try:
        with _nvml(pynvml):
            return _describe(pynvml, _handle(pynvml))
    except pynvml.NVMLError as error:
        raise StageError(
            f"no NVIDIA GPU can be used here: {error}; run this on a GPU host, and see that nvidia-smi answers there"
        ) from None


@contextmanager
def _nvml(pynvml: Any) -> Iterator[None]:
    pynvml.nvmlInit()
    try:
        yield
    finally:
        pynvml.nvmlShutdown()


def _handle(pynvml: Any) -> Any:
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    first = "0" if visible is None else visible.split(",")[0].strip()
    if not first or first == "-1":
        raise StageError("CUDA_VISIBLE_DEVICES hides every GPU; name one in it, or unset it")
    handle = pynvml.nvmlDeviceGetHandleByIndex(int(first)) if first.isdigit() else _by_uuid(pynvml, first)
    if not first.upper().startswith("MIG-") and _is_cut(pynvml, handle):
        return pynvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, 0)  # CUDA takes the first slice then
    return handle


def _by_uuid(pynvml: Any, prefix: str) -> Any:
    """CUDA takes the beginning of a UUID too, as long as it is no other GPU's."""
    if prefix.upper().startswith("MIG-"):
        return pynvml.nvmlDeviceGetHandleByUUID(prefix)
    handles = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]
    found = [handle for handle in handles if pynvml.nvmlDeviceGetUUID(handle).startswith(prefix)]
    if len(found) != 1:
        raise StageError(f"CUDA_VISIBLE_DEVICES: {prefix} names {len(found)} GPUs; `nvidia-smi -L` lists their names")
    return found[0]


def _is_cut(pynvml: Any, handle: Any) -> bool:
    try:
        current, _pending = pynvml.nvmlDeviceGetMigMode(handle)
    except pynvml.NVMLError:  # a GPU that cannot be cut
        return False
    return bool(current == pynvml.NVML_DEVICE_MIG_ENABLE)


def _describe(pynvml: Any, handle: Any) -> Gpu:
    name = str(pynvml.nvmlDeviceGetName(handle))
    slice_of = _MIG_PROFILE.search(name)
    whole = pynvml.nvmlDeviceGetDeviceHandleFromMigDeviceHandle(handle) if slice_of else handle
    major, minor = pynvml.nvmlDeviceGetCudaComputeCapability(whole)
    version = pynvml.nvmlSystemGetCudaDriverVersion()
    return Gpu(
        name=name,
        compute_capability=f"{major}.{minor}",
        driver=str(pynvml.nvmlSystemGetDriverVersion()),
        cuda=f"{version // 1000}.{version % 1000 // 10}",
        mig=slice_of[1].lower() if slice_of else None,
        uuid=str(pynvml.nvmlDeviceGetUUID(handle)),
    )
