from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tasks.backends.ort import OnnxRuntimeBackend
from tasks.errors import StageError
from tasks.records import BackendIdentity
from tasks.stages.build import BuildRequest, build_engine
from tests.tasks.tiny import cell, job, make_features, put_model, score, tiny_spec

if TYPE_CHECKING:
    from pathlib import Path

    from tasks.process.context import StageContext


def test_an_engine_is_built_in_a_child_and_found_again(context: StageContext, tmp_path: Path) -> None:
    typed = put_model(context.store, tmp_path / "onnx")
    first = build_engine(context, job(context.store, typed))
    assert (first.cached, build_engine(context, job(context.store, typed)).cached) == (False, True)
    assert [file.path for file in first.result.plan.files] == ["engine.onnx"]
    assert first.result.backend == OnnxRuntimeBackend().identity()
    engine = OnnxRuntimeBackend().load(context.store.fetch(first.result.plan, tmp_path / "plan"))
    features = make_features(3)
    assert abs(engine.run({"features": features})["score"] - score(features)).max() < 1e-6


def test_everything_that_an_engine_depends_on_changes_its_key(
    context: StageContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built: list[str] = []

    def fake_build(_entry: str, request: BuildRequest, *_arguments: object, **_options: object) -> tuple[str, ...]:
        built.append(str(request.onnx))
        return ()

    monkeypatch.setattr("tasks.process.context.call_in_child", fake_build)
    typed = put_model(context.store, tmp_path / "onnx")
    wider = {"batch": {"min": 1, "opt": 8, "max": 32}}
    half = job(context.store, typed).model_copy(update={"cell": cell("fp16")})
    other = put_model(
        context.store, tmp_path / "other", body="t = ReduceSum<keepdims=0>(features, one) score = Tanh(t)"
    )

    def keys() -> list[str]:
        return [
            build_engine(context, job(context.store, typed)).result.cache_key,
            build_engine(context, job(context.store, typed, spec=tiny_spec(dims=wider))).result.cache_key,
            build_engine(context, job(context.store, other)).result.cache_key,
            build_engine(
                context, job(context.store, typed.model_copy(update={"recipe": {"converter": "cast"}}))
            ).result.cache_key,
            build_engine(context, half).result.cache_key,
        ]

    first = keys()
    assert len(set(first)) == len(built) == 5
    assert keys() == first
    changed = BackendIdentity(name="onnxruntime", version="0", device="cpu")
    monkeypatch.setattr(OnnxRuntimeBackend, "identity", lambda _self: changed)
    second = keys()
    monkeypatch.setattr(
        OnnxRuntimeBackend, "options", lambda _self, _settings, _precision: {"graph_optimization_level": "none"}
    )
    assert len({*first, *second, *keys()}) == 15


def test_a_target_that_this_host_cannot_build_for_is_refused_before_any_work(
    context: StageContext, tmp_path: Path
) -> None:
    typed = put_model(context.store, tmp_path / "onnx")
    with pytest.raises(StageError, match=r"no NVIDIA GPU can be used here|nvidia-ml-py is not installed"):
        build_engine(context, job(context.store, typed, target="t4"))


def test_a_graph_that_cannot_be_built_is_a_failed_stage_and_leaves_nothing(
    context: StageContext, tmp_path: Path
) -> None:
    typed = put_model(context.store, tmp_path / "onnx", body="score = Sigmund(features)")
    with pytest.raises(StageError, match="cannot build an engine"):
        build_engine(context, job(context.store, typed))
    assert not list((tmp_path / "store").glob("records/build/*"))
    assert list((tmp_path / "store" / "scratch").glob("*")) == []
