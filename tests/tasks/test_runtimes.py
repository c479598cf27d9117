from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import ValidationError

from tasks import records, runtimes
from tasks.backends import backend_of
from tasks.backends.ort import OnnxRuntimeBackend
from tasks.backends.trt import TensorRtBackend
from tasks.errors import InputError
from tasks.records import Cell
from tasks.registry.layout import cell_at, manifest_key
from tasks.runtimes import RUNTIMES, Runtime, default_runtime
from tasks.specs import ENGINE_ID, TARGETS, Precision

if TYPE_CHECKING:
    from collections.abc import Callable

GPUS = (*TARGETS[1:], "a100-mig-1g.5gb")
AS_EVER = {"model": "tiny", "target": "cpu", "precision": "fp16", "version": "0123456789ab"}


def cell(**changes: Any) -> Cell:
    return Cell.model_validate(AS_EVER | changes)


@pytest.fixture
def openvino(monkeypatch: pytest.MonkeyPatch) -> str:
    """A runtime more, whose engines run on the processor too."""
    monkeypatch.setitem(runtimes.RUNTIMES, "openvino", Runtime("ort:OnnxRuntimeBackend", "cpu"))
    names = "onnxruntime|tensorrt"
    assert names in ENGINE_ID.pattern
    monkeypatch.setattr(records, "ENGINE_ID", re.compile(ENGINE_ID.pattern.replace(names, f"{names}|openvino")))
    return "openvino"


def test_the_processor_is_onnx_runtime_s_target_and_every_gpu_is_tensorrt_s() -> None:
    assert isinstance(backend_of(default_runtime("cpu")), OnnxRuntimeBackend)
    assert all(isinstance(backend_of(default_runtime(target)), TensorRtBackend) for target in GPUS)


def test_no_runtime_is_named_like_another_part_of_an_engine_id() -> None:
    others = {*TARGETS, *(precision.value for precision in Precision)}
    assert not others & RUNTIMES.keys()
    assert all(re.fullmatch(r"[a-z][a-z0-9]*", name) for name in RUNTIMES)


def test_a_default_runtime_is_written_nowhere_so_that_older_records_and_names_stay(openvino: str) -> None:
    """With a row more in the table, too: it stands below those that take its targets."""
    assert openvino in RUNTIMES
    found = cell()
    assert found.runtime == "onnxruntime"
    assert found.model_dump(mode="json") == AS_EVER
    assert found == cell(runtime="onnxruntime")
    assert found.engine_id == "tiny-cpu-fp16@0123456789ab"
    assert manifest_key(found) == "engines/tiny/0123456789ab/cpu/fp16/manifest.json"


@pytest.mark.parametrize(
    "read_back",
    [
        lambda found: Cell.model_validate_json(found.model_dump_json()),
        lambda found: Cell.parse(found.engine_id),
        lambda found: cell_at(manifest_key(found)),
    ],
    ids=["record", "engine id", "registry key"],
)
def test_another_runtime_is_a_part_of_the_engine_s_key(openvino: str, read_back: Callable[[Cell], Cell | None]) -> None:
    found = cell(runtime=openvino)
    assert found != cell()
    assert found.engine_id == "tiny-cpu-openvino-fp16@0123456789ab"
    assert manifest_key(found) == "engines/tiny/0123456789ab/cpu-openvino/fp16/manifest.json"
    assert read_back(found) == found


@pytest.mark.parametrize(("target", "runtime"), [("cpu", "tensorrt"), ("t4", "onnxruntime"), ("cpu", "tvm")])
def test_a_runtime_that_does_not_take_the_target_is_refused(target: str, runtime: str) -> None:
    with pytest.raises(ValidationError, match=f"{runtime!r} makes no engines for {target}; choose from"):
        cell(target=target, runtime=runtime)


@pytest.mark.parametrize("name", ["tiny-cpu-onnxruntime-fp16@0123456789ab", "tiny-cpu-tensorrt-fp16@0123456789ab"])
def test_an_engine_has_one_id_and_no_other(name: str) -> None:
    with pytest.raises(InputError):
        Cell.parse(name)


@pytest.mark.parametrize(
    "key",
    [
        "engines/tiny/0123456789ab/a-cpu/fp16/manifest.json",
        "engines/tiny/0123456789ab/cpu-onnxruntime/fp16/manifest.json",
        "engines/tiny/0123456789ab/cpu/fp16/other.json",
        "engines/tiny/cpu/manifest.json",
    ],
)
def test_a_key_that_no_publisher_writes_is_no_cell_s(key: str) -> None:
    assert cell_at(key) is None
