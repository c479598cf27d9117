"""The plugin of `cuda/attention.cu`: whether TensorRT 8.6 gets it here, and its library, by this host's nvcc.

TensorRT 10 fuses attention of any length by itself, and its plugins have another interface.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx

from tasks.backends.gpu import find_gpu
from tasks.backends.trt_attention import FUSED_POSITIONS, fuse_attention
from tasks.backends.trt_dialect import dialect_of
from tasks.backends.trt_plan import ATTENTION_LIBRARY, BY_PLUGIN
from tasks.errors import StageError
from tasks.graphs.onnx_files import external_files
from tasks.specs import Precision

if TYPE_CHECKING:
    from tasks.backends.gpu import Gpu
    from tasks.backends.interface import BuildJob
    from tasks.specs import BuildSpec

SOURCES = Path(__file__).with_name("cuda")
LEAST_CAPABILITY = 80
"""SM80: the kernel multiplies 16 x 8 x 16 blocks, and copies while it computes."""
PLACES = (None, "/usr/local/cuda/bin")
"""Where CUDA's compiler is, but for $CUDA_HOME: on the PATH, and where CUDA is installed by default."""
COMPILE_LIMIT_S, LAST_LINES, DIGITS = 300, 5, 12
REMEDY = "repair CUDA's compiler, or set build.attention: tensorrt in model.yaml"


def is_wanted(trt: Any, settings: BuildSpec, precision: Precision) -> bool:
    """Whether long attention is the plugin's, where this host can compile it; `trt` is the TensorRT module."""
    return settings.attention == "auto" and precision is not Precision.FP32 and not dialect_of(trt).takes_types


def describe(gpu: Gpu) -> dict[str, str]:
    """The plugin as an option of a build: its sources' digest; nothing where this host cannot compile it."""
    return {} if _what_is_missing(gpu) else {"attention": f"{BY_PLUGIN} {_source_digest()[:DIGITS]}"}


def with_plugin(job: BuildJob, model: onnx.ModelProto) -> tuple[BuildJob, tuple[str, ...]]:
    """`job` with its long attention computed by the plugin, and warnings; `job` itself where the graph has none.

    The plugin is compiled for this host's GPU.

    Args:
        job: what is to be built; the changed graph and the library are written beside its plan.
        model: its graph, which is changed; its weights need not be loaded.

    Raises:
        StageError: the compiler failed.
    """
    number = fuse_attention(model, job.inputs, job.dims)
    if not number:
        return job, ()
    gpu = find_gpu()
    if missing := _what_is_missing(gpu):
        slow = f"TensorRT 8.6 has no fused kernel for attention over more than {FUSED_POSITIONS} positions"
        return job, (f"{slow}, which the graph has {number} times, and {missing}",)
    fused = _write(model, job.onnx, job.plan.parent / "attention")
    library = compile_plugin(fused.parent, gpu.compute_capability)
    return job.model_copy(update={"onnx": fused, "plugins": (*job.plugins, library)}), ()


def fused_graph(onnx_file: Path, job: BuildJob, folder: Path) -> Path:
    """The graph that an engine with the plugin was built from: `onnx_file` as `with_plugin` changes it, in `folder`."""
    model = onnx.load(str(onnx_file), load_external_data=False)
    fuse_attention(model, job.inputs, job.dims)
    return _write(model, onnx_file, folder)


def _write(model: onnx.ModelProto, before: Path, folder: Path) -> Path:
    """Write a changed graph into `folder`, with links to its weights, which stay where they are."""
    folder.mkdir()
    for name, path in external_files(before).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).symlink_to(path)
    onnx.save(model, str(folder / before.name))
    return folder / before.name


def compile_plugin(folder: Path, compute_capability: str) -> Path:
    """Make the plugin's library, for GPUs of a capability such as `8.6`; return its path in `folder`.

    Raises:
        StageError: the compiler failed.
    """
    library = folder / ATTENTION_LIBRARY
    command = [str(_find_nvcc()), f"-arch=sm_{compute_capability.replace('.', '')}", "-O3", "-std=c++17", "-shared"]
    command += ["-Xcompiler", "-fPIC,-fvisibility=hidden", "-cudart", "static", "-diag-suppress", "611,997"]
    command += [str(SOURCES / "attention.cu"), "-o", str(library)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=COMPILE_LIMIT_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise StageError(f"nvcc did not compile the plugin for attention: {error}; {REMEDY}") from None
    if done.returncode:
        last = "\n".join((done.stdout + done.stderr).splitlines()[-LAST_LINES:])
        raise StageError(f"nvcc did not compile the plugin for attention; {REMEDY}\n{last}")
    return library


def _what_is_missing(gpu: Gpu) -> str | None:
    if int(gpu.compute_capability.replace(".", "")) < LEAST_CAPABILITY:
        return f"the plugin's kernel needs compute capability 8.0, and {gpu.name} has {gpu.compute_capability}"
    if _find_nvcc() is None:
        return "nvcc, which would compile the plugin for it, is not found; install CUDA's compiler, or set CUDA_HOME"
    return None


def _find_nvcc() -> Path | None:
    home = os.environ.get("CUDA_HOME")
    for place in (*([] if home is None else [f"{home}/bin"]), *PLACES):
        if found := shutil.which("nvcc", path=place):
            return Path(found)
    return None


def _source_digest() -> str:
    return hashlib.sha256(b"".join(path.read_bytes() for path in sorted(SOURCES.iterdir()))).hexdigest()
