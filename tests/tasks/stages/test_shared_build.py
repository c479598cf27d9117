"""One build for several GPUs of a compute capability, by a stand-in of TensorRT on a host that changes its GPU."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, ClassVar

import pytest

from tasks.backends.compatibility import SHARED, refuse_elsewhere
from tasks.backends.ort import OnnxRuntimeBackend
from tasks.errors import RefusedError
from tasks.records import BackendIdentity, ReferenceArtifact
from tasks.runtimes import RUNTIMES, Runtime
from tasks.stages.benchmark import benchmark_engine
from tasks.stages.build import build_engine
from tasks.stages.compare import compare_engine
from tests.tasks.tiny import job, make_features, put_data, put_model, put_shards, score, tiny_spec

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tasks.backends.interface import BuildJob
    from tasks.records import EngineJob
    from tasks.specs import BuildSpec, Precision
    from tests.tasks.in_process import InProcess

H200 = BackendIdentity(
    name="tensorrt", version="11.4.0", device="NVIDIA H200", compute_capability="9.0", cuda="13.0", driver="580.65"
)
H100 = H200.model_copy(update={"device": "NVIDIA H100 80GB HBM3"})
SLICE = H200.model_copy(update={"device": "NVIDIA H100 80GB HBM3 MIG 1g.10gb", "mig": "1g.10gb"})
L4 = H200.model_copy(update={"device": "NVIDIA L4", "compute_capability": "8.9"})
TARGETS = {"h200": H200, "h100": H100, "h100-mig-1g.10gb": SLICE, "l4": L4}


class Movable(OnnxRuntimeBackend):
    """TensorRT on whichever GPU `here` says."""

    here: ClassVar[BackendIdentity] = H200
    built: ClassVar[list[str]] = []

    def identity(self) -> BackendIdentity:
        return self.here

    def options(self, settings: BuildSpec, precision: Precision) -> dict[str, str]:
        del precision
        return {SHARED: "true"} if settings.hardware_compatible else {}

    def build(self, job: BuildJob, progress: Callable[[int, int], None]) -> tuple[str, ...]:
        type(self).built.append(self.here.device)
        return super().build(job, progress)


@pytest.fixture
def jobs(here: InProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., EngineJob]:
    """Moves to the GPU of a target, and gives the job of an engine for it."""
    monkeypatch.setitem(sys.modules, "tasks.backends.movable", SimpleNamespace(Movable=Movable))
    row = Runtime("movable:Movable", RUNTIMES["tensorrt"].targets)
    monkeypatch.setitem(RUNTIMES, "tensorrt", row)
    monkeypatch.setattr(Movable, "built", [])
    features = make_features(64)
    fields: dict[str, Any] = {
        "data": put_data(here.store, [{"features": features}]),
        "reference": ReferenceArtifact(outputs=put_shards(here.store, [{"score": score(features)}])),
    }
    typed = put_model(here.store, tmp_path / "onnx")

    def at(target: str, *, shared: bool = True) -> EngineJob:
        monkeypatch.setattr(Movable, "here", TARGETS[target])
        spec = tiny_spec(build={"hardware_compatible": True} if shared else {})
        return job(here.store, typed, spec=spec, target=target, **fields)

    return at


@pytest.mark.parametrize("other", ["h100", "h100-mig-1g.10gb"])
def test_it_is_built_once_and_compared_and_timed_on_each(
    here: InProcess, jobs: Callable[..., EngineJob], monkeypatch: pytest.MonkeyPatch, other: str
) -> None:
    built, timed = [], list[dict[str, Any]]()
    monkeypatch.setattr("tasks.stages.benchmark.run_cached", lambda _store, _stage, key, *_rest: timed.append(key))
    for target in ("h200", other):
        work = jobs(target)
        built.append(build_engine(here, work))
        compare_engine(here, work, built[-1].result)
        benchmark_engine(here, work, built[-1].result)
    assert Movable.built == ["NVIDIA H200"]
    assert [one.cached for one in built] == [False, True]
    assert built[0].result == built[1].result
    assert built[1].result.backend == H200, "it says which GPU built it"
    assert len(here.store.list_records("run")) == 2
    assert [key["backend"]["device"] for key in timed] == [H200.device, TARGETS[other].device]


def test_without_the_setting_each_gpu_has_its_own_build(here: InProcess, jobs: Callable[..., EngineJob]) -> None:
    for target in ("h200", "h100"):
        build_engine(here, jobs(target, shared=False))
    assert Movable.built == [H200.device, H100.device]


@pytest.mark.parametrize(
    "change", [{"compute_capability": "8.9"}, {"version": "11.3.0"}, {"driver": "590.1"}, {"cuda": "13.1"}]
)
def test_another_capability_release_or_driver_has_its_own_build(
    here: InProcess, jobs: Callable[..., EngineJob], monkeypatch: pytest.MonkeyPatch, change: dict[str, str]
) -> None:
    build_engine(here, jobs("h200"))
    work = jobs("h100")
    monkeypatch.setattr(Movable, "here", H100.model_copy(update=change))
    assert not build_engine(here, work).cached


@pytest.mark.parametrize(
    ("built", "here", "target"),
    [(H200, H100, "h100"), (H100, H200, "h200"), (H200, SLICE, "h100-mig-1g.10gb"), (H200, H200, "h200")],
)
def test_a_shared_engine_loads_on_its_targets_gpu_whichever_built_it(
    built: BackendIdentity, here: BackendIdentity, target: str
) -> None:
    refuse_elsewhere(built, here, {SHARED: "true"}, target)


@pytest.mark.parametrize(
    ("built", "here", "options", "target", "remedy"),
    [
        (H200, H100, {}, "h100", "build target h100 instead"),
        (H200, H100, {SHARED: "true"}, "h200", "build target h100 instead"),
        (H200, L4, {SHARED: "true"}, "l4", "build target l4 instead"),
        (H200, H100.model_copy(update={"version": "11.3.0"}), {SHARED: "true"}, "h100", "install tensorrt==11.4.0"),
        (H200, H100.model_copy(update={"cuda": "12.8"}), {SHARED: "true"}, "h100", "install a driver for CUDA 13.0"),
    ],
    ids=["not shared", "measured on another GPU", "another capability", "another release", "an older driver"],
)
def test_a_shared_engine_is_refused_where_it_was_not_measured_or_cannot_load(
    built: BackendIdentity, here: BackendIdentity, options: dict[str, str], target: str, remedy: str
) -> None:
    with pytest.raises(RefusedError, match=remedy):
        refuse_elsewhere(built, here, options, target)
