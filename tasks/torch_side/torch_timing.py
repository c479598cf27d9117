"""Times the module in PyTorch, as eager code or compiled. Runs in child processes only: it imports torch."""

from __future__ import annotations

import functools
import time
from typing import TYPE_CHECKING

import torch

from tasks.errors import StageError
from tasks.sources.interface import ModuleRequest
from tasks.timings import PytorchForm
from tasks.torch_side.interface import OWN_GRAPH
from tasks.torch_side.torch_module import PositionalModule, as_tensors, load_module

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from tasks.samples.npz import Arrays

WARM_UP_CALLS = 3
# CUDA graphs and fused kernels, as `torch.compile` offers them for serving one shape again and again.
COMPILE_MODE = "reduce-overhead"
_MEMORY_BEFORE: list[int] = []


def timed_call(request: ModuleRequest, form: PytorchForm, feeds: Arrays, *, on_gpu: bool) -> Callable[[], float]:
    """A function that runs the module once on `feeds` and returns the milliseconds, those of the device on a GPU.

    Raises:
        StageError: this torch sees no GPU.
    """
    if on_gpu and not torch.cuda.is_available():
        raise StageError(f"torch {torch.__version__} sees no GPU here; install a build of torch for CUDA")
    if on_gpu and not _MEMORY_BEFORE:
        _MEMORY_BEFORE.append(_memory_in_use())
    loaded, module = _module(request.model_dump_json(), form, on_gpu)
    tensors = tuple(_placed(tensor, form, on_gpu=on_gpu) for tensor in as_tensors(feeds))
    tensors = _unwritten(loaded, tensors)

    def run() -> None:
        with torch.inference_mode():
            module(*tensors)

    if not on_gpu:
        return functools.partial(_wall_ms, run)
    for _ in range(WARM_UP_CALLS):
        run()
    torch.cuda.synchronize()
    return functools.partial(_device_ms, run)


def _unwritten(module: PositionalModule, tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """The tensors as they were before a call, which says whether the module must have copies from now on."""
    before = tuple(tensor.clone() for tensor in tensors)
    with torch.inference_mode():
        module.returned(*tensors)
    if any(not torch.equal(one, other) for one, other in zip(tensors, before, strict=True)):
        module.copies_inputs = True
    return before


def device_memory_bytes() -> int:
    """What the device's memory in use has grown by since before the module was there."""
    return _memory_in_use() - _MEMORY_BEFORE[0]


def _memory_in_use() -> int:
    free, total = torch.cuda.mem_get_info()
    return int(total - free)


@functools.cache
def _module(request: str, form: PytorchForm, on_gpu: bool) -> tuple[PositionalModule, Callable[..., object]]:
    module: PositionalModule = load_module(ModuleRequest.model_validate_json(request))
    if on_gpu and hasattr(module.module, OWN_GRAPH):
        raise StageError("the reference is an ONNX file, which runs on the CPU alone")
    if form is not PytorchForm.EAGER_FP32:
        module = module.half()
    if on_gpu:
        module = module.cuda()
    if form is PytorchForm.COMPILE_FP16:
        compiled: Callable[..., object] = torch.compile(module, mode=COMPILE_MODE, dynamic=False)
        return module, compiled
    return module, module


def _placed(tensor: Tensor, form: PytorchForm, *, on_gpu: bool) -> Tensor:
    if form is not PytorchForm.EAGER_FP32 and tensor.is_floating_point():
        tensor = tensor.half()
    return tensor.cuda() if on_gpu else tensor


def _wall_ms(run: Callable[[], None]) -> float:
    started = time.perf_counter()
    run()
    return 1000 * (time.perf_counter() - started)


def _device_ms(run: Callable[[], None]) -> float:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]  # torch's own
    start.record()
    run()
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end))
