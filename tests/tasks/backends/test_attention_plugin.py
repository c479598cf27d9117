"""Where the plugin for long attention is used, and what of its compilation can be seen without a GPU."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import onnx
import pytest

from tasks.backends import attention_plugin
from tasks.backends.attention_plugin import SOURCES, compile_plugin, describe, with_plugin
from tasks.backends.interface import BuildJob
from tasks.backends.trt_plan import ATTENTION_LIBRARY
from tasks.errors import StageError
from tasks.specs import BuildSpec, Precision
from tests.tasks.backends.test_trt_attention import DIMS, INPUTS, JOIN, MASKED, PLAIN, SPLIT, graph

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def gpu(capability: str) -> Any:
    return SimpleNamespace(name="NVIDIA Some", compute_capability=capability)


@pytest.fixture
def nvcc(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A compiler that writes its arguments into its output, on a host with an A10G."""
    compiler = tmp_path / "cuda" / "bin" / "nvcc"
    compiler.parent.mkdir(parents=True)
    compiler.write_text('#!/bin/sh\nfor last; do :; done\necho "$@" > "$last"\n')
    compiler.chmod(0o700)
    monkeypatch.setenv("CUDA_HOME", str(tmp_path / "cuda"))
    monkeypatch.setattr(attention_plugin, "find_gpu", lambda: gpu("8.6"))
    return compiler


@pytest.fixture
def without_nvcc(nvcc: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    nvcc.unlink()
    monkeypatch.setattr(attention_plugin, "PLACES", (str(tmp_path / "cuda" / "bin"),))


def make_job(tmp_path: Path, inside: str = PLAIN) -> BuildJob:
    (tmp_path / "onnx").mkdir()
    (tmp_path / "plan").mkdir()
    onnx.save(
        graph(SPLIT, inside, JOIN),
        tmp_path / "onnx" / "model.onnx",
        save_as_external_data=True,
        size_threshold=0,
        convert_attribute=True,
        location="weights/model.data",
    )
    return BuildJob(
        onnx=tmp_path / "onnx" / "model.onnx",
        plan=tmp_path / "plan",
        inputs=INPUTS,
        dims=DIMS,
        precision=Precision.FP16,
        settings=BuildSpec(),
    )


def put(job: BuildJob) -> tuple[BuildJob, tuple[str, ...]]:
    return with_plugin(job, onnx.load(str(job.onnx), load_external_data=False))


@pytest.mark.usefixtures("nvcc")
def test_the_option_changes_with_the_sources(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    before = describe(gpu("9.0"))
    changed = tmp_path / "sources"
    changed.mkdir()
    for path in SOURCES.iterdir():
        (changed / path.name).write_bytes(path.read_bytes() + b"//")
    monkeypatch.setattr(attention_plugin, "SOURCES", changed)
    assert before.keys() == describe(gpu("9.0")).keys() == {"attention"}
    assert before != describe(gpu("9.0"))


@pytest.mark.usefixtures("nvcc")
def test_a_gpu_before_ampere_does_not_get_it() -> None:
    assert describe(gpu("7.5")) == {}


@pytest.mark.usefixtures("without_nvcc")
def test_a_host_without_a_compiler_does_not_get_it() -> None:
    assert describe(gpu("9.0")) == {}


@pytest.mark.usefixtures("nvcc")
def test_the_changed_graph_and_the_library_for_this_gpu_are_what_is_built(tmp_path: Path) -> None:
    job = make_job(tmp_path)
    found, warnings = put(job)
    assert warnings == ()
    model = onnx.load(str(found.onnx))
    assert [node.op_type for node in model.graph.node if node.domain] == ["EnginegateAttention"]
    (library,) = found.plugins
    assert library.name == ATTENTION_LIBRARY
    assert "-arch=sm_86" in library.read_text().split()


@pytest.mark.usefixtures("without_nvcc")
def test_without_a_compiler_the_graph_stays_and_what_is_missing_is_told(tmp_path: Path) -> None:
    job = make_job(tmp_path)
    found, (warning,) = put(job)
    assert found == job
    assert warning == (
        "TensorRT 8.6 has no fused kernel for attention over more than 512 positions, which the graph has 1 times, and"
        " nvcc, which would compile the plugin for it, is not found; install CUDA's compiler, or set CUDA_HOME"
    )


@pytest.mark.usefixtures("without_nvcc")
def test_a_graph_without_long_attention_asks_for_no_compiler(tmp_path: Path) -> None:
    job = make_job(tmp_path, MASKED)
    assert put(job) == (job, ())


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(lambda path: path.write_text("#!/bin/sh\necho unsupported GNU version >&2\nexit 1\n"), id="fails"),
        pytest.param(lambda path: path.write_text("#!/nowhere/at/all\n"), id="cannot be run"),
    ],
)
def test_a_compiler_that_fails_is_told_with_a_remedy(
    nvcc: Path, tmp_path: Path, spoil: Callable[[Path], object]
) -> None:
    spoil(nvcc)
    with pytest.raises(StageError, match=r"(?s)nvcc did not compile.*set build\.attention: tensorrt in model\.yaml"):
        compile_plugin(tmp_path, "8.6")
